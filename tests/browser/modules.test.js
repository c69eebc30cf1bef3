import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { Conversation, clamp } from "../../server/playground/conversation.js";
import { curlOf, quoted } from "../../server/playground/curl.js";
import { EventParser, readEvents } from "../../server/playground/sse.js";

const STREAM =
  ': keep-alive\n\nevent: state\ndata: {"a": "소라: 네"}\n\n' +
  "event: token\r\ndata: one\r\ndata: two\r\n\r\ndata: bare\n\nevent: empty\n\n";
const EVENTS = [
  { name: "state", data: '{"a": "소라: 네"}' },
  { name: "token", data: "one\ntwo" },
  { name: "message", data: "bare" },
];

test("events are the same however the stream is cut into pieces", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < STREAM.length; at += size)
      found.push(...parser.push(STREAM.slice(at, at + size)));
    assert.deepEqual(found, EVENTS, `pieces of ${size}`);
  }
});

test("a letter that is cut in two between chunks is put together again", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  const body = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const found = [];
  for await (const event of readEvents(body)) found.push(event);
  assert.deepEqual(found, EVENTS);
});

test("a shell gives back exactly what was quoted", () => {
  for (const text of ["it's", '$HOME `id` $(id) \\ " !', "줄\n바꿈", "''", "", "'\\''"]) {
    const said = execFileSync("bash", ["-c", `printf %s ${quoted(text)}`], { encoding: "utf8" });
    assert.equal(said, text);
  }
});

test("the curl command carries the history, has its own session and leaves the key outside", () => {
  const conversation = new Conversation({ npc_id: "mina" });
  const { body } = conversation.begin("It's me");
  const history = [{ player: "a", npc: "b" }];
  const command = curlOf("http://localhost/ask", body, history, true);
  const script = `curl() { for last; do :; done; printf %s "$last"; }; ${command}`;
  const sent = JSON.parse(execFileSync("bash", ["-c", script], { encoding: "utf8" }));
  assert.equal(sent.text, "It's me");
  assert.deepEqual(sent.dialogue_history, history);
  assert.notEqual(sent.session_id, body.session_id);
  assert.equal("stream" in sent || "explain" in sent, false);
  assert.match(command, /"Authorization: Bearer \$PERSONA_API_KEY"/);
});

const decided = (turn_id, trust) => ({
  turn_id,
  delta: { trust, relationship: -0.2 },
  flags: {},
  flags_detail: {},
});

test("a state is applied once, and the values stay within their range", () => {
  const conversation = new Conversation({
    npc_id: "mina",
    initial_state: { trust: 0.9, relationship: -0.9 },
  });
  const turn = conversation.begin("hello");
  conversation.decide(turn, decided("t1", 0.3));
  conversation.decide(turn, decided("t1", 0.3));
  assert.deepEqual(turn.after, { trust: 1, relationship: -1 });
  assert.equal(clamp(0.1 + 0.2), 0.3);
});

test("the first turn that counts begins the conversation afresh, later ones continue it", () => {
  const conversation = new Conversation({ npc_id: "mina" });
  assert.deepEqual(conversation.begin("lost on the way").body.dialogue_history, []);
  const turn = conversation.begin("hello");
  assert.deepEqual(turn.body.dialogue_history, []);
  conversation.decide(turn, decided("t1", 0.1));
  assert.equal("dialogue_history" in conversation.begin("again").body, false);
  assert.equal(conversation.turns[2].body.context.npc_state.trust, 0.1);
});

/** A conversation of one turn that was answered whole. */
function begun() {
  const conversation = new Conversation({ npc_id: "mina" });
  const turn = conversation.begin("hello");
  conversation.decide(turn, decided("t1", 0.1));
  turn.line = "Hello.";
  conversation.end(turn, "done");
  return conversation;
}
const HELLO = { player: "hello", npc: "Hello." };

test("once a turn was stopped or failed, all later ones carry the page's history", () => {
  for (const status of ["stopped", "failed"]) {
    const conversation = begun();
    conversation.end(conversation.begin("lost"), status);
    const later = conversation.begin("and now?");
    assert.deepEqual(later.body.dialogue_history, [HELLO], "what was lost is told to nobody");
    conversation.decide(later, decided("t2", 0.1));
    later.line = "Now";
    conversation.end(later, status);
    const last = conversation.begin("go on");
    assert.deepEqual(last.body.dialogue_history.slice(1), [{ player: "and now?", npc: "Now" }]);
  }
});

test("a stopped turn is asked again from before it, and so is all that follows", () => {
  const conversation = begun();
  const turn = conversation.begin("lost");
  const { idempotencyKey } = turn;
  assert.equal("dialogue_history" in turn.body, false);
  conversation.end(turn, "stopped");
  conversation.again(turn);
  assert.deepEqual(turn.body.dialogue_history, [HELLO]);
  assert.notEqual(turn.idempotencyKey, idempotencyKey);
  assert.equal(turn.status, "running");
  conversation.decide(turn, decided("t2", 0.1));
  turn.line = "Found.";
  conversation.end(turn, "done");
  const { dialogue_history: history } = conversation.begin("and now?").body;
  assert.deepEqual(history, [HELLO, { player: "lost", npc: "Found." }]);
});

test("a failed turn is asked again as the same request", () => {
  const conversation = begun();
  const turn = conversation.begin("lost");
  const { idempotencyKey, body } = turn;
  conversation.end(turn, "failed", { code: "cut" });
  conversation.again(turn);
  assert.equal(turn.idempotencyKey, idempotencyKey);
  assert.deepEqual(turn.body, body);
  assert.equal(turn.problem, null);
});

test("a turn asked again after a later one is another request, from how things stand then", () => {
  for (const status of ["stopped", "failed"]) {
    const conversation = begun();
    const lost = conversation.begin("lost");
    const { idempotencyKey } = lost;
    conversation.end(lost, status);
    const later = conversation.begin("and now?");
    conversation.decide(later, decided("t2", 0.1));
    later.line = "Now";
    conversation.end(later, "failed", { code: "cut" });
    conversation.again(lost);
    conversation.decide(lost, decided("t3", 0.5));
    const history = [HELLO, { player: "and now?", npc: "Now" }];
    assert.deepEqual(lost.body.dialogue_history, history);
    assert.deepEqual(lost.history, history);
    assert.equal(lost.body.context.npc_state.trust, 0.2);
    assert.notEqual(lost.idempotencyKey, idempotencyKey);
    assert.deepEqual(
      conversation.counted.map(({ before, after }) => [before.trust, after.trust]),
      [
        [0, 0.1],
        [0.1, 0.2],
        [0.2, 0.7],
      ],
    );
    assert.deepEqual(conversation.start, { trust: 0, relationship: 0 });
  }
});

test("an NPC of whom the server tells only an id can be asked", () => {
  const { body } = new Conversation({ npc_id: "mina" }).begin("hello");
  assert.deepEqual(body.context.game_state, {});
  assert.deepEqual(body.context.npc_state, { trust: 0, relationship: 0, npc_mood: "neutral" });
});
