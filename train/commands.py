"""What the commands of `train` share."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from train.dataset import DatasetError


def or_say_why(
    command: str, run: Callable[[argparse.Namespace], None]
) -> Callable[[argparse.Namespace], int]:
    """`run` as a command: exit code 0, or 1 with the reason where the dataset does not allow it."""

    def wrapped(args: argparse.Namespace) -> int:
        try:
            run(args)
        except DatasetError as error:
            print(f"persona {command}: {error}", file=sys.stderr)
            return 1
        return 0

    return wrapped


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside and rename it: there is the old one or the new one, never a part."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
