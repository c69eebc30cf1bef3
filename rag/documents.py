"""Document types of a world folder (see docs/world.md), as strict msgspec schemas.

Every type shares `id, type, npc_id, quest_stage, location`; the last three default to "any".
Unknown keys are errors: a misspelt key must not become a rule that silently never applies.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from heads.spec import Probability, Unit

ANY = "any"

Lang: TypeAlias = Literal["ko", "en"]
Localised: TypeAlias = str | dict[Lang, str]
"""Text in one language, or in several: `"text"` or `{"ko": "…", "en": "…"}`."""

Scalar: TypeAlias = str | bool | int | float
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

    mandatory: list[str] = []
    optional: list[str] = []


class NeededValues(Part, frozen=True):
    """Lower bounds on the NPC's current values, e.g. `{"trust": 0.35}`."""

    mandatory: Delta = {}


class Conditions(Part, frozen=True):
    """What must hold before something may happen; empty parts always hold."""

    required_text: list[str] = []
    required_items: NeededNames = NeededNames()
    required_actions: NeededNames = NeededNames()
    required_game_state: dict[str, Scalar] = {}
    required_delta: NeededValues = NeededValues()


class DeltaPolicy(Part, frozen=True):
    """Bounds of a delta: `min`, `max` of one turn's change, `per_turn_cap` of its size."""

    min: Unit = -1.0
    max: Unit = 1.0
    per_turn_cap: Probability = 1.0


class FlagPolicy(Part, frozen=True):
    """Which flags may be raised. An empty `allowed` allows all that `forbidden` does not name."""

    allowed: list[str] = []
    forbidden: list[str] = []


class ForbiddenTriggers(Part, frozen=True):
    """What a player must not say: literal `keywords`, and `text` examples compared by meaning."""

    keywords: list[str] = []
    text: list[str] = []


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


class NpcPersona(BaseDocument, frozen=True, tag="npc_persona"):
    """Who an NPC is. Becomes the `<SYS>` block; one for each NPC."""

    name: Localised
    persona: Localised
    style: Localised
    lore: Localised = ""
    lang: Lang = "ko"
    initial_state: NpcState = NpcState()
    stages: list[str] = []
    locations: list[str] = []
    is_open: bool = False
    """Whether a request's `npc_config` may change `<SYS>`."""


class Lore(BaseDocument, frozen=True, tag="lore"):
    """Something true about the world, a place or an NPC."""

    content: Localised
    title: Localised = ""


class Description(BaseDocument, frozen=True, tag="description"):
    """What is going on at a stage and place, and how the NPC should take it."""

    content: Localised
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

    content: Localised
    fallback_style: FallbackStyle = FallbackStyle()
    lines: list[Localised] = []


class FlagDef(BaseDocument, frozen=True, tag="flag_def"):
    """What a raised flag means here: a value for the game and a text for the player."""

    flag_name: Annotated[str, msgspec.Meta(min_length=1)]
    value: Scalar | None = None
    text: Localised = ""
    threshold: Probability | None = None
    conditions: Conditions | None = None
    examples_positive: list[str] = []
    examples_negative: list[str] = []


class MainResValidate(BaseDocument, frozen=True, tag="main_res_validate"):
    """Examples of lines that fit here, and of lines that must not leave."""

    examples_positive: list[str] = []
    examples_negative: list[str] = []


class DialogueTurn(BaseDocument, frozen=True, tag="dialogue_turn"):
    """One exchange in the NPC's voice."""

    player: str
    npc: str
    lang: Lang = "ko"


Document: TypeAlias = (
    NpcPersona
    | Lore
    | Description
    | TriggerDef
    | ForbiddenTriggerList
    | TriggerMeta
    | Fallback
    | FlagDef
    | MainResValidate
    | DialogueTurn
)
