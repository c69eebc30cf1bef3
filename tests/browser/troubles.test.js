/** What the page does when the network or the server does not: answers are put in its way here. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { isQuiet, launch, open, say, shoot } from "./setting.js";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const problem = (status, code, detail, headers = {}) => ({
  status,
  headers: { "Content-Type": "application/problem+json", ...headers },
  body: JSON.stringify({ title: code, status, code, detail }),
});

/** A turn of which one flag was raised, one held back. */
const STATE = {
  turn_id: "t1",
  delta: { trust: 0.9, relationship: 0.9 },
  flags: { give_item: true, quest_stage_change: true, npc_main_story: false },
  flags_detail: {
    give_item: {
      score: 0.9,
      threshold: 0.5,
      value: "brass_spyglass",
      text: "Sora hands you the spyglass.",
    },
    quest_stage_change: {
      score: 0.8,
      threshold: 0.5,
      value: "completed",
      text: "The light burns.",
    },
    npc_main_story: {
      score: 0.7,
      threshold: 0.5,
      held_back: "conditions",
      unmet: [{ key: "required_delta.trust", needed: ">= 0.4", found: "0.1" }],
    },
  },
};

const sse = (name, data) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const stream = (body) => ({ headers: { "Content-Type": "text/event-stream" }, body });

test("a raised flag lights up with its text, and one held back says why", async () => {
  const page = await open(browser);
  await page.check("[name=npc][value=sora]");
  await page.selectOption("#state-quest_stage", "in_progress");
  await slideTo(page, 0.5);
  await page.route("**/ask", (route) => route.fulfill(stream(sse("state", STATE))));
  await say(page, "Hello.");
  assert.match(await page.innerText(".flag.raised >> nth=0"), /Sora hands you the spyglass/);
  assert.match(
    await page.innerText(".flag.held"),
    /conditions do not hold[^]*trust[^]*>= 0\.4[^]*0\.1/,
  );
  assert.equal(await page.textContent("#state-trust-value"), "1.00");

  await shoot(page, "flags");
  await page.click(".flag.raised button >> nth=0");
  assert.match(await page.innerText("#state .chips"), /brass_spyglass/);
  await page.click(".flag.raised button");
  assert.equal(await page.inputValue("#state-quest_stage"), "completed");
  assert.equal(await page.locator(".flag.raised button").count(), 0);
  await page.context().close();
});

async function slideTo(page, value) {
  await page.locator("#state-trust").fill(String(value));
}

test("a connection that breaks after the state keeps the decision and offers no second try", async () => {
  const page = await open(browser);
  await page.route("**/ask", (route) =>
    route.fulfill(stream(sse("state", STATE) + sse("token", { text: "Well," }))),
  );
  await say(page, "Hello.");
  assert.match(await page.innerText(".turn .line"), /Well,/);
  assert.match(await page.innerText(".turn .problem"), /connection broke/);
  assert.equal(await page.locator(".do-retry").count(), 0);
  await page.context().close();
});

test("a turn asked again comes after what was said since, and the readings are of it", async () => {
  const page = await open(browser);
  await page.check("[name=npc][value=sora]");
  await slideTo(page, 0);
  const asked = [];
  const some = { ...STATE, delta: { trust: 0.1, relationship: 0 }, flags: {}, flags_detail: {} };
  const more = { ...STATE, turn_id: "t2", delta: { trust: 0.5, relationship: 0 } };
  await page.route("**/ask", (route) => {
    asked.push(route.request());
    if (asked.length === 1) return route.abort();
    const state = asked.length === 2 ? some : more;
    return route.fulfill(stream(sse("state", state) + sse("token", { text: "Well," })));
  });
  await say(page, "One.");
  await say(page, "Two."); // breaks off after its state: it counts, and is not asked again
  await page.click(".do-retry");
  await isQuiet(page);

  const texts = (selector) => page.locator(selector).allInnerTexts();
  assert.deepEqual(
    (await texts(".turn .said")).map((text) => text.split(/\s/).at(-1)),
    ["Two.", "One."],
  );
  assert.equal(await page.textContent("#state-trust-value"), "0.60");
  assert.match(await page.getAttribute(".plot svg", "aria-label"), /After turn 2: trust 0\.60/);
  await page.click(".plot summary");
  assert.deepEqual(await texts(".plot tbody td:nth-child(2)"), ["0.00", "0.10", "0.60"]);
  assert.equal(await page.locator(".plot .edit").count(), 0);
  assert.match(await page.innerText(".flag.raised >> nth=0"), /Take brass_spyglass/);

  const body = asked[2].postDataJSON();
  assert.deepEqual(body.dialogue_history, [{ player: "Two.", npc: "Well," }]);
  assert.equal(body.context.npc_state.trust, 0.1);
  await page.context().close();
});

test("an unreachable server is told in a sentence, and the same request is tried again", async () => {
  const page = await open(browser);
  const keys = [];
  await page.route("**/ask", (route) => {
    keys.push(route.request().headers()["idempotency-key"]);
    return keys.length === 1 ? route.abort() : route.continue();
  });
  await say(page, "Hello.");
  assert.match(await page.innerText(".turn .problem"), /cannot be reached/);
  await page.click(".do-retry");
  await isQuiet(page);
  assert.equal(await page.locator(".turn.done").count(), 1);
  assert.equal(keys[1], keys[0]);
  await page.context().close();
});

test("an overloaded server says when to come back", async () => {
  const page = await open(browser);
  const busy = problem(429, "overloaded", "64 requests are waiting", { "Retry-After": "2" });
  await page.route("**/ask", (route) => route.fulfill(busy));
  await say(page, "Hello.");
  assert.match(
    await page.innerText(".turn .problem"),
    /too much to do.*64 requests are waiting.*Try again in 2 s/,
  );
  await page.context().close();
});

test("a stream that ends in an error says what went wrong, and a state before it stands", async () => {
  const page = await open(browser);
  const { body } = problem(429, "overloaded", "64 requests are waiting");
  const error = sse("error", JSON.parse(body));
  for (const [begun, numRetries] of [
    [": keep-alive\n\n", 1],
    [sse("state", STATE), 0],
  ]) {
    await page.route("**/ask", (route) => route.fulfill(stream(begun + error)));
    await page.click("#new");
    await say(page, "Hello.");
    assert.match(
      await page.innerText(".turn.failed .problem"),
      /too much to do.*64 requests are waiting/,
    );
    assert.equal(await page.locator(".do-retry").count(), numRetries);
    await page.unroute("**/ask");
  }
  await page.context().close();
});

test("a turn that is stopped before its state never happened, and can be asked again", async () => {
  const page = await open(browser);
  await page.route("**/ask", () => {}); // never answered
  await page.fill("#say", "Hello.");
  await page.press("#say", "Enter");
  await page.click("#stop");
  await isQuiet(page);
  assert.match(await page.innerText(".turn.stopped"), /never happened/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "say");
  await page.unroute("**/ask");
  await page.click(".do-retry");
  await isQuiet(page);
  assert.equal(await page.locator(".turn.done").count(), 1);
  await page.context().close();
});

test("the server forgets a stopped turn that it had finished all the same", async () => {
  const page = await open(browser);
  const lost = "My purple umbrella flew away.";
  await say(page, "Hello.");
  let finish;
  const finished = new Promise((resolve) => {
    finish = resolve;
  });
  await page.route("**/ask", async (route) => finish(await route.fetch())); // the page hears nothing
  const asked = page.waitForRequest("**/ask");
  await page.fill("#say", lost);
  await page.press("#say", "Enter");
  await asked;
  await page.click("#stop");
  await isQuiet(page);
  assert.match(await (await finished).text(), /event: done/);
  await page.unroute("**/ask");

  await say(page, "How are you?");
  const last = ".turn:last-child";
  assert.match(await page.innerText(`${last} .notes`), /transcript rewritten/);
  await page.click(`${last} .do-why`);
  const prompt = (await page.locator("#why .prompt-text").allTextContents()).join("");
  assert.match(prompt, /Hello\./);
  assert.match(prompt, /How are you\?/);
  assert.equal(prompt.includes(lost), false);
  await page.context().close();
});

test("a 401 asks for the key, keeps it in this tab only, and sends it as a bearer token", async () => {
  const page = await open(browser);
  const given = [];
  await page.route("**/ask", (route) => {
    const key = route.request().headers().authorization;
    given.push(key);
    return key === "Bearer right"
      ? route.continue()
      : route.fulfill(problem(401, "unauthorized", "no key"));
  });
  await say(page, "Hello.");
  await page.waitForSelector("#key-form");
  assert.equal(await page.evaluate(() => document.activeElement.id), "key");
  await page.fill("#key", "wrong");
  await page.press("#key", "Enter");
  await page.waitForFunction(() =>
    document.querySelector("#key-why").textContent.includes("refused"),
  );
  await page.fill("#key", "right");
  await page.press("#key", "Enter");
  await page.waitForSelector(".turn.done");
  assert.deepEqual(given, [undefined, "Bearer wrong", "Bearer right"]);
  const stored = await page.evaluate(() => [
    JSON.stringify(localStorage),
    JSON.stringify(sessionStorage),
  ]);
  assert.equal(stored[0].includes("right"), false);
  assert.equal(stored[1].includes("right"), true);
  await page.click("#forget-key");
  assert.equal(await page.evaluate(() => JSON.stringify(sessionStorage).includes("right")), false);
  await page.context().close();
});

test("a page whose list of NPCs is behind the key asks for it and goes on", async () => {
  const page = await open(browser);
  await page.route("**/npcs", (route) =>
    route.request().headers().authorization
      ? route.continue()
      : route.fulfill(problem(401, "unauthorized", "no key")),
  );
  await page.reload();
  await page.fill("#key", "right");
  await page.press("#key", "Enter");
  await page.waitForSelector(".npc");
  await page.context().close();
});

test("a server that tells only ids and names of its NPCs is enough to talk", async () => {
  const page = await open(browser);
  const bare = (
    await (await page.request.get("/npcs".replace(/^/, new URL(page.url()).origin))).json()
  ).map(({ npc_id, name }) => ({ npc_id, name }));
  await page.route("**/npcs", (route) => route.fulfill({ json: bare }));
  await page.reload();
  await page.waitForSelector(".npc");
  await say(page, "Hello.");
  assert.equal(await page.locator(".turn.done").count(), 1);
  assert.ok((await page.locator(".flag").count()) > 0, "flags are learnt from the answer");
  assert.deepEqual(page.troubles, []);
  await page.context().close();
});
