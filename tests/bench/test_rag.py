from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import rag
from bench.generated_world import Speech, TopicEmbedder, make_world
from rag.check import check_documents
from rag.loader import KINDS, Source
from server.cli import INTERRUPTED, main

SIZES = ["--documents", "320", "--npcs", "10", "--queries", "20"]


@pytest.fixture
def easy_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds on time that a busy machine keeps too."""
    for name in ("MAX_LOAD_S", "MAX_SEARCH_MS", "MAX_TURN_MS"):
        monkeypatch.setattr(rag, name, 1e4)


def bench(folder: Path, *options: str) -> int:
    return main(["bench", "rag", *SIZES, "--folder", str(folder), *options])


def test_a_generated_world_is_valid_and_has_documents_of_every_type() -> None:
    documents = make_world(320, 10, Speech(0)).documents
    assert len(documents) == 320
    assert {type(document) for document in documents} == set(KINDS.values())
    assert check_documents([Source("made up", document) for document in documents], ".") == []


def test_a_seed_makes_one_world_and_another_seed_another() -> None:
    first, again, other = (make_world(320, 10, Speech(seed)).documents for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_made_up_encoder_puts_texts_of_one_topic_together() -> None:
    speech = Speech(0)
    one, two = speech.topics(2)
    vectors = TopicEmbedder(0).encode(
        [speech.sentence(topic) for topic in (one, two) for _ in range(20)]
    )
    assert vectors.shape == (40, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[:20, :20].mean() > cosines[:20, 20:].mean() + 0.3


@pytest.mark.usefixtures("easy_bounds")
def test_figures_are_sane_and_nothing_is_left_behind(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    place = tmp_path / "index"
    place.mkdir()
    assert bench(place, "--json", str(report)) == 0
    assert [*place.iterdir()] == []
    content: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    assert content["machine"]["num_cores"] > 0
    assert content["settings"] == {"documents": 320, "npcs": 10, "queries": 20, "seed": 0}
    values = {figure["what"]: figure["values"] for figure in content["figures"]}
    assert values["vectors"]["passages in the graph"] > 100
    assert all(value > 0 for each in values.values() for value in each.values())
    assert 0.97 <= values["recall@10"]["mean"] <= 1
    spreads = {what: each for what, each in values.items() if "p95" in each}
    assert all(each["p50"] <= each["p95"] for each in spreads.values())
    assert {"search the world", "search one NPC", "search 10 NPCs"} < spreads.keys()
    stages = [each["p50"] for what, each in spreads.items() if what.startswith("  ")]
    assert len(stages) == 7
    assert max(stages) <= spreads["a turn before and after the model"]["p95"]


@pytest.mark.usefixtures("easy_bounds")
def test_a_missed_bound_is_shown_and_exits_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rag, "MIN_RECALL", 1.01)
    assert bench(tmp_path) == 1
    assert capsys.readouterr().out.count("MISSED") == 1


def test_too_few_documents_are_refused_with_the_number_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--npcs", "20") == 1
    assert "424 documents" in capsys.readouterr().err


def test_ctrl_c_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        assert [*tmp_path.iterdir()]
        raise KeyboardInterrupt

    monkeypatch.setattr(TopicEmbedder, "encode", interrupted)
    assert bench(tmp_path) == INTERRUPTED
    assert [*tmp_path.iterdir()] == []
