/** The browser that the tests drive, and what they do in it again and again. */

import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** The address of a running server: `scripts/test-browser` sets it. */
export const URL_OF_SERVER = process.env.PERSONA_URL;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SCREENSHOTS = process.env.SCREENSHOTS;
/** A slow machine may take long to say a line. */
export const PATIENCE_MS = 60_000;

/** As root, and behind a closed network. */
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const DESKTOP = { width: 1440, height: 900 };
export const PHONE = { width: 360, height: 740 };

export function launch() {
  if (!URL_OF_SERVER) throw new Error("PERSONA_URL is not set; run scripts/test-browser");
  if (!existsSync(CHROMIUM)) throw new Error(`no browser at ${CHROMIUM}; set CHROMIUM`);
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
}

/**
 * A page in a browser that has stored nothing; what went wrong in it is in `page.troubles`.
 * @param {import("playwright-core").Browser} browser
 */
export async function open(browser, { viewport = DESKTOP, lang = "en-GB", theme = "light" } = {}) {
  const context = await browser.newContext({ viewport, locale: lang, colorScheme: theme });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.troubles = [];
  page.on("pageerror", (error) => page.troubles.push(String(error)));
  page.on("console", (message) => {
    // a refused request is told here too, and the tests provoke some
    const isOurs = message.type() === "error" && !message.text().startsWith("Failed to load");
    if (isOurs) page.troubles.push(message.text());
  });
  await page.goto(URL_OF_SERVER);
  await page.waitForSelector("[name=npc]:checked", { state: "attached" });
  return page;
}

/** @param {import("playwright-core").Page} page @param {string} text */
export async function say(page, text) {
  await page.fill("#say", text);
  await page.press("#say", "Enter");
  await isQuiet(page);
}

/** Waits until no turn is running. @param {import("playwright-core").Page} page */
export async function isQuiet(page) {
  await page.waitForSelector("#stop", { state: "hidden" });
  await page.waitForSelector(".turn.running", { state: "detached" });
}

/** @param {import("playwright-core").Page} page @param {string} view */
export async function show(page, view) {
  await page.click(`[data-show=${view}]`);
}

/** @param {import("playwright-core").Page} page @param {string} id @param {number} value */
export async function slide(page, id, value) {
  await page.locator(id).fill(String(value));
}

/** Only where SCREENSHOTS names a folder. @param {import("playwright-core").Page} page @param {string} name */
export async function shoot(page, name) {
  if (!SCREENSHOTS) return;
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
}
