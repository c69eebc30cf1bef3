"""A build in a process of its own: `build_once.py OUT BASE HEADS kill|disk STAGE-OR-BYTES`."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from export.build import build
from export.build_key import BuildOptions
from export.errors import BuildError


class Reporter:
    """Kills its own process when a stage of a given name begins."""

    def __init__(self, deadly: str | None) -> None:
        self._deadly = deadly

    def stage(self, name: str, num_bytes: int | None = None) -> Callable[[int], None]:
        if self._deadly and name.startswith(self._deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        return lambda _: None

    def say(self, text: str) -> None:
        print(text)


def main() -> int:
    out, base, heads = map(Path, sys.argv[1:4])
    how, argument = sys.argv[4:6]
    if how == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(argument), int(argument)))
    options = BuildOptions(out, base=base, heads=heads, force=True)
    try:
        build(options, Reporter(argument if how == "kill" else None))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
