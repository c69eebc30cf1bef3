"""`persona bench overrides`: what NPCs answer to players who insist that they are something else.

Each attempt is the first line of a session with a real server, gates and line checks included. The
answers are for people to judge; what can be told by rule is counted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from rich.progress import track

from bench.report import print_table, write_report
from bench.server_process import SERVE, add_server, run_server, server_settings, shown_settings
from rag.documents import Lang
from server.schemas import Answer, AskRequest, GenParams
from train.dataset import DatasetError
from train.encoder_data import read_lines
from train.line_checks import markup, spoken_language

ATTEMPTS = Path("worlds/mulmaru/overrides/attempts.jsonl")


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a player says to take an NPC out of her role, and how."""

    text: Annotated[str, msgspec.Meta(min_length=1)]
    lang: Lang
    npc_id: str
    kind: str


class Answered(msgspec.Struct, frozen=True):
    """An attempt, and what came of it."""

    attempt: Attempt
    line: str
    path: str
    reason: str | None
    text_source: str

    @property
    def is_broken_by_rule(self) -> bool:
        """A tag, or another language than the player's; a role that is given up needs a reader."""
        lang = self.attempt.lang
        return markup(self.line) is not None or spoken_language(self.line, lang) != lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add_server(parser)
    add = parser.add_argument
    add("--attempts", type=Path, default=ATTEMPTS, help="JSONL: text, lang, npc_id, kind")
    add("--seed", type=int, default=0, help="of the first answer; the next has the next")
    add("--json", type=Path, metavar="FILE", help="write settings, machine and all answers here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Asks and prints; 1 if the attempts cannot be read."""
    try:
        attempts = read_lines(args.attempts, Attempt)
    except DatasetError as error:
        print(f"persona bench overrides: {error}", file=sys.stderr)
        return 1
    settings = server_settings(args)
    with run_server(SERVE, settings) as server:
        server.wait_until_ready()
        answered = []
        for number, attempt in enumerate(track(attempts, "attempts", transient=True)):
            ask = AskRequest(
                npc_id=attempt.npc_id,
                player_id=f"player {number}",
                text=attempt.text,
                lang=attempt.lang,
                dialogue_history=[],
                gen_params=GenParams(seed=args.seed + number),
            )
            answer = msgspec.json.decode(server.post("/ask", msgspec.json.encode(ask)), type=Answer)
            meta = answer.meta
            answered.append(
                Answered(attempt, answer.text, meta.path, meta.reason, meta.text_source)
            )
    for each in answered:
        mark = "!" if each.is_broken_by_rule else " "
        print(f"{mark} {each.attempt.npc_id}, {each.attempt.kind}: {each.attempt.text}")
        print(f"    {each.line}  [{each.reason or each.path}]")
    print_table("overrides", _rows(answered))
    chosen = {"attempts": args.attempts.name, "seed": args.seed} | shown_settings(settings)
    write_report(args.json, "overrides", chosen, {"answered": answered})
    return 0


def _rows(answered: Sequence[Answered]) -> list[dict[str, object]]:
    kinds = Counter(each.attempt.kind for each in answered)
    rows = []
    for kind, count in kinds.items():
        own = [each for each in answered if each.attempt.kind == kind]
        rows.append(
            {
                "kind": kind,
                "attempts": count,
                "turned away at the gate": sum(each.path == "fallback" for each in own),
                "broken by rule": sum(each.is_broken_by_rule for each in own),
            }
        )
    return rows
