/** The explain view: every decision of a turn, in the order in which they were made. */

import { el } from "./dom.js";
import { heldBack, scoreBar } from "./readings.js";
import { langOf, t, word } from "./texts.js";
import { conditionItem, signed } from "./words.js";

/** @param {any} answer of `/ask`, with `meta.explain` */
export function whyView(answer) {
  const { explain } = answer.meta;
  return [
    section("why_where", scene(explain.scene, answer.meta.notices ?? [])),
    section("why_gate", gate(explain.gate)),
    section("why_notes", notes(explain)),
    section("why_prompt", prompt(explain.prompt, answer.meta.usage)),
    section("why_decision", decision(explain)),
    section("why_line", line(explain.line, answer)),
  ];
}

/** @param {string} key @param {any} content */
const section = (key, content) => el("section", {}, el("h3", {}, t(key)), content);

/** @param {string} text */
const dim = (text) => el("p", { class: "dim" }, text);

/** @param {any} scene @param {string[]} notices */
function scene(scene, notices) {
  const { npc_id, quest_stage, location, is_stage_known: isKnown } = scene;
  return [
    el(
      "p",
      { class: "path" },
      [npc_id, quest_stage, location, scene.lang].map((part) => el("code", {}, part)),
      !isKnown && el("span", { class: "warn" }, t("stage_unknown")),
    ),
    el(
      "dl",
      { class: "documents" },
      Object.entries(scene.documents).map(([kind, id]) =>
        el(
          "div",
          {},
          el("dt", {}, kind),
          el("dd", {}, id ? el("code", {}, id) : dim(t("no_document"))),
        ),
      ),
    ),
    ...notices.map((notice) => el("p", { class: "warn", lang: "en" }, notice)),
  ];
}

/** @param {any} gate */
function gate(gate) {
  const reason = gate.reason && ` · ${word("reason", gate.reason)}`;
  const { precheck_passed: precheck } = gate;
  return [
    el(
      "p",
      { class: gate.open ? "verdict good" : "verdict bad" },
      t(gate.open ? "gate_open" : "gate_closed"),
      reason,
    ),
    precheck !== null && dim(t("precheck", { value: String(precheck) })),
    gate.triggers.length > 0 &&
      el("ul", { class: "cards", role: "list" }, gate.triggers.map(trigger)),
    gate.conditions.length
      ? el("ul", { class: "conditions" }, gate.conditions.map(conditionItem))
      : dim(t("no_conditions")),
  ];
}

/** @param {any} trigger */
function trigger({
  id,
  fired,
  keyword,
  nearest_example: example,
  cosine,
  same,
  attack_score: attack,
  attack_threshold: bound,
}) {
  return el(
    "li",
    { class: fired ? "bad" : "" },
    head(id, t(fired ? "fired" : "quiet")),
    keyword && el("p", {}, t("by_keyword", { word: keyword })),
    attack !== undefined &&
      el("p", {}, t("attack_of", { value: number(attack), bound: number(bound) })),
    example && el("p", {}, t("nearest", { text: example })),
    cosine !== undefined &&
      el("p", {}, t("cosine_of", { value: number(cosine), bound: number(same) })),
  );
}

/** @param {number | undefined} value */
const number = (value) => (value === undefined ? "–" : value.toFixed(3));

/** @param {string} id @param {string} verdict */
const head = (id, verdict) =>
  el("p", { class: "card-head" }, el("code", {}, id), el("span", {}, verdict));

/** @param {any} explain */
function notes({ notes, note_threshold: bound }) {
  if (!notes.length) return dim(t("nothing_searched"));
  return el(
    "ul",
    { class: "cards", role: "list" },
    notes.map((/** @type {any} */ note) =>
      el(
        "li",
        { class: note.shown ? "good" : "" },
        head(note.id, t(note.shown ? "shown" : "not_shown")),
        el("p", { lang: langOf(note.nearest_passage) }, note.nearest_passage),
        dim(
          [
            t("lead_of", { lead: number(note.lead), bound: bound ?? "–" }),
            t("letters_add", { letters: number(note.letters) }),
            note.why_not,
          ]
            .filter(Boolean)
            .join(" · "),
        ),
      ),
    ),
  );
}

/** @param {any[]} blocks @param {any} usage */
function prompt(blocks, usage) {
  const total = blocks.reduce((sum, block) => sum + block.tokens, 0) || 1;
  const kinds = [...new Set(blocks.map((block) => block.block))];
  const colour = (/** @type {any} */ { block }) => `block-${kinds.indexOf(block) % 6}`;
  return [
    el(
      "div",
      { class: "bar blocks", "aria-hidden": "true" },
      blocks.map((block) => el("span", { class: colour(block), "--share": block.tokens / total })),
    ),
    dim(t("cached_of", { cached: usage.cached_tokens, prompt: usage.prompt_tokens })),
    blocks.map((block) =>
      el(
        "details",
        { class: `block ${colour(block)}` },
        el(
          "summary",
          {},
          el("code", {}, block.block),
          " ",
          el("span", { class: "dim" }, t("tokens", { n: block.tokens })),
        ),
        el("p", { class: "prompt-text", lang: langOf(block.text) }, block.text),
      ),
    ),
  ];
}

/** @param {any} explain */
function decision({ deltas, flags, decision }) {
  return [
    el("ul", { class: "cards", role: "list" }, Object.entries(deltas).map(delta)),
    el("ul", { class: "cards", role: "list" }, Object.entries(flags).map(flag)),
    el("p", {}, t("told"), " ", el("code", {}, decision || t("nothing_told"))),
  ];
}

/** @param {[string, any]} entry */
function delta([name, { raw, policy, final }]) {
  const bounds = Object.entries(policy ?? {}).map(([key, value]) => `${key} ${value}`);
  const steps = [
    t("heads_said", { value: signed(raw) }),
    bounds.length ? t("policy_said", { policy: bounds.join(", ") }) : t("no_policy"),
    t("final", { value: signed(final) }),
  ];
  return el("li", {}, head(name, signed(final)), dim(steps.join(" → ")));
}

/** @param {[string, any]} entry */
function flag([name, flag]) {
  const isHeld = flag.held_back && flag.score >= flag.threshold;
  const status = flag.raised ? "raised" : isHeld ? "held" : "off";
  const unmet = flag.conditions.filter((/** @type {any} */ condition) => !condition.holds);
  return el(
    "li",
    { class: { raised: "good", held: "bad", off: "" }[status] },
    head(name, t(`flag_${status}`)),
    scoreBar(flag),
    status === "held" ? heldBack({ ...flag, unmet }) : status === "off" && dim(t("below")),
    flag.source && dim(`${flag.source} · ${flag.found_by}`),
    status !== "held" &&
      unmet.length > 0 &&
      el("ul", { class: "conditions" }, unmet.map(conditionItem)),
  );
}

/** @param {any[]} sentences @param {any} answer */
function line(sentences, { text, meta }) {
  return [
    el("p", { class: "line", lang: langOf(text) }, text),
    meta.text_source !== "model" && dim(word("source", meta.text_source)),
    el(
      "ul",
      { class: "cards", role: "list" },
      sentences.map((sentence) =>
        el(
          "li",
          { class: sentence.released ? "good" : "bad" },
          el(
            "p",
            { class: "card-head" },
            el("span", { lang: langOf(sentence.text) }, sentence.text),
            el("span", {}, t(sentence.released ? "released" : "refused")),
          ),
          sentence.refused && dim([sentence.refused, sentence.because].filter(Boolean).join(": ")),
          sentence.attempt > 1 && dim(t("attempt", { n: sentence.attempt })),
        ),
      ),
    ),
  ];
}
