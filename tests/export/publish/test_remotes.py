import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from export.errors import BuildError
from export.publish import promote, publish
from export.pull import PullOptions, pull
from export.remote import LATEST, RemoteError
from heads.bundle import MANIFEST, BundleError, load_bundle
from tests.export.remotes import (
    NOTICE,
    Files,
    FolderRepository,
    GitRepository,
    HubRepository,
    Listener,
    Repository,
    bundle_files,
    contents,
    make_bundle,
    versions,
    without_card,
)

V1, V2, V3 = (f"feature/model-v{number}" for number in (1, 2, 3))


def published(
    repository: Repository, folder: Path, seed: int = 0, *, promoted: bool = True
) -> Path:
    """A bundle, made and published."""
    bundle = make_bundle(folder / f"made-{seed}", seed)
    publish(bundle, repository.address, Listener(), promoted=promoted)
    return bundle


def pulled(
    repository: Repository, target: Path, revision: str = LATEST, listener: Listener | None = None
) -> dict[str, bytes]:
    """What a pull puts into `target`."""
    pull(PullOptions(repository.address, revision, target), listener or Listener())
    return contents(target)


def beside(target: Path) -> list[str]:
    """What lies beside the pulled folder and is not part of the test."""
    return sorted(p.name for p in target.parent.iterdir() if p.name.startswith(f".{target.name}"))


def test_a_pull_gives_what_was_published_and_promoted(
    repository: Repository, bundle: Path, target: Path
) -> None:
    assert publish(bundle, repository.address, Listener()) == V1
    promote(repository.address, "v1", Listener())
    found = pull(PullOptions(repository.address, out=target), Listener())
    assert contents(target) == bundle_files(bundle)
    assert found == load_bundle(target)
    assert found.id == load_bundle(bundle).id
    assert beside(target) == [f".{target.name}.lock"]


def test_a_version_holds_the_bundle_a_card_and_nothing_else(
    repository: Repository, bundle: Path
) -> None:
    publish(bundle, repository.address, Listener())
    version = repository.branches()[V1]
    assert without_card(version) == bundle_files(bundle)
    assert f"persona pull {repository.address}" in version["README.md"].decode()


def test_without_out_a_bundle_goes_to_the_cache_under_the_repositorys_name(
    repository: Repository, bundle: Path, tmp_path: Path
) -> None:
    publish(bundle, repository.address, Listener(), promoted=True)
    found = pull(PullOptions(repository.address), Listener())
    assert found.folder.parent == tmp_path / "cache" / "bundles"
    assert found.folder.name in ("npc", "shared")


def test_the_default_bundles_folder_is_not_taken_by_a_repository_of_its_name(
    tmp_path: Path, bundle: Path
) -> None:
    repository = FolderRepository(tmp_path / "default")
    publish(bundle, repository.address, Listener(), promoted=True)
    with pytest.raises(RemoteError, match="found 'default'; say where to with --out"):
        pull(PullOptions(repository.address), Listener())
    assert pulled(repository, tmp_path / "cache" / "bundles" / "default") == bundle_files(bundle)


def test_a_version_takes_the_number_after_the_highest(repository: Repository, bundle: Path) -> None:
    assert [publish(bundle, repository.address, Listener()) for _ in range(2)] == [V1, V2]
    repository.put("feature/model-v9", bundle_files(bundle))
    repository.put("feature/model-v10", bundle_files(bundle))
    assert publish(bundle, repository.address, Listener()) == "feature/model-v11"


def test_publishers_at_the_same_time_never_get_the_same_number(
    repository: Repository, tmp_path: Path
) -> None:
    bundles = [make_bundle(tmp_path / f"b{seed}", seed) for seed in range(4)]
    bundles.append(bundles[0])  # two publish the very same
    barrier = Barrier(len(bundles))

    def run(bundle: Path) -> str:
        barrier.wait()
        return publish(bundle, repository.address, Listener())

    with ThreadPoolExecutor(len(bundles)) as pool:
        branches = list(pool.map(run, bundles))
    assert versions(repository) == [1, 2, 3, 4, 5]
    found = repository.branches()
    for bundle, branch in zip(bundles, branches, strict=True):
        assert without_card(found[branch]) == bundle_files(bundle)


def test_publishing_alone_leaves_latest_as_it_is(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    first = published(repository, tmp_path)
    published(repository, tmp_path, 1, promoted=False)
    assert pulled(repository, target) == bundle_files(first)


def test_an_older_version_can_be_promoted_again_and_is_exactly_what_it_was(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    first = published(repository, tmp_path)

    def add_voices(manifest: dict[str, Any]) -> None:
        manifest["files"].append(manifest["files"][0] | {"path": "voices.bin"})

    second = tmp_path / "second"
    make_bundle(second, 0)
    (second / "voices.bin").write_bytes((second / "model.gguf").read_bytes())
    make_bundle(second, 0, add_voices)
    publish(second, repository.address, Listener(), promoted=True)
    assert pulled(repository, target) == bundle_files(second)
    promote(repository.address, "1", Listener())
    branches = repository.branches()
    assert branches[LATEST] == branches[V1]
    assert pulled(repository, target) == bundle_files(first)


def test_promoting_what_is_promoted_says_so_and_changes_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    published(repository, tmp_path)
    before, listener = repository.branches(), Listener()
    promote(repository.address, V1, listener)
    assert listener.lines[-1] == f"{repository.address} latest is already {V1}"
    assert repository.branches() == before


def spoiled(files: Files, how: str) -> dict[str, bytes]:
    """A version that is not whole."""
    changed = dict(files)
    model = changed["model.gguf"]
    if how == "no manifest":
        del changed[MANIFEST]
    elif how == "no model":
        del changed["model.gguf"]
    elif how == "a cut model":
        changed["model.gguf"] = model[:-1]
    elif how == "a flipped bit":
        changed["model.gguf"] = model[:-1] + bytes([model[-1] ^ 1])
    elif how == "a changed notice":
        changed[NOTICE] = b"do what you like\n"
    return changed


HALF_MADE = ["no manifest", "no model", "a cut model", "a flipped bit", "a changed notice"]


def test_a_version_that_is_not_whole_is_neither_promoted_nor_pulled(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    first = published(repository, tmp_path)
    files = bundle_files(make_bundle(tmp_path / "other", 1))
    for number, how in enumerate(HALF_MADE, 2):
        repository.put(f"feature/model-v{number}", spoiled(files, how))
    for number in range(2, len(HALF_MADE) + 2):
        with pytest.raises(RemoteError, match=rf"v{number}\b.*publish the bundle again, or choose"):
            promote(repository.address, str(number), Listener())
        with pytest.raises(RemoteError, match=rf"v{number}\b.*expected .*, found "):
            pull(PullOptions(repository.address, str(number), target), Listener())
        assert not target.exists()
    assert beside(target) == [f".{target.name}.lock"]
    assert pulled(repository, target) == bundle_files(first)


@pytest.mark.parametrize("how", ["no model", "a cut model", "a flipped bit"])
def test_a_pull_that_is_refused_leaves_the_bundle_that_was_here(
    repository: Repository, tmp_path: Path, target: Path, how: str
) -> None:
    first = published(repository, tmp_path)
    pulled(repository, target)
    files = bundle_files(make_bundle(tmp_path / "other", 1))
    repository.put(LATEST, spoiled(files, how))
    with pytest.raises(RemoteError, match=r"latest.*model\.gguf.*expected .*, found "):
        pull(PullOptions(repository.address, out=target), Listener())
    assert contents(target) == bundle_files(first)
    assert beside(target) == [f".{target.name}.lock"]


def test_without_a_version_the_highest_whole_one_is_promoted(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    second = published(repository, tmp_path, 1, promoted=False)
    repository.put(V3, spoiled(bundle_files(second), "no manifest"))
    listener = Listener()
    promote(repository.address, None, listener)
    assert listener.lines[0].startswith(f"passed over: {repository.address} {V3}: expected a whole")
    assert pulled(repository, target) == bundle_files(second)


def test_where_no_version_is_whole_there_is_nothing_to_promote(repository: Repository) -> None:
    with pytest.raises(RemoteError, match=r"a version that is whole, found none; run `persona pub"):
        promote(repository.address, None, Listener())


def test_latest_itself_cannot_be_promoted(repository: Repository, tmp_path: Path) -> None:
    published(repository, tmp_path)
    with pytest.raises(RemoteError, match="name one such as v3"):
        promote(repository.address, LATEST, Listener())


def test_a_branch_that_moves_while_it_is_pulled_still_gives_files_of_one_commit(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    first = published(repository, tmp_path)
    other = bundle_files(make_bundle(tmp_path / "other", 1))
    listener = Listener(when="downloading heads", then=lambda: repository.put(LATEST, other))
    assert pulled(repository, target, listener=listener) == bundle_files(first)
    assert listener.has_fired
    assert pulled(repository, target) == other


def test_a_manifest_that_names_a_path_outside_is_refused_before_anything_is_written(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    pulled(repository, target)
    files = bundle_files(make_bundle(tmp_path / "hostile", 1))
    manifest = json.loads(files[MANIFEST])
    manifest["files"].append(manifest["files"][0] | {"path": "../stolen"})
    repository.put(V2, files | {MANIFEST: json.dumps(manifest).encode()})
    before, listener = contents(target), Listener()
    with pytest.raises(RemoteError, match=r"plain paths inside the bundle.*found '\.\./stolen'"):
        pull(PullOptions(repository.address, "v2", target), listener)
    assert contents(target) == before
    assert set(listener.downloads) <= {MANIFEST}
    with pytest.raises(RemoteError, match="plain paths inside the bundle"):
        promote(repository.address, "v2", Listener())


def test_a_pull_of_what_is_here_already_downloads_and_writes_nothing(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    pulled(repository, target)
    before = {path: path.stat().st_ino for path in target.rglob("*")}
    listener = Listener()
    pulled(repository, target, listener=listener)
    assert set(listener.downloads) <= {MANIFEST}
    assert listener.lines[-1].startswith(f"{target} is up to date: {repository.address} latest")
    assert {path: path.stat().st_ino for path in target.rglob("*")} == before


def test_only_files_that_differ_are_downloaded(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    pulled(repository, target)
    second = published(repository, tmp_path, 1)
    listener = Listener()
    assert pulled(repository, target, listener=listener) == bundle_files(second)
    assert set(listener.downloads) - {MANIFEST} == {"model.gguf"}
    promote(repository.address, "v1", Listener())
    pulled(repository, target)
    assert load_bundle(target).manifest.training == {"seed": 0}


def test_a_file_that_was_damaged_here_is_downloaded_again(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    bundle = published(repository, tmp_path)
    pulled(repository, target)
    with (target / "heads.onnx").open("r+b") as file:
        file.write(b"\xff")
    listener = Listener()
    assert pulled(repository, target, listener=listener) == bundle_files(bundle)
    assert set(listener.downloads) - {MANIFEST} == {"heads.onnx"}
    assert any(line.startswith("pulling again: ") for line in listener.lines)


def test_another_bundle_that_is_replaced_is_named(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["name"] = "mine"

    make_bundle(target, change=rename)
    theirs = published(repository, tmp_path)
    listener = Listener()
    assert pulled(repository, target, listener=listener) == bundle_files(theirs)
    assert f"{target} held the bundle 'mine'; it is replaced" in listener.lines
    published(repository, tmp_path, 1)
    listener = Listener()
    pulled(repository, target, listener=listener)
    assert not any("is replaced" in line for line in listener.lines), "a newer one of its own"


def test_a_folder_with_someones_files_is_never_replaced(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match=r"thesis\.txt.*choose another --out"):
        pulled(repository, target)
    assert contents(target) == {"thesis.txt": b"years of work"}


def test_a_version_is_found_by_number_branch_and_commit(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    first = published(repository, tmp_path)
    published(repository, tmp_path, 1)
    listener = Listener()
    pulled(repository, target, "1", listener)
    commit = re.search(r"commit (\S+)\)", listener.lines[-1])
    assert commit
    for revision in ("v1", V1, full_commit(repository, commit[1])):
        pulled(repository, target)
        assert pulled(repository, target, revision) == bundle_files(first)


def full_commit(repository: Repository, start: str) -> str:
    """The whole id of a commit that begins so."""
    if isinstance(repository, GitRepository):
        return repository.git("rev-parse", start).decode().strip()
    if isinstance(repository, HubRepository):
        return next(commit for commit in repository.repo.commits if commit.startswith(start))
    return start


def test_an_unknown_revision_is_told_with_those_that_are_there(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path)
    published(repository, tmp_path, 1)
    for revision in ("v7", "feature/model-v7", "nightly", "v0", "a b"):
        with pytest.raises(RemoteError, match="found the versions v1, v2; name one that is there"):
            pulled(repository, target, revision)
    with pytest.raises(RemoteError, match=r"found the versions v1, v2|a commit that is there"):
        pulled(repository, target, "0" * 40)
    assert not target.exists()


def test_before_any_promotion_latest_is_missed_with_the_command_that_makes_it(
    repository: Repository, tmp_path: Path, target: Path
) -> None:
    published(repository, tmp_path, promoted=False)
    with pytest.raises(RemoteError, match=f"run `persona promote {re.escape(repository.address)}`"):
        pulled(repository, target)


@pytest.mark.parametrize("name", ["(c) note.txt", "Gemma: terms.txt", "terms/-x.txt"])
def test_a_licence_that_no_pull_would_take_is_not_published_without(
    folder_repository: FolderRepository, bundle: Path, name: str
) -> None:
    path = bundle / "LICENSES" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("terms")
    with pytest.raises(RemoteError, match=re.escape(repr(f"LICENSES/{name}")) + "; rename"):
        publish(bundle, folder_repository.address, Listener())
    assert folder_repository.branches() == {}


def test_hidden_files_among_licences_stay_at_home(
    folder_repository: FolderRepository, bundle: Path
) -> None:
    for hidden in (".DS_Store", ".cache/x.txt"):
        path = bundle / "LICENSES" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    publish(bundle, folder_repository.address, Listener())
    assert [path for path in folder_repository.branches()[V1] if "/." in path] == []


def test_licences_that_the_manifest_does_not_name_travel_too(
    repository: Repository, bundle: Path, target: Path
) -> None:
    (bundle / "LICENSES" / "terms").mkdir()
    (bundle / "LICENSES" / "terms" / "GEMMA.txt").write_text("all of them")
    publish(bundle, repository.address, Listener(), promoted=True)
    assert pulled(repository, target) == bundle_files(bundle)
    (target / "LICENSES" / "terms" / "GEMMA.txt").unlink()
    assert pulled(repository, target) == bundle_files(bundle)


def interrupt() -> None:
    raise KeyboardInterrupt


UPLOADS = {"folder": "uploading model.gguf", "git": "pushing", "hub": "uploading"}


@pytest.mark.parametrize("kind", UPLOADS)
def test_an_interrupted_upload_gives_its_claim_up_and_leaves_latest(
    request: pytest.FixtureRequest, tmp_path: Path, target: Path, kind: str
) -> None:
    repository: Repository = request.getfixturevalue(f"{kind}_repository")
    first = published(repository, tmp_path)
    bundle = make_bundle(tmp_path / "other", 1)
    with pytest.raises(KeyboardInterrupt):
        publish(bundle, repository.address, Listener(when=UPLOADS[kind], then=interrupt))
    assert versions(repository) == [1]
    assert pulled(repository, target) == bundle_files(first)


@pytest.mark.parametrize("moment", ["downloading LICENSES", "verifying"])
def test_an_interrupted_pull_leaves_the_bundle_that_was_here(
    repository: Repository, tmp_path: Path, target: Path, moment: str
) -> None:
    first = published(repository, tmp_path)
    pulled(repository, target)
    published(repository, tmp_path, 1)
    (target / NOTICE).unlink()  # so that it has to be downloaded
    before = contents(target)
    with pytest.raises(KeyboardInterrupt):
        pulled(repository, target, listener=Listener(when=moment, then=interrupt))
    assert contents(target) == before
    assert before == {p: raw for p, raw in bundle_files(first).items() if p != NOTICE}
    assert beside(target) == [f".{target.name}.lock"]
    assert not list((tmp_path / "cache" / "scratch").glob("persona-*"))


def test_a_bundle_that_is_not_whole_is_not_published(repository: Repository, bundle: Path) -> None:
    (bundle / "model.gguf").write_bytes(b"x")
    with pytest.raises(BundleError, match="200000 bytes"):
        publish(bundle, repository.address, Listener())
    (bundle / MANIFEST).unlink()
    with pytest.raises(BundleError, match="a readable manifest"):
        publish(bundle, repository.address, Listener())
    assert versions(repository) == []


def test_a_bundle_whose_files_could_not_be_pulled_is_not_published(
    repository: Repository, bundle: Path
) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["files"].append(manifest["files"][0] | {"path": ".hidden"})

    (bundle / ".hidden").write_bytes((bundle / "model.gguf").read_bytes())
    make_bundle(bundle, change=add)
    with pytest.raises(RemoteError, match=r"found '\.hidden'"):
        publish(bundle, repository.address, Listener())
    assert versions(repository) == []
