"""`persona bench lookup`: whether drafting from the prompt would make replies cheaper.

Prompt-lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): where
the last tokens occurred before, what followed them there is evaluated in one batch with the last
token, and kept as far as the model agrees. Two things decide what that is worth: how often lines
echo their prompts, counted here on a dataset's responses, and what a longer batch costs, timed on
the bundle.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.progress import track

from bench.players import DATA, read_players
from bench.report import add_output, check_range, print_table, write_report
from heads.bundle import default_bundle_folder, load_bundle
from heads.loading import open_encoder
from rag.world import load_world
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel
from train.dataset import DatasetError, TurnLabel, conversations
from train.transcripts import TranscriptWriter

_NUM_CELLS = 512
"""A reply's usual company in the KV cache."""
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Echo:
    """What drafting saves over many replies, with one width of match and length of draft."""

    num_match: int
    num_draft: int
    num_tokens: int
    """Of all replies."""
    num_plain: int
    """Steps without a draft."""
    num_drafted: int

    @property
    def tokens_per_step(self) -> float:
        """1 without any drafting."""
        return self.num_tokens / (self.num_plain + self.num_drafted)

    def times_as_fast(self, cost: float) -> float:
        """Where a step with a draft costs `cost` plain ones."""
        return self.num_tokens / (self.num_plain + self.num_drafted * cost)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle_folder())
    add("--world", type=Path, default=Path("worlds/mulmaru"), help="whose NPCs speak")
    add("--data", type=Path, default=DATA, help="labelled turns: a folder of JSONL files")
    add("--match", type=int, nargs="+", default=[2, 3], help="tokens that must have occurred")
    add("--draft", type=int, nargs="+", default=[2, 4, 8], help="tokens of a draft")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add_output(parser, has_plot=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Counts, times and prints; 1 if the arguments are wrong."""
    try:
        check(args)
        turns = read_players(args.data)
    except (DatasetError, ValueError) as error:
        print(f"persona bench lookup: {error}", file=sys.stderr)
        return 1
    bundle = load_bundle(args.bundle, verify_hashes=False)
    with closing(LlamaModel(bundle.model)) as model:
        writer = TranscriptWriter(load_world(args.world), open_encoder(bundle, model))
        lines = list(_lines(turns, writer))
        echoes = [
            count_echo(lines, num_match, num_draft)
            for num_match in args.match
            for num_draft in args.draft
        ]
        config = bundle.manifest.context.config(
            n_ctx=2 * _NUM_CELLS, n_seq_max=1, n_threads=args.threads
        )
        with closing(LlamaContext(model, config)) as context:
            costs = measure_costs(context, args.draft, args.runs)
    print_table("drafting from the prompt", [_row(each, costs) for each in echoes])
    names = ("match", "draft", "threads", "runs")
    settings = {name: getattr(args, name) for name in names} | {"bundle": bundle.id}
    figures = [
        {"echo": each, "tokens_per_step": each.tokens_per_step, "cost": costs[each.num_draft]}
        for each in echoes
    ]
    write_report(args.json, "lookup", settings, figures)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    for name, values, high in (
        ("--match", args.match, 16),
        ("--draft", args.draft, 64),
        ("--threads", [args.threads], 1_024),
        ("--runs", [args.runs], 1_000),
    ):
        for value in values:
            check_range(name, value, 1, high)


def _lines(
    turns: Sequence[TurnLabel], writer: TranscriptWriter
) -> Iterator[tuple[list[int], list[int]]]:
    """Every reply, and all that stands before it, as the append-only transcript has it."""
    for lines in track(list(conversations(turns).values()), "writing prompts", transient=True):
        transcript = writer.write(lines)
        before = [*transcript.opening, *transcript.told]
        for turn in transcript.turns:
            before = [*before, *turn.asked, *turn.decided]
            yield before, turn.answered
            before = [*before, *turn.answered]


def count_echo(
    lines: Sequence[tuple[list[int], list[int]]], num_match: int, num_draft: int
) -> Echo:
    """Steps that the replies would take: a draft is what followed the latest earlier match."""
    num_plain = num_drafted = 0
    for before, reply in lines:
        said = [*before, *reply]
        followers = {
            tuple(said[at : at + num_match]): at + num_match
            for at in range(len(before) - num_match)
        }
        at, num_known = len(before), len(before) - num_match
        while at < len(said):
            draft_at = followers.get(tuple(said[at - num_match : at]))
            if draft_at is None:
                num_plain += 1
                num_kept = 1
            else:
                num_drafted += 1
                draft = said[draft_at : min(draft_at + num_draft, at)]
                num_kept = 1 + _num_equal(draft, said[at:])
            at = min(at + num_kept, len(said))
            for known in range(num_known, at - num_match):
                followers[tuple(said[known : known + num_match])] = known + num_match
            num_known = max(num_known, at - num_match)
    num_tokens = sum(len(reply) for _, reply in lines)
    return Echo(num_match, num_draft, num_tokens, num_plain, num_drafted)


def _num_equal(draft: Sequence[int], truth: Sequence[int]) -> int:
    pairs = zip(draft, truth, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(draft), len(truth)))


def measure_costs(context: LlamaContext, drafts: Sequence[int], num_runs: int) -> dict[int, float]:
    """What a batch of one sequence's last token and a draft costs, over the last token alone.

    By the number of the draft's tokens; medians of runs that take turns.
    """
    token = context.model.eos
    context.clear()
    context.decode([Chunk(0, 0, [token] * _NUM_CELLS, is_output=False)])
    seconds: dict[int, list[float]] = {size: [] for size in (0, *drafts)}
    for _ in track(range(num_runs), "timing", transient=True):
        for size, times in seconds.items():
            for _ in range(_STEPS):
                start = time.perf_counter()
                # each token a chunk of its own: the logits of all are wanted
                context.decode(
                    [Chunk(0, _NUM_CELLS + at, [token], is_output=True) for at in range(size + 1)]
                )
                times.append(time.perf_counter() - start)
                context.forget(0, _NUM_CELLS)
    alone = median(seconds[0])
    return {size: median(seconds[size]) / alone for size in drafts}


def _row(echo: Echo, costs: dict[int, float]) -> dict[str, object]:
    num_steps = echo.num_plain + echo.num_drafted
    cost = costs[echo.num_draft]
    return {
        "match": echo.num_match,
        "draft": echo.num_draft,
        "steps with a draft": f"{echo.num_drafted / num_steps:.1%}",
        "tokens a step": f"{echo.tokens_per_step:.3f}",
        "cost of such a step": f"{cost:.2f}",
        "times as fast": f"{echo.times_as_fast(cost):.3f}",
    }
