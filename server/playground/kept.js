/** What the browser keeps: language, theme and NPC for good, the API key for this tab alone. */

const NAME = "persona.playground";
const KEY = "persona.playground.key";

/** @returns {{lang?: string, theme?: string, npc?: string}} */
export function kept() {
  try {
    return JSON.parse(localStorage.getItem(NAME) || "{}");
  } catch {
    return {};
  }
}

/** @param {Record<string, string>} changes */
export function keep(changes) {
  try {
    localStorage.setItem(NAME, JSON.stringify({ ...kept(), ...changes }));
  } catch {
    // a browser that stores nothing forgets; the page works all the same
  }
}

/** @type {string | null} */
let keyInMemory = null;

/** @returns {string | null} */
export function apiKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return keyInMemory;
  }
}

/** @param {string | null} key */
export function setApiKey(key) {
  keyInMemory = key;
  try {
    if (key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, key);
  } catch {
    // kept in memory until the page is left
  }
}
