"""What goes over the wire: requests and answers, as msgspec schemas."""

from typing import Annotated, Literal, TypeAlias

import msgspec

from heads.spec import Unit
from rag.conditions import Unmet
from rag.documents import Lang, Scalar
from rag.flags import HeldBack
from runtime.sampling import SamplingParams
from server.explanation import Explanation

MAX_TEXT = 2_000
"""Characters of one utterance."""
MAX_LINE = 8_000
"""Characters of an NPC's line: what leaves comes back as a history."""
MAX_ID = 128
MAX_SESSION_ID = 2 * MAX_ID + len(":")
"""Characters of what names a session: left out, it is made of two ids."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
SessionId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SESSION_ID)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Line = Annotated[str, msgspec.Meta(max_length=MAX_LINE)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
ConfigText: TypeAlias = Text | Annotated[dict[Lang, Text], msgspec.Meta(min_length=1)]
"""In one language, or in several."""
TextSource: TypeAlias = Literal["model", "regenerated", "authored"]


class PlayerState(msgspec.Struct, frozen=True, kw_only=True):
    """What the game knows of the player. Further keys are allowed and ignored."""

    items: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    """Ids of what the player carries."""
    actions: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    """What the player has just done, as the world's conditions name it."""
    position: Name | Annotated[list[float], msgspec.Meta(max_length=3)] | None = None
    """Where the player stands: a name or up to three coordinates."""
    reputation: Name | None = None
    """What people say of the player, as the world's conditions name it."""


class NpcState(msgspec.Struct, frozen=True, kw_only=True):
    """How the NPC feels now; the world's initial state fills what is missing."""

    trust: Unit | None = None
    """From -1 to 1."""
    relationship: Unit | None = None
    """From -1 to 1."""
    npc_mood: Name | None = None
    """One word, such as `calm` or `hostile`."""


class NpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who the NPC is, as the game has it. Further keys are allowed and ignored.

    It fills what the world's persona leaves empty; all of it counts for an NPC that the world marks
    as open (`is_open`). A conversation whose next turn says something else is written anew.
    """

    name: ConfigText | None = None
    """What the NPC is called."""
    persona: ConfigText | None = None
    """Who the NPC is."""
    style: ConfigText | None = None
    """How the NPC speaks."""
    lore: ConfigText | None = None
    """What the NPC knows."""
    initial_state: NpcState | None = None
    """What `npc_state` does not say."""


class HistoryTurn(msgspec.Struct, frozen=True):
    """One past exchange."""

    player: Text
    """What the player said."""
    npc: Line
    """What the NPC answered."""


class AskContext(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the game as the player speaks."""

    player_state: PlayerState = PlayerState()
    """The player as the game knows them."""
    game_state: Annotated[
        dict[Name, Name | bool | int | float | None], msgspec.Meta(max_length=128)
    ] = {}
    """`quest_stage`, `location` and whatever else the world's conditions ask for."""
    npc_state: NpcState = NpcState()
    """How the NPC feels now."""
    npc_config: NpcConfig = NpcConfig()
    """Who the NPC is, where the world leaves that to the game."""
    dialogue_history: list[HistoryTurn] | None = None
    """As the field of the same name in the request, which comes first."""


class GenParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sampling parameters; what is missing is the server's choice (see SamplingParams)."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    """0 is greedy."""
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    """Tokens to choose from at most; 0 is no limit."""
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Share of probability to choose from."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Least probability of a token, as a share of the likeliest."""
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.1, le=10)] | None = None
    """Above 1: what was said is less likely."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)] | None = None
    """The same seed on an idle server gives the same line."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=512)] | None = None
    """Length of the line at most."""
    stop: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]], msgspec.Meta(max_length=8)
    ] = []
    """The line ends before any of these."""

    def sampling(self, *stop: str) -> SamplingParams:
        """The parameters with the server's defaults, and `stop` strings that always apply."""
        given = msgspec.structs.asdict(self)
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**chosen, "stop": (*stop, *self.stop)})


class AskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /ask`."""

    npc_id: Id
    """Who is asked."""
    player_id: Id
    """Who asks."""
    text: Text | None = None
    """What the player says."""
    user_input: Text | None = None
    """The same as `text`; send one of them."""
    session_id: SessionId | None = None
    """The conversation; `player_id:npc_id` if it is left out."""
    lang: Lang | None = None
    """Language of the answer; left out, that of the first words of the conversation."""
    context: AskContext = AskContext()
    """The state of the game."""
    dialogue_history: list[HistoryTurn] | None = None
    """Oldest first. Left out: the session goes on from what the server remembers; empty: it
    begins afresh; otherwise it is the authority, and its latest turns suffice."""
    precheck_passed: bool | None = None
    """The game's word on the world's conditions: `false` forces the fallback, `true` skips them."""
    gen_params: GenParams = GenParams()
    """How the line is sampled."""
    stream: bool = False
    """Server-sent events instead of one answer; so does `Accept: text/event-stream`."""
    continues: bool = False
    """Whether the client believes that the session goes on: `meta.history` is `lost` if no history
    is sent and none is remembered."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None
    """Time the reply may take, where that is less than the server allows."""
    explain: bool = False
    """Whether `meta.explain` tells how the answer came about."""

    @property
    def history(self) -> list[HistoryTurn] | None:
        """The dialogue history, wherever the request holds it."""
        if self.dialogue_history is not None:
            return self.dialogue_history
        return self.context.dialogue_history


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /predict_main`: a whole prompt in the tagged text format, up to `<STATE>`."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]
    """With at least one `<STATE>`; what follows the last one is ignored."""
    gen_params: GenParams = GenParams()
    """How the line is sampled."""


class FlagDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a flag is as it is."""

    score: float
    """What the heads predict, from 0 to 1."""
    threshold: float
    """The score from which on the flag is raised."""
    value: Scalar | None = None
    """What the world gives with a raised flag: an item, a quest stage."""
    text: str | None = None
    """What the game may show when the flag is raised."""
    held_back: HeldBack | None = None
    """Why a flag with a sufficient score was not raised."""
    unmet: list[Unmet] = []
    """The conditions that held it back."""
    source: str | None = None
    """Id of the flag_def that says what the flag means here."""
    found_by: Literal["scope", "meaning"] = "scope"
    """How that document was found: for this stage and place, or by its examples."""


class UsageMeta(msgspec.Struct, frozen=True):
    """Token counts of one answer; of all tries together where its line was asked for again."""

    prompt_tokens: int = 0
    """Tokens of the prompt."""
    cached_tokens: int = 0
    """Those of them that were in the KV cache already."""
    completion_tokens: int = 0
    """Tokens of the line."""


class TimingsMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds since the request reached the engine.

    Where the line was asked for again, `first_token` and `total` are those of the last try.
    """

    queue: float | None = None
    """Until it ran."""
    prefill: float | None = None
    """Until everything before `<STATE>` was read."""
    state: float | None = None
    """Until the decision."""
    first_token: float | None = None
    """Until the first token of the line."""
    total: float | None = None
    """Until the line was whole."""


class AnswerMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a game server may want to know besides."""

    npc_id: str
    """Who answers."""
    session_id: str
    """The conversation."""
    turn_id: str
    """Apply `delta` and `flags` once for each."""
    valid: bool
    """`false`: a fallback, decided before the heads had their say."""
    path: Literal["main", "fallback"]
    """`main`, or `fallback` where `valid` is false."""
    reason: str | None
    """Why it is a fallback."""
    text_source: TextSource
    """Who made the line: the model, a further try of it, or the author of the world."""
    history: str
    """What the prompt was built on: `fresh`, nothing; `continued`, the remembered transcript;
    `rebuilt`, the history that was sent; `lost`, nothing although the session `continues`."""
    flags_detail: dict[str, FlagDetail]
    """Why each flag is as it is."""
    usage: UsageMeta
    """Tokens of this turn."""
    timings_ms: TimingsMeta
    """Where the time went."""
    bundle: str
    """Name and version of the model that answered."""
    truncated: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether the line was cut at its token limit or deadline."""
    dropped_turns: int | msgspec.UnsetType = msgspec.UNSET
    """Turns of the history, the oldest, that did not fit the prompt budget."""
    trigger: str | msgspec.UnsetType = msgspec.UNSET
    """Id of the forbidden_trigger_list that fired."""
    unmet: list[Unmet] | msgspec.UnsetType = msgspec.UNSET
    """The conditions that closed the main path."""
    npc_action: str | msgspec.UnsetType = msgspec.UNSET
    """What the NPC does in a fallback."""
    npc_emotion: str | msgspec.UnsetType = msgspec.UNSET
    """What the NPC feels in a fallback."""
    line_refused: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Why sentences of the model did not leave, in order."""
    notices: list[str] | msgspec.UnsetType = msgspec.UNSET
    """What of the request had no effect, a sentence each: a stage or place that the world does not
    have, the first unknown fields of the context."""
    explain: Explanation | msgspec.UnsetType = msgspec.UNSET
    """Only if asked for."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to `/ask`."""

    text: str
    """The NPC's line."""
    delta: dict[str, float]
    """Change of `trust` and `relationship`, each in [-1, 1]."""
    flags: dict[str, bool]
    """Which game events fire."""
    meta: AnswerMeta
    """All the rest."""


class StateEvent(msgspec.Struct, frozen=True):
    """SSE `state`: what was decided; final."""

    turn_id: str
    """Apply this state once for each."""
    delta: dict[str, float]
    """As in the answer."""
    flags: dict[str, bool]
    """As in the answer."""
    flags_detail: dict[str, FlagDetail]
    """As in the answer's `meta`."""


class TokenEvent(msgspec.Struct, frozen=True):
    """SSE `token`: more text of the line."""

    text: str
    """A checked sentence; they add up to the line."""


class Prediction(msgspec.Struct, frozen=True):
    """The answer to `/predict_main`; deltas in the order of the manifest."""

    text: str
    """The line."""
    delta: list[float]
    """In the order of the bundle's manifest."""
    flags: dict[str, bool]
    """By the manifest's thresholds alone."""
