"""Reads what was published: the manifest of a version, whether it is whole, which files it has."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.remote import CARD, RemoteError, Snapshot
from heads.bundle import (
    HEADS,
    MANIFEST,
    MODEL,
    REBUILD,
    BundleError,
    FileEntry,
    Manifest,
    read_manifest,
)

LICENCES = "LICENSES"

_PUBLISH_AGAIN = "publish the bundle again, or choose another version"
_PART = re.compile(r"\w[^\\:\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class Published:
    """What a version says of itself."""

    manifest: Manifest
    raw_manifest: bytes
    licences: list[str]
    """Texts under LICENSES that the manifest does not name."""


def read_published(snapshot: Snapshot) -> Published:
    """The manifest, all its files inside the bundle and there. Raises RemoteError."""
    if MANIFEST not in snapshot.paths():
        expected, found = "a whole version", f"no {MANIFEST}: an upload broke off, or none of ours"
        raise RemoteError(snapshot.subject, expected, found, _PUBLISH_AGAIN)
    raw = snapshot.read(MANIFEST)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(raw)
        with bundle_errors_told(snapshot, Path(folder)):
            manifest = read_manifest(Path(folder))
    check_paths(manifest, f"{snapshot.subject} {MANIFEST}")
    paths = snapshot.paths()
    for entry in manifest.files:
        if entry.path not in paths:
            raise RemoteError(f"{snapshot.subject} {entry.path}", "a file", "none", _PUBLISH_AGAIN)
    return Published(manifest, raw, _unnamed_licences(snapshot, manifest))


def is_plain(path: str) -> bool:
    """Whether a path stays inside a bundle, and is no option, hidden or foreign to a system."""
    return all(map(_PART.fullmatch, path.split("/")))


def check_paths(manifest: Manifest, subject: str) -> None:
    """Raises RemoteError unless each file is named once, by a plain path inside the bundle."""
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        is_own = path in (MANIFEST, CARD)
        is_folder = any(other.startswith(f"{path}/") for other in paths)
        if not is_plain(path) or is_own or is_folder or paths.count(path) > 1:
            expected = "plain paths inside the bundle, each once"
            raise RemoteError(subject, expected, repr(path), "mend the manifest and publish again")
    for required in (MODEL, HEADS):
        if required not in paths:
            raise RemoteError(subject, f"an entry for {required}", "none", _PUBLISH_AGAIN)


def check_whole(snapshot: Snapshot) -> None:
    """Raises RemoteError unless all that the manifest names is there, of its size and hash."""
    for entry in read_published(snapshot).manifest.files:
        found = snapshot.entry(entry.path)
        if found != entry:
            subject, expected = f"{snapshot.subject} {entry.path}", _describe(entry)
            raise RemoteError(subject, expected, _describe(found), _PUBLISH_AGAIN)


def _describe(entry: FileEntry) -> str:
    return f"{entry.size} bytes, sha256 {entry.sha256}"


@contextmanager
def bundle_errors_told(snapshot: Snapshot, folder: Path) -> Iterator[None]:
    """A BundleError about what was fetched into `folder` becomes one about the version."""
    try:
        yield
    except BundleError as error:
        subject = error.file.replace(str(folder), snapshot.subject)
        remedy = _PUBLISH_AGAIN if error.remedy == REBUILD else error.remedy
        raise RemoteError(subject, error.expected, error.found, remedy) from error


def _unnamed_licences(snapshot: Snapshot, manifest: Manifest) -> list[str]:
    named = {entry.path for entry in manifest.files}
    return sorted(
        path
        for path in snapshot.paths() - named
        if path.startswith(f"{LICENCES}/") and is_plain(path)
    )
