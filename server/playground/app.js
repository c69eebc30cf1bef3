/** The page: draws what the conversation holds, and passes on what the visitor does. */

import { ask, getNpcs, isAbort, Problem } from "./api.js";
import { renderControls, showFeelings } from "./controls.js";
import { Conversation, initialState } from "./conversation.js";
import { curlOf } from "./curl.js";
import { byId, el, isEnter, present } from "./dom.js";
import { apiKey, keep, kept } from "./kept.js";
import { plotView } from "./plot.js";
import { flagsView, timingsView } from "./readings.js";
import { announce, drawShell, listenToShell, show, showTrouble, tell, toast } from "./shell.js";
import { lang, langOf, localised, t } from "./texts.js";
import { addText, avatar, spoken, turnView } from "./transcript.js";
import { whyView } from "./why.js";

/** @typedef {import("./conversation.js").Turn} Turn */

/** Before the first word there is room for more. */
const NUM_SUGGESTIONS = { first: 3, later: 2 };

/** @type {any[]} */
let npcs = [];
/** @type {Conversation | null} */
let conversation = null;
/** @type {Map<string, Conversation>} */
const conversations = new Map();
/** @type {AbortController | null} */
let running = null;
/** @type {WeakMap<Turn, HTMLElement>} */
const views = new WeakMap();

async function load() {
  showTrouble("");
  try {
    npcs = await getNpcs();
  } catch (error) {
    tell(/** @type {Problem} */ (error), load);
    return;
  }
  if (!npcs.length) showTrouble(t("no_npcs"));
  else turnTo(npcs.find((npc) => npc.npc_id === kept().npc) ?? npcs[0]);
}

/** Goes on where the conversation with this NPC was left; what the player has goes along. @param {any} npc */
function turnTo(npc) {
  begin(conversations.get(npc.npc_id) ?? new Conversation(npc));
}

/** @param {Conversation} next */
function begin(next) {
  running?.abort();
  running = null;
  showBusy(false);
  if (conversation) {
    const { items, actions, reputation } = conversation.state;
    Object.assign(next.state, { items, actions, reputation });
  }
  conversation = next;
  conversations.set(next.npc.npc_id, next);
  keep({ npc: next.npc.npc_id });
  draw();
}

/** Everything anew: another NPC, another language. */
function draw() {
  drawShell();
  if (!conversation) return;
  drawCast();
  drawScene();
  byId("turns").replaceChildren(...conversation.turns.map(viewOf));
  drawTalk();
  drawReadings();
}

function drawCast() {
  const current = conversation?.npc.npc_id;
  const card = (/** @type {any} */ npc) =>
    el(
      "label",
      { class: "npc" },
      el("input", {
        type: "radio",
        name: "npc",
        value: npc.npc_id,
        checked: npc.npc_id === current,
        onchange: () => turnTo(npc),
      }),
      avatar(npc),
      el("span", {}, el("b", {}, localised(npc.name)), " ", el("small", {}, npc.npc_id)),
    );
  const hadFocus = byId("cast").contains(document.activeElement);
  byId("cast")
    .querySelector("div")
    .replaceChildren(...npcs.map(card));
  if (hadFocus) byId("cast").querySelector("input:checked").focus();
}

function drawScene() {
  if (!conversation) return;
  const { npc, state } = conversation;
  const places = [...new Set(npcs.flatMap((other) => other.locations ?? []))];
  renderControls(byId("state"), state, npc, places, {
    onChange: () => {
      drawWhere();
      drawSuggestions();
      drawReadings();
    },
    onReset: () => {
      Object.assign(state, initialState(npc));
      drawScene();
      drawWhere();
      byId("reset").focus();
    },
  });
}

function drawTalk() {
  if (!conversation) return;
  const { npc } = conversation;
  const name = localised(npc.name);
  byId("talk-title").textContent = name;
  byId("portrait").replaceChildren(avatar(npc));
  byId("say").placeholder = t("say_to", { name });
  const opening = present([
    avatar(npc),
    el("p", { lang: langOf(localised(npc.about)) }, localised(npc.about)),
  ]);
  byId("opening").replaceChildren(...(conversation.turns.length ? [] : opening));
  drawWhere();
  drawSuggestions();
}

function drawWhere() {
  if (!conversation) return;
  const { location, quest_stage, npc_mood } = conversation.state;
  const parts = [location, quest_stage, npc_mood].filter(Boolean);
  byId("where").replaceChildren(...parts.map((part) => el("code", {}, part)));
}

/** Lines of the world that may raise a flag here, in the language of the page. */
function drawSuggestions() {
  if (!conversation) return;
  const { npc, state, turns } = conversation;
  const here = (npc.suggestions ?? []).filter(
    (/** @type {any} */ line) =>
      line.lang === lang() &&
      ["any", state.quest_stage].includes(line.quest_stage) &&
      ["any", state.location].includes(line.location) &&
      !turns.some((turn) => turn.said === line.text),
  );
  const offer = (/** @type {any} */ { text, flag }) =>
    el(
      "button",
      { type: "button", lang: langOf(text), title: flag, onclick: () => suggest(text) },
      text,
    );
  const num = turns.length ? NUM_SUGGESTIONS.later : NUM_SUGGESTIONS.first;
  byId("suggestions").replaceChildren(...here.slice(0, num).map(offer));
}

/** @param {string} text */
function suggest(text) {
  byId("say").value = text;
  fitComposer();
  byId("say").focus();
}

function drawReadings() {
  if (!conversation) return;
  const isTableOpen = byId("plot").querySelector("details")?.open ?? false;
  byId("plot").replaceChildren(plotView(conversation, isTableOpen));
  byId("flags").replaceChildren(...flagsView(conversation, apply));
  byId("timings").replaceChildren(timingsView(conversation));
}

/**
 * What a game would do for a raised flag.
 * @param {"quest_stage" | "npc_mood" | "items"} key
 * @param {string} value
 */
function apply(key, value) {
  if (!conversation) return;
  if (key === "items") conversation.state.items.push(value);
  else conversation.state[key] = value;
  drawScene();
  drawTalk();
  drawReadings();
  byId("readings-title").tabIndex = -1;
  byId("readings-title").focus();
  toast(t("applied", { value }));
}

/** @param {Turn} turn */
function viewOf(turn) {
  const view = turnView(turn, conversation?.npc, { retry, why, copy });
  views.get(turn)?.replaceWith(view);
  views.set(turn, view);
  return view;
}

/** @param {string} said */
function say(said) {
  if (!conversation || running || !said) return;
  const turn = conversation.begin(said);
  byId("say").value = "";
  fitComposer();
  byId("turns").append(viewOf(turn));
  drawTalk();
  run(turn);
}

/** @param {Turn} turn */
function retry(turn) {
  if (running || !conversation?.turns.includes(turn)) return;
  conversation.again(turn);
  byId("turns").append(viewOf(turn));
  byId("say").focus();
  run(turn);
}

/** @param {Turn} turn */
async function run(turn) {
  const mine = conversation;
  if (!mine) return;
  const controller = new AbortController();
  running = controller;
  showBusy(true);
  announce(t("speaking", { name: localised(mine.npc.name) }));
  scrollDown();
  try {
    for await (const { name, data } of ask(turn.body, {
      idempotencyKey: turn.idempotencyKey,
      signal: controller.signal,
    })) {
      take(mine, turn, name, data);
    }
    mine.end(turn, "done");
  } catch (error) {
    if (!(error instanceof Problem || isAbort(error))) console.error(error);
    if (isAbort(error)) mine.end(turn, "stopped");
    else mine.end(turn, "failed", error instanceof Problem ? error : new Problem("cut"));
  }
  if (running === controller) running = null;
  if (mine === conversation) conclude(mine, turn);
}

/**
 * @param {Conversation} mine
 * @param {Turn} turn
 * @param {string} name
 * @param {any} data
 */
function take(mine, turn, name, data) {
  if (mine !== conversation) return;
  const isNear = isAtEnd();
  if (name === "state") {
    mine.decide(turn, data);
    viewOf(turn);
    showFeelings(mine.state);
    drawReadings();
  } else if (name === "token") {
    turn.line += data.text;
    addText(/** @type {HTMLElement} */ (views.get(turn)), data.text);
  } else if (name === "done") {
    turn.answer = data;
    turn.line = data.text;
  }
  if (isNear) scrollDown();
}

/** @param {Conversation} mine @param {Turn} turn */
function conclude(mine, turn) {
  const isNear = isAtEnd();
  showBusy(false);
  viewOf(turn);
  drawReadings();
  if (isNear) scrollDown();
  announce(spoken(turn, mine.npc));
  if (turn.problem?.status === 401) tell(turn.problem, () => retry(turn));
}

/** @param {boolean} isBusy */
function showBusy(isBusy) {
  const focused = document.activeElement;
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  if (focused === byId("send") || focused === byId("stop")) byId(isBusy ? "stop" : "say").focus();
}

/** @param {Turn} turn */
function why(turn) {
  const dialog = byId("why");
  dialog.querySelector("h2").textContent = t("why_of", { said: turn.said });
  dialog.querySelector(".why").replaceChildren(...present(whyView(turn.answer)));
  dialog.showModal();
  dialog.querySelector(".why").scrollTop = 0;
}

/** @param {Turn} turn */
async function copy(turn) {
  const url = new URL("ask", location.href).href;
  const command = curlOf(url, turn.body, turn.history, apiKey() !== null);
  try {
    await navigator.clipboard.writeText(command);
    toast(t("copied"));
  } catch {
    // no clipboard without HTTPS or permission
    byId("curl").value = command;
    byId("copy").showModal();
    byId("curl").select();
  }
}

function isAtEnd() {
  const { scrollTop, clientHeight, scrollHeight } = byId("transcript");
  return scrollHeight - scrollTop - clientHeight < 80;
}

function scrollDown() {
  byId("transcript").scrollTop = byId("transcript").scrollHeight;
}

function fitComposer() {
  const area = byId("say");
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 140)}px`;
}

function listen() {
  byId("composer").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    say(byId("say").value.trim());
  });
  byId("say").addEventListener("input", fitComposer);
  byId("say").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (!isEnter(event) || event.shiftKey) return;
    event.preventDefault();
    say(byId("say").value.trim());
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("state").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("new").addEventListener("click", () => {
    if (!conversation) return;
    const fresh = new Conversation(conversation.npc);
    Object.assign(fresh.state, conversation.state, conversation.start);
    begin(fresh);
    byId("say").focus();
    toast(t("new_done"));
  });
}

listen();
listenToShell(draw);
draw();
show("talk");
load();
