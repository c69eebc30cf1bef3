"""What a request may say of an NPC, and of which."""

from typing import Any

import msgspec
import pytest

from rag.documents import Document, NpcPersona
from rag.world import World
from server.errors import InvalidField
from server.npc_config import configured
from server.reading import decode
from server.schemas import AskRequest, NpcConfig
from server.turn import read_turn
from tests.server.small_world import DOCUMENTS

WORLD = World(msgspec.convert(DOCUMENTS, list[Document]))
MINA, ROOK = WORLD.npcs["mina"], WORLD.npcs["rook"]
OPEN = msgspec.structs.replace(MINA, is_open=True)


def as_configured(npc: NpcPersona, /, **config: Any) -> NpcPersona:
    return configured(npc, msgspec.convert(config, NpcConfig))[0]


def notices(npc: NpcPersona, /, **config: Any) -> list[str]:
    return configured(npc, msgspec.convert(config, NpcConfig))[1]


def test_what_the_world_has_written_stands() -> None:
    given = {"name": "Nobody", "persona": "A pirate", "style": {"en": "Rude"}}
    assert as_configured(MINA, **given, initial_state={"trust": -1}) is MINA


def test_what_the_world_leaves_empty_is_filled() -> None:
    lore = {"ko": "진주를 숨겼다", "en": "She hid a pearl"}
    assert as_configured(MINA, lore=lore, style="Rude").lore == lore
    assert as_configured(MINA, lore=lore, style="Rude").style == MINA.style
    assert as_configured(ROOK, initial_state={"trust": 0.4}).initial_state.trust == 0.4


def test_of_an_open_npc_all_of_it_counts() -> None:
    given = {"name": "Nobody", "persona": "A pirate", "style": "Rude", "lore": "She hid a pearl"}
    found = as_configured(OPEN, **given, initial_state={"npc_mood": "angry"})
    assert {name: getattr(found, name) for name in given} == given
    assert found.initial_state.npc_mood == "angry"
    assert found.initial_state.trust == 0.2, "what is left out stays"


def test_in_a_language_that_is_not_given_the_worlds_text_stays() -> None:
    assert as_configured(OPEN, name={"en": "Bob"}).name == {"ko": "미나", "en": "Bob"}


def test_what_has_no_effect_is_told_unless_it_says_the_same() -> None:
    assert notices(MINA, name=MINA.name, initial_state={"trust": 0.2}, lore="She hid a pearl") == []
    (style, state) = notices(MINA, style="Rude", initial_state={"trust": -1})
    assert style.startswith("context.npc_config.style has no effect: the world has written it")
    assert state.startswith("context.npc_config.initial_state has no effect")
    assert notices(OPEN, style="Rude", initial_state={"trust": -1}) == []


@pytest.mark.parametrize("empty", ["", " \n", {"en": " "}])
def test_empty_text_changes_nothing(empty: Any) -> None:
    assert as_configured(OPEN, lore=empty, persona=empty) is OPEN


def test_what_the_game_keeps_besides_is_no_error() -> None:
    assert as_configured(OPEN, _id="mina", stages=["a"], lines=[1, {"x": None}]) is OPEN


def test_control_characters_do_not_come_through() -> None:
    assert as_configured(OPEN, lore="a\x00 pearl\x1b").lore == "a pearl"


def test_a_turn_has_it_and_its_state_says_more() -> None:
    config = {"lore": "He rows", "initial_state": {"trust": 0.4, "npc_mood": "sour"}}
    context = {"npc_config": config, "npc_state": {"trust": 0.1}}
    given = {"npc_id": "rook", "player_id": "p", "text": "hi", "context": context}
    turn = read_turn(msgspec.convert(given, AskRequest), WORLD)
    assert turn.persona.lore == "He rows"
    assert (turn.state["trust"], turn.state["npc_mood"]) == (0.1, "sour")
    assert turn.notices == []


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"style": 5}, "$.context.npc_config.style"),
        ({"lore": "x" * 2_001}, "$.context.npc_config.lore"),
        ({"initial_state": {"trust": 7}}, "$.context.npc_config.initial_state.trust"),
        ("mina", "$.context.npc_config"),
    ],
)
def test_a_wrong_value_is_told_with_its_path(config: Any, path: str) -> None:
    body = {"npc_id": "mina", "player_id": "p", "text": "hi", "context": {"npc_config": config}}
    with pytest.raises(InvalidField) as caught:
        decode(msgspec.json.encode(body), AskRequest)
    assert caught.value.path == path
