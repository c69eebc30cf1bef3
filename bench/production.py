"""`persona bench production`: speed and memory of one model as a server holds it, and its roof.

So many conversations are resident. One of them is new: its prompt is prefilled (timed), then its
reply is decoded (timed, without sampling) while the others keep their KV cells. To decode a token
of it all weights and its own cells are read, so memory bandwidth, measured between the two, bounds
it (the roofline: Williams, Waterman, Patterson 2009): the share reached tells what a better kernel
could still gain.
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bench.bandwidth import array_bytes, last_cache_bytes, measure_bandwidth
from bench.production_figures import Figures, Measured, Memory, Row, draw, print_figures
from bench.report import add_output, check_range, write_report
from export.errors import ExportError
from export.gguf_file import read_gguf
from runtime.context_config import MAX_SEQUENCES, ContextConfig
from runtime.host import num_cores
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel

MAX_THREADS = 512
"""llama.cpp's own bound."""

_STATM = Path("/proc/self/statm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a GGUF")
    add("--conversations", type=int, nargs="+", default=[1, 8, 32], help="resident at once")
    add("--tokens", type=int, default=500, help="of each conversation (default: 500)")
    add("--decode", type=int, default=32, help="tokens of a reply (default: 32)")
    add("--threads", type=int, default=num_cores(), help="default: as many as cores")
    add_output(parser, num_runs=3)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if the arguments are wrong."""
    try:
        check(args)
        num_bytes = weight_bytes(args.model)
        figures = measure(args, num_bytes)
    except (ExportError, ValueError) as error:
        print(f"persona bench production: {error}", file=sys.stderr)
        return 1
    print_figures(args.model.name, figures)
    names = ("conversations", "tokens", "decode", "threads", "runs")
    settings = {name: getattr(args, name) for name in names} | {"model": args.model.name}
    write_report(args.json, "production", settings, figures.report())
    if args.plot:
        draw(args.plot, figures)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    if not _STATM.exists():
        raise ValueError("memory is read from /proc, which this system has not; use Linux")
    check_range("--runs", args.runs, 1, 1_000)
    check_range("--threads", args.threads, 1, MAX_THREADS)
    check_range("--tokens", args.tokens, 1, 100_000)
    check_range("--decode", args.decode, 1, 100_000)
    for count in args.conversations:
        check_range("--conversations", count, 1, MAX_SEQUENCES)


def weight_bytes(path: Path) -> int:
    """Bytes of weights that decoding a token reads. Raises GgufError.

    All of them, but of an embedding matrix that is not the output matrix too only a row, which is
    left out.
    """
    tensors = read_gguf(path).tensors
    is_tied = "output.weight" not in tensors
    return sum(
        tensor.num_bytes
        for name, tensor in tensors.items()
        if is_tied or name != "token_embd.weight"
    )


def measure(args: argparse.Namespace, num_weight_bytes: int) -> Figures:
    """Every number of conversations in each run, after one prompt to warm up."""
    before = read_memory()
    with closing(LlamaModel(args.model)) as model:
        longest = args.tokens + args.decode
        if longest > model.n_ctx_train:
            raise ValueError(
                f"a conversation and a reply have {longest} tokens, but {args.model.name} was made "
                f"for {model.n_ctx_train} at most; lower --tokens or --decode"
            )
        loaded = read_memory()
        bench = _Bench(model, args)
        cache = last_cache_bytes()
        figures = Figures(
            before, loaded, num_weight_bytes, bench.kv_bytes, args.tokens, args.decode, cache
        )
        figures.rows = [Row(count, figures.token_bytes) for count in args.conversations]
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=args.runs * len(figures.rows))
            for _ in range(args.runs):
                for row in figures.rows:
                    what = f"{row.num_conversations} conversations"
                    progress.update(task, description=what, refresh=True)
                    row.runs.append(bench.measure(row.num_conversations, array_bytes(cache)))
                    progress.advance(task)
    return figures


class _Bench:
    """A model, the tokens of a conversation, and the KV cells that it leaves."""

    def __init__(self, model: LlamaModel, args: argparse.Namespace) -> None:
        self._model, self._num_threads = model, args.threads
        ordinary = [token for token in range(model.n_vocab) if not model.is_control(token)]
        draw_tokens = np.random.default_rng(0).choice
        self._prompt: list[int] = draw_tokens(ordinary, args.tokens).tolist()
        self._reply: list[int] = draw_tokens(ordinary, args.decode).tolist()
        with closing(self._context(1)) as context:
            _prefill(context, self._prompt)
            self._state = context.save(0)

    @property
    def kv_bytes(self) -> float:
        """Of a token's KV cell in all layers, as llama.cpp saves it."""
        return len(self._state) / len(self._prompt)

    def measure(self, num_conversations: int, num_array_bytes: int) -> Measured:
        """One run, in a context of its own with just enough cells. Raises DecodeError."""
        with closing(self._context(num_conversations)) as context:
            for other in range(1, num_conversations):
                is_restored = context.restore(other, self._state)
                assert is_restored, "the context has cells for all"
            start = time.perf_counter()
            _prefill(context, self._prompt)
            prefill = len(self._prompt) / (time.perf_counter() - start)
            bandwidth = measure_bandwidth(num_array_bytes, num_cores())
            start = time.perf_counter()
            for at, token in enumerate(self._reply):
                context.decode([Chunk(0, len(self._prompt) + at, [token], is_output=True)])
            decode = len(self._reply) / (time.perf_counter() - start)
            memory = read_memory()
        return Measured(prefill, decode, bandwidth, memory)

    def _context(self, num_conversations: int) -> LlamaContext:
        num_cells = len(self._prompt) + len(self._reply)
        config = ContextConfig(
            n_ctx=num_conversations * num_cells,
            n_seq_max=num_conversations,
            n_threads=self._num_threads,
            n_threads_batch=self._num_threads,
        )
        return LlamaContext(self._model, config)


def _prefill(context: LlamaContext, prompt: Sequence[int]) -> None:
    size = context.config.n_batch
    for start in range(0, len(prompt), size):
        is_last = start + size >= len(prompt)
        context.decode([Chunk(0, start, prompt[start : start + size], is_output=is_last)])


def read_memory() -> Memory:
    """Memory of this process (proc(5), statm)."""
    _, resident, shared, *_ = map(int, _STATM.read_text().split())
    page = resource.getpagesize()
    return Memory(resident * page, (resident - shared) * page)
