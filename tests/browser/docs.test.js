/** Swagger UI at /docs: all of it comes from this server, and a route can be tried. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, PATIENCE_MS, shoot, URL_OF_SERVER } from "./setting.js";

const ASK = "#operations-turns-ask";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("a turn can be tried, and nothing is fetched from elsewhere", async () => {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const troubles = [];
  const origins = new Set();
  page.on("pageerror", (error) => troubles.push(String(error)));
  page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
  page.on("request", (request) => origins.add(new URL(request.url()).origin));

  await page.goto(new URL("/docs", URL_OF_SERVER).href);
  await page.click(`${ASK} .opblock-summary-control`);
  await page.click(`${ASK} .try-out__btn`);
  const body = {
    text: "안녕하세요?",
    npc_id: "sora",
    player_id: "docs",
    gen_params: { max_tokens: 4 },
  };
  await page.fill(`${ASK} textarea.body-param__text`, JSON.stringify(body));
  await page.click(`${ASK} .execute`);
  const answered = page.locator(`${ASK} .live-responses-table .response-col_status`).last();
  assert.match(await answered.innerText(), /^200/);
  await shoot(page, "docs");

  assert.deepEqual(troubles, []);
  assert.deepEqual([...origins], [new URL(URL_OF_SERVER).origin]);
});
