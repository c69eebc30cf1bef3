/** The playground in a real browser, before a real server. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";

import { isQuiet, launch, open, say, shoot, slide, URL_OF_SERVER } from "./setting.js";

const AWKWARD = 'It\'s $HOME, `ls` and "quotes"; 그렇죠?';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** The bodies of the turns that the page asks for, as they are sent. */
function watchTurns(page) {
  const bodies = [];
  page.on("request", (request) => {
    if (request.method() === "POST" && request.url().endsWith("/ask"))
      bodies.push(request.postDataJSON());
  });
  return bodies;
}

const feelings = async (page) => ({
  trust: await page.textContent("#state-trust-value"),
  relationship: await page.textContent("#state-relationship-value"),
});

test("a designer picks an NPC, sets the scene, talks, and reads what came of it", async () => {
  const page = await open(browser);
  const bodies = watchTurns(page);
  await page.check("[name=npc][value=sora]");
  await page.selectOption("#state-quest_stage", "in_progress");
  await page.selectOption("#state-location", "lighthouse");
  await page.fill("#state-npc_mood", "hopeful");
  await page.fill("#state-reputation", "good");
  await page.fill("#state-items", "lamp_wick");
  await page.press("#state-items", "Enter");
  await page.click(".chip.offer >> nth=0");
  const [, offered] = await page.locator(".chip.held").allInnerTexts();
  await page.click(".chip.held button >> nth=1");
  await slide(page, "#state-trust", 0.4);

  await say(page, "Sora? I came up all your stairs to see how you are.");
  await say(page, "Here, the wick. Try it.");

  const [first, second] = bodies;
  assert.ok(offered);
  assert.deepEqual(first.context.player_state, {
    items: ["lamp_wick"],
    actions: [],
    reputation: "good",
  });
  assert.deepEqual(first.context.game_state, {
    quest_stage: "in_progress",
    location: "lighthouse",
  });
  assert.equal(first.context.npc_state.npc_mood, "hopeful");
  assert.equal(first.context.npc_state.trust, 0.4);
  assert.deepEqual(first.dialogue_history, []);
  assert.equal("dialogue_history" in second, false);
  assert.equal(second.session_id, first.session_id);
  assert.notEqual(await page.innerText(".turn:last-child .line"), "");
  assert.equal(await page.locator(".plot circle").count(), 3);
  assert.match(await page.innerText("#timings"), /ms/);
  assert.match(await page.innerText(".turn:last-child .notes"), /[1-9]\d* of \d+ tokens cached/);
  await shoot(page, "desktop-light");
  assert.deepEqual(page.troubles, []);
  await page.context().close();
});

test("the page applies each delta to its own values, in the order of the turns", async () => {
  const page = await open(browser);
  const bodies = watchTurns(page);
  await slide(page, "#state-trust", 0.25);
  await say(page, "Hello, how are you today?");
  const chips = await page.locator(".turn .changes > li").allInnerTexts();
  const change = Number(chips[0].replace("−", "-").split(" ").at(-1));
  await say(page, "And tomorrow?");
  assert.ok(Math.abs(bodies[1].context.npc_state.trust - (0.25 + change)) < 1e-9, `${chips[0]}`);
  const legend = await page.innerText(".plot .legend .trust");
  assert.equal(legend.split(" ").at(-1), (await feelings(page)).trust);
  await page.click(".plot summary");
  assert.equal(await page.locator(".plot tbody tr").count(), 3);
  await page.context().close();
});

test("the line is seen before the turn is over, and told to a screen reader once", async () => {
  const page = await open(browser);
  await page.evaluate(() => {
    window.seen = { running: [], told: [] };
    new MutationObserver(() => {
      const line = document.querySelector(".turn.running .line .fresh");
      if (line) window.seen.running.push(line.textContent);
    }).observe(document.getElementById("turns"), { childList: true, subtree: true });
    const announcer = document.getElementById("announcer");
    new MutationObserver(() => window.seen.told.push(announcer.textContent)).observe(announcer, {
      childList: true,
    });
  });
  await say(page, "Tell me about the fog and the bell, please.");
  const { running, told } = await page.evaluate(() => window.seen);
  const line = (
    await page.locator(".turn .line").evaluate((node) => node.lastChild.textContent)
  ).trim();
  assert.ok(running.length > 0, "text while the turn was running");
  assert.equal(told.length, 2, told.join(" | "));
  assert.ok(told[1].includes(line), `${told[1]} has ${line}`);
  assert.match(told[1], /Trust .+, Relationship /);
  assert.equal(await page.getAttribute("#transcript", "aria-live"), null);
  await page.context().close();
});

test("why opens the explanation of that turn and gives the focus back", async () => {
  const page = await open(browser);
  await page.check("[name=npc][value=sora]");
  await page.selectOption("#state-quest_stage", "in_progress");
  await say(page, "Where can I find a wick like that?");
  await page.focus(".do-why");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#why[open]");
  assert.equal(await page.locator("#why section").count(), 6);
  assert.match(await page.innerText("#why"), /sora\.desc\.in_progress/);
  assert.equal(
    await page
      .locator("#why .block")
      .first()
      .innerText()
      .then((text) => /SYS/.test(text)),
    true,
  );
  assert.doesNotMatch(await page.innerText("#why"), /\[object|undefined|NaN/);
  await shoot(page, "why");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#why", { state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.className), "quiet do-why");
  await page.context().close();
});

test("the copied curl command asks the same turn, whatever was typed", async () => {
  const page = await open(browser);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await say(page, "Good day.");
  await say(page, AWKWARD);
  await page.click(".turn:last-child .do-copy");
  await page.waitForSelector(".toast.shown");
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const answer = JSON.parse(execFileSync("bash", ["-c", command], { encoding: "utf8" }));
  assert.equal(answer.meta.npc_id, await page.inputValue("[name=npc]:checked"));
  assert.match(answer.meta.session_id, /-curl$/);
  assert.ok(command.includes("Good day."), "the history goes along");
  await page.context().close();
});

test("without a clipboard the command can be copied by hand", async () => {
  const page = await open(browser);
  await page.evaluate(() => {
    navigator.clipboard.writeText = () => Promise.reject(new Error("no permission"));
  });
  await say(page, "Good day.");
  await page.click(".do-copy");
  await page.waitForSelector("#copy[open]");
  assert.match(await page.inputValue("#curl"), /^curl -sS/);
  await page.context().close();
});

test("a new conversation has another session, begins afresh, and keeps the scene as it was set", async () => {
  const page = await open(browser);
  const bodies = watchTurns(page);
  await slide(page, "#state-trust", 0.3);
  await page.fill("#state-items", "brass_key");
  await page.press("#state-items", "Enter");
  await say(page, "Hello.");
  await page.click("#new");
  assert.equal(await page.locator(".turn").count(), 0);
  assert.equal((await feelings(page)).trust, "0.30");
  await say(page, "Hello again.");
  assert.notEqual(bodies[1].session_id, bodies[0].session_id);
  assert.deepEqual(bodies[1].dialogue_history, []);
  assert.deepEqual(bodies[1].context.player_state.items, ["brass_key"]);
  await page.context().close();
});

test("another NPC has another conversation, and the first one is still there", async () => {
  const page = await open(browser);
  const bodies = watchTurns(page);
  await page.check("[name=npc] >> nth=0");
  await say(page, "Hello to the first.");
  await page.check("[name=npc] >> nth=1");
  assert.equal(await page.locator(".turn").count(), 0);
  await say(page, "Hello to the second.");
  await page.check("[name=npc] >> nth=0");
  assert.deepEqual(await page.locator(".turn .said").allTextContents(), [
    "You: Hello to the first.",
  ]);
  assert.notEqual(bodies[1].npc_id, bodies[0].npc_id);
  assert.notEqual(bodies[1].session_id, bodies[0].session_id);
  await page.context().close();
});

test("a turn that the world does not let in says which condition failed", async () => {
  const page = await open(browser);
  await page.check("[name=npc][value=sora]");
  await slide(page, "#state-trust", -0.9);
  await say(page, "Hello, may I come up?");
  assert.match(await page.innerText(".turn .conditions"), /trust/);
  assert.match(await page.innerText(".turn .notes"), /conditions are not met/);
  await page.context().close();
});

test("language and theme are switched, told in the page's lang, and remembered", async () => {
  const page = await open(browser);
  await say(page, "Hello.");
  await page.click("#language");
  assert.equal(await page.getAttribute("html", "lang"), "ko");
  assert.equal(await page.innerText("#send"), "보내기");
  assert.equal(await page.innerText(".turn .do-why"), "왜?");
  await page.click("#theme");
  await page.click("#theme");
  await page.reload();
  await page.waitForSelector(".npc");
  assert.equal(await page.getAttribute("html", "lang"), "ko");
  assert.equal(await page.title(), "Persona 플레이그라운드");
  assert.equal(await page.getAttribute("html", "data-theme"), "dark");
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), "dark");
  await page.context().close();
});

test("Enter belongs to the IME while it composes a Korean syllable", async () => {
  const page = await open(browser, { lang: "ko-KR" });
  // WebKit ends the composition before the Enter that confirms it: only the code is left
  for (const sign of [{ isComposing: true }, { keyCode: 229 }]) {
    for (const field of ["#say", "#state-items"]) {
      await page.fill(field, "안녕하세");
      await page.dispatchEvent(field, "keydown", { key: "Enter", ...sign });
    }
    assert.equal(await page.locator(".turn").count(), 0, JSON.stringify(sign));
    assert.equal(await page.locator(".chip.held").count(), 0, JSON.stringify(sign));
  }
  await page.press("#state-items", "Enter");
  assert.equal(await page.locator(".chip.held").count(), 1);
  await page.press("#say", "Enter");
  await isQuiet(page);
  assert.equal(await page.locator(".turn").count(), 1);
  await page.context().close();
});

test("everything comes from this server, under its Content-Security-Policy", async () => {
  const page = await open(browser);
  const policy = (await page.goto(URL_OF_SERVER)).headers()["content-security-policy"];
  assert.match(policy, /default-src 'self'/);
  assert.doesNotMatch(policy, /unsafe/);
  const loaded = await page.evaluate(() =>
    performance.getEntriesByType("resource").map((entry) => entry.name),
  );
  const elsewhere = loaded.filter((name) => new URL(name).origin !== new URL(URL_OF_SERVER).origin);
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(page.troubles, []);
  await page.context().close();
});
