"""Breaks a valid world in one place at a time, and looks for that place in the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag.check import check_names
from rag.loader import Problem, WorldError
from rag.scaffold import write_npc
from rag.world import load_world, read_world
from tests.rag.worlds import write_json

Documents = dict[str, dict[str, Any]]
"""The documents of the NPC `nari` by what follows `nari.` in their ids."""


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    path = write_npc(tmp_path, "nari", "ko")
    content = json.loads(path.read_text(encoding="utf-8"))
    return {document["id"].removeprefix("nari."): document for document in content}


def problems_of(tmp_path: Path, documents: Documents) -> list[Problem]:
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    with pytest.raises(WorldError) as caught:
        load_world(tmp_path)
    return caught.value.problems


def change(name: str, /, **keys: Any) -> Callable[[Documents], None]:
    return lambda documents: documents[name].update(keys)


def remove(name: str, *keys: str) -> Callable[[Documents], None]:
    def run(documents: Documents) -> None:
        for key in keys:
            del documents[name][key]
        if not keys:
            del documents[name]

    return run


def add(name: str, /, **keys: Any) -> Callable[[Documents], None]:
    def run(documents: Documents) -> None:
        documents[name] = {"id": f"nari.{name}", "npc_id": "nari", **keys}

    return run


def both(*ways: Callable[[Documents], None]) -> Callable[[Documents], None]:
    def run(documents: Documents) -> None:
        for way in ways:
            way(documents)

    return run


STAGE_1, STAGE_2 = "flag.quest_stage_change.not_started", "flag.quest_stage_change.in_progress"
GIVE, STORY = "flag.give_item.in_progress", "flag.npc_main_story.completed"
NO_HOLDS = {"required_items": {"mandatory": ["silver_thimble"]}}

WAYS: dict[str, tuple[Callable[[Documents], None], str, str, str, str]] = {
    # what is done: how, and the id, key, finding and remedy that must be told
    "a misspelt key": (
        change(GIVE, treshold=0.4),
        *(GIVE, "treshold", "unknown field", "did you mean 'threshold'?"),
    ),
    "a misspelt key deep inside": (
        change("trigger.not_started", trigger={"required_item": {}}),
        *("trigger.not_started", "trigger.required_item", "unknown", "'required_items'"),
    ),
    "a value of the wrong type": (
        change(GIVE, threshold="high"),
        *(GIVE, "threshold", "got `str`", "docs/world.md"),
    ),
    "a number out of range": (
        change("persona", initial_state={"trust": 3}),
        *("persona", "initial_state.trust", "<= 1", "docs/world.md"),
    ),
    "a key that must be there": (
        remove("desc.completed", "content"),
        *("desc.completed", "content", "missing", "add 'content'"),
    ),
    "an unknown type": (
        change("lore.thimble", type="story"),
        *("lore.thimble", "type", "story", "types are"),
    ),
    "an unknown language": (
        change("desc.completed", content={"fr": "Bonjour"}),
        *("desc.completed", "content", "fr", "docs/world.md"),
    ),
    "an empty text": (
        change("desc.completed", content=""),
        *("desc.completed", "content", "length >= 1", "docs/world.md"),
    ),
    "a blank text": (
        change("desc.completed", content={"ko": " "}),
        *("desc.completed", "content.ko", "is blank", "write it"),
    ),
    "an id used twice": (
        change("turn.2", id="nari.turn.1"),
        *("turn.1", "id", "also used in npcs/nari.json", "unique"),
    ),
    "an NPC without a persona": (
        change("lore.thimble", npc_id="narri"),
        *("lore.thimble", "npc_id", "no npc_persona for 'narri'", "did you mean 'nari'?"),
    ),
    "a second persona": (
        add("again", type="npc_persona", name="x", persona="x", style="x"),
        *("again", "npc_id", "a second npc_persona", "keep one"),
    ),
    "a persona for one stage": (
        change("persona", quest_stage="completed"),
        *("persona", "quest_stage", "at every stage", "description"),
    ),
    "an unknown stage": (
        change("desc.in_progress", quest_stage="in_progres"),
        *("desc.in_progress", "quest_stage", "no quest_stage", "did you mean 'in_progress'?"),
    ),
    "an unknown place": (
        change("desc.in_progress", location="tower"),
        *("desc.in_progress", "location", "no location 'tower'", "known are nari_home"),
    ),
    "a second description of one scope": (
        add("again", type="description", quest_stage="completed", content={"ko": "골무"}),
        *("again", "quest_stage", "never applies: the description 'nari.desc.completed'", "one of"),
    ),
    "a second trigger_def of one scope": (
        add("again", type="trigger_def", quest_stage="completed"),
        *("again", "quest_stage", "'nari.trigger.completed' (npcs/nari.json)", "of its own"),
    ),
    "a second fallback of one scope": (
        add("again", type="fallback", lines=["…"]),
        *("again", "quest_stage", "never applies: the fallback", "make one"),
    ),
    "a second main_res_validate of one scope": (
        add("again", type="main_res_validate", examples_negative=["…"]),
        *("again", "quest_stage", "never applies: the main_res_validate", "make one"),
    ),
    "a trigger_meta for one stage": (
        change("forbidden.meta", quest_stage="completed"),
        *("forbidden.meta", "quest_stage", "wherever 'nari.forbidden' does", "write it at"),
    ),
    "a trigger_meta for another NPC than its list's": (
        change("forbidden", npc_id="any"),
        *("forbidden.meta", "npc_id", "'nari' bounds nothing", "at 'nari.forbidden'"),
    ),
    "a trigger_meta for another stage than its list's": (
        both(
            change("forbidden", quest_stage="in_progress"),
            change("forbidden.meta", quest_stage="completed"),
        ),
        *("forbidden.meta", "quest_stage", "'completed' bounds nothing", "at 'nari.forbidden'"),
    ),
    "questions for one place": (
        add("q", type="questions", about="nari.turn.1", questions=["Who?"], location="nari_home"),
        *("q", "location", "wherever 'nari.turn.1' does", "remove it"),
    ),
    "a text without the NPC's language": (
        change("desc.completed", content={"en": "The thimble is back."}),
        *("desc.completed", "content", "no 'ko' text", 'add "ko"'),
    ),
    "a stage named twice": (
        change("persona", stages=["not_started", "in_progress", "completed", "completed"]),
        *("persona", "stages", "'completed' 2 times", "once"),
    ),
    "a stage that nothing leads to": (
        remove(STAGE_2),
        *("persona", "stages", "leads to 'completed'", "add one at an earlier stage"),
    ),
    "a stage that a policy closes": (
        change("trigger.not_started", flag_policy={"forbidden": ["quest_stage_change"]}),
        *("persona", "stages", "leads to 'in_progress'", "not forbidden"),
    ),
    "a stage that only itself leads to": (
        change(STAGE_1, quest_stage="in_progress", value="in_progress"),
        *("persona", "stages", "leads to 'in_progress' from a stage that is reached", "earlier"),
    ),
    "stages that only lead to each other": (
        both(
            change(STAGE_1, quest_stage="completed"),
            change("trigger.completed", flag_policy={}),
        ),
        *("persona", "stages", "leads to 'in_progress' from a stage that is reached", "earlier"),
    ),
    "a next stage of any NPC that is none's": (
        add(
            "next", npc_id="any", type="flag_def", flag_name="quest_stage_change", value="complted"
        ),
        *("next", "value", "'complted' is no stage of any NPC", "did you mean 'completed'?"),
    ),
    "a next stage that is none": (
        change(STAGE_2, value="complete"),
        *(STAGE_2, "value", "'complete' is no stage", "did you mean 'completed'?"),
    ),
    "a policy for a flag that is not defined": (
        change("trigger.not_started", flag_policy={"forbidden": ["give_itm"]}),
        *("trigger.not_started", "flag_policy.forbidden", "'give_itm'", "'give_item'?"),
    ),
    "a flag allowed and forbidden": (
        change(
            "trigger.completed",
            flag_policy={"allowed": ["npc_main_story"], "forbidden": ["npc_main_story"]},
        ),
        *("trigger.completed", "flag_policy", "both allowed and forbidden", "one of the lists"),
    ),
    "a flag_def that a policy shuts out": (
        change("trigger.completed", flag_policy={"forbidden": ["npc_main_story"]}),
        *(STORY, "flag_name", "can never be raised", "allow the flag"),
    ),
    "an alternative behind one that always holds": (
        add("story.2", type="flag_def", flag_name="npc_main_story", quest_stage="completed"),
        *("story.2", "flag_name", "can never be raised", "without conditions"),
    ),
    "an example on both sides": (
        change(STORY, examples_negative=["Whose name is inside the thimble?"]),
        *(STORY, "examples_negative", "both sides", "one side"),
    ),
    "an example twice": (
        change("validate", examples_positive=["Yes.", "Yes."]),
        *("validate", "examples_positive", "stands 2 times", "keep one"),
    ),
    "questions about nothing": (
        add("q", type="questions", about="nari.lore.thimbel", questions=["Who?"]),
        *("q", "about", "has the id 'nari.lore.thimbel'", "did you mean 'nari.lore.thimble'?"),
    ),
    "questions about what is no note": (
        add("q", type="questions", about="nari.persona", questions=["Who?"]),
        *("q", "about", "no lore, description or dialogue_turn", "nari."),
    ),
    "a question of two documents": (
        both(
            add("q", type="questions", about="nari.lore.thimble", questions=["Who?", "What?"]),
            add("q2", type="questions", about="nari.desc.completed", questions=["Why?", "What?"]),
        ),
        *("q2", "questions", "'What?' stands in 'nari.q' too", "keep it in one"),
    ),
    "a question twice": (
        add("q", type="questions", about="nari.lore.thimble", questions=["Who?", "Who?"]),
        *("q", "questions", "'Who?' stands in 'nari.q' too", "keep it in one"),
    ),
    "no questions": (
        add("q", type="questions", about="nari.lore.thimble", questions=[]),
        *("q", "questions", "length >= 1", "docs/world.md"),
    ),
    "a blank question": (
        add("q", type="questions", about="nari.lore.thimble", questions=["Who?", " "]),
        *("q", "questions[1]", "is blank", "write it"),
    ),
    "an item that only a question's target is named by": (
        both(
            add("lore.gold_needle", type="lore", content={"ko": "바늘 하나"}),
            add("q", type="questions", about="nari.lore.gold_needle", questions=["Who?"]),
            change(STAGE_2, conditions={"required_items": {"mandatory": ["gold_needle"]}}),
        ),
        *(STAGE_2, "conditions.required_items.mandatory", "'gold_needle'", "lore document"),
    ),
    "an item that nothing mentions": (
        change(STAGE_2, conditions={"required_items": {"mandatory": ["gold_needle"]}}),
        *(STAGE_2, "conditions.required_items.mandatory", "'gold_needle'", "lore document"),
    ),
    "an item that only an exception mentions": (
        change(GIVE, conditions={"unless": [{"required_items": {"optional": ["x_ray"]}}]}),
        *(GIVE, "conditions.unless[0].required_items.optional", "'x_ray'", "lore document"),
    ),
    "an item with other capitals": (
        change(STAGE_2, conditions={"required_items": {"mandatory": ["Silver_Thimble"]}}),
        *(STAGE_2, "conditions.required_items.mandatory", "'Silver_Thimble'", "'silver_thimble'?"),
    ),
    "an item with another joint": (
        change(STAGE_2, conditions={"required_items": {"mandatory": ["silver thimble"]}}),
        *(STAGE_2, "conditions.required_items.mandatory", "'silver thimble'", "'silver_thimble'?"),
    ),
    "an item cut short": (
        change(STAGE_2, conditions={"required_items": {"mandatory": ["silver_thimbl"]}}),
        *(STAGE_2, "conditions.required_items.mandatory", "'silver_thimbl'", "'silver_thimble'?"),
    ),
    "an item that is a part of words": (
        change(STAGE_2, conditions={"required_items": {"mandatory": ["eamstres"]}}),
        *(STAGE_2, "conditions.required_items.mandatory", "'eamstres'", "lore document"),
    ),
    "a mood that is none of no moods": (
        change(STAGE_1, conditions={"required_npc_state": {"npc_mood": []}}),
        *(STAGE_1, "conditions.required_npc_state.npc_mood", "names no value", "name one"),
    ),
    "a stage that is none of no stages": (
        change(GIVE, conditions={"required_game_state": {"quest_stage": []}}),
        *(GIVE, "conditions.required_game_state.quest_stage", "names no value", "name one"),
    ),
    "a mood that is no text": (
        change(STAGE_1, conditions={"required_npc_state": {"npc_mood": ["shy", True]}}),
        *(STAGE_1, "conditions.required_npc_state.npc_mood", "never true", "in quotes"),
    ),
    "a place that is no text": (
        change(STAGE_1, conditions={"required_player_state": {"position": 3}}),
        *(STAGE_1, "conditions.required_player_state.position", "never 3", "in quotes"),
    ),
    "a trust that is no number": (
        change(STAGE_1, conditions={"required_npc_state": {"trust": "high"}}),
        *(STAGE_1, "conditions.required_npc_state.trust", 'never "high"', "from -1 to 1"),
    ),
    "a trust that nobody has": (
        change(STAGE_1, conditions={"unless": [{"required_npc_state": {"trust": 5}}]}),
        *(STAGE_1, "conditions.unless[0].required_npc_state.trust", "never 5", "from -1 to 1"),
    ),
    "a value that an NPC has not": (
        change(STAGE_1, conditions={"required_delta": {"mandatory": {"turst": 0.1}}}),
        *(STAGE_1, "conditions.required_delta.mandatory", "'turst'", "did you mean 'trust'?"),
    ),
    "a state that no request sends": (
        change(STAGE_1, conditions={"required_npc_state": {"mood": "shy"}}),
        *(STAGE_1, "conditions.required_npc_state", "'mood'", "'npc_mood'?"),
    ),
    "a condition on a stage that is none": (
        change(GIVE, conditions={"required_game_state": {"quest_stage": "begun"}}),
        *(GIVE, "conditions.required_game_state.quest_stage", "'begun'", "known are"),
    ),
    "a condition that never holds where it applies": (
        change(GIVE, conditions={"required_game_state": {"quest_stage": "completed"}}),
        *(GIVE, "conditions.required_game_state.quest_stage", "never holds", "remove it"),
    ),
    "an exception that always holds": (
        change(GIVE, conditions={**NO_HOLDS, "unless": [{}]}),
        *(GIVE, "conditions.unless[0]", "is empty", "write a condition"),
    ),
    "a cap that leaves nothing above the least": (
        change("trigger.completed", delta_policy={"trust": {"min": 0.5, "per_turn_cap": 0.2}}),
        *("trigger.completed", "delta_policy.trust", "0.2 leaves nothing of 0.5 to 1", "raise"),
    ),
    "a cap that leaves nothing below the most": (
        change("trigger.completed", delta_policy={"trust": {"max": -0.5, "per_turn_cap": 0.2}}),
        *("trigger.completed", "delta_policy.trust", "leaves nothing of -1.0 to -0.5", "raise"),
    ),
    "bounds the wrong way round": (
        change("trigger.completed", delta_policy={"trust": {"min": 0.5, "max": 0.1}}),
        *("trigger.completed", "delta_policy.trust", "min 0.5 is above max 0.1", "swap"),
    ),
    "a trigger_meta without its list": (
        change("forbidden.meta", trigger="nari.forbiden"),
        *("forbidden.meta", "trigger", "'nari.forbiden'", "did you mean 'nari.forbidden'?"),
    ),
    "a list without a trigger_meta": (
        remove("forbidden.meta"),
        *("forbidden", "id", "no trigger_meta", '"trigger": "nari.forbidden"'),
    ),
    "a second trigger_meta": (
        add("meta.2", type="trigger_meta", trigger="nari.forbidden"),
        *("meta.2", "trigger", "has a trigger_meta already", "keep one"),
    ),
    "a list that nothing fires": (
        change("forbidden", triggers={"keywords": [], "text": []}),
        *("forbidden", "triggers", "nothing can fire it", "add keywords"),
    ),
    "a keyword in the NPC's own dialogue": (
        change("forbidden", triggers={"keywords": ["something"]}),
        *("forbidden", "triggers.keywords", "'something' fires on", "longer keyword"),
    ),
    "a disguised keyword in the NPC's own dialogue": (
        both(
            change("forbidden", triggers={"keywords": ["죽어"]}),
            change("turn.1", player="야 죽 어"),
        ),
        *("forbidden", "triggers.keywords", "'죽어' fires on", "longer keyword"),
    ),
    "a keyword that is never found": (
        change("forbidden", triggers={"keywords": ["thief", "!?"]}),
        *("forbidden", "triggers.keywords", "'!?' never fires", "write a word"),
    ),
    "nothing to fall back on": (
        change("fallback", lines=[]),
        *("persona", "npc_id", "nothing to say at stage 'not_started'", "add a fallback"),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_is_told_with_file_id_key_and_remedy(
    tmp_path: Path, documents: Documents, way: str
) -> None:
    break_it, name, key, what, remedy = WAYS[way]
    break_it(documents)
    found = problems_of(tmp_path, documents)
    (told,) = [p for p in found if (p.document_id, p.key) == (f"nari.{name}", key)][:1]
    assert told.file == "npcs/nari.json"
    assert what in told.what
    assert remedy in told.remedy


def test_the_scaffold_itself_has_no_problem(tmp_path: Path, documents: Documents) -> None:
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    assert len(load_world(tmp_path).documents) == len(documents)


def test_questions_about_a_note_of_any_kind_are_no_problem(
    tmp_path: Path, documents: Documents
) -> None:
    for name in ("lore.thimble", "desc.completed", "turn.1"):
        add(f"q.{name}", type="questions", about=f"nari.{name}", questions=[f"What of {name}?"])(
            documents
        )
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    assert len(load_world(tmp_path).documents) == len(documents)


def test_documents_of_an_npc_without_a_persona_are_one_problem(
    tmp_path: Path, documents: Documents
) -> None:
    del documents["persona"]
    told = [p for p in problems_of(tmp_path, documents) if p.key == "npc_id"]
    assert [p.what for p in told] == [
        f"no npc_persona for 'nari', which {len(documents)} documents name"
    ]


def test_of_many_known_names_the_nearest_are_told(tmp_path: Path, documents: Documents) -> None:
    for number in range(30):
        add(f"turn.{number}", type="dialogue_turn", player="?", npc="…")(documents)
    add("q", type="questions", about="turning", questions=["Who?"])(documents)
    (remedy,) = [p.remedy for p in problems_of(tmp_path, documents) if p.key == "about"]
    assert remedy.startswith("of the 34 known the nearest are nari.turn.")
    assert len(remedy) < 120


def test_of_many_known_names_some_are_told_where_none_is_near(
    tmp_path: Path, documents: Documents
) -> None:
    for number in range(30):
        add(f"turn.{number}", type="dialogue_turn", player="?", npc="…")(documents)
    add("q", type="questions", about="0xFF", questions=["Who?"])(documents)
    (remedy,) = [p.remedy for p in problems_of(tmp_path, documents) if p.key == "about"]
    assert remedy.startswith("of the 34 known the first are nari.")
    assert remedy.count(",") == 4


def test_all_keywords_in_a_dialogue_are_told(tmp_path: Path, documents: Documents) -> None:
    change("forbidden", triggers={"keywords": ["thief", "kill", "죽어"]})(documents)
    change("turn.1", player="죽어, or I kill you")(documents)
    told = [p.what for p in problems_of(tmp_path, documents) if p.key == "triggers.keywords"]
    assert told == [
        f"{keyword!r} fires on the dialogue_turn 'nari.turn.1'" for keyword in ("kill", "죽어")
    ]


def test_a_keyword_inside_another_word_of_a_dialogue_is_no_problem(
    tmp_path: Path, documents: Documents
) -> None:
    change("forbidden", triggers={"keywords": ["kill"]})(documents)
    change("turn.1", player="What skill do you have?")(documents)
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    assert len(load_world(tmp_path).documents) == len(documents)


def test_a_stage_that_an_event_of_every_stage_leads_to_is_no_problem(
    tmp_path: Path, documents: Documents
) -> None:
    change("trigger.completed", flag_policy={"forbidden": ["give_item"]})(documents)
    change(STAGE_2, quest_stage="any")(documents)
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    assert len(load_world(tmp_path).documents) == len(documents)


def test_questions_and_metas_may_have_the_scope_of_what_they_are_about(
    tmp_path: Path, documents: Documents
) -> None:
    add("q", type="questions", about="nari.turn.1", questions=["Who?"])(documents)
    assert documents["forbidden.meta"]["npc_id"] == documents["q"]["npc_id"] == "nari"
    for name in ("turn.1", "q", "forbidden", "forbidden.meta"):
        change(name, quest_stage="in_progress", location="nari_home")(documents)
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    assert len(load_world(tmp_path).documents) == len(documents)


def test_all_that_is_broken_is_told_at_once(tmp_path: Path, documents: Documents) -> None:
    for way in ("a misspelt key", "an unknown place", "a second trigger_meta", "an id used twice"):
        WAYS[way][0](documents)
    told = {(p.document_id, p.key) for p in problems_of(tmp_path, documents)}
    assert {
        ("nari.flag.give_item.in_progress", "treshold"),
        ("nari.desc.in_progress", "location"),
        ("nari.meta.2", "trigger"),
        ("nari.turn.1", "id"),
    } <= told


def test_one_document_tells_all_its_mistakes(tmp_path: Path, documents: Documents) -> None:
    documents["turn.1"] = {"id": "t", "type": "flag_def", "treshold": 1, "threshold": 2, "text": 3}
    told = {p.key for p in problems_of(tmp_path, documents) if p.document_id == "t"}
    assert told == {"treshold", "threshold", "text", "flag_name"}


def test_flags_and_deltas_are_held_against_a_bundles_heads(
    tmp_path: Path, documents: Documents
) -> None:
    documents["trigger.completed"]["delta_policy"] = {"turst": {"max": 0.2}}
    write_json(tmp_path, "npcs/nari.json", [*documents.values()])
    known = ["give_item", "npc_main_story"]
    problems = check_names(read_world(tmp_path), known, ["trust", "relationship"])
    assert {(p.document_id, p.key, p.remedy) for p in problems} == {
        (f"nari.{STAGE_1}", "flag_name", "known are give_item, npc_main_story"),
        (f"nari.{STAGE_2}", "flag_name", "known are give_item, npc_main_story"),
        ("nari.trigger.completed", "delta_policy.turst", "did you mean 'trust'?"),
    }
