from pathlib import Path

import pytest

from rag.documents import Description, FlagDef, NpcPersona
from rag.loader import WorldError
from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.scopes import Scene, fallback_scopes
from rag.world import World, load_world
from tests.rag.worlds import FALLBACK, PERSONA, write_json

MINA = NpcPersona(
    id="p",
    npc_id="mina",
    name={"ko": "미나", "en": "Mina"},
    persona={"ko": "등대지기", "en": "Keeper"},
    style="slow",
)


def describe(npc: str, stage: str, place: str) -> Description:
    return Description(
        id=f"{npc} {stage} {place}", npc_id=npc, quest_stage=stage, location=place, content="…"
    )


def test_scopes_are_tried_from_the_most_to_the_least_specific() -> None:
    assert [*fallback_scopes("mina", "started", "pier")] == [
        ("mina", "started", "pier"),
        ("mina", "any", "pier"),
        ("mina", "started", "any"),
        ("mina", "any", "any"),
        ("any", "started", "pier"),
        ("any", "any", "pier"),
        ("any", "started", "any"),
        ("any", "any", "any"),
    ]


@pytest.mark.parametrize("num_left_out", range(9))
def test_the_most_specific_document_there_is_applies(num_left_out: int) -> None:
    scopes = [*fallback_scopes("mina", "started", "pier")][num_left_out:]
    world = World([MINA, *(describe(*scope) for scope in reversed(scopes))])
    found = world.description(Scene("mina", "started", "pier"))
    assert (found.id if found else None) == (" ".join(scopes[0]) if scopes else None)


def test_documents_of_another_npc_stage_or_place_never_apply() -> None:
    world = World(
        [
            MINA,
            describe("rook", "any", "any"),
            describe("mina", "over", "any"),
            describe("mina", "any", "tower"),
        ]
    )
    assert world.description(Scene("mina", "started", "pier")) is None


def test_flags_are_looked_up_by_name_and_scope() -> None:
    general = FlagDef(id="a", flag_name="give_item", value="pebble")
    special = FlagDef(id="b", flag_name="give_item", npc_id="mina", value="pearl")
    world = World([MINA, general, special])
    assert world.flag_defs(Scene("mina"), "give_item") == [special]
    assert world.flag_defs(Scene("rook"), "give_item") == [general]
    assert not world.flag_defs(Scene("mina"), "other")


def test_the_prompt_speaks_the_language_of_the_conversation() -> None:
    situation = Description(
        id="d", content={"ko": "밤이다.", "en": "Night."}, instructions={"en": "Whisper."}
    )
    world = World([MINA, situation])
    assert npc_for_prompt(MINA, "ko").persona == "등대지기"
    assert npc_for_prompt(MINA, "en").persona == "Keeper"
    assert npc_for_prompt(MINA, "en").style == "slow"
    assert rag_for_prompt(world, Scene("mina"), "en") == ("Night.", "Whisper.")
    assert rag_for_prompt(World([MINA]), Scene("mina"), "en") == ("", "")


@pytest.mark.parametrize(
    ("documents", "key", "what"),
    [
        ([], "-", "no npc_persona: a world needs an NPC"),
        ([PERSONA, FALLBACK, {**PERSONA, "id": "p2"}], "npc_id", "a second npc_persona for 'mina'"),
        (
            [PERSONA, FALLBACK, {**PERSONA, "id": "p2", "npc_id": "any"}],
            "npc_id",
            "a persona must name its NPC, not any",
        ),
        (
            [PERSONA, FALLBACK, {"id": "x", "type": "lore", "npc_id": "rook", "content": "…"}],
            "npc_id",
            "no npc_persona for 'rook'",
        ),
    ],
)
def test_every_npc_has_one_persona(
    tmp_path: Path, documents: list[object], key: str, what: str
) -> None:
    write_json(tmp_path, "w.json", documents)
    with pytest.raises(WorldError) as caught:
        load_world(tmp_path)
    (problem,) = caught.value.problems
    assert (problem.key, problem.what) == (key, what)


def test_the_demo_world_loads_and_can_answer_everywhere() -> None:
    world = load_world(Path(__file__).parents[2] / "worlds" / "mulmaru")
    assert {"okbun", "sora", "wren"} <= world.npcs.keys()
    for npc_id, persona in world.npcs.items():
        for stage in persona.stages:
            for place in persona.locations:
                scene = Scene(npc_id, stage, place)
                assert world.description(scene) is not None, scene
                fallback = world.fallback(scene)
                assert fallback is not None, scene
                assert fallback.lines, scene
