"""What the commands of `train` share."""

import argparse
import sys
from collections.abc import Callable
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
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
