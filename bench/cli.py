"""`persona bench`: one sub-command a benchmark."""

import argparse

from bench import trim


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `bench` and its sub-commands."""
    parser = commands.add_parser("bench", help="measure, offline and on CPU")
    actions = parser.add_subparsers(required=True, metavar="BENCHMARK")
    trim.add_arguments(actions.add_parser("trim", help="the default base, trimmed and not"))
