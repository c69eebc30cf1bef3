"""How an answer came about, for those who write worlds: `meta.explain` of `"explain": true`."""

import msgspec

from rag.conditions import Checked


class ExplainedScene(msgspec.Struct, frozen=True):
    """Where the turn stands, and the documents that its scope picks."""

    npc_id: str
    """Who is asked."""
    quest_stage: str
    """The stage of the turn."""
    location: str
    """The place of the turn."""
    lang: str
    """The language of the turn."""
    is_stage_known: bool
    """Whether the NPC has this stage."""
    documents: dict[str, str | None]
    """Document type to the id that applies here, None where there is none."""


class ExplainedTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One forbidden trigger list, held against what was said."""

    id: str
    """Of the `forbidden_trigger_list`."""
    fired: bool
    """Whether it closed the main path."""
    keyword: str | None = None
    """The word that was found."""
    nearest_example: str | None = None
    """The example that comes nearest in meaning."""
    cosine: float | None = None
    """How near it comes."""
    attack_score: float | None = None
    """How much of an attack it is, if the list is one of attacks."""
    same: float | None = None
    """The cosine from which on it fires."""
    attack_threshold: float | None = None
    """The score from which on it fires."""


class ExplainedGate(msgspec.Struct, frozen=True, kw_only=True):
    """Why the main path was open or closed."""

    open: bool
    """Whether the main path was taken."""
    reason: str | None
    """Why not."""
    precheck_passed: bool | None
    """The game's word."""
    triggers: list[ExplainedTrigger]
    """Every list of forbidden triggers in force."""
    conditions: list[Checked]
    """Every condition of the scene's `trigger_def`."""


class ExplainedNote(msgspec.Struct, frozen=True, kw_only=True):
    """A note that retrieval ranked."""

    id: str
    """Of the document."""
    score: float
    """Mean cosine of its nearest passages."""
    letters: float
    """What the letters that it shares with the line add where notes are ranked."""
    lead: float
    """How much nearer that is than anything is; shown from `note_threshold` on, or where the
    nearest passage means the same as what was said.
    """
    nearest_passage: str
    """The passage that comes nearest."""
    shown: bool
    """Whether the prompt holds it."""
    why_not: str | None = None
    """What kept it out."""


class ExplainedBlock(msgspec.Struct, frozen=True):
    """A block of the prompt."""

    block: str
    """Its special token."""
    tokens: int
    """How long it is."""
    text: str
    """What it says."""


class ExplainedDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One delta, from the heads' value to the one in the answer."""

    raw: float
    """What the heads predict."""
    policy: dict[str, float] | None
    """The limits that the world sets."""
    final: float
    """What the answer says."""


class ExplainedFlag(msgspec.Struct, frozen=True, kw_only=True):
    """One flag: its score, and each condition of the document that gives it meaning."""

    score: float
    """What the heads predict."""
    threshold: float
    """The score from which on it is raised."""
    threshold_from: str
    """Who set the threshold."""
    raised: bool
    """What the answer says."""
    held_back: str | None
    """Why a flag with a sufficient score was not raised."""
    source: str | None
    """Id of the `flag_def`."""
    found_by: str
    """How that document was found."""
    conditions: list[Checked]
    """Every condition of that document."""


class ExplainedSentence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sentence of the model and what came of it."""

    text: str
    """What the model wrote."""
    released: bool
    """Whether it left."""
    refused: str | None = None
    """Which check refused it."""
    because: str | None = None
    """What it ran into."""
    attempt: int = 1
    """1, or 2 and 3 where the line was asked for again."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Every decision of one turn, in the order in which they were made."""

    scene: ExplainedScene
    """Where the turn stands."""
    gate: ExplainedGate
    """Why the main path was open or closed."""
    notes: list[ExplainedNote]
    """What retrieval ranked, best first."""
    note_threshold: float | None
    """The lead from which on a note is shown."""
    prompt: list[ExplainedBlock]
    """Every block of the prompt, in order."""
    deltas: dict[str, ExplainedDelta]
    """Each delta, from the heads to the answer."""
    flags: dict[str, ExplainedFlag]
    """Each flag, from the heads to the answer."""
    decision: str
    """What the `<STATE>` block tells the model."""
    line: list[ExplainedSentence]
    """Every sentence of the model, in order."""
    asides: dict[str, str]
    """What the model wrote inside `<DELTA>` and `<FLAG>`, which decides nothing."""
