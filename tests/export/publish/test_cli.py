import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.remote import LATEST, branch_of
from heads.bundle import load_bundle
from server.settings import read_settings
from tests.export.killed import ROOT, run_command
from tests.export.remotes import (
    HubRepository,
    Repository,
    bundle_files,
    contents,
    make_bundle,
    without_card,
)

Capture = pytest.CaptureFixture[str]


def test_publish_promote_and_pull_print_what_a_script_needs_and_tell_the_rest_on_stderr(
    repository: Repository, bundle: Path, capsys: Capture
) -> None:
    assert run_command(["publish", str(bundle), "--to", repository.address]) == 0
    output = capsys.readouterr()
    assert output.out == f"{branch_of(1)}\n"
    assert f"as {repository.address} feature/model-v1" in output.err
    assert run_command(["promote", repository.address]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith(f"{repository.address} latest is now feature/model-v1\n")
    assert run_command(["pull", repository.address]) == 0
    output = capsys.readouterr()
    folder = Path(output.out.removesuffix("\n"))
    assert contents(folder) == bundle_files(bundle)
    assert f"serve {load_bundle(bundle).id}: PERSONA_BUNDLE={folder} persona serve" in output.err
    assert read_settings({"PERSONA_BUNDLE": str(folder)}).bundle == folder


def test_publish_can_promote_at_once(repository: Repository, bundle: Path) -> None:
    assert run_command(["publish", str(bundle), "--to", repository.address, "--promote"]) == 0
    assert without_card(repository.branches()[LATEST]) == bundle_files(bundle)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("hf:npc", "write it like hf:my-team/npc-model"),
        ("hf:", "write it like hf:my-team/npc-model"),
        ("hf:a/b/c", "write it like hf:my-team/npc-model"),
        ("hf:team/../x", "write it like hf:my-team/npc-model"),
        ("hf://team/npc", "write it like hf:my-team/npc-model"),
        ("git+", "write it like git+https://host/owner/name or git+/path/name.git"),
        ("git+--upload-pack=touch /tmp/x", "write it like git+https://host/owner/name"),
        ("git+ext::sh -c true", "expected git to succeed, found transport 'ext' not allowed"),
        ("https://host/team/npc", "write git+URL for a git remote"),
        ("git@host:team/npc", "expected a folder, found none"),
        ("", "write git+URL for a git remote"),
        ("hf:team/nothing", "expected a model repository"),
        ("./nothing", "expected a folder, found none"),
        ("git+./nothing", "expected a git repository"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence_and_exit_code_1(
    bundle: Path, address: str, told: str, capsys: Capture
) -> None:
    publish = ["publish", str(bundle), "--to", address]
    commands = [["pull", address], ["promote", address]]
    if address != "./nothing":  # which publishing would make
        commands.append(publish)
    for command in commands:
        assert run_command(command) == 1
        output = capsys.readouterr()
        assert output.out == ""
        sentence = output.err.splitlines()[-1]
        assert sentence.startswith(f"persona {command[0]}: ")
        assert told in sentence
        assert "Traceback" not in output.err


def test_a_folder_that_is_no_bundle_is_one_sentence_and_exit_code_1(
    folder_repository: Repository, tmp_path: Path, capsys: Capture
) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert run_command(["publish", str(folder), "--to", folder_repository.address]) == 1
        assert "expected a readable manifest" in capsys.readouterr().err


def test_without_the_hubs_client_the_command_names_the_extra(
    hub_repository: HubRepository, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run_command(["pull", hub_repository.address]) == 1
    expected = (
        "persona pull: hf:team/npc: expected the Hub's client, found no package "
        "'huggingface_hub'; pip install 'persona-chat-engine[hub]'\n"
    )
    assert capsys.readouterr().err == expected


def test_a_lean_host_can_pull_from_git_and_folders_with_the_core_packages_alone() -> None:
    script = "import export.publish_cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    heavy = {"gguf", "huggingface_hub", "llama_cpp", "numpy", "onnx", "onnxruntime", "torch"}
    assert loaded & (heavy | {"train", "server", "rag", "bench", "requests", "yaml"}) == set()


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("folder", "publish"),
        ("folder", "pull"),
        ("git", "publish"),
        ("git", "pull"),
        ("hub", "pull"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_all_as_it_was(
    request: pytest.FixtureRequest, tmp_path: Path, target: Path, kind: str, action: str
) -> None:
    repository: Repository = request.getfixturevalue(f"{kind}_repository")
    first, second = (make_bundle(tmp_path / f"b{seed}", seed) for seed in range(2))
    commands = {
        "publish": ["publish", str(second), "--to", repository.address],
        "pull": ["pull", repository.address, "--out", str(target)],
    }
    assert run_command(["publish", str(first), "--to", repository.address, "--promote"]) == 0
    assert run_command(commands["pull"]) == 0
    if action == "pull":
        assert run_command([*commands["publish"], "--promote"]) == 0
    before = repository.branches()
    command = [sys.executable, "-m", "tests.export.killed", *commands[action]]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "_", *command]  # 100 KiB a file
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "free some space" in done.stderr.splitlines()[-1]
    assert repository.branches() == before
    assert contents(target) == bundle_files(first)
