"""Document types of a world folder (see docs/world.md), as strict msgspec schemas.

Every type shares `id, type, npc_id, quest_stage, location, comment`; the scope defaults to "any".
Unknown keys are errors: a misspelt key must not become a rule that silently never applies.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from heads.spec import Probability, Unit

ANY = "any"

Lang: TypeAlias = Literal["ko", "en"]
Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
"""Text that must be there; `rag/check.py` finds white space that only looks like it."""
Localised: TypeAlias = str | Annotated[dict[Lang, Text], msgspec.Meta(min_length=1)]
"""Text in one language, or in several: `"text"` or `{"ko": "…", "en": "…"}`."""
LocalisedText: TypeAlias = Text | Annotated[dict[Lang, Text], msgspec.Meta(min_length=1)]
"""The same where it must not be empty."""

Scalar: TypeAlias = str | bool | int | float
OneOf: TypeAlias = Scalar | list[Scalar]
"""A value, or several of which one is enough."""
Delta: TypeAlias = dict[str, Unit]


def localise(text: Localised, lang: Lang) -> str:
    """`text` in `lang`, or in whichever language it is written in."""
    if isinstance(text, str):
        return text
    return text.get(lang) or next(iter(text.values()), "")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A nested part of a document."""


class NeededNames(Part, frozen=True):
    """Names that must all be present (`mandatory`), and names of which one is enough."""

    mandatory: list[Text] = []
    optional: list[Text] = []


class NeededValues(Part, frozen=True):
    """Lower bounds on the NPC's current values, e.g. `{"trust": 0.35}`."""

    mandatory: Delta = {}


class Conditions(Part, frozen=True):
    """What must hold before something may happen; empty parts always hold.

    `unless` lists exceptions: where all that one of them says holds, the whole does not.
    """

    required_text: list[Text] = []
    required_items: NeededNames = NeededNames()
    required_actions: NeededNames = NeededNames()
    required_game_state: dict[str, OneOf] = {}
    required_npc_state: dict[str, OneOf] = {}
    required_player_state: dict[str, OneOf] = {}
    required_delta: NeededValues = NeededValues()
    unless: "list[Conditions]" = []


class DeltaPolicy(Part, frozen=True):
    """Bounds of a delta: `min`, `max` of one turn's change, `per_turn_cap` of its size."""

    min: Unit = -1.0
    max: Unit = 1.0
    per_turn_cap: Probability = 1.0


class FlagPolicy(Part, frozen=True):
    """Which flags may be raised. An empty `allowed` allows all that `forbidden` does not name."""

    allowed: list[Text] = []
    forbidden: list[Text] = []

    def allows(self, flag_name: str) -> bool:
        """Whether the flag may be raised."""
        is_listed = flag_name in self.allowed or not self.allowed
        return is_listed and flag_name not in self.forbidden


class ForbiddenTriggers(Part, frozen=True):
    """What a player must not say: literal `keywords`, and `text` examples compared by meaning."""

    keywords: list[Text] = []
    text: list[Text] = []


class FallbackStyle(Part, frozen=True):
    """How the NPC carries itself while it gives a fallback line."""

    style: Localised = ""
    npc_action: Localised = ""
    npc_emotion: str = ""


class NpcState(Part, frozen=True):
    """What an NPC starts with when the game server sends nothing."""

    trust: Unit = 0.0
    relationship: Unit = 0.0
    npc_mood: str = "neutral"


class BaseDocument(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"
):
    """Keys common to all documents."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    npc_id: Annotated[str, msgspec.Meta(min_length=1)] = ANY
    quest_stage: Annotated[str, msgspec.Meta(min_length=1)] = ANY
    location: Annotated[str, msgspec.Meta(min_length=1)] = ANY
    comment: str = ""
    """For those who read the file; nothing else does."""


class NpcPersona(BaseDocument, frozen=True, tag="npc_persona"):
    """Who an NPC is. Becomes the `<SYS>` block; one for each NPC."""

    name: LocalisedText
    persona: LocalisedText
    style: LocalisedText
    lore: Localised = ""
    lang: Lang = "ko"
    initial_state: NpcState = NpcState()
    stages: list[Text] = []
    locations: list[Text] = []
    is_open: bool = False
    """Whether a request's `npc_config` may change `<SYS>` and the initial state."""


class Lore(BaseDocument, frozen=True, tag="lore"):
    """Something true about the world, a place, an NPC, or the `items` it is about."""

    content: LocalisedText
    title: Localised = ""
    items: list[Text] = []


class Description(BaseDocument, frozen=True, tag="description"):
    """What is going on at a stage and place, and how the NPC should take it."""

    content: LocalisedText
    instructions: Localised = ""


class TriggerDef(BaseDocument, frozen=True, tag="trigger_def"):
    """When the main path is open at a stage, and what the model may change there."""

    trigger: Conditions = Conditions()
    delta_policy: dict[str, DeltaPolicy] = {}
    flag_policy: FlagPolicy = FlagPolicy()


class ForbiddenTriggerList(BaseDocument, frozen=True, tag="forbidden_trigger_list"):
    """Utterances that end the main path at once."""

    triggers: ForbiddenTriggers


class TriggerMeta(BaseDocument, frozen=True, tag="trigger_meta"):
    """What happens when the forbidden list named by `trigger` fires."""

    trigger: str
    npc_action: Localised = ""
    npc_emotion: str = ""
    delta: Delta = {}


class Fallback(BaseDocument, frozen=True, tag="fallback"):
    """How the NPC answers when the main path is closed; lines for when no model can be asked."""

    content: Localised = ""
    fallback_style: FallbackStyle = FallbackStyle()
    lines: list[LocalisedText] = []


class FlagDef(BaseDocument, frozen=True, tag="flag_def"):
    """What a raised flag means here: a value for the game and a text for the player.

    Several of one scope and flag are alternatives: the first whose conditions hold applies.
    """

    flag_name: Annotated[str, msgspec.Meta(min_length=1)]
    value: Scalar | None = None
    text: Localised = ""
    threshold: Probability | None = None
    conditions: Conditions | None = None
    examples_positive: list[Text] = []
    examples_negative: list[Text] = []


class MainResValidate(BaseDocument, frozen=True, tag="main_res_validate"):
    """Examples of lines that fit here, and of lines that must not leave."""

    examples_positive: list[Text] = []
    examples_negative: list[Text] = []


class DialogueTurn(BaseDocument, frozen=True, tag="dialogue_turn"):
    """One exchange in the NPC's voice."""

    player: Text
    npc: Text
    lang: Lang = "ko"


class Questions(BaseDocument, frozen=True, tag="questions"):
    """What players say when the lore, description or dialogue `about` is what the NPC should know.

    Players rarely use a document's own words; these are found by meaning in its place.
    """

    about: Text
    questions: Annotated[list[Text], msgspec.Meta(min_length=1)]


Document: TypeAlias = (
    NpcPersona
    | Lore
    | Questions
    | Description
    | TriggerDef
    | ForbiddenTriggerList
    | TriggerMeta
    | Fallback
    | FlagDef
    | MainResValidate
    | DialogueTurn
)
