import random
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL

import pytest

from export.publish import publish
from export.pull import PullOptions, pull
from export.remote import LATEST, branch_of
from heads.bundle import MANIFEST, load_bundle
from tests.export.hub_server import Hub
from tests.export.killed import acts, run_killed
from tests.export.remotes import (
    Listener,
    Repository,
    bundle_files,
    contents,
    environment,
    make_bundle,
    versions,
    without_card,
)

NUM_POINTS = 8


def points(total: int) -> list[int]:
    """Where to kill: a sample of all acts, the last ones always among them."""
    last = range(max(1, total - 3), total + 1)
    return sorted({*last, *random.Random(0).sample(range(1, total + 1), min(total, NUM_POINTS))})


@pytest.fixture
def variables(hub: Hub, tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path / "cache", hub)


def scratch(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "scratch").glob("persona-*"))


def test_a_publisher_killed_at_any_point_leaves_a_whole_latest_and_the_next_one_succeeds(
    repository: Repository, tmp_path: Path, variables: Mapping[str, str]
) -> None:
    log, known = tmp_path / "log", []
    first = make_bundle(tmp_path / "first", 1000)
    command = ["--to", repository.address, "--promote"]
    assert run_killed(["publish", str(first), *command], variables, log, None) == 0
    known.append(bundle_files(first))
    latest = known[0]
    for point in points(acts(log)):
        bundle = make_bundle(tmp_path / f"b{point}", point)
        known.append(bundle_files(bundle))
        code = run_killed(["publish", str(bundle), *command], variables, log, point)
        assert code == -SIGKILL or acts(log) < point  # it had less to tidy up this time
        branches = repository.branches()
        found = without_card(branches[LATEST])
        assert found in (latest, known[-1])
        latest = found
        whole = [without_card(files) for files in branches.values() if MANIFEST in files]
        assert all(files in known for files in whole)
    highest = versions(repository)[-1]
    branch = publish(first, repository.address, Listener(), promoted=True)
    assert branch == branch_of(highest + 1)
    assert without_card(repository.branches()[LATEST]) == bundle_files(first)
    assert scratch(tmp_path) == []


def test_a_pull_killed_at_any_point_leaves_a_whole_bundle_and_the_next_one_succeeds(
    repository: Repository, tmp_path: Path, target: Path, variables: Mapping[str, str]
) -> None:
    log, command = tmp_path / "log", ["pull", repository.address, "--out", str(target)]
    both = [make_bundle(tmp_path / f"b{seed}", seed) for seed in range(2)]
    for bundle in both:
        publish(bundle, repository.address, Listener())
    revisions = ["v1", "v2"]
    assert run_killed([*command, "--revision", "v1"], variables, log, None) == 0
    assert run_killed([*command, "--revision", "v2"], variables, log, None) == 0
    for round_, point in enumerate(points(acts(log))):
        revision = revisions[round_ % 2]
        code = run_killed([*command, "--revision", revision], variables, log, point)
        assert code == -SIGKILL or acts(log) < point
        here = target if target.exists() else target.with_name(f".{target.name}.old")
        load_bundle(here)
        assert contents(here) in [bundle_files(bundle) for bundle in both]
        pull(PullOptions(repository.address, revision, target), Listener())
        assert contents(target) == bundle_files(both[round_ % 2])
        beside = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert beside == [f".{target.name}.lock"]
    assert scratch(tmp_path) == []
