"""Publishes a bundle as the next version of a model repository, and promotes versions."""

from pathlib import Path

from export.address import open_remote
from export.model_card import model_card
from export.published import LICENCES, check_paths, check_whole, is_plain
from export.remote import (
    CARD,
    LATEST,
    Remote,
    RemoteError,
    Snapshot,
    Upload,
    branch_of,
    os_errors_told,
    revision_of,
)
from export.reporter import TransferReporter
from heads.bundle import MANIFEST, Bundle, load_bundle


def publish(
    folder: Path, address: str, reporter: TransferReporter, *, promoted: bool = False
) -> str:
    """The branch that the bundle in `folder` became.

    Raises ExportError or BundleError; then, and on Ctrl-C, `latest` is what it was, and the claimed
    branch is gone wherever it could be removed.
    """
    bundle = _verified(folder, reporter)
    with open_remote(address, reporter) as remote:
        branch = branch_of(remote.publish(_uploads(bundle, remote.address)))
        reporter.say(f"published {bundle.id} as {remote.address} {branch}")
        if promoted:
            _promote(remote, _checked(remote, branch), reporter)
    return branch


def promote(address: str, version: str | None, reporter: TransferReporter) -> None:
    """Makes `latest` what `version` is; None is the highest version that is whole.

    Raises ExportError; then `latest` is what it was.
    """
    with open_remote(address, reporter) as remote:
        snapshot = _newest(remote, reporter) if version is None else _named(remote, version)
        _promote(remote, snapshot, reporter)


def _verified(folder: Path, reporter: TransferReporter) -> Bundle:
    done = reporter.stage("verifying")
    with os_errors_told(folder, "a bundle that can be read", "check your rights to it"):
        bundle = load_bundle(folder, on_progress=done)
    check_paths(bundle.manifest, str(folder / MANIFEST))
    if not (folder / LICENCES).is_dir():
        reporter.say(f"note: {folder} has no {LICENCES}; the base's terms may ask for one")
    return bundle


def _uploads(bundle: Bundle, address: str) -> list[Upload]:
    """Manifest, card, what the manifest names, and all licences."""
    paths = {MANIFEST, *(entry.path for entry in bundle.manifest.files), *_licences(bundle.folder)}
    files = [Upload(path, bundle.folder / path) for path in sorted(paths)]
    return [*files, Upload(CARD, model_card(bundle, address).encode())]


def _licences(folder: Path) -> list[str]:
    """All texts under LICENSES but hidden ones. Raises RemoteError for what no pull would take."""
    found = [path for path in (folder / LICENCES).rglob("*") if path.is_file()]
    paths = [path.relative_to(folder).as_posix() for path in found if not path.is_symlink()]
    shown = [path for path in paths if "/." not in path]
    for path in shown:
        if not is_plain(path):
            expected = "a name that begins with a letter, a digit or _, without : and \\"
            raise RemoteError(str(folder / LICENCES), expected, repr(path), "rename the file")
    return shown


def _named(remote: Remote, version: str) -> Snapshot:
    if version == LATEST:
        expected = "the version that shall become `latest`"
        raise RemoteError(remote.address, expected, "`latest` itself", "name one such as v3")
    return _checked(remote, revision_of(version))


def _newest(remote: Remote, reporter: TransferReporter) -> Snapshot:
    for number in reversed(remote.versions()):
        try:
            return _checked(remote, branch_of(number))
        except RemoteError as error:
            reporter.say(f"passed over: {error}")
    remedy = f"run `persona publish BUNDLE --to {remote.address}`"
    raise RemoteError(remote.address, "a version that is whole", "none", remedy)


def _checked(remote: Remote, revision: str) -> Snapshot:
    snapshot = remote.snapshot(revision)
    check_whole(snapshot)
    return snapshot


def _promote(remote: Remote, snapshot: Snapshot, reporter: TransferReporter) -> None:
    has_changed = remote.promote(snapshot)
    text = "is now" if has_changed else "is already"
    reporter.say(f"{remote.address} {LATEST} {text} {snapshot.subject.rpartition(' ')[2]}")
