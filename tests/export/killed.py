"""Commands in processes of their own that are killed (-9) just before their n-th act on the world.

An act is a file opened to be written, renamed, linked or removed, a folder made, a process started,
a connection made.
"""

import multiprocessing
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]

_ACTS = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "socket.connect")
_WRITES = os.O_WRONLY | os.O_RDWR

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["huggingface_hub", "export.publish_cli", __name__])


def is_act(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event changes something outside the process."""
    if event == "open":
        path, _, flags = arguments
        return bool(flags & _WRITES) and not str(path).startswith("/dev/")
    return event in _ACTS or event == "subprocess.Popen"


def run_command(arguments: Sequence[str]) -> int:
    """`persona` with these arguments, as the command line has it; the exit code."""
    from export.publish_cli import add_commands  # noqa: PLC0415 (once the environment is set)

    parser = ArgumentParser(prog="persona")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(arguments)
    code: int = args.run(args)
    return code


def run_killed(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, last: int | None
) -> int:
    """Runs a command, killed instead of act number `last`; the exit code, -9 if it came to that.

    The log has a line for each act, and what the command said.
    """
    process = _server.Process(target=_run, args=(arguments, environment, log, last))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def acts(log: Path) -> int:
    """How many acts a log tells of."""
    return sum(line.startswith("act ") for line in log.read_text().splitlines())


def _run(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, last: int | None
) -> None:
    os.environ.update(environment)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a killed process
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not is_act(event, arguments):
            return
        count += 1
        os.write(output, f"act {count}: {event} {arguments[0]}\n".encode())
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = run_command(arguments)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
