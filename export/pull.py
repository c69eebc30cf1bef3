"""Pulls a bundle: all its files from one commit, verified, swapped in as a whole or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from export import folder_swap
from export.address import open_remote
from export.published import LICENCES, Published, bundle_errors_told, read_published
from export.remote import LATEST, Remote, RemoteError, Snapshot, revision_of
from export.reporter import TransferReporter
from heads.bundle import (
    AGREEMENT,
    HEADS,
    HEADS_RECORD,
    MANIFEST,
    MODEL,
    Bundle,
    BundleError,
    FileEntry,
    Manifest,
    cache_folder,
    default_bundle_folder,
    file_sha256,
    load_bundle,
    read_manifest,
)

_OWN = frozenset({MANIFEST, MODEL, HEADS, HEADS_RECORD, AGREEMENT, LICENCES})


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What to pull, and where to: None is a folder in the cache, named after the repository."""

    address: str
    revision: str = LATEST
    out: Path | None = None


def pull(options: PullOptions, reporter: TransferReporter) -> Bundle:
    """The bundle, in place and verified; nothing is written if it is there already.

    Raises ExportError; then, and on Ctrl-C, the previous folder is intact.
    """
    with open_remote(options.address, reporter) as remote:
        target = (options.out or _default_folder(remote)).absolute()
        reporter.stage("asking what there is")
        snapshot = remote.snapshot(revision_of(options.revision))
        lock = folder_swap.locked(target, lambda: reporter.say("waiting for another pull"))
        with folder_swap.write_errors_told(target), lock:
            wanted = read_published(snapshot)
            if _is_current(target, wanted, reporter):
                reporter.say(f"{target} is up to date: {_describe(snapshot)}")
            else:
                here = _manifest_in(target)
                folder_swap.refuse_foreign(target, _own(here))
                if here is not None and here.name != wanted.manifest.name:
                    reporter.say(f"{target} held the bundle {here.name!r}; it is replaced")
                with folder_swap.replaced(target) as new:
                    _fill(new, target, snapshot, wanted, reporter)
                reporter.say(f"pulled {_describe(snapshot)} to {target}")
    return Bundle(target, wanted.manifest)


def _default_folder(remote: Remote) -> Path:
    folder = cache_folder() / "bundles" / remote.name
    if remote.name.startswith(".") or not remote.name or folder == default_bundle_folder():
        expected = "a repository with a name, other than the default bundle's"
        raise RemoteError(remote.address, expected, repr(remote.name), "say where to with --out")
    return folder


def _describe(snapshot: Snapshot) -> str:
    commit = snapshot.commit
    return f"{snapshot.subject} (commit {commit if '/' in commit else commit[:12]})"


def _is_current(target: Path, wanted: Published, reporter: TransferReporter) -> bool:
    manifest = target / MANIFEST
    if not manifest.is_file() or manifest.read_bytes() != wanted.raw_manifest:
        return False
    size = sum(entry.size for entry in wanted.manifest.files)
    try:
        load_bundle(target, on_progress=reporter.stage("verifying what is here", size))
    except BundleError as error:
        reporter.say(f"pulling again: {error}")
        return False
    return all((target / path).is_file() for path in wanted.licences)


def _manifest_in(target: Path) -> Manifest | None:
    """That of the bundle that is to be replaced, if it can be read."""
    try:
        return read_manifest(target)
    except BundleError:
        return None


def _own(here: Manifest | None) -> frozenset[str]:
    """Names that a pull may replace: those of any bundle, and what the one here lists."""
    files = here.files if here else ()
    return _OWN | {entry.path.split("/")[0] for entry in files}


def _fill(
    new: Path, old: Path, snapshot: Snapshot, wanted: Published, reporter: TransferReporter
) -> None:
    (new / MANIFEST).write_bytes(wanted.raw_manifest)
    for entry in wanted.manifest.files:
        if not _reuse(old, new, entry):
            snapshot.fetch(entry.path, new)
    for path in wanted.licences:
        snapshot.fetch(path, new)
    size = sum(entry.size for entry in wanted.manifest.files)
    done = reporter.stage("verifying", size)
    with bundle_errors_told(snapshot, new):
        load_bundle(new, on_progress=done)


def _reuse(old: Path, new: Path, entry: FileEntry) -> bool:
    """Whether the file was here already, and is in `new` now."""
    source, target = old / entry.path, new / entry.path
    if source.is_symlink() or not source.is_file() or source.stat().st_size != entry.size:
        return False
    if file_sha256(source) != entry.sha256:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
    return True
