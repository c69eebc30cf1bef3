"""How an answer came about, for those who write worlds: `meta.explain` of `"explain": true`."""

import msgspec

from rag.conditions import Checked


class ExplainedScene(msgspec.Struct, frozen=True):
    """Where the turn stands, and the documents that its scope picks."""

    npc_id: str
    quest_stage: str
    location: str
    lang: str
    is_stage_known: bool
    documents: dict[str, str | None]
    """Document type to the id that applies here, None where there is none."""


class ExplainedTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One forbidden trigger list, held against what was said."""

    id: str
    fired: bool
    keyword: str | None = None
    nearest_example: str | None = None
    cosine: float | None = None
    attack_score: float | None = None
    """Of the detector, if the list is one of attacks."""
    same: float | None = None
    """The cosine from which on it fires."""
    attack_threshold: float | None = None


class ExplainedGate(msgspec.Struct, frozen=True, kw_only=True):
    """Why the main path was open or closed."""

    open: bool
    reason: str | None
    precheck_passed: bool | None
    triggers: list[ExplainedTrigger]
    conditions: list[Checked]


class ExplainedNote(msgspec.Struct, frozen=True, kw_only=True):
    """A note that retrieval ranked."""

    id: str
    score: float
    """Mean cosine of its nearest passages."""
    lead: float
    """How much nearer that is than anything is; shown from `note_threshold` on."""
    nearest_passage: str
    shown: bool
    why_not: str | None = None


class ExplainedBlock(msgspec.Struct, frozen=True):
    """A block of the prompt."""

    block: str
    tokens: int
    text: str


class ExplainedDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One delta, from the heads' value to the one in the answer."""

    raw: float
    policy: dict[str, float] | None
    final: float


class ExplainedFlag(msgspec.Struct, frozen=True, kw_only=True):
    """One flag: its score, and each condition of the document that gives it meaning."""

    score: float
    threshold: float
    threshold_from: str
    raised: bool
    held_back: str | None
    source: str | None
    found_by: str
    conditions: list[Checked]


class ExplainedSentence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sentence of the model and what came of it."""

    text: str
    released: bool
    refused: str | None = None
    because: str | None = None
    attempt: int = 1


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Every decision of one turn, in the order in which they were made."""

    scene: ExplainedScene
    gate: ExplainedGate
    notes: list[ExplainedNote]
    note_threshold: float | None
    prompt: list[ExplainedBlock]
    deltas: dict[str, ExplainedDelta]
    flags: dict[str, ExplainedFlag]
    decision: str
    """What the `<STATE>` block tells the model."""
    line: list[ExplainedSentence]
    asides: dict[str, str]
    """What the model wrote inside `<DELTA>` and `<FLAG>`, which decides nothing."""
