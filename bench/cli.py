"""`persona bench`: one sub-command a benchmark."""

import argparse

from bench import onnx, rag, trim


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `bench` and its sub-commands."""
    parser = commands.add_parser("bench", help="measure, offline and on CPU")
    actions = parser.add_subparsers(required=True, metavar="BENCHMARK")
    onnx.add_arguments(
        actions.add_parser("onnx", help="int8 and graph optimisation of what is served")
    )
    rag.add_arguments(actions.add_parser("rag", help="index, search and rules of a large world"))
    trim.add_arguments(actions.add_parser("trim", help="the default base, trimmed and not"))
