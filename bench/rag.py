"""`persona bench rag`: what a large world costs, to build, to load, to search and for each turn.

The world is generated and its encoder made up, so the figures are those of index and rules alone:
no sentence encoder and no language model runs. Every stage of a turn is run and counted, though a
turn whose way is closed would skip some.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from bench.generated_world import (
    NUM_NPC_DOCUMENTS,
    NUM_WORLD_DOCUMENTS,
    SPEC,
    GeneratedWorld,
    Speech,
    TopicEmbedder,
    make_calibration,
    make_detector,
    make_request,
    make_world,
)
from bench.report import write_report
from export.machine import describe_machine
from heads.session import Prediction
from rag.embedder import Heard
from rag.flags import flag_rule
from rag.index import Vector, WorldIndex
from rag.index_store import open_index
from rag.retriever import Retriever
from rag.triggers import TriggerMatcher
from rag.world import World
from runtime.host import set_aside_what_is_loaded
from runtime.sentences import SentenceWatch
from server.decide import Decision, decide
from server.gate import check_gate
from server.line import Line
from server.line_check import LineCheck
from server.pipeline import OVERLAP
from server.progress import Progress as TurnProgress
from server.schemas import AskRequest
from server.turn import AskedTurn, read_turn

MAX_LOAD_S = 3.0
MIN_RECALL = 0.97
MAX_SEARCH_MS = 2.0
MAX_TURN_MS = 1.0
NUM_NEAREST = 10
NUM_LOADS = 3
FILTERS = (1, 20, 300)
"""NPCs that a search is narrowed to."""
TOKEN_LENGTH = 2
"""Characters of a token of the reply."""


class Bound(msgspec.Struct, frozen=True):
    """What one of a figure's values must keep to."""

    value: str
    limit: float
    is_floor: bool = False

    def __str__(self) -> str:
        return f"{self.value} {'>=' if self.is_floor else '<='} {self.limit:g}"


class Figure(msgspec.Struct, frozen=True):
    """A row of the table: values of one thing by name."""

    what: str
    unit: str
    values: dict[str, float]
    bound: Bound | None = None

    @property
    def is_good(self) -> bool:
        """Whether the bound, if there is one, is kept."""
        if self.bound is None:
            return True
        value = self.values[self.bound.value]
        return value >= self.bound.limit if self.bound.is_floor else value <= self.bound.limit


@dataclass(frozen=True, slots=True)
class Place:
    """Where and on what is measured."""

    world: GeneratedWorld
    speech: Speech
    embedder: TopicEmbedder
    folder: Path
    progress: Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("--documents", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--npcs", type=int, default=1_000, help="default: 1000")
    parser.add_argument("--queries", type=int, default=500, help="searches and turns each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep the index in a temporary folder in DIR"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write settings, machine and figures here"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a bound is missed."""
    least = args.npcs * NUM_NPC_DOCUMENTS + NUM_WORLD_DOCUMENTS + 1
    if min(args.npcs, args.queries) < 1 or args.documents < least:
        print(
            f"persona bench rag: {args.documents} documents, {args.npcs} NPCs and {args.queries} "
            f"queries were asked for; name at least 1 of each, and {least} documents for so many "
            "NPCs",
            file=sys.stderr,
        )
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="persona-bench-", dir=args.folder) as folder,
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress,
    ):
        speech = Speech(args.seed)
        task = progress.add_task("world", total=None)
        world = make_world(args.documents, args.npcs, speech)
        progress.remove_task(task)
        embedder = TopicEmbedder(args.seed)
        place = Place(world, speech, embedder, Path(folder), progress)
        figures = measure(place, args.queries)
    _print(figures, f"{args.documents} documents, {args.npcs} NPCs")
    settings = {name: getattr(args, name) for name in ("documents", "npcs", "queries", "seed")}
    write_report(args.json, "rag", settings, figures)
    return int(not all(figure.is_good for figure in figures))


def measure(place: Place, num_queries: int) -> list[Figure]:
    """All figures; the index is built in `place.folder`."""
    figures = _build(place)
    index, loads = _load(place)
    return [
        *figures,
        loads,
        *_search(place, index, num_queries),
        *_turns(place, index, num_queries),
    ]


def _build(place: Place) -> list[Figure]:
    """Builds the index and keeps it, with a bar while texts are embedded and a pulse after that."""
    embedding = place.progress.add_task("embedding", total=None)

    def on_progress(done: int, total: int) -> None:
        place.progress.update(embedding, completed=done, total=total)
        if done == total:
            place.progress.add_task("graph", total=None)

    before, start = place.embedder.seconds, time.perf_counter()
    index, report = open_index(place.world.documents, place.embedder, place.folder, on_progress)
    seconds = time.perf_counter() - start
    in_embedder = place.embedder.seconds - before
    for task in place.progress.task_ids:
        place.progress.remove_task(task)
    size = sum(path.stat().st_size for path in place.folder.iterdir())
    counts: dict[str, float] = {
        "texts": report.num_texts,
        "passages in the graph": index.num_passages,
    }
    return [
        Figure("vectors", "", counts),
        Figure("build the index, without the encoder", "s", {"total": seconds - in_embedder}),
        Figure("size on disk", "MB", {"total": size / 1e6}),
    ]


def _load(place: Place) -> tuple[WorldIndex, Figure]:
    """The saved index, opened as a server opens it, vectors and graph verified."""
    seconds = []
    for _ in place.progress.track(range(NUM_LOADS), description="loads"):
        start = time.perf_counter()
        index, report = open_index(place.world.documents, place.embedder, place.folder)
        seconds.append(time.perf_counter() - start)
        assert not report.num_embedded, "everything was kept"
        assert not report.is_graph_new, "the graph too"
    values = {"median": float(np.median(seconds)), "max": max(seconds)}
    return index, Figure("load the index", "s", values, Bound("max", MAX_LOAD_S))


def _search(place: Place, index: WorldIndex, count: int) -> list[Figure]:
    """How much of the exact answer the graph finds, and how fast each way of searching is.

    Searched for is what the world speaks of. What it does not, has no neighbours but far ones, and
    nobody shows those.
    """
    rng, npcs = place.speech.random, place.world.npcs
    topics = [rng.choice(place.world.topics[rng.choice(npcs)]) for _ in range(count)]
    vectors = place.embedder.encode([place.speech.sentence(topic, 4, 12) for topic in topics])
    shares = []
    for vector in place.progress.track(vectors, description="recall"):
        found, _ = index.passages(vector, NUM_NEAREST)
        nearest, _ = index.exact(vector, NUM_NEAREST)
        shares.append(len(np.intersect1d(found, nearest)) / len(nearest))
    recall = Bound("mean", MIN_RECALL, is_floor=True)
    bound = Bound("p95", MAX_SEARCH_MS)
    search = [partial(index.passages, vector, NUM_NEAREST) for vector in vectors]
    figures = [
        Figure(f"recall@{NUM_NEAREST}", "", {"mean": float(np.mean(shares))}, recall),
        _timed("search the world", search, bound),
    ]
    for size in sorted({min(size, len(npcs)) for size in FILTERS}):
        filtered = [partial(call, npcs=rng.sample(npcs, size)) for call in search]
        figures.append(_timed(f"search {_counted(size)}", filtered, bound))
    near = [partial(index.near, vector, rng.choice(npcs), NUM_NEAREST) for vector in vectors]
    return [*figures, _timed("an NPC's nearest notes, exactly", near)]


def _counted(num_npcs: int) -> str:
    return "one NPC" if num_npcs == 1 else f"{num_npcs} NPCs"


def _timed(what: str, calls: Sequence[Callable[[], object]], bound: Bound | None = None) -> Figure:
    milliseconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return _spread(what, milliseconds, bound)


def _spread(what: str, milliseconds: Sequence[float], bound: Bound | None = None) -> Figure:
    middle, high = np.percentile(milliseconds, [50, 95]).tolist()
    return Figure(what, "ms", {"p50": middle, "p95": high}, bound)


@dataclass(slots=True)
class _Stopwatch:
    """Milliseconds of each stage of a turn, a figure a turn."""

    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    since: float = 0.0

    def start(self) -> None:
        self.since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage that began with the last lap is over."""
        now = time.perf_counter()
        self.stages[stage].append((now - self.since) * 1e3)
        self.since = now


@dataclass(frozen=True, slots=True)
class _Rules:
    """All that decides about a turn, and the watch that times it."""

    world: World
    retriever: Retriever
    triggers: TriggerMatcher
    watch: _Stopwatch = field(default_factory=_Stopwatch)

    def answer(self, ask: AskRequest, vector: Vector, prediction: Prediction, reply: str) -> None:
        """What the pipeline does about a turn, but for the encoder and the model."""
        self.watch.start()
        turn = read_turn(ask, self.world)
        self.watch.lap("read the request")
        said = self.triggers.by_keyword(turn.scene, turn.utterance)
        self.watch.lap("forbidden keywords")
        heard = Heard(vector)
        meant = self.triggers.by_meaning(turn.scene, turn.utterance, heard)
        self.watch.lap("forbidden meanings")
        check_gate(turn, None, self.world, said or meant)
        self.watch.lap("gate")
        ranked = self.retriever.notes(turn.utterance, vector, turn.scene, turn.lang)
        self.retriever.weighed(ranked, vector)
        self.watch.lap("notes")
        self._decide(prediction, TurnProgress(turn, heard=heard, index=self.retriever.index))
        self.watch.lap("decide")
        self._say(reply, turn)
        self.watch.lap("line")

    def _decide(self, prediction: Prediction, progress: TurnProgress) -> Decision:
        turn, trigger = progress.turn, self.world.trigger_def(progress.turn.scene)
        policies = trigger.delta_policy if trigger else {}
        rule_of = partial(flag_rule, self.world, turn.facts, nearest=progress.nearest)
        return decide(prediction, SPEC, policies, rule_of, turn.lang)

    def _say(self, reply: str, turn: AskedTurn) -> None:
        banned, examples = self.triggers.banned(turn.scene), self.world.validate(turn.scene)
        check, line = LineCheck(banned, examples, self.retriever), Line()
        is_due, told = SentenceWatch(), 0  # as the engine tells it
        for at in range(TOKEN_LENGTH, len(reply) + TOKEN_LENGTH, TOKEN_LENGTH):
            if is_due(reply[at - TOKEN_LENGTH : at]) or at >= len(reply):
                for sentence in line.push(reply[told:at]):
                    check.by_words(line.text[-OVERLAP:] + sentence)
                    line.release(sentence)
                told = at
        check.by_words(line.text[-OVERLAP:] + line.finish(is_cut=False))


def _turns(place: Place, index: WorldIndex, count: int) -> list[Figure]:
    """All stages of so many requests, together and apart."""
    speech, topics = place.speech, place.world.topics
    retriever = Retriever(place.embedder, index, make_calibration(place.embedder, speech))
    detector = make_detector(speech)
    start = time.perf_counter()
    world = World(place.world.documents)
    rules = _Rules(world, retriever, TriggerMatcher(world, retriever, detector))
    seconds = time.perf_counter() - start
    set_aside_what_is_loaded()  # as `persona serve` does
    for npc in speech.random.choices(place.world.npcs, k=count):
        topic = speech.random.choice(topics[npc])
        ask = make_request(npc, topic, speech)
        vector = retriever.encode(ask.text or "")
        rules.answer(ask, vector, _prediction(speech), speech.text(topic, 2))
    stages = rules.watch.stages
    totals = [sum(laps) for laps in zip(*stages.values(), strict=True)]
    return [
        Figure("set up world and triggers", "s", {"total": seconds}),
        _spread("a turn before and after the model", totals, Bound("p95", MAX_TURN_MS)),
        *(_spread(f"  {name}", laps) for name, laps in stages.items()),
    ]


def _prediction(speech: Speech) -> Prediction:
    rng = speech.random
    return Prediction(
        {head.name: rng.uniform(-1, 1) for head in SPEC.delta},
        {head.name: rng.random() for head in SPEC.flags},
    )


def _print(figures: Sequence[Figure], title: str) -> None:
    table = Table(title=title, title_justify="left", caption=str(describe_machine()))
    for column in ("what", "value", "bound", "ok"):
        table.add_column(column)
    for figure in figures:
        parts = [f"{name} {_rounded(value)}" for name, value in figure.values.items()]
        value = f"{', '.join(parts)} {figure.unit}".rstrip()
        verdict = "ok" if figure.is_good else "[red]MISSED[/red]"
        bound = str(figure.bound or "")
        table.add_row(figure.what, value, bound, verdict if bound else "")
    Console(width=None if Console().is_terminal else 120).print(table)


def _rounded(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
