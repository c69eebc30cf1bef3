from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import ModelCard

from export.model_card import model_card
from export.publish import publish
from heads.bundle import Bundle, load_bundle
from tests.export.remotes import Listener, Repository, make_bundle

EVALUATION = {
    "baseline": {"f1": 0.25, "flag_f1": {"give_item": 0.125}},
    "held_out": {"f1": 0.75, "flag_f1": {"give_item": 0.625}, "num_turns": 162},
}


@pytest.fixture
def loaded(bundle: Path) -> Bundle:
    def change(manifest: dict[str, Any]) -> None:
        manifest["base"] |= {"name": "Gemma 3 270m", "licence": "gemma"}
        manifest["heads"]["flags"][0]["threshold"] = 0.1787
        manifest["evaluation"] = EVALUATION
        manifest["parity"] = {"max_difference": 1e-5}

    return load_bundle(make_bundle(bundle, 7, change))


def with_base(bundle: Bundle, name: str, licence: str) -> Bundle:
    base = msgspec.structs.replace(bundle.manifest.base, name=name, licence=licence)
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, base=base))


def front_matter(card: str) -> dict[str, Any]:
    """As the Hub's own client reads it."""
    found: dict[str, Any] = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    return found


def rows(card: str) -> list[list[str]]:
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_front_matter_is_what_the_hub_reads(loaded: Bundle) -> None:
    data = front_matter(model_card(loaded, "hf:team/npc"))
    assert data["license"] == "gemma"
    assert data["base_model"] == "google/gemma-3-270m"
    assert data["language"] == ["ko", "en"]
    assert data["library_name"] == "persona-chat-engine"
    assert {"gguf", "npc"} <= set(data["tags"])


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("qwen-research", {"license": "other", "license_name": "qwen-research"}),
        ("Acme Licence (v2)", {"license": "other", "license_name": "acme-licence-v2"}),
        ("", {"license": "other", "license_name": "unknown"}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_named(
    loaded: Bundle, licence: str, expected: dict[str, str]
) -> None:
    data = front_matter(model_card(with_base(loaded, "acme/base", licence), "x"))
    assert {name: value for name, value in data.items() if "license" in name} == expected
    assert data["base_model"] == "acme/base"


def test_a_base_without_a_place_on_the_hub_is_named_in_the_text_alone(loaded: Bundle) -> None:
    card = model_card(with_base(loaded, "our own: base", "MIT"), "x")
    assert "base_model" not in front_matter(card)
    assert ["base", "our own: base"] in rows(card)


def test_the_notice_of_the_base_is_quoted_and_linked(loaded: Bundle) -> None:
    card = model_card(loaded, "x")
    assert "> Gemma is provided under and subject to the Gemma Terms of Use.\n" in card
    assert "[LICENSES/NOTICE.txt](LICENSES/NOTICE.txt)" in card


def test_heads_figures_and_files_are_tables(loaded: Bundle) -> None:
    found = rows(model_card(loaded, "x"))
    assert ["give_item", "event", "raised from 0.1787"] in found
    assert ["trust", "change", "-1 to 1"] in found
    assert ["seed", "7"] in found
    assert ["figure", "baseline", "held_out"] in found
    assert ["flag_f1.give_item", "0.125", "0.625"] in found
    assert ["num_turns", "", "162"] in found
    assert ["max_difference", "1e-05"] in found
    entry = loaded.manifest.files[0]
    assert [entry.path, "200,000", entry.sha256] in found
    assert len({len(row) for row in found}) <= 3


def test_what_is_not_there_has_no_heading(bundle: Path) -> None:
    card = model_card(load_bundle(bundle), "x")
    assert "## Training" in card
    assert "## Evaluation" not in card
    assert "## Parity" not in card


def test_figures_that_do_not_compare_are_listed_one_by_one(loaded: Bundle) -> None:
    training = {"data": {"turns": 671}, "optimiser": {"steps": 9}, "note": "a | b\n<c>"}
    manifest = msgspec.structs.replace(loaded.manifest, training=training)
    found = model_card(Bundle(loaded.folder, manifest), "x")
    assert ["data.turns", "671"] in rows(found)
    assert ["optimiser.steps", "9"] in rows(found)
    assert "| note | a \\| b &lt;c> |" in found


def test_the_commands_of_the_card_can_be_pasted(loaded: Bundle) -> None:
    card = model_card(loaded, "hf:team/npc")
    assert "pip install 'persona-chat-engine[hub]'\n" in card
    assert '"$(persona pull hf:team/npc)"' in card
    card = model_card(loaded, "/srv/our models")
    assert "pip install persona-chat-engine\n" in card
    assert "\"$(persona pull '/srv/our models')\"" in card


def test_every_published_version_has_its_card(repository: Repository, bundle: Path) -> None:
    publish(bundle, repository.address, Listener())
    card = repository.branches()["feature/model-v1"]["README.md"].decode()
    assert card == model_card(load_bundle(bundle), repository.address)
