"""What goes over the wire: requests and answers, as msgspec schemas."""

from typing import Annotated, Any, Literal

import msgspec

from heads.spec import Unit
from rag.conditions import Unmet
from rag.documents import Lang, Scalar
from runtime.sampling import SamplingParams
from server.explanation import Explanation

MAX_TEXT = 2_000
"""Characters of one utterance or past line."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Name = Annotated[str, msgspec.Meta(max_length=200)]


class PlayerState(msgspec.Struct, frozen=True, kw_only=True):
    """What the game knows of the player. Further keys are allowed and ignored."""

    items: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    actions: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    position: Name | Annotated[list[float], msgspec.Meta(max_length=3)] | None = None
    reputation: Name | None = None


class NpcState(msgspec.Struct, frozen=True, kw_only=True):
    """How the NPC feels now; the world's initial state fills what is missing."""

    trust: Unit | None = None
    relationship: Unit | None = None
    npc_mood: Name | None = None


class HistoryTurn(msgspec.Struct, frozen=True):
    """One past exchange."""

    player: Text
    npc: Text


class AskContext(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the game as the player speaks."""

    player_state: PlayerState = PlayerState()
    game_state: dict[Name, Name | bool | int | float | None] = {}
    npc_state: NpcState = NpcState()
    npc_config: dict[str, Any] = {}
    dialogue_history: list[HistoryTurn] | None = None


class GenParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sampling parameters; what is missing is the server's choice (see SamplingParams)."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.1, le=10)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=512)] | None = None
    stop: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]], msgspec.Meta(max_length=8)
    ] = []

    def sampling(self, *stop: str) -> SamplingParams:
        """The parameters with the server's defaults, and `stop` strings that always apply."""
        given = msgspec.structs.asdict(self)
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**chosen, "stop": (*stop, *self.stop)})


class AskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /ask`."""

    npc_id: Id
    player_id: Id
    text: Text | None = None
    user_input: Text | None = None
    session_id: Id | None = None
    lang: Lang | None = None
    context: AskContext = AskContext()
    dialogue_history: list[HistoryTurn] | None = None
    precheck_passed: bool | None = None
    gen_params: GenParams = GenParams()
    stream: bool = False
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
    gen_params: GenParams = GenParams()


class FlagDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a flag is as it is."""

    score: float
    threshold: float
    value: Scalar | None = None
    text: str | None = None
    held_back: str | None = None
    """Why a flag with a sufficient score was not raised."""
    unmet: list[Unmet] = []
    """The conditions that held it back."""
    source: str | None = None
    """Id of the flag_def that says what the flag means here."""
    found_by: Literal["scope", "meaning"] = "scope"
    """How that document was found: for this stage and place, or by its examples."""


class UsageMeta(msgspec.Struct, frozen=True):
    """Token counts of one answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class TimingsMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds since the request reached the engine."""

    queue: float | None = None
    prefill: float | None = None
    state: float | None = None
    first_token: float | None = None
    total: float | None = None


class AnswerMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a game server may want to know besides."""

    npc_id: str
    session_id: str
    turn_id: str
    valid: bool
    path: str
    reason: str | None
    text_source: str
    history: str
    flags_detail: dict[str, FlagDetail]
    usage: UsageMeta
    timings_ms: TimingsMeta
    bundle: str
    truncated: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether the line was cut at its token limit or deadline."""
    dropped_turns: int | msgspec.UnsetType = msgspec.UNSET
    """Turns of the history, the oldest, that did not fit the prompt budget."""
    trigger: str | msgspec.UnsetType = msgspec.UNSET
    """Id of the forbidden_trigger_list that fired."""
    unmet: list[Unmet] | msgspec.UnsetType = msgspec.UNSET
    """The conditions that closed the main path."""
    npc_action: str | msgspec.UnsetType = msgspec.UNSET
    npc_emotion: str | msgspec.UnsetType = msgspec.UNSET
    line_refused: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Why sentences of the model did not leave, in order."""
    explain: Explanation | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct, frozen=True):
    """The answer to `/ask`."""

    text: str
    delta: dict[str, float]
    flags: dict[str, bool]
    meta: AnswerMeta


class StateEvent(msgspec.Struct, frozen=True):
    """SSE `state`: what was decided; final."""

    turn_id: str
    delta: dict[str, float]
    flags: dict[str, bool]
    flags_detail: dict[str, FlagDetail]


class TokenEvent(msgspec.Struct, frozen=True):
    """SSE `token`: more text of the line."""

    text: str


class Prediction(msgspec.Struct, frozen=True):
    """The answer to `/predict_main`; deltas in the order of the manifest."""

    text: str
    delta: list[float]
    flags: dict[str, bool]
