"""`persona bench turns`: what a turn of a growing conversation costs, beside other ways to it.

One NPC hears the lines of a dataset in one long conversation; the game's state changes from line to
line. Our side is what the server does, without HTTP. The peers say the same, with our decisions and
as many tokens of reply; all take turns, conversation by conversation, on the same weights and
threads. The first turn of each conversation, which brings the NPC's description, is not counted.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from bench.our_turns import OurSide
from bench.peer_llama_server import HOW_TO_BUILD, LlamaServerPeer
from bench.peer_raw import RawPeer
from bench.peer_two_pass import TwoPassPeer
from bench.peers import Peer, PeerAsk, PeerReply
from bench.players import DATA, read_players
from bench.report import add_output, check_range, print_table, write_report
from bench.turn_script import AppendOnly, Layout, Rewritten, ScriptedTurn, lines_of, longer
from bench.turns_figures import (
    Measured,
    OurTokens,
    counted,
    draw,
    time_figures,
    time_row,
    token_figures,
    token_row,
)
from heads.bundle import Bundle, default_bundle_folder
from rag.embedder import NO_EMBEDDER
from runtime.encoder import PromptEncoder
from runtime.llama_backend import LlamaContext, LlamaModel
from server.service import open_service
from server.settings import Settings
from train.dataset import DatasetError

RAW, TWO_PASS = "raw", "two-pass"
MAX_OVER_RAW, MAX_OVER_TWO_PASS = 1.15, 0.16
"""Upper bounds of our time to state over that of a peer; llama-server needs two passes too."""

_CELLS, _CELLS_A_RESIDENT = 8_192, 640
_CELLS_OF_ONE = 512
"""Of another's conversation beside llama.cpp alone."""
_STEP = 256
_WARM_TURNS = 2
_SPECIALS = 4
"""Tokens between the parts of a turn, at most."""
MakeLayout = Callable[[PromptEncoder], Layout]


@dataclass(frozen=True, slots=True)
class PeerSide:
    """A peer that says what our side said, its prompts written in one way or another."""

    peer: Peer
    make_layout: MakeLayout
    times: Measured

    def converse(self, encoder: PromptEncoder, script: Sequence[ScriptedTurn]) -> list[PeerReply]:
        """All turns of a conversation. Raises RuntimeFault."""
        layout = self.make_layout(encoder)
        replies = []
        for turn in script:
            ask = PeerAsk(layout.prompt(turn), turn.decision, turn.num_reply)
            replies.append(self.peer.ask(ask))
            layout.hear(turn, replies[-1].tokens)
        return replies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle_folder(), help="weights and heads")
    add("--world", type=Path, default=Path("worlds/mulmaru"), help="whose NPCs speak")
    add("--data", type=Path, default=DATA, help="what players say: a folder of JSONL files")
    add("--npc", default="okbun", help="who is spoken to (default: okbun)")
    add("--lang", choices=("ko", "en"), default="ko")
    add("--embedder", default=NO_EMBEDDER, help="as PERSONA_EMBEDDER (default: none)")
    add("--turns", type=int, default=12, help="of the conversation (default: 12)")
    add("--reply-tokens", type=int, default=24, help="of a reply, at most (default: 24)")
    add("--prompt-tokens", type=int, default=2_048, help="as PERSONA_PROMPT_TOKENS")
    add(
        "--residents",
        type=int,
        nargs="+",
        default=[0, 8, 32],
        help="conversations of others in the KV cache; ratios are of the first (default: 0 8 32)",
    )
    add("--peers", nargs="*", choices=(RAW, TWO_PASS), default=[RAW, TWO_PASS])
    add("--llama-server", type=Path, metavar="PROGRAM", help="one more peer")
    add("--threads", type=int, default=2)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a bound is missed or the arguments are wrong."""
    try:
        check(args)
        times, tokens = measure(args)
    except (DatasetError, ValueError) as error:
        print(f"persona bench turns: {error}", file=sys.stderr)
        return 1
    base = times[0]
    print_table("time, medians from the second turn on", [time_row(one, base) for one in times])
    print_table("tokens of our turns, from the second on", [token_row(one) for one in tokens])
    if args.llama_server is None:
        print(f"llama-server is left out: {HOW_TO_BUILD}")
    names = ("npc", "lang", "embedder", "turns", "reply_tokens", "prompt_tokens", "residents")
    settings = {name: getattr(args, name) for name in (*names, "peers", "threads", "runs")}
    found = {
        "times": [time_figures(one, base) for one in times],
        "tokens": [token_figures(one) for one in tokens],
    }
    write_report(args.json, "turns", settings, found)
    if args.plot:
        draw(args.plot, times)
    are_good = [*(one.is_good(base) for one in times), *(one.is_good for one in tokens)]
    return int(not all(are_good))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    check_range("--runs", args.runs, 1, 1_000)
    check_range("--threads", args.threads, 1, 1_024)
    check_range("--turns", args.turns, 2, 10_000)
    check_range("--reply-tokens", args.reply_tokens, 1, 512)
    check_range("--prompt-tokens", args.prompt_tokens, 256, 65_536)
    for count in args.residents:
        check_range("--residents", count, 0, 200)


def measure(args: argparse.Namespace) -> tuple[list[Measured], list[OurTokens]]:
    """Times of our side, with each number of residents, and of the peers; tokens of our side.

    Raises DatasetError, ValueError where no turn counts, and what services and peers raise.
    """
    spoken = read_players(args.data)
    lines = longer(lines_of(spoken, args.npc, args.lang), args.turns)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        services = [
            stack.enter_context(open_service(_settings(args, count))) for count in args.residents
        ]
        ours = [
            OurSide(runner, service, count)
            for service, count in zip(services, args.residents, strict=True)
        ]
        progress = stack.enter_context(Progress(transient=True))
        for side in progress.track(ours, description="others speak; warming up"):
            side.let_others_speak(spoken)
            side.converse(lines, args.reply_tokens)
        told = ours[0].converse(lines, args.reply_tokens)  # begins as those of the runs will
        script = told.script
        if told.turns[0] is None or not counted(told.turns):
            raise ValueError(
                f"nothing of {args.npc!r} counts: the first line, or all after it, did not come "
                "from the model (refused, empty, or closed by the world); choose another --npc"
            )
        peers = stack.enter_context(_open_peers(args, services[0].loaded.bundle, script, ours))
        for peer in peers:
            peer.converse(services[0].loaded.encoder, script[:_WARM_TURNS])
        everybody: list[OurSide | PeerSide] = [*ours, *peers]
        for at in progress.track(range(args.runs), description="runs"):
            for one in everybody if at % 2 else everybody[::-1]:
                if isinstance(one, OurSide):
                    one.let_others_speak(spoken)
                    one.note(one.converse(lines, args.reply_tokens).turns)
                else:
                    one.times.runs.append(one.converse(services[0].loaded.encoder, script)[1:])
    return [*(side.times for side in ours), *(peer.times for peer in peers)], [
        side.tokens for side in ours
    ]


def _settings(args: argparse.Namespace, num_residents: int) -> Settings:
    """One resident more than there are others: the conversation itself."""
    return Settings(
        bundle=args.bundle,
        world=args.world,
        embedder=args.embedder,
        n_ctx=max(_CELLS, 4 * args.prompt_tokens) + _CELLS_A_RESIDENT * num_residents,
        n_residents=num_residents + 1,
        prefix_mb=0,
        threads=args.threads,
        fallback="authored",
        prompt_tokens=args.prompt_tokens,
    )


@contextmanager
def _open_peers(
    args: argparse.Namespace,
    bundle: Bundle,
    script: Sequence[ScriptedTurn],
    ours: Sequence[OurSide],
) -> Iterator[list[PeerSide]]:
    """The peers that are asked for, with room for all of `script`.

    llama.cpp alone runs once beside as many cells of others as each of `ours` has.
    """
    size = _num_tokens(script)
    limits = {"num_tokens": size, "num_threads": args.threads}
    with ExitStack() as stack:
        model = stack.enter_context(closing(LlamaModel(bundle.model)))
        sides = []

        def add(
            peer: Peer,
            bound: float,
            layouts: dict[str, MakeLayout],
            beside: Measured | None = None,
        ) -> None:
            stack.enter_context(closing(peer))
            for layout, make in layouts.items():
                name = f"{peer.name}, {layout}"
                sides.append(PeerSide(peer, make, Measured(name, bound, beside)))

        for side in ours if RAW in args.peers else ():
            tokens = [token for turn in script for token in turn.opening]
            others = _filling(side.num_cells_of_others, tokens)
            config = bundle.manifest.context.config(
                n_ctx=size + side.num_cells_of_others + _STEP,
                n_seq_max=1 + len(others),
                n_threads=args.threads,
            )
            context = stack.enter_context(closing(LlamaContext(model, config)))
            name = f"llama.cpp alone, {side.num_residents} others"
            add(RawPeer(context, others, name), MAX_OVER_RAW, {"appended": AppendOnly}, side.times)
        both: dict[str, MakeLayout] = {"rewritten": Rewritten, "appended": AppendOnly}
        if TWO_PASS in args.peers:
            add(TwoPassPeer(bundle.model, model, **limits), MAX_OVER_TWO_PASS, both)
        if args.llama_server:
            peer = LlamaServerPeer(args.llama_server, bundle.model, **limits)
            add(peer, MAX_OVER_TWO_PASS, both)
        yield sides


def _filling(num_cells: int, tokens: Sequence[int]) -> list[list[int]]:
    """Sequences of `tokens`, over and over, that have so many cells together."""
    sizes = [*[_CELLS_OF_ONE] * (num_cells // _CELLS_OF_ONE), num_cells % _CELLS_OF_ONE]
    return [longer(tokens, size) for size in sizes if size]


def _num_tokens(script: Sequence[ScriptedTurn]) -> int:
    """Room for a whole conversation, however its prompts are written."""
    said = sum(
        len(turn.opening) + len(turn.decision) + turn.num_reply + _SPECIALS for turn in script
    )
    longest = said + max(len(turn.head) for turn in script)
    return -(-longest // _STEP) * _STEP + _STEP
