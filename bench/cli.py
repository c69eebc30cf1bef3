"""`persona bench`: one sub-command a benchmark."""

import argparse
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from bench import (
    engine,
    http,
    kernels,
    load,
    lookup,
    make_model,
    memory,
    onnx,
    overrides,
    production,
    rag,
    soak,
    startup,
    trim,
    turns,
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `bench` and its sub-commands."""
    parser = commands.add_parser("bench", help="measure, offline and on CPU")
    actions = parser.add_subparsers(required=True, metavar="BENCHMARK")
    engine.add_arguments(
        actions.add_parser("engine", help="the engine beside llama.cpp's C API alone")
    )
    http.add_arguments(actions.add_parser("http", help="what /ask costs besides the model"))
    kernels.add_arguments(
        actions.add_parser("kernels", help="weight types on this CPU, beside what was predicted")
    )
    load.add_arguments(
        actions.add_parser("load", help="many players at once, in closed and open loop")
    )
    lookup.add_arguments(
        actions.add_parser("lookup", help="whether drafting from the prompt would pay")
    )
    make_model.add_arguments(
        actions.add_parser("make-model", help="random weights in a real model's shapes")
    )
    memory.add_arguments(
        actions.add_parser("memory", help="whether a server's memory grows, turn after turn")
    )
    onnx.add_arguments(
        actions.add_parser("onnx", help="int8 and graph optimisation of what is served")
    )
    overrides.add_arguments(
        actions.add_parser("overrides", help="answers to players who insist on another role")
    )
    production.add_arguments(
        actions.add_parser("production", help="speed and memory of a model, and memory's roof")
    )
    rag.add_arguments(actions.add_parser("rag", help="index, search and rules of a large world"))
    soak.add_arguments(
        actions.add_parser("soak", help="too much load, bad manners and reloads; nothing may break")
    )
    startup.add_arguments(
        actions.add_parser("startup", help="a restarted server's first turn beside a warm one")
    )
    trim.add_arguments(actions.add_parser("trim", help="the default base, trimmed and not"))
    turns.add_arguments(
        actions.add_parser("turns", help="a growing conversation, turn by turn, beside other ways")
    )
    for benchmark in actions.choices.values():
        benchmark.set_defaults(run=_tidy(benchmark.get_default("run")))


def _tidy(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`run`, ended by SIGTERM as by Ctrl-C: no process that it started is left behind."""

    def interrupt(_: int, __: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    def run_tidily(args: argparse.Namespace) -> int:
        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            return run(args)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run_tidily
