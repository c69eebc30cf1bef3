// Generated from the server's /openapi.json by generate-types.js (npm run types). Do not edit.

/** The process answers. */
export interface Alive {
  /** Always the same. */
  status: "ok";
}

/** The answer to `/ask`. */
export interface Answer {
  /** The NPC's line. */
  text: string;
  /** Change of `trust` and `relationship`, each in [-1, 1]. */
  delta: Record<string, number>;
  /** Which game events fire. */
  flags: Record<string, boolean>;
  /** All the rest. */
  meta: AnswerMeta;
}

/** What a game server may want to know besides. */
export interface AnswerMeta {
  /** Who answers. */
  npc_id: string;
  /** The conversation. */
  session_id: string;
  /** Apply `delta` and `flags` once for each. */
  turn_id: string;
  /** `false`: a fallback, decided before the heads had their say. */
  valid: boolean;
  /** `main`, or `fallback` where `valid` is false. */
  path: "fallback" | "main";
  /** Why it is a fallback. */
  reason: "forbidden_trigger" | "precheck_failed" | "conditions_unmet" | "overloaded" | "deadline" | "prompt_too_long" | "engine_error" | null;
  /** Who made the line: the model, a further try of it, or the author of the world. */
  text_source: "authored" | "model" | "regenerated";
  /** What the prompt was built on: `fresh`, nothing; `continued`, the remembered transcript; `rebuilt`, the history that was sent; `lost`, nothing although the session `continues`. */
  history: "continued" | "rebuilt" | "fresh" | "lost";
  /** Why each flag is as it is. */
  flags_detail: Record<string, FlagDetail>;
  /** Tokens of this turn. */
  usage: UsageMeta;
  /** Where the time went. */
  timings_ms: TimingsMeta;
  /** Name and version of the model that answered. */
  bundle: string;
  /** Whether the line was cut at its token limit or deadline. */
  truncated?: boolean;
  /** Turns of the history, the oldest, that did not fit the prompt budget. */
  dropped_turns?: number;
  /** Id of the forbidden_trigger_list that fired. */
  trigger?: string;
  /** The conditions that closed the main path. */
  unmet?: Array<Unmet>;
  /** What the NPC does in a fallback. */
  npc_action?: string;
  /** What the NPC feels in a fallback. */
  npc_emotion?: string;
  /** Why sentences of the model did not leave, in order. */
  line_refused?: Array<"banned_word" | "persona_break" | "contradicts_decision" | "like_a_bad_example">;
  /** What of the request had no effect, a sentence each: a stage or place that the world does not have, the first unknown fields of the context. */
  notices?: Array<string>;
  /** Only if asked for. */
  explain?: Explanation;
}

/** The state of the game as the player speaks. */
export interface AskContext {
  /** The player as the game knows them. */
  player_state?: PlayerState;
  /** `quest_stage`, `location` and whatever else the world's conditions ask for. */
  game_state?: Record<string, string | boolean | number | null>;
  /** How the NPC feels now. */
  npc_state?: NpcState;
  /** Who the NPC is, where the world leaves that to the game. */
  npc_config?: NpcConfig;
  /** As the field of the same name in the request, which comes first. */
  dialogue_history?: Array<HistoryTurn> | null;
}

/** `POST /ask`. */
export interface AskRequest {
  /** Who is asked. */
  npc_id: string;
  /** Who asks. */
  player_id: string;
  /** What the player says. */
  text?: string | null;
  /** The same as `text`; send one of them. */
  user_input?: string | null;
  /** The conversation; `player_id:npc_id` if it is left out. */
  session_id?: string | null;
  /** Language of the answer; left out, that of the first words of the conversation. */
  lang?: "en" | "ko" | null;
  /** The state of the game. */
  context?: AskContext;
  /** Oldest first. Left out: the session goes on from what the server remembers; empty: it begins afresh; otherwise it is the authority, and its latest turns suffice. */
  dialogue_history?: Array<HistoryTurn> | null;
  /** The game's word on the world's conditions: `false` forces the fallback, `true` skips them. */
  precheck_passed?: boolean | null;
  /** How the line is sampled. */
  gen_params?: GenParams;
  /** Server-sent events instead of one answer; so does `Accept: text/event-stream`. */
  stream?: boolean;
  /** Whether the client believes that the session goes on: `meta.history` is `lost` if no history is sent and none is remembered. */
  continues?: boolean;
  /** Time the reply may take, where that is less than the server allows. */
  deadline_ms?: number | null;
  /** Whether `meta.explain` tells how the answer came about. */
  explain?: boolean;
}

/** One condition held against the facts. */
export interface Checked {
  /** What is asked about, such as `trust`. */
  key: string;
  /** What the document asks for. */
  needed: string;
  /** What the turn has. */
  found: string;
  /** Whether the one meets the other. */
  holds: boolean;
}

/** A block of the prompt. */
export interface ExplainedBlock {
  /** Its special token. */
  block: string;
  /** How long it is. */
  tokens: number;
  /** What it says. */
  text: string;
}

/** One delta, from the heads' value to the one in the answer. */
export interface ExplainedDelta {
  /** What the heads predict. */
  raw: number;
  /** The limits that the world sets. */
  policy: Record<string, number> | null;
  /** What the answer says. */
  final: number;
}

/** One flag: its score, and each condition of the document that gives it meaning. */
export interface ExplainedFlag {
  /** What the heads predict. */
  score: number;
  /** The score from which on it is raised. */
  threshold: number;
  /** Who set the threshold. */
  threshold_from: string;
  /** What the answer says. */
  raised: boolean;
  /** Why a flag with a sufficient score was not raised. */
  held_back: string | null;
  /** Id of the `flag_def`. */
  source: string | null;
  /** How that document was found. */
  found_by: string;
  /** Every condition of that document. */
  conditions: Array<Checked>;
}

/** Why the main path was open or closed. */
export interface ExplainedGate {
  /** Whether the main path was taken. */
  open: boolean;
  /** Why not. */
  reason: string | null;
  /** The game's word. */
  precheck_passed: boolean | null;
  /** Every list of forbidden triggers in force. */
  triggers: Array<ExplainedTrigger>;
  /** Every condition of the scene's `trigger_def`. */
  conditions: Array<Checked>;
}

/** A note that retrieval ranked. */
export interface ExplainedNote {
  /** Of the document. */
  id: string;
  /** Mean cosine of its nearest passages. */
  score: number;
  /** What the letters that it shares with the line add where notes are ranked. */
  letters: number;
  /** How much nearer that is than anything is; shown from `note_threshold` on, or where the nearest passage means the same as what was said. */
  lead: number;
  /** The passage that comes nearest. */
  nearest_passage: string;
  /** Whether the prompt holds it. */
  shown: boolean;
  /** What kept it out. */
  why_not: string | null;
}

/** Where the turn stands, and the documents that its scope picks. */
export interface ExplainedScene {
  /** Who is asked. */
  npc_id: string;
  /** The stage of the turn. */
  quest_stage: string;
  /** The place of the turn. */
  location: string;
  /** The language of the turn. */
  lang: string;
  /** Whether the NPC has this stage. */
  is_stage_known: boolean;
  /** Document type to the id that applies here, None where there is none. */
  documents: Record<string, string | null>;
}

/** A sentence of the model and what came of it. */
export interface ExplainedSentence {
  /** What the model wrote. */
  text: string;
  /** Whether it left. */
  released: boolean;
  /** Which check refused it. */
  refused?: string | null;
  /** What it ran into. */
  because?: string | null;
  /** 1, or 2 and 3 where the line was asked for again. */
  attempt?: number;
}

/** One forbidden trigger list, held against what was said. */
export interface ExplainedTrigger {
  /** Of the `forbidden_trigger_list`. */
  id: string;
  /** Whether it closed the main path. */
  fired: boolean;
  /** The word that was found. */
  keyword?: string | null;
  /** The example that comes nearest in meaning. */
  nearest_example?: string | null;
  /** How near it comes. */
  cosine?: number | null;
  /** How much of an attack it is, if the list is one of attacks. */
  attack_score?: number | null;
  /** The cosine from which on it fires. */
  same?: number | null;
  /** The score from which on it fires. */
  attack_threshold?: number | null;
}

/** Every decision of one turn, in the order in which they were made. */
export interface Explanation {
  /** Where the turn stands. */
  scene: ExplainedScene;
  /** Why the main path was open or closed. */
  gate: ExplainedGate;
  /** What retrieval ranked, best first. */
  notes: Array<ExplainedNote>;
  /** The lead from which on a note is shown. */
  note_threshold: number | null;
  /** Every block of the prompt, in order. */
  prompt: Array<ExplainedBlock>;
  /** Each delta, from the heads to the answer. */
  deltas: Record<string, ExplainedDelta>;
  /** Each flag, from the heads to the answer. */
  flags: Record<string, ExplainedFlag>;
  /** What the `<STATE>` block tells the model. */
  decision: string;
  /** Every sentence of the model, in order. */
  line: Array<ExplainedSentence>;
  /** What the model wrote inside `<DELTA>` and `<FLAG>`, which decides nothing. */
  asides: Record<string, string>;
}

/** Why a flag is as it is. */
export interface FlagDetail {
  /** What the heads predict, from 0 to 1. */
  score: number;
  /** The score from which on the flag is raised. */
  threshold: number;
  /** What the world gives with a raised flag: an item, a quest stage. */
  value?: string | boolean | number | null;
  /** What the game may show when the flag is raised. */
  text?: string | null;
  /** Why a flag with a sufficient score was not raised. */
  held_back?: "conditions" | "flag_policy" | "no_flag_def" | null;
  /** The conditions that held it back. */
  unmet?: Array<Unmet>;
  /** Id of the flag_def that says what the flag means here. */
  source?: string | null;
  /** How that document was found: for this stage and place, or by its examples. */
  found_by?: "meaning" | "scope";
}

/** Sampling parameters; what is missing is the server's choice (see SamplingParams). */
export interface GenParams {
  /** 0 is greedy. */
  temperature?: number | null;
  /** Tokens to choose from at most; 0 is no limit. */
  top_k?: number | null;
  /** Share of probability to choose from. */
  top_p?: number | null;
  /** Least probability of a token, as a share of the likeliest. */
  min_p?: number | null;
  /** Above 1: what was said is less likely. */
  repetition_penalty?: number | null;
  /** The same seed on an idle server gives the same line. */
  seed?: number | null;
  /** Length of the line at most. */
  max_tokens?: number | null;
  /** The line ends before any of these. */
  stop?: Array<string>;
}

/** One past exchange. */
export interface HistoryTurn {
  /** What the player said. */
  player: string;
  /** What the NPC answered. */
  npc: string;
}

/**
 * Who the NPC is, as the game has it. Further keys are allowed and ignored.
 *
 * It fills what the world's persona leaves empty; all of it counts for an NPC that the world marks
 * as open (`is_open`). A conversation whose next turn says something else is written anew.
 */
export interface NpcConfig {
  /** What the NPC is called. */
  name?: string | Record<string, string> | null;
  /** Who the NPC is. */
  persona?: string | Record<string, string> | null;
  /** How the NPC speaks. */
  style?: string | Record<string, string> | null;
  /** What the NPC knows. */
  lore?: string | Record<string, string> | null;
  /** What `npc_state` does not say. */
  initial_state?: NpcState | null;
}

/** One NPC of the loaded world, and what a turn may turn on. */
export interface NpcEntry {
  /** What `/ask` calls the NPC. */
  npc_id: string;
  /** In one language, or in several. */
  name: string | Record<string, string>;
  /** The language that the NPC speaks if a conversation gives no hint. */
  lang: "en" | "ko";
  /** Who the NPC is. */
  about: string | Record<string, string>;
  /** Quest stages, the first one first. */
  stages: Array<string>;
  /** Places, the usual one first. */
  locations: Array<string>;
  /** How the NPC feels about someone new. */
  initial_state: NpcState;
  /** Items that documents mention, this NPC's before those of the others. */
  items: Array<string>;
  /** Actions that conditions ask for. */
  actions: Array<string>;
  /** Moods that conditions ask for, and the first one. */
  moods: Array<string>;
  /** Reputations that conditions ask for. */
  reputations: Array<string>;
  /** What each `flag_def` gives. */
  flags: Array<NpcFlag>;
  /** Lines that may raise a flag. */
  suggestions: Array<Suggestion>;
}

/** What one `flag_def` of an NPC gives. */
export interface NpcFlag {
  /** Of the flag, as in an answer's `flags`. */
  name: string;
  /** Where it applies; `any` is everywhere. */
  quest_stage: string;
  /** Where it applies; `any` is everywhere. */
  location: string;
  /** As in an answer's `flags_detail`. */
  value: string | boolean | number | null;
  /** As in an answer's `flags_detail`, in one language or in several. */
  text: string | Record<string, string> | null;
}

/** How the NPC feels now; the world's initial state fills what is missing. */
export interface NpcState {
  /** From -1 to 1. */
  trust?: number | null;
  /** From -1 to 1. */
  relationship?: number | null;
  /** One word, such as `calm` or `hostile`. */
  npc_mood?: string | null;
}

/** What the game knows of the player. Further keys are allowed and ignored. */
export interface PlayerState {
  /** Ids of what the player carries. */
  items?: Array<string>;
  /** What the player has just done, as the world's conditions name it. */
  actions?: Array<string>;
  /** Where the player stands: a name or up to three coordinates. */
  position?: string | Array<number> | null;
  /** What people say of the player, as the world's conditions name it. */
  reputation?: string | null;
}

/** `POST /predict_main`: a whole prompt in the tagged text format, up to `<STATE>`. */
export interface PredictRequest {
  /** With at least one `<STATE>`; what follows the last one is ignored. */
  prompt: string;
  /** How the line is sampled. */
  gen_params?: GenParams;
}

/** The answer to `/predict_main`; deltas in the order of the manifest. */
export interface Prediction {
  /** The line. */
  text: string;
  /** In the order of the bundle's manifest. */
  delta: Array<number>;
  /** By the manifest's thresholds alone. */
  flags: Record<string, boolean>;
}

/** An error as RFC 9457 problem details, with the stable `code` and, for 422, the `field`. */
export interface Problem {
  /** The kind of error, in words. */
  title: string;
  /** The HTTP status. */
  status: number;
  /** Stable: clients may branch on it. */
  code: "malformed_json" | "unauthorized" | "forbidden" | "unknown_npc" | "body_too_large" | "invalid_field" | "prompt_too_long" | "overloaded" | "world_refused" | "bundle_refused" | "embedder_refused" | "keys_refused" | "idempotency_conflict" | "rate_limited" | "draining" | "deadline" | "not_ready" | "internal" | "not_found" | "method_not_allowed";
  /** What is wrong with which value, and what to do. */
  detail: string;
  /** On 422 the JSON path of the value that is wrong, or the name of the header. */
  field?: string | null;
  /** Always `about:blank`. */
  type?: string;
}

/** The model answers. */
export interface Ready {
  /** Name and version of the model. */
  bundle: string;
  /** Always the same. */
  status: "ready";
}

/** New turns begin with what was read. */
export interface Reloaded {
  /** Name and version of the model. */
  bundle: string;
  /** How many the world has. */
  documents: number;
  /** Ids of the world's NPCs. */
  npcs: Array<string>;
  /** Always the same. */
  status: "reloaded";
}

/** A stream is one `state`, which is final, then `token`s, then one `done`. `error` comes instead of what is left where the server fails after it began to answer. Comment lines (`: keep-alive`) come where nothing else does for a while. */
export type ServerSentEvent = {
  event: "state";
  data: string;
} | {
  event: "token";
  data: string;
} | {
  event: "done";
  data: string;
} | {
  event: "error";
  data: string;
};

/** SSE `state`: what was decided; final. */
export interface StateEvent {
  /** Apply this state once for each. */
  turn_id: string;
  /** As in the answer. */
  delta: Record<string, number>;
  /** As in the answer. */
  flags: Record<string, boolean>;
  /** As in the answer's `meta`. */
  flags_detail: Record<string, FlagDetail>;
}

/** Something a player may say. */
export interface Suggestion {
  /** The language of the line. */
  lang: "en" | "ko";
  /** The flag that it is an example of. */
  flag: string;
  /** Where that flag applies; `any` is everywhere. */
  quest_stage: string;
  /** Where that flag applies; `any` is everywhere. */
  location: string;
  /** The line. */
  text: string;
}

/**
 * Milliseconds since the request reached the engine.
 *
 * Where the line was asked for again, `first_token` and `total` are those of the last try.
 */
export interface TimingsMeta {
  /** Until it ran. */
  queue?: number | null;
  /** Until everything before `<STATE>` was read. */
  prefill?: number | null;
  /** Until the decision. */
  state?: number | null;
  /** Until the first token of the line. */
  first_token?: number | null;
  /** Until the line was whole. */
  total?: number | null;
}

/** SSE `token`: more text of the line. */
export interface TokenEvent {
  /** A checked sentence; they add up to the line. */
  text: string;
}

/** One condition that does not hold: its key, what it asks for, and what was found. */
export interface Unmet {
  /** What is asked about, such as `trust`. */
  key: string;
  /** What the document asks for. */
  needed: string;
  /** What the turn has. */
  found: string;
}

/** Token counts of one answer; of all tries together where its line was asked for again. */
export interface UsageMeta {
  /** Tokens of the prompt. */
  prompt_tokens: number;
  /** Those of them that were in the KV cache already. */
  cached_tokens: number;
  /** Tokens of the line. */
  completion_tokens: number;
}
