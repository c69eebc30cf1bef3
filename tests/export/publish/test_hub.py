import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.publish import promote, publish
from export.pull import PullOptions, pull
from export.remote import LATEST, RemoteError, branch_of
from heads.bundle import load_bundle
from tests.export.hub_server import Blob, Reply, Request
from tests.export.killed import ROOT
from tests.export.remotes import (
    HubRepository,
    Listener,
    bundle_files,
    contents,
    make_bundle,
    versions,
    without_card,
)

V1, V2 = branch_of(1), branch_of(2)


def answer(method: str, part: str, reply: Reply) -> Callable[[Request], Reply | None]:
    """Answers so whenever a request has that method and that in its path."""

    def before(request: Request) -> Reply | None:
        return reply if request.method == method and part in request.path else None

    return before


def once(method: str, part: str, act: Callable[[], object]) -> Callable[[Request], None]:
    """Does something when the first such request comes in, which is then answered as always."""
    has_acted = False

    def before(request: Request) -> None:
        nonlocal has_acted
        if not has_acted and request.method == method and part in request.path:
            has_acted = True
            act()

    return before


@pytest.fixture
def latest(hub_repository: HubRepository, tmp_path: Path) -> dict[str, bytes]:
    """What is promoted before anything goes wrong."""
    bundle = make_bundle(tmp_path / "first")
    publish(bundle, hub_repository.address, Listener(), promoted=True)
    return hub_repository.branches()[LATEST]


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "second", 1)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (("POST", "/commit/", Reply.error(500, "out of order")), "out of order.*try again later"),
        (("PUT", "/lfs/", Reply.error(403, "link expired")), "the right to do this.*HF_TOKEN"),
        (("POST", "/objects/batch", Reply.error(403, "quota")), "found 403 Forbidden: quota"),
        (("POST", "/preupload/", Reply.error(500, "out of order")), "the Hub to do as asked"),
        (("POST", "/verify", Reply.error(404, "never came")), "found 404.*never came"),
    ],
)
def test_an_upload_that_fails_half_way_is_told_and_gives_its_claim_up(
    hub_repository: HubRepository,
    latest: dict[str, bytes],
    second: Path,
    fault: tuple[str, str, Reply],
    told: str,
) -> None:
    hub_repository.hub.before = answer(*fault)
    with pytest.raises(RemoteError, match=told) as caught:
        publish(second, hub_repository.address, Listener(), promoted=True)
    assert "\n" not in str(caught.value)
    assert versions(hub_repository) == [1]
    assert hub_repository.branches()[LATEST] == latest
    hub_repository.hub.before = lambda _: None
    assert publish(second, hub_repository.address, Listener()) == V2


def test_a_claim_that_cannot_be_given_up_is_left_and_the_next_number_taken(
    hub_repository: HubRepository, latest: dict[str, bytes], second: Path
) -> None:
    def before(request: Request) -> Reply | None:
        is_hit = "/commit/" in request.path or request.method == "DELETE"
        return Reply.error(500, "out of order") if is_hit else None

    hub_repository.put("main", latest)  # a whole bundle, which the claim must not seem to hold
    hub_repository.hub.before = before
    with pytest.raises(RemoteError, match="out of order"):
        publish(second, hub_repository.address, Listener())
    hub_repository.hub.before = lambda _: None
    assert hub_repository.branches()[V2] == {}
    with pytest.raises(RemoteError, match=r"expected a whole version, found no bundle\.json"):
        promote(hub_repository.address, "v2", Listener())
    assert publish(second, hub_repository.address, Listener()) == branch_of(3)


def test_a_number_that_another_claims_a_moment_before_is_passed_over(
    hub_repository: HubRepository, bundle: Path
) -> None:
    repo = hub_repository.repo

    def claim() -> None:
        repo.branches[V1] = repo.branches["main"]

    hub_repository.hub.before = once("POST", "/branch/", claim)
    assert publish(bundle, hub_repository.address, Listener()) == V2


def test_what_lies_on_main_is_no_part_of_a_version(
    hub_repository: HubRepository, bundle: Path, tmp_path: Path
) -> None:
    files = bundle_files(make_bundle(tmp_path / "draft", 5)) | {"notes.txt": b"to do"}
    hub_repository.put("main", files)
    publish(bundle, hub_repository.address, Listener())
    assert without_card(hub_repository.branches()[V1]) == bundle_files(bundle)


def test_a_history_that_was_squashed_is_no_part_of_a_version(
    hub_repository: HubRepository, bundle: Path
) -> None:
    del hub_repository.repo.branches["main"]
    hub_repository.repo.commit("main", "squashed", {"notes.txt": Blob(b"to do")})
    publish(bundle, hub_repository.address, Listener())
    assert without_card(hub_repository.branches()[V1]) == bundle_files(bundle)


def test_a_promotion_is_one_commit_and_uploads_nothing(
    hub_repository: HubRepository, latest: dict[str, bytes], second: Path
) -> None:
    publish(second, hub_repository.address, Listener())
    hub_repository.hub.requests.clear()
    before = hub_repository.repo.branches[LATEST]
    promote(hub_repository.address, "v2", Listener())
    assert hub_repository.repo.branches[LATEST].parent == before
    asked = hub_repository.hub.requests
    assert sum("/commit/" in line for line in asked) == 1
    assert not any("/lfs/" in line or "/cdn/" in line for line in asked)
    assert hub_repository.branches()[LATEST] == hub_repository.branches()[V2]


@pytest.mark.parametrize("is_first", [True, False])
def test_two_promotions_at_the_same_time_never_mix_and_the_later_is_told(
    hub_repository: HubRepository, bundle: Path, second: Path, is_first: bool
) -> None:
    address = hub_repository.address
    publish(bundle, address, Listener(), promoted=not is_first)
    publish(second, address, Listener())
    files = hub_repository.branches()[V1]
    other = bundle_files(second) | {"theirs.txt": b"x"}
    part = "/branch/" if is_first else "/commit/"
    hub_repository.hub.before = once("POST", part, lambda: hub_repository.put(LATEST, other))
    with pytest.raises(RemoteError, match=r"found another promotion; look what it is now"):
        promote(address, "v2", Listener())
    assert hub_repository.branches()[LATEST] == other
    promote(address, "v1", Listener())
    assert hub_repository.branches()[LATEST] == files


def test_latest_that_moves_after_the_first_request_still_gives_files_of_one_commit(
    hub_repository: HubRepository, latest: dict[str, bytes], second: Path, target: Path
) -> None:
    other = bundle_files(second)
    for part in ("/tree/", "/resolve/", "/cdn/"):
        hub_repository.put(LATEST, latest)
        hub_repository.hub.before = once("GET", part, lambda: hub_repository.put(LATEST, other))
        pull(PullOptions(hub_repository.address, out=target), Listener())
        assert contents(target) == without_card(latest)
        pull(PullOptions(hub_repository.address, out=target), Listener())
        assert contents(target) == other


def test_a_bit_that_flips_on_the_way_is_noticed_and_the_bundle_here_stays(
    hub_repository: HubRepository, latest: dict[str, bytes], second: Path, target: Path
) -> None:
    pull(PullOptions(hub_repository.address, out=target), Listener())
    publish(second, hub_repository.address, Listener(), promoted=True)
    sha256 = hashlib.sha256((second / "model.gguf").read_bytes()).hexdigest()
    hub_repository.hub.flipped.add(sha256)
    with pytest.raises(RemoteError, match=rf"latest/model\.gguf: expected sha256 {sha256}"):
        pull(PullOptions(hub_repository.address, out=target), Listener())
    assert contents(target) == without_card(latest)
    hub_repository.hub.flipped.clear()
    pull(PullOptions(hub_repository.address, out=target), Listener())
    assert contents(target) == bundle_files(second)


def test_what_is_here_already_is_not_asked_for_again(
    hub_repository: HubRepository, latest: dict[str, bytes], second: Path, target: Path
) -> None:
    pull(PullOptions(hub_repository.address, out=target), Listener())
    hub_repository.hub.requests.clear()
    pull(PullOptions(hub_repository.address, out=target), Listener())
    downloads = [line for line in hub_repository.hub.requests if line.startswith("GET /")]
    assert [line for line in downloads if "/api/" not in line] == [
        f"GET /team/npc/resolve/{hub_repository.repo.branches[LATEST].id}/bundle.json"
    ]
    publish(second, hub_repository.address, Listener(), promoted=True)
    hub_repository.hub.requests.clear()
    pull(PullOptions(hub_repository.address, out=target), Listener())
    assert sum(line.startswith("GET /cdn/") for line in hub_repository.hub.requests) == 1


def test_a_repository_that_is_not_there_is_told(bundle: Path, target: Path) -> None:
    for run in (
        lambda: publish(bundle, "hf:team/nothing", Listener()),
        lambda: promote("hf:team/nothing", None, Listener()),
        lambda: pull(PullOptions("hf:team/nothing", out=target), Listener()),
    ):
        with pytest.raises(RemoteError, match=r"hf:team/nothing: expected a model repository.*log"):
            run()


@pytest.mark.parametrize("token", ["", "hf_of_a_stranger"])
def test_without_the_right_to_write_the_error_names_the_login(
    hub_repository: HubRepository, bundle: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(RemoteError, match=r"the right to do this.*run `hf auth login`, or set"):
        publish(bundle, hub_repository.address, Listener())
    assert versions(hub_repository) == []


def test_a_gated_repository_is_told(hub_repository: HubRepository, target: Path) -> None:
    gated = Reply.error(403, "Access to model team/npc is restricted", "GatedRepo")
    hub_repository.hub.before = answer("GET", "/api/", gated)
    with pytest.raises(RemoteError, match=r"access to a gated repository.*accept its terms"):
        pull(PullOptions(hub_repository.address, out=target), Listener())


def test_without_a_network_the_error_is_a_sentence(
    bundle: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for run in (
        lambda: publish(bundle, "hf:team/npc", Listener()),
        lambda: pull(PullOptions("hf:team/npc", out=target), Listener()),
    ):
        with pytest.raises(
            RemoteError, match=r"expected the Hub to answer.*check the network"
        ) as e:
            run()
        assert "\n" not in str(e.value)


def test_a_download_that_the_hub_refuses_is_told(
    hub_repository: HubRepository, latest: dict[str, bytes], target: Path
) -> None:
    hub_repository.hub.before = answer("HEAD", "heads.onnx", Reply.error(410, "no more"))
    with pytest.raises(RemoteError, match=r"latest heads\.onnx: expected .*no more"):
        pull(PullOptions(hub_repository.address, out=target), Listener())
    assert not target.exists()


def test_without_the_client_the_error_names_the_extra(
    bundle: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for run in (
        lambda: publish(bundle, "hf:team/npc", Listener()),
        lambda: pull(PullOptions("hf:team/npc", out=target), Listener()),
    ):
        with pytest.raises(RemoteError, match=r"pip install 'persona-chat-engine\[hub\]'"):
            run()


@pytest.mark.parametrize(
    ("moment", "is_whole"),
    [("PUT /lfs/", False), ("POST /preupload/", False), ("POST /commit/", True)],
)
def test_a_publisher_killed_while_the_hub_serves_it_breaks_nothing(
    hub_repository: HubRepository,
    latest: dict[str, bytes],
    second: Path,
    moment: str,
    is_whole: bool,
) -> None:
    method, part = moment.split()
    command = [sys.executable, "-m", "tests.export.killed", "publish", str(second)]
    with subprocess.Popen([*command, "--to", hub_repository.address], cwd=ROOT) as process:
        kill = once(method, part, lambda: os.kill(process.pid, signal.SIGKILL))
        hub_repository.hub.before = kill
    assert process.returncode == -signal.SIGKILL
    branches = hub_repository.branches()
    assert branches[LATEST] == latest
    assert without_card(branches[V2]) == (bundle_files(second) if is_whole else {})
    assert publish(second, hub_repository.address, Listener(), promoted=True) == branch_of(3)


def test_a_repository_with_more_branches_files_and_commits_than_a_page_is_read_whole(
    hub_repository: HubRepository, bundle: Path, target: Path
) -> None:
    for _ in range(4):
        hub_repository.put("main", {"notes.txt": b"to do"})
        publish(bundle, hub_repository.address, Listener())
    assert versions(hub_repository) == [1, 2, 3, 4]
    assert any("cursor=" in line for line in hub_repository.hub.requests)
    found = pull(PullOptions(hub_repository.address, "v4", target), Listener())
    assert found.id == load_bundle(bundle).id
