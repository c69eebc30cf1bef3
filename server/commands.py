"""`persona serve`, `ask` and `doctor`."""

import argparse
import asyncio
import sys

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server import doctor
from server.explain_view import explanation_view
from server.logs import set_up_logging
from server.reading import decode, notices_of
from server.schemas import Answer, AskRequest, TokenEvent
from server.service import Service, open_service
from server.serving import serve
from server.settings import read_settings
from server.turn import AskedTurn


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the commands of the server."""
    serve = commands.add_parser("serve", help="answer /ask over HTTP")
    serve.add_argument("--host", help="address to bind (PERSONA_HOST)")
    serve.add_argument("--port", type=int, help="port to bind (PERSONA_PORT)")
    serve.set_defaults(run=run_serve)

    ask = commands.add_parser("ask", help="answer one turn here, without a server")
    ask.add_argument("text", help="what the player says")
    ask.add_argument("--npc", required=True, help="id of the NPC")
    ask.add_argument("--player", default="cli", help="id of the player")
    ask.add_argument("--context", default="{}", help="game state as JSON, as in /ask")
    ask.add_argument("--temperature", type=float, help="0 is greedy")
    ask.add_argument("--seed", type=int, help="same seed, same line")
    ask.add_argument("--explain", action="store_true", help="show every decision of the turn")
    ask.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    ask.set_defaults(run=run_ask)

    check = commands.add_parser("doctor", help="say what is installed and what is missing")
    check.set_defaults(run=lambda _: doctor.run(read_settings()))


def run_serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    settings = read_settings()
    given = {name: getattr(args, name) for name in ("host", "port")}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = msgspec.structs.replace(settings, **chosen)
    set_up_logging(settings)
    return 0 if serve(settings) else 1


def run_ask(args: argparse.Namespace) -> int:
    """Answer one turn with the pipeline that the server uses."""
    try:
        fields = {
            "npc_id": args.npc,
            "player_id": args.player,
            "text": args.text,
            "context": msgspec.json.decode(args.context),
            "gen_params": {"temperature": args.temperature, "seed": args.seed},
            "explain": args.explain,
        }
    except msgspec.DecodeError as error:
        print(f"persona ask: --context: {error}", file=sys.stderr)
        return 1
    body = msgspec.json.encode(fields)
    request = decode(body, AskRequest)
    with open_service(read_settings()) as service:
        turn = service.dialogue.read(request, notices_of(body))
        answer = asyncio.run(_ask(service, request, turn, is_quiet=args.json))
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    elif answer.meta.explain:
        Console().print(explanation_view(answer, answer.meta.explain))
    else:
        Console().print(_table(answer))
        for notice in answer.meta.notices or []:
            print(notice)
    return 0


async def _ask(service: Service, request: AskRequest, turn: AskedTurn, *, is_quiet: bool) -> Answer:
    async for event in service.dialogue.answer(request, turn):
        if isinstance(event, TokenEvent) and not is_quiet:
            print(event.text, end="", flush=True)
        if isinstance(event, Answer):
            print(end="" if is_quiet else "\n")
            return event
    raise AssertionError("a turn ends with an answer")


def _table(answer: Answer) -> Table:
    title = Text(f"{answer.meta.npc_id}, path {answer.meta.path}", "table.title")
    table = Table(title=title, title_justify="left")
    table.add_column("output")
    table.add_column("value")
    table.add_column("why", overflow="fold")
    for name, change in answer.delta.items():
        table.add_row(Text(name), f"{change:+.3f}", "")
    for name, is_raised in answer.flags.items():
        detail = answer.meta.flags_detail.get(name)
        why = ""
        if detail is not None:
            why = f"score {detail.score:.3f}, threshold {detail.threshold:.3f}"
            why += f", held back: {detail.held_back}" if detail.held_back else ""
            why += f", {detail.value}" if detail.value is not None else ""
        table.add_row(Text(name), "raised" if is_raised else "-", Text(why))
    return table
