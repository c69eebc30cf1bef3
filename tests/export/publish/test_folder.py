import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from export.publish import promote, publish
from export.pull import PullOptions, pull
from export.remote import LATEST, RemoteError, branch_of
from tests.export.remotes import (
    FolderRepository,
    Listener,
    bundle_files,
    contents,
    make_bundle,
    versions,
    without_card,
)


def test_a_folder_that_is_not_there_yet_is_made_by_the_first_publication(
    bundle: Path, tmp_path: Path
) -> None:
    address = str(tmp_path / "models")
    publish(bundle, address, Listener(), promoted=True)
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == [".lock", LATEST, "versions"]
    assert (tmp_path / "models" / LATEST).read_text() == "feature/model-v1\n"
    assert (tmp_path / "models" / "versions" / "feature-model-v1" / "bundle.json").is_file()


def test_a_folder_whose_parent_is_missing_is_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"/unmounted: expected a folder, found none; check"):
        publish(bundle, str(tmp_path / "unmounted" / "models"), Listener())


def test_a_folder_with_other_files_is_not_published_into(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("x")
    with pytest.raises(RemoteError, match=r"found chapter1\.txt; name another folder"):
        publish(bundle, str(tmp_path / "thesis"), Listener())
    with pytest.raises(RemoteError, match=r"expected a folder, found a file"):
        publish(bundle, str(tmp_path / "thesis" / "chapter1.txt"), Listener())
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.txt"]


def test_a_missing_folder_is_told_and_how_other_addresses_are_written(
    tmp_path: Path, target: Path
) -> None:
    address = str(tmp_path / "team" / "npc")
    for run in (
        lambda: pull(PullOptions(address, out=target), Listener()),
        lambda: promote(address, None, Listener()),
    ):
        with pytest.raises(RemoteError, match=r"found none; check the path; .* hf:owner/name or"):
            run()


def test_many_publishers_at_once_fill_the_numbers_without_a_gap(
    folder_repository: FolderRepository, tmp_path: Path
) -> None:
    bundles = [make_bundle(tmp_path / f"b{seed}", seed) for seed in range(8)]
    start = threading.Barrier(8)

    def run(bundle: Path) -> list[str]:
        start.wait()
        return [publish(bundle, folder_repository.address, Listener()) for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        branches = list(pool.map(run, bundles))
    assert versions(folder_repository) == list(range(1, 33))
    found = folder_repository.branches()
    for bundle, own in zip(bundles, branches, strict=True):
        for branch in own:
            assert without_card(found[branch]) == bundle_files(bundle)


def test_a_number_that_another_claims_a_moment_before_is_passed_over(
    folder_repository: FolderRepository, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def overtaken(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "feature-model-v1":
            mkdir(path, exist_ok=True)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert publish(bundle, folder_repository.address, Listener()) == branch_of(2)
    assert folder_repository.branches()[branch_of(1)] == {}


def test_promotions_at_the_same_time_leave_one_of_them(
    folder_repository: FolderRepository, bundle: Path, target: Path
) -> None:
    for _ in range(4):
        publish(bundle, folder_repository.address, Listener())

    def run(number: int) -> None:
        promote(folder_repository.address, str(number), Listener())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, [1, 2, 3, 4] * 8))
    assert folder_repository.branches()[LATEST]
    pull(PullOptions(folder_repository.address, out=target), Listener())
    assert contents(target) == bundle_files(bundle)


def test_latest_that_names_nothing_is_told(
    folder_repository: FolderRepository, bundle: Path, target: Path
) -> None:
    publish(bundle, folder_repository.address, Listener())
    for text in (b"", b"\xff", b"../../etc", b"feature/model-v7\n"):
        (folder_repository.root / LATEST).write_bytes(text)
        with pytest.raises(RemoteError, match="run `persona promote"):
            pull(PullOptions(folder_repository.address, out=target), Listener())
    promote(folder_repository.address, None, Listener())
    assert (folder_repository.root / LATEST).read_text().strip() == branch_of(1)


def test_a_folder_that_another_publisher_begins_a_moment_before_is_not_foreign(
    folder_repository: FolderRepository, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, iterdir = folder_repository.root, Path.iterdir
    root.mkdir(exist_ok=True)

    def overtaken(path: Path) -> Iterator[Path]:
        if path == root:
            (root / "versions").mkdir(exist_ok=True)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", overtaken)
    assert publish(bundle, folder_repository.address, Listener()) == branch_of(1)
