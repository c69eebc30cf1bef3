import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf import GGUFValueType

from export.build import build
from export.build_key import build_key
from export.check import check_bundle
from export.cli import add_commands
from export.gguf_file import GgufModel, read_gguf, write_gguf
from export.vocabulary import KIND, SCORES, TOKENS, TYPES
from heads.agreement import open_agreement
from heads.bundle import AGREEMENT, HEADS, MANIFEST, MODEL, file_sha256, load_bundle
from tests.export.bundles import Recorder, make_options, write_graph
from tests.train.responses import responses_of_each_kind
from train.fit_agreement import fit_agreement


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    options = make_options(tmp_path)
    build(options, Recorder())
    return options.out


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes())
    change(manifest)
    (bundle / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def record_again(bundle: Path, name: str) -> None:
    """As if the file had been so when the manifest was written."""

    def change(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == name)
        path = bundle / name
        entry |= {"size": path.stat().st_size, "sha256": file_sha256(path)}

    edit_manifest(bundle, change)


def problems(bundle: Path) -> list[str]:
    return [finding.problem for finding in check_bundle(bundle) if finding.problem]


def only_problem(bundle: Path) -> str:
    found = problems(bundle)
    assert len(found) == 1, found
    return found[0]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(["bundle", *arguments])
    return int(args.run(args))


def test_a_whole_bundle_passes(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(bundle)) == 0
    assert "special tokens" in capsys.readouterr().out


def test_a_folder_without_manifest_is_a_problem_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", str(tmp_path)) == 1
    assert "persona bundle build" in capsys.readouterr().out


def test_a_newer_format_asks_for_an_update(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(format=2))
    assert "update persona-chat-engine" in only_problem(bundle)


def test_another_prompt_format_is_a_problem(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(prompt_format=9))
    assert "expected prompt format 1, found 9" in only_problem(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "LICENSES/../../secret"])
def test_a_path_that_climbs_out_is_a_problem(bundle: Path, path: str) -> None:
    (bundle.parent / "secret").write_text("x")
    edit_manifest(bundle, lambda manifest: manifest["files"][2].update(path=path))
    assert "expected paths inside the bundle" in only_problem(bundle)


def test_a_link_that_leads_out_is_a_problem(bundle: Path) -> None:
    outside = bundle.parent / "elsewhere.onnx"
    (bundle / HEADS).rename(outside)
    (bundle / HEADS).symlink_to(outside)
    assert f"found a link to {outside}" in only_problem(bundle)


def test_a_truncated_model_is_a_problem_even_if_the_manifest_agrees(bundle: Path) -> None:
    whole = (bundle / MODEL).read_bytes()
    (bundle / MODEL).write_bytes(whole[: len(whole) // 2])
    assert f"expected {len(whole)} bytes, found {len(whole) // 2}" in only_problem(bundle)
    record_again(bundle, MODEL)
    assert "truncated" in only_problem(bundle)


def test_heads_of_another_width_are_a_problem(bundle: Path) -> None:
    write_graph(bundle / HEADS, n_embd=32)
    record_again(bundle, HEADS)
    assert "shape [batch, 64]" in only_problem(bundle)


def test_heads_with_other_outputs_than_the_manifest_are_a_problem(bundle: Path) -> None:
    write_graph(bundle / HEADS, num_flags=3)
    record_again(bundle, HEADS)
    assert "output `flag` of shape [batch, 1]" in only_problem(bundle)


@pytest.fixture
def agreeing(tmp_path: Path) -> Path:
    """A bundle that holds its lines against its decisions."""
    options = make_options(tmp_path)
    before = build_key(options)
    file = fit_agreement(responses_of_each_kind(), [])
    (options.heads / AGREEMENT).write_bytes(msgspec.json.encode(file))
    assert build_key(options) != before
    build(options, Recorder())
    return options.out


def test_what_holds_lines_against_decisions_is_part_of_a_bundle(agreeing: Path) -> None:
    assert problems(agreeing) == []
    agreement = open_agreement(load_bundle(agreeing))
    assert agreement
    assert agreement.scores("Here, take it.")[0] > agreement.scores("No, never.")[0]


def test_a_bundle_may_lack_it(bundle: Path) -> None:
    assert open_agreement(load_bundle(bundle)) is None


def test_a_file_that_does_not_hold_lines_against_decisions_is_a_problem(agreeing: Path) -> None:
    (agreeing / AGREEMENT).write_bytes(b"{}")
    record_again(agreeing, AGREEMENT)
    assert "persona heads agreement" in only_problem(agreeing)


def test_a_file_that_is_no_graph_is_a_problem(bundle: Path) -> None:
    (bundle / HEADS).write_bytes(b"hello")
    record_again(bundle, HEADS)
    assert "expected an ONNX graph" in only_problem(bundle)


def test_a_special_token_elsewhere_is_a_problem(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest["special_tokens"].update({"<NPC>": 100_000}))
    assert "token 100000 to be <NPC> of type CONTROL" in only_problem(bundle)


def test_a_special_token_that_text_can_spell_is_a_problem(bundle: Path) -> None:
    model = read_gguf(bundle / MODEL)
    model.get(TYPES)[model.get(TOKENS).index("<NPC>")] = 4
    write_gguf(model, bundle / MODEL)
    record_again(bundle, MODEL)
    found = problems(bundle)
    assert any("found <NPC> of type USER_DEFINED" in problem for problem in found)
    assert any("expected vocabulary" in problem for problem in found)


SPOILT: dict[str, tuple[Callable[[GgufModel], None], str]] = {
    "fewer types": (
        lambda model: model.set_array(TYPES, GGUFValueType.INT32, model.get(TYPES)[:10]),
        TYPES + ": expected {num} of int, one for each token, found a list of 10",
    ),
    "an unknown type": (
        lambda model: model.set_array(TYPES, GGUFValueType.INT32, [77, *model.get(TYPES)[1:]]),
        f"{TYPES}: expected types from 1 to 6, found 77",
    ),
    "one type": (
        lambda model: model.set(TYPES, GGUFValueType.UINT32, 3),
        TYPES + ": expected {num} of int, one for each token, found 3",
    ),
    "one token": (
        lambda model: model.set(TOKENS, GGUFValueType.STRING, "x"),
        f"{TOKENS}: expected a list of str, found 'x'",
    ),
    "numbers as tokens": (
        lambda model: model.set_array(TOKENS, GGUFValueType.INT32, range(9)),
        f"{TOKENS}: expected a list of str, found a list of 9",
    ),
    "fewer scores": (
        lambda model: model.set_array(SCORES, GGUFValueType.FLOAT32, [0.0]),
        SCORES + ": expected {num} of float, one for each token, found a list of 1",
    ),
    "another kind": (
        lambda model: model.set(KIND, GGUFValueType.STRING, "bert"),
        f"{KIND}: expected 'llama' (SPM) or 'gpt2' (BPE), found 'bert'",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_vocabulary_whose_parts_disagree_is_a_problem(bundle: Path, how: str) -> None:
    spoil, expected = SPOILT[how]
    model = read_gguf(bundle / MODEL)
    expected = expected.format(num=len(model.get(TOKENS)))
    spoil(model)
    write_gguf(model, bundle / MODEL)
    record_again(bundle, MODEL)
    found = problems(bundle)
    assert len(found) == 2, "of the special tokens and of the hash"
    for problem in found:
        assert problem.startswith(f"{bundle / MODEL}: {expected}; ")


def test_brackets_in_a_problem_are_shown_as_they_are(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(bundle / HEADS, n_embd=32)
    record_again(bundle, HEADS)
    assert run("check", str(bundle)) == 1
    assert "[batch, 64]" in capsys.readouterr().out


def test_another_model_is_a_problem(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(n_embd=65, architecture="llama"))
    found = "\n".join(problems(bundle))
    assert "expected llama with n_embd 65, found gemma3 with n_embd 64" in found
    assert "shape [batch, 65]" in found


def test_every_problem_is_listed_not_the_first_alone(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / HEADS).unlink()
    edit_manifest(bundle, lambda manifest: manifest.update(prompt_format=9))
    edit_manifest(bundle, lambda manifest: manifest["base"].update(vocabulary_sha256="0" * 64))
    assert len(problems(bundle)) == 3
    assert run("check", str(bundle)) == 1


def test_a_failing_build_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.gguf")
    out = str(tmp_path / "out")
    assert run("build", "--model-only", "--base", missing, "--out", out) == 1
    assert missing in capsys.readouterr().err
