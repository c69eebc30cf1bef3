from pathlib import Path

import msgspec
import pytest

from export.published import check_paths
from export.remote import RemoteError, number_of, revision_of
from heads.bundle import FileEntry, read_manifest


def check(bundle: Path, *paths: str) -> None:
    manifest = read_manifest(bundle)
    more = tuple(FileEntry(path, 0, "0" * 64) for path in paths)
    check_paths(msgspec.structs.replace(manifest, files=manifest.files + more), "it")


@pytest.mark.parametrize(
    "path",
    [
        "../stolen",
        "/etc/passwd",
        "a/../../stolen",
        "a/./b",
        "a//b",
        "a/",
        "",
        ".",
        "..",
        ".git/hooks/post-checkout",
        ".cache/x",
        "..\\stolen",
        "C:\\stolen",
        "C:stolen",
        "a\nb",
        "a\0b",
        "-option",
        "bundle.json",
        "README.md",
        "model.gguf",
        "model.gguf/x",
    ],
)
def test_a_path_that_could_do_harm_is_refused(bundle: Path, path: str) -> None:
    with pytest.raises(RemoteError, match="plain paths inside the bundle, each once"):
        check(bundle, path)


def test_ordinary_paths_are_fine(bundle: Path) -> None:
    check(bundle, "LICENSES/a/b-2.txt", "fallback.gguf", "설명서 (1).txt", "LICENSES.md")


def test_a_manifest_without_model_or_heads_is_refused(bundle: Path) -> None:
    manifest = msgspec.structs.replace(read_manifest(bundle), files=())
    with pytest.raises(RemoteError, match=r"an entry for model\.gguf, found none"):
        check_paths(manifest, "it")


def test_versions_are_known_by_their_branches() -> None:
    names = {"feature/model-v12": 12, "feature/model-v0": None, "feature/model-vx": None}
    names |= {"feature/model-v": None, "v3": None, "latest": None, "feature/model-v1a": None}
    assert {name: number_of(name) for name in names} == names


def test_a_number_is_short_for_its_branch() -> None:
    short = {"3": "feature/model-v3", "v12": "feature/model-v12", "latest": "latest", "v0": "v0"}
    short |= {"1" * 40: "1" * 40, "nightly": "nightly"}
    assert {text: revision_of(text) for text in short} == short
