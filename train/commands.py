"""What the commands of `train` share."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from export.errors import ExportError
from train.dataset import DatasetError


def or_say_why(
    command: str, run: Callable[[argparse.Namespace], int | None]
) -> Callable[[argparse.Namespace], int]:
    """`run` as a command: its exit code (0 for none), or 1 with the reason why it fails."""

    def wrapped(args: argparse.Namespace) -> int:
        try:
            return run(args) or 0
        except (DatasetError, ExportError) as error:
            print(f"persona {command}: {error}", file=sys.stderr)
            return 1

    return wrapped


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside and rename it: there is the old one or the new one, never a part."""
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes], *, sealed_by: Path | None = None) -> None:
    """Write files beside and rename them once all are written: to stop before changes none.

    `sealed_by` is one of them without which the others are of no use: it goes first and comes back
    last, so that to stop between the renames leaves no mix of old and new.
    """
    beside = {path: path.with_name(f".{path.name}.tmp") for path in contents}
    for path, content in contents.items():
        beside[path].write_bytes(content)
    if sealed_by is not None:
        sealed_by.unlink(missing_ok=True)
    for path in sorted(contents, key=lambda path: path == sealed_by):
        beside[path].replace(path)
