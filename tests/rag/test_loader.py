import errno
import json
import os
from pathlib import Path
from typing import Any
from unicodedata import normalize

import msgspec
import pytest

from rag.documents import Document, Lore, TriggerDef
from rag.loader import Problem, WorldError, read_documents
from rag.world import load_world
from tests.rag.worlds import FALLBACK, PERSONA, write_json

FLAG: dict[str, Any] = {"id": "f", "type": "flag_def", "flag_name": "give_item"}


def problems_of(folder: Path) -> list[Problem]:
    with pytest.raises(WorldError) as caught:
        load_world(folder)
    return caught.value.problems


def only_document(folder: Path) -> Document:
    (source,), problems = read_documents(folder)
    assert not problems
    return source.document


@pytest.mark.parametrize(
    ("document", "key", "what"),
    [
        ({**FLAG, "threshold": 1.5}, "threshold", "<= 1"),
        ({**FLAG, "treshold": 0.5}, "treshold", "unknown field"),
        ({"id": "f", "type": "flag_def"}, "flag_name", "missing required field"),
        ({"id": "f", "flag_name": "give_item"}, "type", "missing required field"),
        ({**FLAG, "type": "flagdef"}, "type", "flagdef"),
        ({**FLAG, "text": {"fr": "bonjour"}}, "text", "fr"),
        (
            {
                "id": "f",
                "type": "trigger_def",
                "trigger": {"required_delta": {"mandatory": {"trust": 2}}},
            },
            "trigger.required_delta.mandatory[...]",
            "<= 1",
        ),
        (
            {"id": "f", "type": "trigger_def", "trigger": {"required_item": {}}},
            "trigger.required_item",
            "unknown field",
        ),
    ],
)
def test_a_schema_error_says_file_id_and_key(
    tmp_path: Path, document: dict[str, Any], key: str, what: str
) -> None:
    write_json(tmp_path, "npcs/mina.json", [PERSONA, FALLBACK, document])
    (problem,) = problems_of(tmp_path)
    assert (problem.file, problem.document_id, problem.key) == ("npcs/mina.json", "f", key)
    assert what in problem.what


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    write_json(tmp_path, "a.json", [PERSONA, FALLBACK, {**FLAG, "threshold": "high"}])
    write_json(tmp_path, "b.json", {**FLAG, "id": "g", "npc_id": "nobody"})
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.md").write_bytes(b"\xff")
    with pytest.raises(WorldError) as caught:
        load_world(tmp_path)
    found = {(p.file, p.document_id, p.key) for p in caught.value.problems}
    assert found == {
        ("a.json", "f", "threshold"),
        ("b.json", "g", "npc_id"),
        ("c.json", "-", "-"),
        ("d.md", "-", "-"),
    }
    text = str(caught.value)
    assert "4 problem(s)" in text
    assert all(str(problem) in text for problem in caught.value.problems)


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b"", b'{"id": NaN}'])
def test_a_file_that_is_no_json_is_a_problem_of_that_file(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(raw)
    _, (problem,) = read_documents(tmp_path)
    assert problem.file == "bad.json"
    assert "not valid JSON" in problem.what


@pytest.mark.parametrize("name", ["a.json", "a.md"])
@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-16-le"])
def test_a_file_that_is_not_utf_8_is_to_be_saved_as_that(
    tmp_path: Path, name: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes('{"id": "방앗간"}'.encode(encoding))
    _, (problem,) = read_documents(tmp_path)
    assert "not UTF-8" in problem.what
    assert problem.remedy == "save the file as UTF-8"


def test_a_name_that_is_not_utf_8_is_a_problem_that_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode("방앗간.md".encode("cp949"))
    (tmp_path / name).write_text("The mill.")
    sources, (problem,) = read_documents(tmp_path)
    assert (sources, problem.what) == ([], "the name is not UTF-8")
    assert str(problem).encode().decode().startswith("\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"id": "f", "type": "fallback", "lines": ["a"], "lines": []}', [("f", "lines")]),
        (
            '[{"id": "a", "type": "lore", "content": {"ko": "\u1112\u1161", "ko": "b"}},'
            ' {"id": "b", "type": "lore", "content": "b", "items": [], "items": []}]',
            [("a", "content.ko"), ("b", "items")],
        ),
        (
            '{"id": "t", "type": "trigger_def", "trigger": {"unless": [{"required_game_state":'
            ' {"\ud558": 1, "\u1112\u1161": 2}}]}}',
            [("t", "trigger.unless[0].required_game_state.하")],
        ),
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_a_problem(
    tmp_path: Path, text: str, found: list[tuple[str, str]]
) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    _, problems = read_documents(tmp_path)
    assert [(p.document_id, p.key) for p in problems] == found
    assert {(p.what, p.remedy) for p in problems} == {("stands twice", "keep one of them")}


@pytest.mark.parametrize("content", ['"a', 'a":"b', '":', "a :"])
def test_signs_of_a_key_within_a_text_hide_no_repeated_key(tmp_path: Path, content: str) -> None:
    once = f'"id": "a", "type": "lore", "content": {json.dumps(content)}'
    (tmp_path / "a.json").write_text(f"{{{once}}}")
    assert read_documents(tmp_path)[1] == []
    (tmp_path / "a.json").write_text(f'{{{once}, "title"\n: "b", "title" :"b"}}')
    _, (problem,) = read_documents(tmp_path)
    assert (problem.key, problem.what) == ("title", "stands twice")


@pytest.mark.parametrize("value", ["9" * 5_000, "1" + "0" * 300, '"\\u0000"', "[]", "[[{}]]"])
def test_any_value_may_stand_beside_a_key_that_is_not_repeated(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"id": "a", "type": "lore", "content": {value}}}')
    _, problems = read_documents(tmp_path)
    assert all("twice" not in problem.what for problem in problems)


@pytest.mark.parametrize("item", [1, "text", None, [FLAG]])
def test_an_item_that_is_no_object_is_a_problem(tmp_path: Path, item: object) -> None:
    write_json(tmp_path, "bad.json", [item])
    _, (problem,) = read_documents(tmp_path)
    assert "Expected `object`" in problem.what


def test_a_second_document_of_the_same_id_names_the_first_file(tmp_path: Path) -> None:
    write_json(tmp_path, "a.json", [PERSONA, FALLBACK, FLAG])
    write_json(tmp_path, "b.json", {**FLAG, "flag_name": "other"})
    (problem,) = problems_of(tmp_path)
    assert (problem.file, problem.document_id, problem.key) == ("b.json", "f", "id")
    assert "a.json" in problem.what


def test_a_json_file_holds_one_document_or_a_list(tmp_path: Path) -> None:
    write_json(tmp_path, "one.json", PERSONA)
    write_json(tmp_path, "more.json", [FALLBACK, FLAG])
    assert len(load_world(tmp_path).documents) == 3


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    write_json(tmp_path, "mina.json", PERSONA)
    path = tmp_path / "mina.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    lore = "---\nid: tide\n---\nHigh.\n"
    (tmp_path / "tide.md").write_text(lore, encoding="utf-8-sig")
    sources, problems = read_documents(tmp_path)
    assert not problems
    assert [source.document.id for source in sources] == ["mina-persona", "tide"]


@pytest.mark.parametrize("suffix", [".md", ".txt"])
def test_a_text_file_is_lore_named_by_its_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"sea-bell{suffix}").write_text("\n바다의 혀는 종이다.\n", encoding="utf-8")
    document = only_document(tmp_path)
    assert document == Lore(id="sea-bell", content="바다의 혀는 종이다.")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_front_matter_says_where_lore_applies(tmp_path: Path, newline: str) -> None:
    head = ["id: bell", "npc_id: mina", "location: pier", "title: The bell", "items: rope, bell"]
    (tmp_path / "x.md").write_bytes(newline.join(["---", *head, "---", "Dumb."]).encode())
    assert only_document(tmp_path) == Lore(
        id="bell",
        npc_id="mina",
        location="pier",
        title="The bell",
        items=["rope", "bell"],
        content="Dumb.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "--- \nid: mill\nnpc_id: bori\n---\nIt stands.",
        "---\nid: mill\nnpc_id: bori\n---\t\nIt stands.",
        "\n \n---\nid: mill\nnpc_id: bori\n---\nIt stands.",
        "---\nid: mill\nnpc_id: bori\n---\n\nIt stands.\n",
        "---\nid: mill\nnpc_id: bori\n...\nIt stands.",
        "---\ncomment: of Bori\n\n  id:mill\nitems:\nnpc_id: bori\n---\nIt stands.",
        "---\rid: mill\rnpc_id: bori\r---\rIt stands.",
    ],
)
def test_front_matter_is_read_where_its_meaning_is_plain(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.md").write_bytes(text.encode())
    document = msgspec.structs.replace(only_document(tmp_path), comment="")
    assert document == Lore(id="mill", npc_id="bori", content="It stands.")


@pytest.mark.parametrize(
    "text",
    [
        "----\n# Notes of the miller\n----\nbody",
        "----------\nThe Old Mill\n----------\nIt stands.",
        "----\nid: mill\n---\nIt stands.",
        "***\nThe Old Mill\n---\nIt stands.",
    ],
)
def test_what_begins_with_another_rule_is_text_to_its_last_word(tmp_path: Path, text: str) -> None:
    (tmp_path / "mill.md").write_text(text)
    assert only_document(tmp_path) == Lore(id="mill", content=text)


def test_an_empty_head_leaves_all_as_it_is_without(tmp_path: Path) -> None:
    (tmp_path / "mill.md").write_text("---\n---\nIt stands.\n---\nStill.")
    assert only_document(tmp_path) == Lore(id="mill", content="It stands.\n---\nStill.")


def test_a_head_without_a_body_is_no_lore(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("---\nid: mill\n---")
    _, (problem,) = read_documents(tmp_path)
    assert (problem.document_id, problem.key) == ("mill", "content")


def test_front_matter_without_an_end_is_a_problem_and_no_lore(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("---\nid: mill\nquest_stage: over\nThe miller did it.")
    sources, (problem,) = read_documents(tmp_path)
    assert sources == []
    assert "has no end" in problem.what
    assert "`---`" in problem.remedy


@pytest.mark.parametrize(
    ("line", "key", "what"),
    [
        ("id: mill", "id", "stands twice"),
        ("content: It stands.", "content", "the text below"),
        ('title: "The mill"', "title", "in quotes or brackets"),
        ("location: 'mill'", "location", "in quotes or brackets"),
        ("title: {ko: 방앗간, en: Mill}", "title", "in quotes or brackets"),
        ("items: [rope, bell]", "items", "in quotes or brackets"),
        ('items: rope, "bell"', "items", "in quotes or brackets"),
        ("- rope", "-", "is no `key: value`"),
        ("# The Old Mill", "-", "'# The Old Mill' is no `key: value`"),
        ("# note: of Bori", "-", "is no `key: value`"),
        ("-----", "-", "'-----' is no `key: value`"),
    ],
)
def test_what_yaml_would_read_otherwise_is_a_problem_of_its_key(
    tmp_path: Path, line: str, key: str, what: str
) -> None:
    (tmp_path / "x.md").write_text(f"---\nid: mill\n{line}\n---\nIt stands.", encoding="utf-8")
    _, (problem,) = read_documents(tmp_path)
    assert (problem.file, problem.document_id, problem.key) == ("x.md", "mill", key)
    assert what in problem.what


def test_quotes_and_brackets_within_a_value_are_its_own(tmp_path: Path) -> None:
    head = 'title: "Mill" is what they call it\nitems: a [broken] bell, rope'
    (tmp_path / "x.md").write_text(f"---\n{head}\n---\nIt stands.")
    document = only_document(tmp_path)
    assert isinstance(document, Lore)
    assert (document.title, document.items) == (
        '"Mill" is what they call it',
        ["a [broken] bell", "rope"],
    )


def test_a_misspelt_key_of_front_matter_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("---\nid: bell\nplace: pier\n---\nDumb.")
    _, (problem,) = read_documents(tmp_path)
    assert (problem.file, problem.document_id, problem.key) == ("x.md", "bell", "place")


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "README.ko.md", "README_KO.md", "readme-en.txt"),
        *(".notes.md", ".vscode/settings.json", "npcs/.obsidian/app.json", ".git/a/b.txt"),
        *("README.MD", "Readme.TXT", ".trash/MORE.JSON"),
        *("turns.jsonl", "map.png"),
    ],
)
def test_a_readme_what_is_hidden_and_other_suffixes_are_left_alone(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff")
    assert read_documents(tmp_path) == ([], [])


def test_a_world_may_itself_lie_in_a_hidden_folder(tmp_path: Path) -> None:
    folder = tmp_path / ".worlds"
    write_json(folder, "npcs/mina.json", PERSONA)
    assert only_document(folder).id == "mina-persona"


@pytest.mark.parametrize("name", ["notes.json", "sea.md"])
def test_a_folder_or_pipe_that_is_named_like_a_document_is_left_alone(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder" / name).mkdir(parents=True)
    os.mkfifo(tmp_path / name)
    assert read_documents(tmp_path) == ([], [])


@pytest.mark.parametrize("name", ["MINA.JSON", "Mina.Json"])
def test_a_suffix_may_be_in_upper_case(tmp_path: Path, name: str) -> None:
    write_json(tmp_path, name, PERSONA)
    (tmp_path / "MILL.MD").write_text("It stands.")
    sources, problems = read_documents(tmp_path)
    assert not problems
    assert {source.document.id for source in sources} == {"mina-persona", "MILL"}


@pytest.mark.parametrize("name", ["bori.json.txt", "bori.JSON.TXT", "bori.json.md"])
def test_json_in_a_text_file_is_a_problem_and_no_lore(tmp_path: Path, name: str) -> None:
    write_json(tmp_path, name, PERSONA)
    sources, (problem,) = read_documents(tmp_path)
    assert sources == []
    assert problem.file == name
    assert f"rename it to {Path(name).stem}" in problem.remedy


@pytest.mark.parametrize("name", ["x.json.md", "bori.JSON.TXT"])
def test_prose_in_a_text_file_that_is_named_like_json_is_lore(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("It stands.")
    assert only_document(tmp_path) == Lore(id=Path(name).stem, content="It stands.")


def test_a_heading_in_front_matter_is_told_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("---\n# The Old Mill\n---\nIt stands.")
    _, (problem,) = read_documents(tmp_path)
    assert "`comment`" in problem.remedy
    assert "below the front matter" in problem.remedy


def test_a_folder_that_is_a_link_is_read_once(tmp_path: Path) -> None:
    world, elsewhere = tmp_path / "world", tmp_path / "elsewhere"
    write_json(elsewhere, "mina.json", PERSONA)
    write_json(world, "fallback.json", FALLBACK)
    (world / "npcs").symlink_to(elsewhere)
    (world / "z").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(world)
    sources, problems = read_documents(world)
    assert not problems
    assert [source.file for source in sources] == ["fallback.json", "npcs/mina.json"]


def test_a_folder_that_cannot_be_read_is_a_problem_among_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop root, so the error is made here."""
    write_json(tmp_path, "npcs/mina.json", PERSONA)
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refused(path: str) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    (source,), (problem,) = read_documents(tmp_path)
    assert source.file == "npcs/mina.json"
    assert (problem.file, problem.what) == ("secret", "cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["a.json", "a.md", "a"])
def test_a_file_that_cannot_be_read_is_a_problem_among_the_others(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.json").write_text("{")
    problems = problems_of(tmp_path)
    assert {"a" + Path(name).suffix, "b.json"} <= {problem.file for problem in problems}
    (told,) = (problem for problem in problems if problem.file == name)
    assert told.what == "cannot be read: No such file or directory"
    assert told.remedy == "make it readable, or remove it"


@pytest.mark.parametrize("escaped", [False, True])
def test_hangul_taken_apart_is_put_together(tmp_path: Path, escaped: bool) -> None:
    document = {
        "id": "물마루",
        "type": "trigger_def",
        "trigger": {
            "required_text": ["등심지"],
            "required_items": {"mandatory": ["등심지"]},
            "required_game_state": {"날씨": ["안개", 1, True]},
        },
    }
    apart = normalize("NFD", json.dumps(document, ensure_ascii=False))
    if escaped:
        apart = json.dumps(json.loads(apart))
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + apart.encode())
    assert only_document(tmp_path) == msgspec.convert(document, TriggerDef)


def test_lore_written_and_named_in_hangul_taken_apart_is_put_together(tmp_path: Path) -> None:
    text = "---\nitems: 등심지, 종\n---\n바다의 혀는 종이다."
    path = tmp_path / normalize("NFD", "바다의 혀.md")
    path.write_text(normalize("NFD", text), encoding="utf-8-sig")
    assert only_document(tmp_path) == Lore(
        id="바다의 혀", items=["등심지", "종"], content="바다의 혀는 종이다."
    )


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "nowhere")
    assert problem.file == str(tmp_path / "nowhere")
    assert problem.what == "no such folder"
