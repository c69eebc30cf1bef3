"""`persona bench engine`: what our engine adds to llama.cpp, on one model, in one context.

The engine on its thread and the C API alone take turns at the same prompts, seeds and lengths, with
the same batches: they must draw the same tokens, so only time can differ. Decoding is timed from
the last sequence's first token to the last token of all; prefill from the request to its first
token.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from rich.progress import Progress

from bench.players import DATA, make_prompts, read_players
from bench.raw_loops import EndlessModel, Measured, Work, run_engine, run_raw
from bench.report import Ratio, add_output, check_range, print_table, ratio_of, write_report
from heads.bundle import MODEL, default_bundle_folder
from runtime.context_config import ContextConfig
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.sampling import SamplingParams
from train.dataset import DatasetError

MIN_ALONE, MIN_TOGETHER = 0.97, 0.95
"""Lower bounds of the engine's decode speed over that of the C API alone."""
MIN_SHARE = 0.97
"""Lower bound of the part of a decode step that is spent inside llama.cpp."""
SAMPLING = SamplingParams(temperature=0.7, top_p=0.9)
DEFAULTS = ContextConfig()
LEAST_PROMPT = 8
MOST_TOKENS = 4_096
"""SamplingParams' own bound."""


@dataclass(slots=True)
class Case:
    """One thing that both do, and how it went, run by run."""

    name: str
    work: Work
    least: float | None
    """Lower bound of the ratio of speeds."""
    engine: list[Measured] = field(default_factory=list)
    raw: list[Measured] = field(default_factory=list)

    @property
    def is_decode(self) -> bool:
        """Whether decoding is timed, not prefill."""
        return self.work.num_decoded > 0

    def speeds(self, runs: Iterable[Measured]) -> list[float]:
        """Tokens a second of each run, all sequences together."""
        if self.is_decode:
            return [self.work.num_decoded / run.decode_s for run in runs]
        return [self.work.num_prompt / run.first_s for run in runs]

    @property
    def ratio(self) -> Ratio:
        """The engine's speed over the C API's."""
        return ratio_of(self.speeds(self.engine), self.speeds(self.raw))

    @property
    def share(self) -> float | None:
        """The part of decoding that the engine spends inside llama.cpp."""
        if not self.is_decode:
            return None
        return median(run.calls_s / run.decode_s for run in self.engine)

    @property
    def num_same(self) -> int:
        """Runs in which both drew the same tokens."""
        return sum(a.replies == b.replies for a, b in zip(self.engine, self.raw, strict=True))

    @property
    def is_good(self) -> bool:
        """Whether the bounds are kept, if there are any."""
        if self.least is None or self.share is None:
            return True
        return self.ratio.low >= self.least and self.share >= MIN_SHARE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add = parser.add_argument
    add("--model", type=Path, default=default_bundle_folder() / MODEL, help="a GGUF")
    add("--data", type=Path, default=DATA, help="what the prompts say: a folder of JSONL files")
    add("--sequences", type=int, nargs="*", default=[1, 4, 8], help="replies decoded together")
    add("--prompts", type=int, nargs="*", default=[512, 1_000], help="tokens to prefill")
    add("--tokens", type=int, default=64, help="of each reply (default: 64)")
    add(
        "--prompt-tokens",
        type=int,
        default=128,
        help="before each reply, fewer where one batch could not hold all (default: 128)",
    )
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add_output(parser, num_runs=7)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a bound is missed or the arguments are wrong."""
    try:
        check(args)
        cases = measure(args)
    except (DatasetError, ValueError) as error:
        print(f"persona bench engine: {error}", file=sys.stderr)
        return 1
    print_table(f"engine over llama.cpp alone, {args.model.name}", [_row(case) for case in cases])
    for case in cases:
        if case.num_same < args.runs:
            print(f"{case.name}: other tokens in {args.runs - case.num_same} runs; compare no more")
    names = ("sequences", "prompts", "tokens", "prompt_tokens", "threads", "seed", "runs")
    settings = {name: getattr(args, name) for name in names} | {"model": args.model.name}
    write_report(args.json, "engine", settings, [_figures(case) for case in cases])
    if args.plot:
        _draw(args.plot, cases)
    return int(not all(case.is_good and case.num_same == args.runs for case in cases))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    most = DEFAULTS.n_batch // LEAST_PROMPT
    check_range("--runs", args.runs, 1, 1_000)
    check_range("--threads", args.threads, 1, 1_024)
    check_range("--tokens", args.tokens, 2, MOST_TOKENS)
    check_range("--prompt-tokens", args.prompt_tokens, LEAST_PROMPT, DEFAULTS.n_batch)
    for count in args.sequences:
        check_range("--sequences", count, 1, most)
    for count in args.prompts:
        check_range("--prompts", count, LEAST_PROMPT, 100_000)
    if not args.sequences and not args.prompts:
        raise ValueError("nothing to measure; name some --sequences or --prompts")


def measure(args: argparse.Namespace) -> list[Case]:
    """All cases, the engine and the C API in turns, after a run to warm up."""
    model = EndlessModel(args.model)
    try:
        cases = _make_cases(args, model)
        longest = max(case.work.num_longest for case in cases)
        if longest > model.n_ctx_train:
            raise ValueError(
                f"a prompt and its reply have {longest} tokens, but {args.model.name} was trained "
                f"on {model.n_ctx_train} at most; name shorter ones"
            )
        config = ContextConfig(
            n_ctx=max(DEFAULTS.n_ctx, *(case.work.num_cells for case in cases)),
            n_seq_max=max(args.sequences, default=1),
            n_threads=args.threads,
            n_threads_batch=args.threads,
        )
        context = LlamaContext(model, config)
        try:
            _take_turns(context, cases, args.runs)
        finally:
            context.close()
    finally:
        model.close()
    return cases


def _make_cases(args: argparse.Namespace, model: LlamaModel) -> list[Case]:
    turns = read_players(args.data)

    def make_work(count: int, num_prompt: int, num_tokens: int) -> Work:
        sampling = replace(SAMPLING, max_tokens=num_tokens)
        samplings = [replace(sampling, seed=args.seed + at) for at in range(count)]
        return Work(make_prompts(model, turns, count, num_prompt), samplings)

    decoding = [
        Case(
            f"decode, {count} together" if count > 1 else "decode, 1 alone",
            make_work(count, min(args.prompt_tokens, DEFAULTS.n_batch // count), args.tokens),
            MIN_TOGETHER if count > 1 else MIN_ALONE,
        )
        for count in args.sequences
    ]
    prefill = [Case(f"prefill, {n} tokens", make_work(1, n, 1), None) for n in args.prompts]
    return decoding + prefill


def _take_turns(context: LlamaContext, cases: Sequence[Case], num_runs: int) -> None:
    """Each on a thread that ends with its run; which comes first changes from run to run.

    OpenMP keeps a team of threads for each thread that called llama.cpp, and lets barriers sleep
    instead of spin where they are more than cores: a second team would slow both down.
    """
    # no thread of the progress bar beside those that are timed
    with Progress(transient=True, auto_refresh=False) as progress:
        task = progress.add_task("engine and llama.cpp", total=(num_runs + 1) * len(cases))
        for at in range(num_runs + 1):
            for case in cases:
                pair = [(case.engine, run_engine), (case.raw, _on_its_own_thread)]
                for found, measure_one in pair if at % 2 else reversed(pair):
                    one = measure_one(context, case.work)
                    if at:  # the first run warms caches
                        found.append(one)
                progress.update(task, advance=1, refresh=True)


def _on_its_own_thread(context: LlamaContext, work: Work) -> Measured:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_raw, context, work).result()


def _row(case: Case) -> dict[str, object]:
    share = case.share
    bound = "-"
    if case.least is not None:
        bound = f">= {case.least}, >= {MIN_SHARE:.0%}: {'kept' if case.is_good else 'MISSED'}"
    return {
        "what": case.name,
        "engine tok/s": median(case.speeds(case.engine)),
        "llama.cpp tok/s": median(case.speeds(case.raw)),
        "ratio [95%]": case.ratio,
        "inside llama.cpp": "-" if share is None else f"{share:.2%}",
        "bounds (low end, inside)": bound,
        "same tokens": f"{case.num_same} of {len(case.raw)}",
    }


def _figures(case: Case) -> dict[str, object]:
    return {
        "name": case.name,
        "prompt_tokens": case.work.num_prompt,
        "engine_tokens_per_s": case.speeds(case.engine),
        "raw_tokens_per_s": case.speeds(case.raw),
        "ratio": case.ratio,
        "least_ratio": case.least,
        "share_inside_llama_cpp": case.share,
        "num_same_tokens": case.num_same,
    }


def _draw(path: Path, cases: Sequence[Case]) -> None:
    """The ratios with their intervals, and the bounds."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(7, 0.6 * len(cases) + 1.2), layout="constrained")
    axes = figure.subplots()
    for at, case in enumerate(cases):
        ratio = case.ratio
        spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        axes.errorbar(ratio.median, at, xerr=spread, fmt="o", color="#3b82c4", capsize=4)
        if case.least is not None:
            axes.plot([case.least] * 2, [at - 0.3, at + 0.3], color="#d9822b")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(cases)), [case.name for case in cases])
    axes.invert_yaxis()
    axes.set_xlabel("speed of the engine over llama.cpp alone (bar: lower bound)")
    figure.savefig(path)
