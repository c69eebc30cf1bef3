/** What frames the page: theme, language, views, the API key, troubles, passing words. */

import { byId, el } from "./dom.js";
import { apiKey, keep, setApiKey } from "./kept.js";
import { lang, t } from "./texts.js";
import { problemText } from "./words.js";

const THEMES = ["system", "light", "dark"];
const TOAST_MS = 3000;

/** What to do again once there is a key, or the server is back. @type {(() => void) | null} */
let pending = null;

/** The texts that stand in the page itself. */
export function drawShell() {
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-t]")) {
    node.textContent = t(/** @type {any} */ (node).dataset.t);
  }
  for (const node of document.querySelectorAll("[data-t-label]")) {
    node.setAttribute("aria-label", t(/** @type {any} */ (node).dataset.tLabel));
  }
  byId("language").textContent = lang() === "ko" ? "English" : "한국어";
  byId("language").lang = lang() === "ko" ? "en" : "ko";
  drawTheme();
  byId("forget-key").hidden = apiKey() === null;
}

function drawTheme() {
  const theme = t(`theme_${document.documentElement.dataset.theme}`);
  byId("theme").replaceChildren(
    el("span", { "aria-hidden": "true" }, "◐ "),
    el("span", { class: "hidden" }, t("theme"), ": "),
    theme,
  );
}

/**
 * A problem that is not one turn's: asks for the key, or offers to try again.
 * @param {import("./api.js").Problem} problem
 * @param {() => void} again
 */
export function tell(problem, again) {
  pending = again;
  if (problem.status !== 401) {
    showTrouble(problemText(problem));
    return;
  }
  byId("key-why").textContent = t(apiKey() === null ? "key_needed" : "key_refused");
  byId("key-form").hidden = false;
  byId("key").value = "";
  byId("key").focus();
}

/** @param {string} text none hides it */
export function showTrouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").querySelector("span").textContent = text;
}

let toastTimer = 0;

/** @param {string} text */
export function toast(text) {
  announce(text);
  byId("toast").textContent = text;
  byId("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId("toast").classList.remove("shown"), TOAST_MS);
}

/** @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** @param {string} view */
export function show(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(/** @type {any} */ (button).dataset.show === view));
  }
}

/** @param {() => void} draw the whole page, in another language */
export function listenToShell(draw) {
  byId("language").addEventListener("click", () => {
    document.documentElement.lang = lang() === "ko" ? "en" : "ko";
    keep({ lang: lang() });
    draw();
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const theme = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
    root.dataset.theme = theme;
    keep({ theme });
    drawTheme();
  });
  byId("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    setApiKey(byId("key").value.trim());
    byId("key-form").hidden = true;
    byId("forget-key").hidden = false;
    byId("say").focus();
    pending?.();
  });
  byId("forget-key").addEventListener("click", () => {
    setApiKey(null);
    byId("forget-key").hidden = true;
    byId("new").focus();
    toast(t("key_forgotten"));
  });
  byId("trouble")
    .querySelector("button")
    .addEventListener("click", () => pending?.());
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => show(/** @type {any} */ (button).dataset.show));
  }
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog")?.close());
  }
}
