import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.address import open_remote
from export.publish import promote, publish
from export.pull import PullOptions, pull
from export.remote import LATEST, RemoteError, branch_of
from tests.export.hub_server import Hub, Reply
from tests.export.killed import ROOT
from tests.export.remotes import (
    GitRepository,
    Listener,
    bundle_files,
    contents,
    make_bundle,
    versions,
    without_card,
)

V1, V2 = branch_of(1), branch_of(2)


def hook(repository: GitRepository, name: str, script: str) -> None:
    path = repository.root / "hooks" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def objects(repository: GitRepository) -> int:
    """Bytes that the remote holds."""
    return sum(path.stat().st_size for path in (repository.root / "objects").rglob("*"))


def test_a_push_that_the_server_refuses_is_told_in_its_words(
    git_repository: GitRepository, bundle: Path
) -> None:
    publish(bundle, git_repository.address, Listener(), promoted=True)
    before = git_repository.branches()
    hook(git_repository, "pre-receive", "echo 'models are frozen until Monday' >&2; exit 1")
    other = make_bundle(bundle.parent / "other", 1)
    with pytest.raises(RemoteError, match=r"found models are frozen until Monday; .*pre-receive"):
        publish(other, git_repository.address, Listener(), promoted=True)
    assert git_repository.branches() == before


def test_a_promotion_that_the_server_refuses_is_told_in_its_words(
    git_repository: GitRepository, bundle: Path
) -> None:
    publish(bundle, git_repository.address, Listener())
    hook(git_repository, "update", "echo 'latest is guarded' >&2; exit 1")
    with pytest.raises(RemoteError, match="found latest is guarded"):
        promote(git_repository.address, "v1", Listener())
    assert LATEST not in git_repository.branches()


def test_a_number_that_another_pushes_a_moment_before_is_passed_over(
    git_repository: GitRepository, bundle: Path
) -> None:
    listener = Listener(when="pushing", then=lambda: git_repository.put(V1, {"theirs": b"x"}))
    assert publish(bundle, git_repository.address, listener) == V2
    assert git_repository.branches()[V1] == {"theirs": b"x"}
    assert without_card(git_repository.branches()[V2]) == bundle_files(bundle)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_promotion_that_another_overtakes_is_told_and_theirs_stays(
    git_repository: GitRepository, bundle: Path, is_first: bool
) -> None:
    publish(bundle, git_repository.address, Listener(), promoted=not is_first)
    publish(make_bundle(bundle.parent / "other", 1), git_repository.address, Listener())
    listener = Listener(when="pushing", then=lambda: git_repository.put(LATEST, {"theirs": b"x"}))
    with pytest.raises(RemoteError, match="found another promotion; look what it is now"):
        promote(git_repository.address, "v2", listener)
    assert git_repository.branches()[LATEST] == {"theirs": b"x"}


def test_only_files_that_are_needed_come_over_the_line(
    git_repository: GitRepository, bundle: Path, target: Path
) -> None:
    publish(bundle, git_repository.address, Listener())
    pull(PullOptions(git_repository.address, "v1", target), Listener())
    model = git_repository.git("rev-parse", f"{V1}:model.gguf").decode().strip()
    (git_repository.root / "objects" / model[:2] / model[2:]).unlink()
    (target / "heads.onnx").unlink()
    pull(PullOptions(git_repository.address, "v1", target), Listener())
    assert contents(target) == bundle_files(bundle)


def test_a_server_without_partial_clones_gives_the_same(
    git_repository: GitRepository, bundle: Path, target: Path
) -> None:
    git_repository.git("config", "uploadpack.allowFilter", "false")
    publish(bundle, git_repository.address, Listener())
    promote(git_repository.address, None, Listener())
    pull(PullOptions(git_repository.address, out=target), Listener())
    assert contents(target) == bundle_files(bundle)


def test_promoting_moves_a_branch_and_no_files(git_repository: GitRepository, bundle: Path) -> None:
    publish(bundle, git_repository.address, Listener())
    before = objects(git_repository)
    promote(git_repository.address, "v1", Listener())
    assert objects(git_repository) == before
    tips = git_repository.git("for-each-ref", "--format=%(objectname)").split()
    assert len(tips) == 2
    assert len(set(tips)) == 1


def test_what_was_just_published_is_promoted_without_a_download(
    git_repository: GitRepository, bundle: Path
) -> None:
    listener = Listener()
    publish(bundle, git_repository.address, listener, promoted=True)
    assert listener.downloads == []


def test_a_large_file_pointer_is_named_as_what_it_is(
    git_repository: GitRepository, bundle: Path, target: Path
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    git_repository.put(V1, bundle_files(bundle) | {"model.gguf": pointer})
    with pytest.raises(RemoteError, match=r"expected the file, found a Git LFS pointer;.*hf:owner"):
        pull(PullOptions(git_repository.address, "v1", target), Listener())


def test_who_publishes_is_who_git_says(
    git_repository: GitRepository, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(bundle, git_repository.address, Listener())
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    for number, (name, value) in enumerate({"user.name": "Kim", "user.email": "k@x"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    publish(bundle, git_repository.address, Listener())
    names = [git_repository.git("log", "--format=%an <%ae>", branch) for branch in (V1, V2)]
    assert names == [b"persona publish <persona@localhost>\n", b"Kim <k@x>\n"]


def test_settings_of_an_outer_git_do_no_harm(
    git_repository: GitRepository, bundle: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(bundle))
    monkeypatch.setenv("GIT_INDEX_FILE", str(bundle / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(bundle))
    publish(bundle, git_repository.address, Listener(), promoted=True)
    pull(PullOptions(git_repository.address, out=target), Listener())
    assert contents(target) == bundle_files(bundle)


def test_a_repository_that_is_not_there_is_told(
    hub: Hub, bundle: Path, tmp_path: Path, target: Path
) -> None:
    for address in (f"git+{tmp_path}/nothing.git", f"git+{hub.endpoint}/team/nothing.git"):
        for run in (
            lambda address=address: publish(bundle, address, Listener()),
            lambda address=address: pull(PullOptions(address, out=target), Listener()),
        ):
            with pytest.raises(RemoteError, match=r"a git repository.*create the repository if"):
                run()


def test_a_server_that_does_not_answer_is_told(bundle: Path) -> None:
    with pytest.raises(RemoteError, match=r"a git server that answers.*check the address and"):
        publish(bundle, "git+http://127.0.0.1:9/team/npc.git", Listener())


def test_without_rights_the_error_names_credentials_and_hides_the_password(
    hub: Hub, bundle: Path
) -> None:
    hub.before = lambda _: Reply.error(403, "no")
    address = f"git+{hub.endpoint.replace('//', '//kim:s3cret@')}/team/npc.git"
    with pytest.raises(RemoteError, match=r"the right to do this.*git credential helper") as caught:
        publish(bundle, address, Listener())
    assert "s3cret" not in str(caught.value)
    with open_remote(address, Listener()) as remote:
        assert remote.address == f"git+{hub.endpoint}/team/npc.git"
        assert remote.name == "npc"


def test_without_git_the_error_says_so(
    git_repository: GitRepository, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RemoteError, match="expected the git command, found none; install git"):
        publish(bundle, git_repository.address, Listener())


@pytest.mark.parametrize("when", ["pre-receive", "post-receive"])
def test_a_publisher_killed_while_the_server_takes_the_push_breaks_nothing(
    git_repository: GitRepository, bundle: Path, tmp_path: Path, when: str
) -> None:
    publish(bundle, git_repository.address, Listener(), promoted=True)
    latest = git_repository.branches()[LATEST]
    other = make_bundle(tmp_path / "other", 1)
    pid, done = tmp_path / "pid", tmp_path / "done"
    os.mkfifo(done)
    wait = f"while ! [ -s {pid} ]; do sleep 0.01; done; kill -9 $(cat {pid}); echo >{done}"
    hook(git_repository, when, wait)
    command = [sys.executable, "-m", "tests.export.killed", "publish", str(other)]
    with subprocess.Popen([*command, "--to", git_repository.address], cwd=ROOT) as process:
        pid.write_text(str(process.pid))
        done.read_text()
    assert process.returncode == -signal.SIGKILL
    (git_repository.root / "hooks" / when).unlink()
    branches = git_repository.branches()
    assert branches[LATEST] == latest
    assert without_card(branches.get(V2, bundle_files(other))) == bundle_files(other)
    branch = publish(other, git_repository.address, Listener(), promoted=True)
    assert branch == branch_of(versions(git_repository)[-1])
    assert not list((tmp_path / "cache" / "scratch").glob("persona-*"))
