from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heads.bundle import BundleError, cache_folder, default_bundle_folder, load_bundle
from tests.heads.bundles import entry_of, write_bundle

Change = Callable[[dict[str, Any]], None]


def error_of(folder: Path, **options: Any) -> BundleError:
    """The error that loading gives; its text must hold all four parts."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder, **options)
    error = caught.value
    for part in (error.file, error.expected, error.found, error.remedy):
        assert part
        assert part in str(error)
    assert "persona" in error.remedy
    return error


def test_a_whole_bundle_loads(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    assert bundle.manifest.n_embd == 8
    assert bundle.model == tmp_path / "model.gguf"
    assert bundle.heads == tmp_path / "heads.onnx"
    assert bundle.manifest.heads.flags[0].name == "give_item"


def test_two_builds_have_different_ids(tmp_path: Path) -> None:
    first = load_bundle(write_bundle(tmp_path / "a")).id
    again = load_bundle(write_bundle(tmp_path / "b")).id

    def retrain(manifest: dict[str, Any]) -> None:
        manifest["training"] = {"epochs": 2}

    other = load_bundle(write_bundle(tmp_path / "c", change=retrain)).id
    assert first == again != other


def test_hashing_tells_its_progress(tmp_path: Path) -> None:
    sizes: list[int] = []
    bundle = load_bundle(write_bundle(tmp_path), on_progress=sizes.append)
    assert sum(sizes) == sum(entry.size for entry in bundle.manifest.files)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    error = error_of(tmp_path)
    assert error.file == str(tmp_path / "bundle.json")
    assert error.found == "No such file or directory"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b'{"format": "\xff"}', b"[]", b"{}"])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, raw: bytes) -> None:
    write_bundle(tmp_path)
    (tmp_path / "bundle.json").write_bytes(raw)
    assert error_of(tmp_path).file == str(tmp_path / "bundle.json")


@pytest.mark.parametrize("key", ["training", "a key that nobody knows"])
def test_a_manifest_nested_too_deep_is_refused(tmp_path: Path, key: str) -> None:
    path = write_bundle(tmp_path) / "bundle.json"
    nested = "[" * 100_000 + "]" * 100_000
    path.write_text(path.read_text()[:-1] + f', "{key}": {{"a": {nested}}}}}')
    assert "recursion" in error_of(tmp_path).found


def test_a_manifest_of_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    error = error_of(write_bundle(tmp_path, change=lambda m: m.update(format=2, new_key=1)))
    assert (error.expected, error.found) == ("bundle format 1", "format 2")
    assert error.remedy == "update persona-chat-engine"


def test_a_manifest_of_an_older_format_asks_for_a_rebuild(tmp_path: Path) -> None:
    error = error_of(write_bundle(tmp_path, change=lambda m: m.update(format=0)))
    assert "persona bundle build" in error.remedy


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("n_embd"), "n_embd"),
        (lambda m: m.update(n_embd=0), "n_embd"),
        (lambda m: m.update(colour="blue"), "colour"),
        (lambda m: m["heads"]["flags"][0].update(threshold=2), "heads.flags[0].threshold"),
        (lambda m: m["files"][0].update(sha256="abc"), "files[0].sha256"),
        (lambda m: m["files"][0].update(size=-1), "files[0].size"),
        (lambda m: m.update(special_tokens={"<STATE>": -1}), "special_tokens"),
        (lambda m: m.update(context={"n_batch": 1}), "context.n_batch"),
        (lambda m: m.update(context={"n_batch": 2**33}), "context.n_batch"),
        (lambda m: m.update(context={"n_ubatch": 1}), "context.n_ubatch"),
        (lambda m: m.update(context={"n_ubatch": 2**33}), "context.n_ubatch"),
        (lambda m: m["heads"]["flags"].append({"name": "give_item"}), "a name twice"),
    ],
)
def test_a_manifest_outside_the_schema_is_refused_by_key(
    tmp_path: Path, change: Change, named: str
) -> None:
    assert named in error_of(write_bundle(tmp_path, change=change)).found


@pytest.mark.parametrize("missing", ["model.gguf", "heads.onnx"])
def test_a_manifest_must_list_model_and_heads(tmp_path: Path, missing: str) -> None:
    def drop(manifest: dict[str, Any]) -> None:
        manifest["files"] = [e for e in manifest["files"] if e["path"] != missing]

    assert error_of(write_bundle(tmp_path, change=drop)).expected == f"an entry for {missing}"


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "/etc/hostname", "..\\secret", "", ".", ".."]
)
def test_a_path_out_of_the_bundle_is_refused_even_where_a_file_is(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    stray = {**entry_of(tmp_path / "secret"), "path": path}
    folder = write_bundle(tmp_path / "bundle", change=lambda m: m["files"].append(stray))
    error = error_of(folder, verify_hashes=False)
    assert error.expected == "paths inside the bundle"
    assert error.found == repr(path)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "model.gguf").rename(tmp_path / "elsewhere.gguf")
    (folder / "model.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    error = error_of(folder)
    assert error.file == str(folder / "model.gguf")
    assert str(tmp_path / "elsewhere.gguf") in error.found


def test_a_linked_folder_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "notice").write_bytes(b"text")
    stray = {**entry_of(tmp_path / "outside" / "notice"), "path": "LICENSES/notice"}
    folder = write_bundle(tmp_path / "bundle", change=lambda m: m["files"].append(stray))
    (folder / "LICENSES").symlink_to(tmp_path / "outside")
    assert error_of(folder).expected == "a file inside the bundle"


def test_a_bundle_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(write_bundle(tmp_path / "v3"))
    assert load_bundle(tmp_path / "latest").manifest.name == "test"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "heads.onnx").unlink()
    error = error_of(folder)
    assert (error.file, error.found) == (str(folder / "heads.onnx"), "none")


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 3_000 + "b"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path, path: str) -> None:
    stray = {"path": path, "size": 1, "sha256": "0" * 64}
    error = error_of(write_bundle(tmp_path, change=lambda m: m["files"].append(stray)))
    assert (error.expected, error.found) == ("a readable file", "File name too long")


def test_a_truncated_file_is_told_by_its_size(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "model.gguf").write_bytes(b"GGUF")
    error = error_of(folder, verify_hashes=False)
    assert (error.expected, error.found) == ("15 bytes", "4 bytes")


def test_a_changed_file_of_the_same_size_is_told_by_its_hash(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "model.gguf").write_bytes(b"GGUF, or merely")
    error = error_of(folder)
    assert error.file == str(folder / "model.gguf")
    assert (
        error.expected
        == "sha256 " + load_bundle(folder, verify_hashes=False).manifest.files[0].sha256
    )


def test_the_hash_check_can_be_skipped(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "model.gguf").write_bytes(b"GGUF, or merely")
    assert load_bundle(folder, verify_hashes=False).folder == folder


def test_bundles_live_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PERSONA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "persona-chat-engine"
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "own"))
    assert default_bundle_folder() == tmp_path / "own" / "bundles" / "default"
    monkeypatch.delenv("PERSONA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "persona-chat-engine"
