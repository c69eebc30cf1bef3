"""`persona publish`, `promote` and `pull`: a bundle's way to a model repository and to servers."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from export.errors import ExportError
from export.publish import promote, publish
from export.pull import PullOptions, pull
from export.remote import LATEST
from export.reporter import RichReporter, TransferReporter
from heads.bundle import BundleError

_ADDRESS = "hf:owner/name, git+URL or a folder"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `publish`, `promote` and `pull`."""
    add = commands.add_parser("publish", help="upload a bundle as the next version").add_argument
    add("folder", type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--to", required=True, metavar="ADDRESS", help=_ADDRESS)
    add("--promote", action="store_true", help="let servers have it at once")
    commands.choices["publish"].set_defaults(run=run_publish)

    add = commands.add_parser("promote", help="let `latest` be a published version").add_argument
    add("address", metavar="ADDRESS", help=_ADDRESS)
    add("version", nargs="?", metavar="VERSION", help="v3, 3 or a branch (default: the newest)")
    commands.choices["promote"].set_defaults(run=run_promote)

    add = commands.add_parser("pull", help="fetch a published bundle").add_argument
    add("address", metavar="ADDRESS", help=_ADDRESS)
    add("--revision", default=LATEST, help="latest, v3, a branch or a commit (default: latest)")
    out_help = "where to (default: the user's cache, under the repository's name)"
    add("--out", type=Path, metavar="DIR", help=out_help)
    commands.choices["pull"].set_defaults(run=run_pull)


def run_publish(args: argparse.Namespace) -> int:
    """Publishes and prints the branch; 0 if it is there now."""

    def run(reporter: TransferReporter) -> str:
        return publish(args.folder, args.to, reporter, promoted=args.promote)

    return _told("publish", run)


def run_promote(args: argparse.Namespace) -> int:
    """Promotes; 0 if `latest` is that version now."""

    def run(reporter: TransferReporter) -> None:
        promote(args.address, args.version, reporter)

    return _told("promote", run)


def run_pull(args: argparse.Namespace) -> int:
    """Pulls and prints the folder; 0 if the bundle is there now."""

    def run(reporter: TransferReporter) -> str:
        bundle = pull(PullOptions(args.address, args.revision, args.out), reporter)
        folder = shlex.quote(str(bundle.folder))
        reporter.say(f"serve {bundle.id}: PERSONA_BUNDLE={folder} persona serve")
        return str(bundle.folder)

    return _told("pull", run)


def _told(command: str, run: Callable[[TransferReporter], str | None]) -> int:
    """Words go to stderr; what a script may want goes to stdout."""
    try:
        with RichReporter(Console(stderr=True)) as reporter:
            result = run(reporter)
    except (ExportError, BundleError, OSError) as error:
        print(f"persona {command}: {error}", file=sys.stderr)
        return 1
    if result is not None:
        print(result)
    return 0
