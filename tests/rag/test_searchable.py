from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents import (
    Description,
    DialogueTurn,
    Document,
    Fallback,
    FlagDef,
    ForbiddenTriggerList,
    ForbiddenTriggers,
    Lore,
    MainResValidate,
    NpcPersona,
    Questions,
)
from rag.searchable import Searchable, is_of, searchable

BELL = Lore(id="bell", npc_id="mina", title="The bell", content="It rang by itself.")
GREETING = DialogueTurn(id="greeting", npc_id="mina", player="Good day.", npc="Mind the step.")
TIDE = Lore(id="tide", content="The tide is late.")


def found_by(content: Searchable, name: str) -> list[str]:
    """The texts under which the document `name` is found."""
    return [passage.text for passage in content.notes if passage.document.id == name]


def test_a_dialogue_is_found_by_what_the_player_says_in_it() -> None:
    assert found_by(searchable([GREETING]), "greeting") == ["Good day."]


@pytest.mark.parametrize(
    ("keys", "texts"),
    [
        ({"content": "Salt."}, ["Salt."]),
        ({"title": "Sea", "content": "Salt."}, ["Sea. Salt."]),
        ({"title": "Sea", "content": {"ko": "소금.", "en": "Salt."}}, ["Sea. 소금.", "Sea. Salt."]),
        (
            {"title": {"ko": "바다", "en": "Sea"}, "content": {"ko": "소금.", "en": "Salt."}},
            ["바다. 소금.", "Sea. Salt."],
        ),
        ({"title": {"en": "Sea"}, "content": {"ko": "소금."}}, ["Sea", "소금."]),
    ],
)
def test_lore_is_found_by_its_title_and_text_in_each_of_its_languages(
    keys: dict[str, Any], texts: list[str]
) -> None:
    assert found_by(searchable([Lore(id="sea", **keys)]), "sea") == texts


def test_a_description_is_found_by_its_text_in_each_of_its_languages() -> None:
    document = Description(id="d", content={"ko": "밤이다.", "en": "Night."}, instructions="Hush.")
    assert found_by(searchable([document]), "d") == ["밤이다.", "Night."]


def test_a_note_is_found_by_the_questions_about_it_wherever_they_stand() -> None:
    first = Questions(id="q1", about="bell", questions=["Who rang?", "What rang?"])
    second = Questions(id="q2", npc_id="rook", about="bell", questions=["Why the noise?"])
    content = searchable([first, BELL, TIDE, second])
    assert found_by(content, "bell") == [
        "The bell. It rang by itself.",
        "Who rang?",
        "What rang?",
        "Why the noise?",
    ]
    assert found_by(content, "tide") == ["The tide is late."]


def test_a_text_asked_twice_of_a_document_finds_it_once() -> None:
    asked = Questions(id="q", about="tide", questions=["When?", "The tide is late.", "When?"])
    assert found_by(searchable([TIDE, asked]), "tide") == ["The tide is late.", "When?"]


def test_a_text_of_two_documents_finds_both_and_needs_one_vector() -> None:
    again = DialogueTurn(id="again", npc_id="rook", player="Good day.", npc="Hm.")
    content = searchable([GREETING, again])
    assert [passage.document.id for passage in content.notes] == ["greeting", "again"]
    assert content.texts() == ["Good day."]


def test_examples_need_vectors_but_find_no_note() -> None:
    triggers = ForbiddenTriggers(keywords=["scum"], text=["I will burn it."])
    content = searchable(
        [
            ForbiddenTriggerList(id="f", triggers=triggers),
            FlagDef(
                id="g", flag_name="give", examples_positive=["Take it."], examples_negative=["No."]
            ),
            MainResValidate(id="v", examples_positive=["Aye."], examples_negative=["lol", "No."]),
        ]
    )
    assert content.notes == []
    assert content.texts() == ["I will burn it.", "Take it.", "No.", "Aye.", "lol"]


def test_what_is_never_looked_up_by_meaning_needs_no_vector() -> None:
    persona = NpcPersona(id="p", npc_id="mina", name="Mina", persona="Keeper", style="Slow")
    assert searchable([persona, Fallback(id="f", lines=["Busy."])]).texts() == []


@given(st.permutations([BELL, GREETING, TIDE, *(Lore(id=n, npc_id=n, content=n) for n in "abc")]))
def test_the_passages_of_an_npc_stand_together_whatever_the_order_of_files(
    documents: list[Document],
) -> None:
    owners = [passage.document.npc_id for passage in searchable(documents).notes]
    assert len(owners) == len(documents)
    assert owners == sorted(owners)


def test_a_document_is_an_npcs_if_it_is_its_own_or_everybodys() -> None:
    assert is_of(BELL, "mina")
    assert is_of(TIDE, "mina")
    assert not is_of(BELL, "rook")
