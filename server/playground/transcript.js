/** One turn on the page: what was said, the line as it comes, and what it changed. */

import { FEELINGS } from "./conversation.js";
import { el } from "./dom.js";
import { langOf, localised, t, word } from "./texts.js";
import { conditionItem, milliseconds, problemText, signed } from "./words.js";

/**
 * @typedef {import("./conversation.js").Turn} Turn
 * @typedef {{retry: (turn: Turn) => void, why: (turn: Turn) => void, copy: (turn: Turn) => void}} Actions
 */

/** @param {any} npc */
export function avatar(npc) {
  const name = localised(npc.name) || npc.npc_id;
  // two Korean names of one family begin alike: the given name tells them apart
  const letter = /^[가-힣]{3}$/.test(name) ? name[1] : [...name][0];
  const hue = [...npc.npc_id].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 360, 7);
  return el("span", { class: "avatar", "aria-hidden": "true", "--hue": hue }, letter.toUpperCase());
}

/** @param {Turn} turn @param {any} npc @param {Actions} actions */
export function turnView(turn, npc, actions) {
  return el(
    "li",
    { class: `turn ${turn.status}` },
    el(
      "p",
      { class: "said", lang: langOf(turn.said) },
      el("span", { class: "hidden" }, t("you"), ": "),
      turn.said,
    ),
    el(
      "div",
      { class: "reply" },
      avatar(npc),
      el("div", { class: "reply-body" }, line(turn, npc), outcome(turn, npc, actions)),
    ),
  );
}

/**
 * More of the line while it comes; the rest of the turn stays as it is.
 * @param {HTMLElement} view
 * @param {string} text
 */
export function addText(view, text) {
  view.querySelector(".waiting")?.remove();
  view.querySelector(".line")?.append(el("span", { class: "fresh" }, text));
}

/** @param {Turn} turn @param {any} npc */
function line(turn, npc) {
  const isWaiting = turn.status === "running" && !turn.line;
  const { npc_action: action } = turn.answer?.meta ?? {};
  return el(
    "p",
    { class: "line", lang: langOf(turn.line) },
    el("span", { class: "hidden" }, localised(npc.name), ": "),
    action && el("span", { class: "action" }, `(${action}) `),
    turn.line,
    isWaiting && el("span", { class: "waiting", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
  );
}

/** @param {Turn} turn @param {any} npc @param {Actions} actions */
function outcome(turn, npc, actions) {
  const stopped = turn.decided ? t("stopped_late") : t("stopped_early");
  const mayRetry = !turn.decided && ["failed", "stopped"].includes(turn.status);
  return [
    turn.decided && changes(turn),
    turn.answer?.meta.unmet?.length > 0 &&
      el("ul", { class: "conditions" }, turn.answer.meta.unmet.map(conditionItem)),
    turn.problem && el("p", { class: "problem" }, problemText(turn.problem)),
    turn.status === "stopped" && el("p", { class: "notes" }, stopped),
    el(
      "div",
      { class: "turn-foot" },
      turn.answer && el("p", { class: "notes" }, notes(turn)),
      turn.answer?.meta.explain && button("why", () => actions.why(turn)),
      turn.status !== "running" && button("copy", () => actions.copy(turn)),
      mayRetry && button("retry", () => actions.retry(turn)),
    ),
  ];
}

/** @param {string} key @param {() => void} onclick */
const button = (key, onclick) =>
  el("button", { type: "button", class: `quiet do-${key}`, onclick }, t(key));

/** @param {Turn} turn */
function changes({ decided }) {
  const raised = Object.keys(decided.flags).filter((name) => decided.flags[name]);
  const held = Object.entries(decided.flags_detail).filter(([, detail]) => detail.held_back);
  return el(
    "ul",
    { class: "changes", role: "list" },
    FEELINGS.map((name) =>
      el("li", { class: name }, t(name), " ", signed(decided.delta[name] ?? 0)),
    ),
    raised.map((name) => {
      const { text } = decided.flags_detail[name] ?? {};
      return el("li", { class: "raised" }, el("code", {}, name), text && ` ${text}`);
    }),
    held.map(([name]) => el("li", { class: "held" }, el("code", {}, name), " ", t("flag_held"))),
  );
}

/** @param {Turn} turn @returns {any[]} */
function notes({ answer: { meta }, history }) {
  const { usage, timings_ms: at } = meta;
  const isNews = meta.history === "fresh" ? history.length > 0 : meta.history !== "continued";
  const parts = [
    !meta.valid && `${t("fallback")}: ${word("reason", meta.reason)}`,
    meta.text_source !== "model" && word("source", meta.text_source),
    meta.truncated && t("truncated"),
    isNews && word("history", meta.history),
    at.state !== undefined && t("state_in", { ms: milliseconds(at.state) }),
    usage.prompt_tokens > 0 &&
      t("cached_of", { cached: usage.cached_tokens, prompt: usage.prompt_tokens }),
  ];
  return parts.filter(Boolean).map((part) => el("span", {}, part));
}

/** What a voice says once the turn is over. @param {Turn} turn @param {any} npc */
export function spoken(turn, npc) {
  if (turn.problem) return problemText(turn.problem);
  if (turn.status === "stopped") return t("stopped");
  const { delta, flags, flags_detail: details } = turn.decided;
  const felt = FEELINGS.map((name) => `${t(name)} ${signed(delta[name] ?? 0)}`).join(", ");
  const raised = Object.keys(flags)
    .filter((name) => flags[name])
    .map((name) => `${name}: ${details[name]?.text ?? t("flag_raised")}`);
  return [`${localised(npc.name)}: ${turn.line}`, felt, ...raised].join(". ");
}
