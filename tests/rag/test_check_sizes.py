"""Notes that no turn has room for."""

from pathlib import Path

import pytest

from rag.check_sizes import check_sizes
from rag.documents import DialogueTurn, Document, Lore
from rag.loader import Source
from runtime.encoder import PromptEncoder
from server.cli import main
from tests.rag.worlds import FALLBACK, PERSONA, write_json
from tests.tiny_bundle import write_tiny_bundle
from tests.train.letters import SPECIALS, Letters

NOTES: list[Document] = [
    Lore(id="plain", content="Salt is white."),
    Lore(id="both", title="The sea and all its salt", content={"ko": "소금", "en": "Sea salt."}),
    DialogueTurn(id="turn", player="Who?", npc="Me.", lang="en"),
]


@pytest.mark.parametrize(
    ("budget", "found"),
    [
        (14, set()),
        (13, {("plain", "content")}),
        (9, {("plain", "content"), ("turn", "npc")}),
        (2, {("plain", "content"), ("turn", "npc"), ("both", "content.en")}),
    ],
)
def test_a_note_longer_than_the_budget_is_a_problem(
    budget: int, found: set[tuple[str, str]]
) -> None:
    sources = [Source("world.json", note) for note in NOTES]
    problems = check_sizes(sources, PromptEncoder(Letters(), SPECIALS), budget)
    assert {(problem.document_id, problem.key) for problem in problems} == found


def test_a_world_is_held_against_the_tokens_of_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, world = tmp_path / "bundle", tmp_path / "world"
    bundle.mkdir()
    write_tiny_bundle(bundle)
    lore = {"id": "mill", "type": "lore", "content": "The mill in the valley has not turned. " * 40}
    write_json(world, "world.json", [PERSONA, FALLBACK, lore])
    check = ["world", "check", str(world)]
    assert main(check) == 0
    assert main([*check, "--bundle", str(bundle)]) == 1
    told = capsys.readouterr().err
    assert "world.json: mill: content: takes" in told
    assert "a turn has 160 for notes" in told
    assert main([*check, "--bundle", str(bundle), "--note-tokens", "9999"]) == 0
