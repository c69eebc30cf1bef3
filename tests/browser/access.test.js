/** Who can use the playground: small screens, keyboards, screen readers, both languages and themes. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";

import { DESKTOP, isQuiet, launch, open, PHONE, say, shoot, show } from "./setting.js";

const LOOKS = ["en-GB", "ko-KR"].flatMap((lang) =>
  ["light", "dark"].map((theme) => ({ lang, theme })),
);

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

async function check(page, what) {
  // the policy of the page lets no script in by a tag; evaluating it does
  await page.evaluate(axe.source);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run());
  const bad = violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
  assert.deepEqual(bad, [], what);
  assert.ok(passes.length > 20, `${what}: axe found something to check`);
}

for (const { lang, theme } of LOOKS) {
  test(`axe finds nothing serious: ${lang}, ${theme}`, async () => {
    const page = await open(browser, { lang, theme });
    await page.emulateMedia({ colorScheme: theme, reducedMotion: "reduce" });
    await check(page, "before the first word");
    await page.check("[name=npc][value=sora]");
    await page.locator("#state-trust").fill("-0.9");
    await say(page, lang === "ko-KR" ? "소라 씨, 잠깐 들어가도 될까요?" : "Sora, may I come in?");
    await page.locator("#state-trust").fill("0.6");
    await say(page, lang === "ko-KR" ? "그날 밤 얘기 좀 들려줄래요?" : "Tell me about that night.");
    await page.click(".plot summary");
    await check(page, "after two turns");
    await page.click(".turn:last-child .do-why");
    for (const summary of await page.locator("#why summary").all()) await summary.click();
    await check(page, "the explanation");
    await page.context().close();
  });
}

test("nothing is wider than a screen of 360 pixels, and axe finds nothing serious there", async () => {
  for (const lang of ["ko-KR", "en-GB"]) {
    const page = await open(browser, { viewport: PHONE, lang, theme: "dark" });
    await page.emulateMedia({ colorScheme: "dark", reducedMotion: "reduce" });
    await show(page, "scene");
    await page.check("[name=npc][value=sora]");
    await page.selectOption("#state-quest_stage", "in_progress");
    await show(page, "talk");
    await say(
      page,
      lang === "ko-KR" ? "안녕하세요, 소라 씨. 등불은 좀 어때요?" : "Hello Sora, how is the lamp?",
    );
    await say(
      page,
      lang === "ko-KR" ? "심지는 어디 가면 구할 수 있어요?" : "Where would I find a wick?",
    );
    if (lang === "ko-KR") await shoot(page, "phone-dark-ko");
    for (const view of ["scene", "talk", "readings"]) {
      await show(page, view);
      await fits(page, `${lang} ${view}`);
      await check(page, `${lang} ${view}`);
    }
    await show(page, "talk");
    await page.click(".turn:last-child .do-why");
    for (const summary of await page.locator("#why summary").all()) await summary.click();
    await fits(page, `${lang} why`);
    await page.context().close();
  }
});

async function fits(page, what) {
  const wide = await page.evaluate(() =>
    ["html", "#why", ".panel"].flatMap((name) =>
      [...document.querySelectorAll(name)]
        .filter((node) => node.scrollWidth > node.clientWidth && node.clientWidth)
        .map((node) => `${name}: ${node.scrollWidth} in ${node.clientWidth}`),
    ),
  );
  assert.deepEqual(wide, [], what);
}

test("on a phone the field to write in is on the screen, without scrolling the page", async () => {
  const page = await open(browser, { viewport: PHONE });
  await say(page, "Hello.");
  const { y, height } = await page.locator("#say").boundingBox();
  assert.ok(y + height <= PHONE.height, `ends at ${y + height}`);
  await page.context().close();
});

test("a whole turn can be played with the keyboard alone, with the focus always visible", async () => {
  const page = await open(browser, { viewport: DESKTOP });
  const press = (key) => page.keyboard.press(key);
  const walked = [];
  /** Tab on until `selector` has the focus. */
  const walk = async (selector) => {
    for (let step = 0; step < 80; step++) {
      await press("Tab");
      const { is, outline, name } = await page.evaluate((wanted) => {
        const focused = document.activeElement;
        const shown = focused.closest(".npc") ?? focused;
        const { outlineStyle, outlineWidth } = getComputedStyle(shown);
        return {
          is: focused.matches(wanted),
          outline: outlineStyle !== "none" && outlineWidth !== "0px",
          name: focused.id || focused.className || focused.tagName,
        };
      }, selector);
      walked.push(name);
      assert.ok(outline, `${name} shows that it has the focus`);
      if (is) return;
    }
    assert.fail(`${selector} is not reached: ${walked.join(" → ")}`);
  };

  await walk(".skip");
  await walk("#new");
  await walk("[name=npc]");
  await press("ArrowDown");
  const npc = await page.inputValue("[name=npc]:checked");
  assert.equal(await page.evaluate(() => document.activeElement.value), npc);
  await walk("#state-trust");
  const before = Number(await page.inputValue("#state-trust"));
  await press("ArrowRight");
  await press("ArrowRight");
  assert.equal(
    Number(await page.inputValue("#state-trust")),
    Math.round((before + 0.02) * 100) / 100,
  );
  await walk("#state-items");
  await page.keyboard.type("silver_coin");
  await press("Enter");
  await walk(".chip.offer");
  await press("Enter");
  assert.equal(await page.locator(".chip.held").count(), 2);
  assert.equal(await page.evaluate(() => document.activeElement.id), "state-items");
  await walk("#suggestions button");
  await press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "say");
  assert.notEqual(await page.inputValue("#say"), "");
  await press("Enter");
  await isQuiet(page);
  await page.locator("#transcript").focus();
  await walk(".do-why");
  await press("Enter");
  await page.waitForSelector("#why[open]");
  await press("Escape");
  await walk(".do-copy");
  await page.context().close();
});

test("nothing moves for those who asked for less motion", async () => {
  const page = await open(browser);
  await page.emulateMedia({ reducedMotion: "reduce" });
  await say(page, "Hello.");
  const moving = await page.evaluate(
    () =>
      [...document.querySelectorAll("*")].filter((node) => {
        const { animationName, transitionDuration } = getComputedStyle(node);
        return animationName !== "none" || transitionDuration !== "0s";
      }).length,
  );
  assert.equal(moving, 0);
  await page.context().close();
});
