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


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files beside and rename them once all are written: to stop before changes none."""
    beside = {path: path.with_name(f".{path.name}.tmp") for path in contents}
    for path, content in contents.items():
        beside[path].write_bytes(content)
    for path in contents:
        beside[path].replace(path)
