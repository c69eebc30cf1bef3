/** Every text of the page: Korean, English. */

/** @type {Record<string, [string, string]>} */
export const TEXTS = {
  title: ["Persona 플레이그라운드", "Persona playground"],
  playground: ["플레이그라운드", "playground"],
  skip: ["대화 입력란으로 건너뛰기", "Skip to the conversation"],
  views: ["화면", "Views"],
  scene: ["장면", "Scene"],
  talk: ["대화", "Talk"],
  readings: ["계기판", "Readings"],
  cast: ["누구와 말할까요?", "Who do you talk to?"],
  new_conversation: ["새 대화", "New conversation"],
  new_done: ["새 대화를 시작합니다.", "A new conversation begins."],
  theme: ["테마", "Theme"],
  theme_system: ["시스템", "System"],
  theme_light: ["밝게", "Light"],
  theme_dark: ["어둡게", "Dark"],

  stage: ["퀘스트 단계", "Quest stage"],
  place: ["장소", "Place"],
  other_places: ["다른 NPC의 장소", "Places of others"],
  unset: ["(보내지 않음)", "(not sent)"],
  trust: ["신뢰", "Trust"],
  relationship: ["관계", "Relationship"],
  mood: ["NPC의 기분", "NPC's mood"],
  reputation: ["플레이어 평판", "Player's reputation"],
  items: ["플레이어가 가진 아이템", "Items the player has"],
  actions: ["플레이어가 한 행동", "What the player has done"],
  add: ["추가", "Add"],
  add_item: ["{name} 추가", "Add {name}"],
  remove_item: ["{name} 빼기", "Remove {name}"],
  none_held: ["아직 없음", "None yet"],
  reset_state: ["처음 상태로", "Back to the initial state"],
  state_hint: [
    "바꾼 값은 다음 말부터 함께 보냅니다.",
    "What you change goes with the next line you send.",
  ],

  transcript: ["대화 기록", "Transcript"],
  say: ["NPC에게 할 말", "What you say"],
  say_to: ["{name}에게 말하기", "Say something to {name}"],
  send: ["보내기", "Send"],
  stop: ["멈추기", "Stop"],
  suggestions: ["이런 말은 어떨까요?", "You might say"],
  you: ["나", "You"],
  speaking: ["{name}의 대답을 기다립니다.", "Waiting for {name}."],
  stopped: ["멈췄습니다.", "Stopped."],
  stopped_early: [
    "대답이 정해지기 전에 멈췄습니다. 이 턴은 없던 일이 됩니다.",
    "Stopped before anything was decided: this turn never happened.",
  ],
  stopped_late: [
    "대사를 듣다가 멈췄습니다. 이미 정해진 변화는 그대로 남습니다.",
    "Stopped mid-line. What was decided stands.",
  ],
  retry: ["다시 시도", "Try again"],
  why: ["왜?", "Why?"],
  why_of: ["왜 이렇게 답했나: “{said}”", "Why this answer to “{said}”"],
  copy: ["curl 복사", "Copy as curl"],
  copied: ["curl 명령을 복사했습니다.", "The curl command is in the clipboard."],
  copy_title: ["이 턴을 curl로", "This turn as curl"],
  copy_by_hand: [
    "브라우저가 클립보드를 열어 주지 않네요. 직접 복사해 주세요.",
    "The browser did not open the clipboard; copy it from here.",
  ],
  close: ["닫기", "Close"],
  fallback: ["폴백", "Fallback"],
  source_authored: ["작가가 쓴 대사", "authored line"],
  source_regenerated: ["다시 생성한 대사", "said again"],
  truncated: ["길어서 잘림", "cut for length"],
  history_fresh: ["서버가 앞 대화를 잊었습니다", "the server forgot what came before"],
  history_lost: ["서버가 앞 대화를 잊었습니다", "the server forgot what came before"],
  history_rebuilt: ["기록을 새로 씀", "transcript rewritten"],
  state_in: ["결정까지 {ms} ms", "decided in {ms} ms"],
  cached_of: ["캐시 {cached}/{prompt} 토큰", "{cached} of {prompt} tokens cached"],

  plot_title: ["턴마다 본 신뢰와 관계", "Trust and relationship, turn by turn"],
  plot_alt: [
    "{n}턴째. 신뢰 {trust}, 관계 {relationship}.",
    "After turn {n}: trust {trust}, relationship {relationship}.",
  ],
  plot_table: ["표로 보기", "As a table"],
  turn: ["턴", "Turn"],

  flags: ["플래그", "Flags"],
  no_flags: ["이 NPC에게는 플래그가 없습니다.", "This NPC has no flags."],
  flag_raised: ["켜짐", "raised"],
  flag_held: ["막힘", "held back"],
  flag_off: ["꺼짐", "off"],
  flags_silent: ["이 번들의 모델이 모르는 플래그:", "Unknown to this bundle's model:"],
  score_of: ["점수 {score}, 기준 {threshold}", "score {score}, threshold {threshold}"],
  stage_to: ["단계를 {value}(으)로", "Set the stage to {value}"],
  take_item: ["{value} 가방에 넣기", "Take {value}"],
  mood_to: ["기분을 {value}(으)로", "Set the mood to {value}"],
  applied: ["장면에 반영했습니다: {value}", "Applied to the scene: {value}"],
  held_conditions: ["조건이 맞지 않아 막았습니다.", "Its conditions do not hold."],
  held_flag_policy: [
    "이 단계에서는 쓸 수 없는 플래그입니다.",
    "The world does not allow it at this stage.",
  ],
  held_no_flag_def: [
    "여기서 무슨 뜻인지 적힌 문서가 없습니다.",
    "No document says what it means here.",
  ],

  timings: ["걸린 시간과 토큰", "Time and tokens"],
  no_turn: ["아직 아무 말도 오가지 않았습니다.", "Nothing has been said yet."],
  t_queue: ["차례 기다림", "Queue"],
  t_prefill: ["프롬프트 읽기", "Reading the prompt"],
  t_decide: ["결정", "Deciding"],
  t_first: ["첫 토큰까지", "First token"],
  t_rest: ["나머지 대사", "Rest of the line"],
  t_total: ["합계", "Total"],
  tokens_cached: ["캐시에서", "From cache"],
  tokens_read: ["새로 읽음", "Read anew"],
  tokens_written: ["새로 씀", "Written"],
  bundle: ["번들", "Bundle"],

  why_title: ["왜 이렇게 답했을까요?", "Why this answer?"],
  why_where: ["어디서", "Where"],
  why_gate: ["문턱", "The gate"],
  why_notes: ["떠올린 것", "What came to mind"],
  why_prompt: ["프롬프트", "The prompt"],
  why_decision: ["결정", "The decision"],
  why_line: ["대사", "The line"],
  stage_unknown: ["이 NPC의 문서에 없는 단계", "not a stage of this NPC"],
  no_document: ["해당 문서 없음", "none applies"],
  gate_open: ["열림", "open"],
  gate_closed: ["닫힘", "closed"],
  precheck: ["게임이 보낸 precheck_passed: {value}", "the game sent precheck_passed: {value}"],
  no_conditions: ["조건 없음", "No conditions."],
  fired: ["걸림", "fired"],
  quiet: ["해당 없음", "did not fire"],
  by_keyword: ["금지어 “{word}”", "keyword “{word}”"],
  nearest: ["가장 비슷한 예문 “{text}”", "nearest example “{text}”"],
  cosine_of: ["유사도 {value} (걸리는 값 {bound})", "similarity {value} (fires at {bound})"],
  attack_of: ["공격 점수 {value} (걸리는 값 {bound})", "attack score {value} (fires at {bound})"],
  nothing_searched: ["찾아본 문서가 없습니다.", "Nothing was searched."],
  shown: ["프롬프트에 넣음", "shown to the model"],
  not_shown: ["넣지 않음", "not shown"],
  lead_of: ["앞선 정도 {lead} (기준 {bound})", "lead {lead} (of {bound})"],
  letters_add: ["같은 글자로 +{letters}", "+{letters} by shared letters"],
  tokens: ["토큰 {n}개", "tokens: {n}"],
  heads_said: ["헤드 {value}", "heads {value}"],
  policy_said: ["정책 {policy}", "policy {policy}"],
  no_policy: ["정책 없음", "no policy"],
  final: ["최종 {value}", "final {value}"],
  below: ["점수가 기준보다 낮음", "score below the threshold"],
  told: ["모델에게 알린 결정", "Told to the model"],
  nothing_told: ["없음", "nothing"],
  released: ["내보냄", "released"],
  refused: ["막음", "refused"],
  attempt: ["{n}번째 시도", "attempt {n}"],
  holds: ["맞음", "holds"],
  fails: ["안 맞음", "does not hold"],
  needed_found: ["필요 {needed} · 지금 {found}", "needs {needed} · has {found}"],
  c_required_text: ["플레이어의 말", "what the player says"],
  c_required_items: ["아이템", "items"],
  c_required_actions: ["행동", "actions"],
  c_required_game_state: ["게임 상태", "game state"],
  c_required_npc_state: ["NPC 상태", "NPC's state"],
  c_required_player_state: ["플레이어 상태", "player's state"],
  c_required_delta: ["현재", "current"],
  c_unless: ["예외", "exception"],
  unless_so: ["{what} (지금 그렇습니다)", "{what}, and it is so now"],
  unless_not_so: ["{what} (지금은 아닙니다)", "{what}, and it is not so now"],

  reason_forbidden_trigger: ["금지된 말에 걸렸습니다", "a forbidden trigger fired"],
  reason_precheck_failed: ["게임이 막았습니다", "the game closed the way"],
  reason_conditions_unmet: ["조건이 맞지 않습니다", "conditions are not met"],
  reason_overloaded: ["서버가 바쁩니다", "the server is busy"],
  reason_deadline: ["시간이 모자랐습니다", "time ran out"],
  reason_prompt_too_long: ["프롬프트가 너무 깁니다", "the prompt is too long"],
  reason_engine_error: ["엔진에 문제가 생겼습니다", "the engine failed"],

  key_needed: ["API 키 (이 서버가 요구합니다)", "API key (this server asks for one)"],
  key_refused: [
    "API 키 (서버가 방금 키를 받지 않았습니다)",
    "API key (the server refused the last one)",
  ],
  key_kept: [
    "이 탭에만 저장하고, 탭을 닫으면 지웁니다.",
    "Kept in this tab only, until it is closed.",
  ],
  use_key: ["이 키로 접속", "Use this key"],
  forget_key: ["API 키 지우기", "Forget the API key"],
  key_forgotten: ["API 키를 지웠습니다.", "The API key is forgotten."],
  retry_after: ["{s}초 뒤에 다시 시도해 주세요.", "Try again in {s} s."],
  no_npcs: ["이 세계에는 NPC가 없습니다.", "This world has no NPCs."],
  error_unreachable: [
    "서버에 닿지 못했습니다. 서버가 켜져 있는지 확인해 주세요.",
    "The server cannot be reached. Is it running?",
  ],
  error_cut: [
    "대답이 끝나기 전에 연결이 끊겼습니다.",
    "The connection broke before the answer was complete.",
  ],
  error_unauthorized: ["API 키가 필요합니다.", "An API key is needed."],
  error_rate_limited: ["요청이 너무 잦습니다.", "Too many requests in a short time."],
  error_overloaded: ["서버가 너무 바쁩니다.", "The server has too much to do."],
  error_not_ready: ["엔진이 아직 준비되지 않았습니다.", "The engine is not ready."],
  error_deadline: ["제때 대답하지 못했습니다.", "The answer did not come in time."],
  error_unknown_npc: [
    "이 NPC가 세계에서 사라졌습니다. 페이지를 새로 고쳐 주세요.",
    "The world no longer has this NPC. Reload the page.",
  ],
  error_invalid_field: ["서버가 값 하나를 거절했습니다.", "The server refused a value."],
  error_prompt_too_long: ["프롬프트에 담기에는 너무 깁니다.", "That is too long for a prompt."],
  error_body_too_large: ["요청이 너무 큽니다.", "The request is too large."],
  error_idempotency_conflict: [
    "같은 요청이 다른 내용으로 이미 처리되었습니다.",
    "That request was made before with another content.",
  ],
  error_internal: ["서버에 문제가 생겼습니다.", "The server failed."],
  error_other: ["서버가 요청을 거절했습니다.", "The server refused the request."],
};

/** @returns {"ko" | "en"} */
export const lang = () => (document.documentElement.lang === "ko" ? "ko" : "en");

/**
 * @param {string} key
 * @param {Record<string, string | number>} [values] for the `{names}` in the text
 */
export function t(key, values = {}) {
  const text = TEXTS[key][lang() === "ko" ? 0 : 1];
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * The text for a word of the server; the word itself where the page has none for it.
 * @param {string} group
 * @param {string} word
 */
export const word = (group, word) => (`${group}_${word}` in TEXTS ? t(`${group}_${word}`) : word);

/** Text of the world, in one language or in several. @param {any} text @returns {string} */
export function localised(text) {
  if (text === null || typeof text !== "object") return text ?? "";
  return text[lang()] ?? Object.values(text)[0] ?? "";
}

/** @param {string} text @returns {"ko" | "en"} the language that a voice should read it in */
export const langOf = (text) =>
  /[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]/.test(text) ? "ko" : "en";
