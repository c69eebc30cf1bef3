/** The instruments: flags as lamps, and where the time and the tokens of the last turn went. */

import { el } from "./dom.js";
import { t, word } from "./texts.js";
import { conditionItem, milliseconds } from "./words.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

/**
 * @param {Conversation} conversation
 * @param {(key: "quest_stage" | "npc_mood" | "items", value: string) => void} apply
 */
export function flagsView(conversation, apply) {
  const decided = conversation.counted.at(-1)?.decided;
  const { flags = {}, flags_detail: details = {} } = decided ?? {};
  const known = (conversation.npc.flags ?? []).map((/** @type {any} */ flag) => flag.name);
  const names = [...new Set([...known, ...Object.keys(flags)])];
  if (!names.length) return [el("p", { class: "dim" }, t("no_flags"))];
  // the heads of a bundle may know fewer flags than the world
  const silent = decided ? names.filter((name) => !(name in flags)) : [];
  const told = names.filter((name) => !silent.includes(name));
  return [
    el(
      "ul",
      { class: "flags", role: "list" },
      told.map((name) => lamp(name, flags[name], details[name], conversation, apply)),
    ),
    ...(silent.length ? [silentFlags(silent)] : []),
  ];
}

/** @param {string[]} names */
const silentFlags = (names) =>
  el(
    "p",
    { class: "dim silent" },
    t("flags_silent"),
    names.map((name) => [" ", el("code", {}, name)]),
  );

/**
 * @param {string} name
 * @param {boolean | undefined} isRaised
 * @param {any} detail
 * @param {Conversation} conversation
 * @param {(key: "quest_stage" | "npc_mood" | "items", value: string) => void} apply
 */
function lamp(name, isRaised, detail, conversation, apply) {
  const status = isRaised ? "raised" : detail?.held_back ? "held" : "off";
  return el(
    "li",
    { class: `flag ${status}` },
    el(
      "div",
      { class: "flag-head" },
      el("span", { class: "lamp", "aria-hidden": "true" }),
      el("code", {}, name),
      el("span", { class: "flag-status" }, t(`flag_${status}`)),
    ),
    detail && scoreBar(detail),
    isRaised && meaning(detail ?? {}, conversation, apply),
    detail?.held_back && heldBack(detail),
  );
}

/** @param {{score: number, threshold: number}} detail */
export function scoreBar({ score, threshold }) {
  const text = t("score_of", { score: score.toFixed(3), threshold: threshold.toFixed(3) });
  return el(
    "div",
    { class: "score", role: "img", "aria-label": text, title: text },
    el("span", { class: "score-fill", "--at": score }),
    el("span", { class: "score-mark", "--at": threshold }),
  );
}

/** @param {any} detail */
export function heldBack(detail) {
  return el(
    "div",
    { class: "held-why" },
    el("p", {}, word("held", detail.held_back)),
    detail.unmet?.length > 0 && el("ul", { class: "conditions" }, detail.unmet.map(conditionItem)),
  );
}

/**
 * What the raised flag means, and the button by which the page does what a game would.
 * @param {any} detail
 * @param {Conversation} conversation
 * @param {(key: "quest_stage" | "npc_mood" | "items", value: string) => void} apply
 */
function meaning({ text, value }, { npc, state }, apply) {
  /** @type {["quest_stage" | "items" | "npc_mood", string, string[], string | string[]][]} */
  const ways = [
    ["quest_stage", "stage_to", npc.stages ?? [], state.quest_stage],
    ["items", "take_item", npc.items ?? [], state.items],
    ["npc_mood", "mood_to", npc.moods ?? [], state.npc_mood],
  ];
  const way = ways.find(([, , values]) => values.includes(value));
  const isDone = way && [way[3]].flat().includes(value);
  return el(
    "div",
    { class: "meaning" },
    text && el("p", {}, text),
    way && !isDone
      ? el("button", { type: "button", onclick: () => apply(way[0], value) }, t(way[1], { value }))
      : value !== undefined && value !== null && el("p", { class: "dim" }, el("code", {}, value)),
  );
}

/** @param {Conversation} conversation */
export function timingsView(conversation) {
  const meta = conversation.turns.findLast((turn) => turn.answer)?.answer.meta;
  if (!meta) return el("p", { class: "dim" }, t("no_turn"));
  const { prompt_tokens: prompt, cached_tokens: cached, completion_tokens: written } = meta.usage;
  return el(
    "div",
    { class: "timings" },
    bar(spans(meta.timings_ms), (ms) => `${milliseconds(ms)} ms`),
    bar(
      [
        ["tokens_cached", cached],
        ["tokens_read", prompt - cached],
        ["tokens_written", written],
      ],
      (num) => num.toLocaleString(),
    ),
    el("p", { class: "dim" }, t("bundle"), " ", el("code", {}, meta.bundle)),
  );
}

/**
 * What each part of the turn took: the server tells when each was over.
 * @param {{queue?: number, prefill?: number, state?: number, first_token?: number, total?: number}} at
 * @returns {[string, number][]}
 */
function spans(at) {
  /** @type {[string, number | undefined][]} */
  const ends = [
    ["t_queue", at.queue],
    ["t_prefill", at.prefill],
    ["t_decide", at.state],
    ["t_first", at.first_token],
    ["t_rest", at.total],
  ];
  let last = 0;
  /** @type {[string, number][]} */
  const found = [];
  for (const [key, end] of ends) {
    if (end === undefined) continue;
    found.push([key, Math.max(0, end - last)]);
    last = Math.max(last, end);
  }
  return found;
}

/**
 * @param {[string, number][]} parts
 * @param {(value: number) => string} write
 */
function bar(parts, write) {
  const total = parts.reduce((sum, [, value]) => sum + value, 0);
  return el(
    "div",
    { class: "bar-group" },
    el(
      "div",
      { class: "bar", "aria-hidden": "true" },
      parts.map(([key, value]) => el("span", { class: key, "--share": total ? value / total : 0 })),
    ),
    el(
      "dl",
      {},
      parts.map(([key, value]) =>
        el("div", {}, el("dt", { class: key }, t(key)), el("dd", {}, write(value))),
      ),
      el("div", { class: "sum" }, el("dt", {}, t("t_total")), el("dd", {}, write(total))),
    ),
  );
}
