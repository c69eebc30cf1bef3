/** Trust and relationship over the turns, as a small SVG with a table beside it. */

import { FEELINGS } from "./conversation.js";
import { el, svg } from "./dom.js";
import { t } from "./texts.js";
import { plain } from "./words.js";

const WIDTH = 320;
const HEIGHT = 170;
const AREA = { left: 26, right: 12, top: 10, bottom: 22 };
const MIN_TURNS = 6;

/** @typedef {import("./conversation.js").Conversation} Conversation */

/** @param {Conversation} conversation @param {boolean} isTableOpen */
export function plotView(conversation, isTableOpen) {
  const turns = conversation.counted;
  const now = turns.at(-1)?.after ?? conversation.feelings;
  const alt = t("plot_alt", {
    n: turns.length,
    trust: plain(now.trust),
    relationship: plain(now.relationship),
  });
  return el(
    "figure",
    {},
    el("figcaption", {}, t("plot_title")),
    svg(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        role: "img",
        "aria-label": `${t("plot_title")}. ${alt}`,
      },
      ...grid(turns.length),
      ...[...FEELINGS].reverse().map((name) => curve(conversation, name)),
    ),
    el(
      "p",
      { class: "legend" },
      FEELINGS.map((name) =>
        el("span", { class: name }, t(name), " ", el("b", {}, plain(now[name]))),
      ),
    ),
    turns.length > 0 && table(conversation, isTableOpen),
  );
}

/** @param {number} numTurns */
const scaleX = (numTurns) => {
  const step = (WIDTH - AREA.left - AREA.right) / Math.max(MIN_TURNS, numTurns);
  return (/** @type {number} */ turn) => AREA.left + turn * step;
};

/** @param {number} value in [-1, 1] */
const y = (value) => AREA.top + ((1 - value) / 2) * (HEIGHT - AREA.top - AREA.bottom);

/** @param {number} numTurns */
function grid(numTurns) {
  const x = scaleX(numTurns);
  const num = Math.max(MIN_TURNS, numTurns);
  const every = Math.ceil(num / 8);
  const levels = [1, 0, -1].flatMap((level) => [
    svg("line", {
      class: level ? "grid" : "zero",
      x1: AREA.left,
      x2: WIDTH - AREA.right,
      y1: y(level),
      y2: y(level),
    }),
    svg("text", { class: "tick level", x: AREA.left - 6, y: y(level) + 4 }, plainLevel(level)),
  ]);
  const ticks = Array.from({ length: num + 1 }, (_, turn) => turn)
    .filter((turn) => turn % every === 0)
    .map((turn) => svg("text", { class: "tick", x: x(turn), y: HEIGHT - 5 }, turn));
  return [...levels, ...ticks];
}

/** @param {number} level */
const plainLevel = (level) => (level > 0 ? "+1" : level < 0 ? "−1" : "0");

/**
 * A line from turn to turn; a dotted step where the value was edited by hand in between.
 * @param {Conversation} conversation
 * @param {"trust" | "relationship"} name
 */
function curve(conversation, name) {
  const turns = conversation.counted;
  const x = scaleX(turns.length);
  let last = conversation.start[name];
  /** @type {SVGElement[]} */
  const lines = [];
  const marks = [mark(name, x(0), y(last))];
  turns.forEach((turn, index) => {
    const [from, to] = [turn.before[name], turn.after[name]];
    const [x1, x2] = [x(index), x(index + 1)];
    if (from !== last)
      lines.push(svg("line", { class: "edit", x1, x2: x1, y1: y(last), y2: y(from) }));
    lines.push(svg("line", { x1, x2, y1: y(from), y2: y(to) }));
    marks.push(mark(name, x2, y(to)));
    last = to;
  });
  return svg("g", { class: name }, lines, marks);
}

/** Round for trust, square for relationship: told apart without colour. */
function mark(/** @type {string} */ name, /** @type {number} */ cx, /** @type {number} */ cy) {
  return name === "trust"
    ? svg("circle", { cx, cy, r: 4 })
    : svg("rect", { x: cx - 3.5, y: cy - 3.5, width: 7, height: 7 });
}

/** @param {Conversation} conversation @param {boolean} isOpen */
function table(conversation, isOpen) {
  const names = FEELINGS.map((name) => el("th", { scope: "col" }, t(name)));
  const rows = [conversation.start, ...conversation.counted.map((turn) => turn.after)];
  return el(
    "details",
    { open: isOpen },
    el("summary", {}, t("plot_table")),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("turn")), names)),
      el(
        "tbody",
        {},
        rows.map((row, turn) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, turn),
            FEELINGS.map((name) => el("td", {}, plain(row[name]))),
          ),
        ),
      ),
    ),
  );
}
