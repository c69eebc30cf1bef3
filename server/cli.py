"""The command `persona`: finds its sub-commands by entry point, so that serving imports no tools.

Under the entry-point group `persona.commands` each command names an `add_commands(commands)`, which
may add several; a command sets `run(args) -> exit code` as its default. Only what the command
line asks for is imported: `persona serve` does not wait for scikit-learn.
"""

import argparse
import sys
from importlib.metadata import EntryPoint, entry_points

from heads.bundle import BundleError
from rag.embedder import EmbedderError
from rag.loader import WorldError
from runtime.errors import RuntimeFault
from server.errors import RequestError
from server.settings import SettingsError

_TOLD = (
    BundleError,
    EmbedderError,
    RequestError,
    RuntimeFault,
    SettingsError,
    WorldError,
    OSError,
)
"""Errors whose text says all: no traceback."""

GROUP = "persona.commands"
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="persona", description="An edge runtime for game NPCs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for entry in _asked_for(sys.argv[1:] if arguments is None else arguments):
        _register(entry, commands)
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except _TOLD as error:
        print(f"persona: {error}", file=sys.stderr)
        return 1
    return code


def _asked_for(arguments: list[str]) -> list[EntryPoint]:
    """The entry point of the command named first; all of them, each once, if none is."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if arguments and arguments[0] in found:
        return [found[arguments[0]]]
    return list({found[name].value: found[name] for name in sorted(found)}.values())


def _register(
    entry: EntryPoint, commands: "argparse._SubParsersAction[argparse.ArgumentParser]"
) -> None:
    """Add an entry point's commands, or one that says which extra is missing."""
    try:
        add_commands = entry.load()
    except ModuleNotFoundError as error:
        missing = error.name
        parser = commands.add_parser(entry.name, help=f"needs the package {missing}")
        parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        parser.set_defaults(run=lambda _: _say_missing(entry.name, missing))
    else:
        add_commands(commands)


def _say_missing(command: str, module: str | None) -> int:
    print(
        f"persona {command}: the Python package {module!r} is not installed; "
        "install the extra that has it, e.g. pip install 'persona-chat-engine[demo,train,export]'",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":  # for `accelerate launch -m server.cli train`
    sys.exit(main())
