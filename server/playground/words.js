/** Numbers, conditions and problems as people read them. */

import { el } from "./dom.js";
import { TEXTS, t, word } from "./texts.js";

/** @param {number} value @returns {string} with its sign, a real minus, three decimals */
export function signed(value) {
  const digits = Math.abs(value).toFixed(3);
  if (Number(digits) === 0) return "0";
  return (value > 0 ? "+" : "−") + digits;
}

/** @param {number} value */
export const plain = (value) => value.toFixed(2).replace("-", "−");

/** @param {number} ms */
export const milliseconds = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString());

/**
 * A condition, e.g. `required_delta.trust` as "value trust: needs >= 0.3 · has 0.0".
 * @param {{key: string, needed: string, found: string, holds?: boolean}} condition
 */
export function conditionItem({ key, needed, found, holds = false }) {
  const [, kind, rest] = /^([a-z_]+)(?:\.(.*)|\[.*)?$/.exec(key) ?? ["", key, ""];
  const about = ["mandatory", "optional"].includes(rest) ? "" : (rest ?? "");
  const what = needed.replace(/^not /, "").replace(/required_|\.mandatory|\.optional/g, "");
  const text =
    kind === "unless"
      ? t(holds ? "unless_not_so" : "unless_so", { what })
      : t("needed_found", { needed, found });
  return el(
    "li",
    { class: holds ? "met" : "unmet" },
    el("span", { class: "hidden" }, t(holds ? "holds" : "fails")),
    el("b", {}, [word("c", kind), about].filter(Boolean).join(" "), ":"),
    " ",
    text,
  );
}

/** @param {import("./api.js").Problem} problem @returns {string} a sentence or two */
export function problemText(problem) {
  const key = `error_${problem.code}` in TEXTS ? `error_${problem.code}` : "error_other";
  const isOurs = ["unreachable", "cut"].includes(problem.code);
  const detail = isOurs ? "" : [problem.field, problem.detail].filter(Boolean).join(": ");
  const wait = problem.retryAfter && t("retry_after", { s: problem.retryAfter });
  return [t(key), detail, wait].filter(Boolean).join(" ");
}
