/** The controls of the scene: the state of the game that goes with the next line. */

import { FEELINGS } from "./conversation.js";
import { byId, el, isEnter, present } from "./dom.js";
import { t } from "./texts.js";
import { plain } from "./words.js";

const NUM_SUGGESTED = 4;
const REPUTATIONS = ["unknown", "good", "bad"];

/** @typedef {import("./conversation.js").GameState} GameState */

/**
 * @param {HTMLElement} form
 * @param {GameState} state changed in place
 * @param {any} npc
 * @param {string[]} allPlaces
 * @param {{onChange: () => void, onReset: () => void}} listeners
 */
export function renderControls(form, state, npc, allPlaces, { onChange, onReset }) {
  const others = allPlaces.filter((place) => !npc.locations?.includes(place));
  const controls = [
    ...FEELINGS.map((name) => slider(name, state, onChange)),
    el(
      "div",
      { class: "pair" },
      choice("quest_stage", t("stage"), state, [["", npc.stages ?? []]], onChange),
      choice(
        "location",
        t("place"),
        state,
        [
          ["", npc.locations ?? []],
          [t("other_places"), others],
        ],
        onChange,
      ),
    ),
    el(
      "div",
      { class: "pair" },
      words("npc_mood", t("mood"), state, npc.moods ?? [], onChange),
      words(
        "reputation",
        t("reputation"),
        state,
        [...REPUTATIONS, ...(npc.reputations ?? [])],
        onChange,
      ),
    ),
    chips("items", t("items"), state, npc.items ?? [], onChange),
    npc.actions?.length > 0 && chips("actions", t("actions"), state, npc.actions, onChange),
    el("p", { class: "dim" }, t("state_hint")),
    el(
      "button",
      { type: "button", id: "reset", class: "quiet", onclick: onReset },
      t("reset_state"),
    ),
  ];
  form.replaceChildren(...present(controls));
}

/** Shows what was decided without taking the focus from a control. @param {GameState} state */
export function showFeelings(state) {
  for (const name of FEELINGS) {
    const input = byId(`state-${name}`);
    if (input) showValue(input, state[name]);
  }
}

/** @param {HTMLInputElement} input @param {number} value */
function showValue(input, value) {
  input.value = String(value);
  input.setAttribute("aria-valuetext", plain(value));
  input.style.setProperty("--at", String((value + 1) / 2));
  byId(`${input.id}-value`).textContent = plain(value);
}

/**
 * @param {"trust" | "relationship"} name
 * @param {GameState} state
 * @param {() => void} onChange
 */
function slider(name, state, onChange) {
  const id = `state-${name}`;
  const value = state[name];
  const input = el("input", {
    id,
    class: name,
    type: "range",
    min: -1,
    max: 1,
    step: 0.01,
    value,
    "--at": (value + 1) / 2,
    "aria-valuetext": plain(value),
    oninput: () => {
      state[name] = Number(input.value);
      showValue(input, state[name]);
      onChange();
    },
  });
  return el(
    "div",
    { class: "slider" },
    el("label", { for: id }, t(name)),
    el("output", { id: `${id}-value`, for: id, class: name, "aria-live": "off" }, plain(value)),
    input,
  );
}

/**
 * @param {"quest_stage" | "location"} key
 * @param {string} label
 * @param {GameState} state
 * @param {[string, string[]][]} groups label and values
 * @param {() => void} onChange
 */
function choice(key, label, state, groups, onChange) {
  const option = (/** @type {string} */ value) =>
    el("option", { value, selected: state[key] === value }, value);
  const values = groups.flatMap(([, values]) => values);
  const known = !state[key] || values.includes(state[key]) ? [] : [state[key]];
  const select = el(
    "select",
    {
      id: `state-${key}`,
      onchange: () => {
        state[key] = select.value;
        onChange();
      },
    },
    el("option", { value: "", selected: !state[key] }, t("unset")),
    known.map(option),
    groups
      .filter(([, values]) => values.length)
      .map(([name, values]) =>
        name ? el("optgroup", { label: name }, values.map(option)) : values.map(option),
      )
      .flat(),
  );
  return el("div", {}, el("label", { for: select.id }, label), select);
}

/**
 * @param {"npc_mood" | "reputation"} key
 * @param {string} label
 * @param {GameState} state
 * @param {string[]} suggested
 * @param {() => void} onChange
 */
function words(key, label, state, suggested, onChange) {
  const id = `state-${key}`;
  const input = el("input", {
    id,
    list: `${id}-list`,
    maxlength: 200,
    value: state[key],
    oninput: () => {
      state[key] = input.value.trim();
      onChange();
    },
  });
  return el("div", {}, el("label", { for: id }, label), input, options(id, suggested));
}

/** @param {string} id @param {string[]} values */
const options = (id, values) =>
  el(
    "datalist",
    { id: `${id}-list` },
    [...new Set(values)].map((value) => el("option", { value })),
  );

/**
 * What is held, each with a button to drop it; a field to add; the likeliest one tap away.
 * @param {"items" | "actions"} key
 * @param {string} label
 * @param {GameState} state
 * @param {string[]} suggested
 * @param {() => void} onChange
 */
function chips(key, label, state, suggested, onChange) {
  const id = `state-${key}`;
  const input = el("input", { id, list: `${id}-list`, maxlength: 200, onkeydown: addOnEnter });
  const held = el("ul", { class: "chips", role: "list" });
  const offered = el("div", { class: "chips" });
  const list = el("datalist", { id: `${id}-list` });

  /** @param {string[]} names */
  function set(names) {
    state[key] = names;
    draw();
    input.focus();
    onChange();
  }
  /** @param {string} name */
  function add(name) {
    input.value = "";
    if (name && !state[key].includes(name)) set([...state[key], name]);
  }
  /** @param {KeyboardEvent} event */
  function addOnEnter(event) {
    if (!isEnter(event)) return;
    event.preventDefault();
    add(input.value.trim());
  }
  /** @param {string} name */
  const chip = (name) => {
    const drop = () => set(state[key].filter((other) => other !== name));
    const text = t("remove_item", { name });
    return el(
      "li",
      { class: "chip held" },
      name,
      el("button", { type: "button", "aria-label": text, title: text, onclick: drop }, "×"),
    );
  };
  /** @param {string} name */
  const offer = (name) =>
    el(
      "button",
      {
        type: "button",
        class: "chip offer",
        "aria-label": t("add_item", { name }),
        onclick: () => add(name),
      },
      "+ ",
      name,
    );
  function draw() {
    const rest = suggested.filter((name) => !state[key].includes(name));
    held.replaceChildren(
      ...(state[key].length ? state[key].map(chip) : [el("li", { class: "dim" }, t("none_held"))]),
    );
    offered.replaceChildren(...rest.slice(0, NUM_SUGGESTED).map(offer));
    list.replaceChildren(...rest.map((value) => el("option", { value })));
  }
  draw();
  return el(
    "div",
    { class: "held-list" },
    el("label", { for: id }, label),
    held,
    el(
      "span",
      { class: "joined" },
      input,
      el("button", { type: "button", onclick: () => add(input.value.trim()) }, t("add")),
    ),
    offered,
    list,
  );
}
