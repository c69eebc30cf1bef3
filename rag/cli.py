"""`persona world`: a quest designer's tools."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from heads.bundle import read_manifest
from rag.calibration import read_calibration
from rag.check import check_names
from rag.documents import ANY, BaseDocument, FlagDef
from rag.embedder import DEFAULT, open_embedder
from rag.index_store import index_folder, open_index
from rag.loader import KINDS, WorldError
from rag.retriever import Retriever
from rag.scaffold import ScaffoldError, write_npc
from rag.world import load_world, read_world


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `world`."""
    world = commands.add_parser("world", help="work on a world folder")
    actions = world.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="report every problem of a world, and what it holds")
    check.add_argument("folder", type=Path)
    check.add_argument(
        "--bundle", type=Path, help="also hold flags and deltas against this bundle's heads"
    )
    check.set_defaults(run=run_check)
    new = actions.add_parser("new", help="write the documents of a new NPC, to be filled in")
    new.add_argument("npc_id", help="small letters, digits and _, e.g. nari")
    new.add_argument("--world", type=Path, required=True, help="folder of the world")
    new.add_argument("--lang", choices=("ko", "en"), default="ko", help="the NPC's own language")
    new.set_defaults(run=run_new)
    index = actions.add_parser("index", help="embed what is new in a world, as the server does")
    index.add_argument("folder", type=Path)
    index.set_defaults(run=run_index)
    search = actions.add_parser("search", help="what an utterance finds in a world, by meaning")
    search.add_argument("folder", type=Path)
    search.add_argument("text", help="what a player says")
    search.add_argument("--npc", help="search as this NPC would (default: the whole world)")
    search.add_argument("--limit", type=int, default=5)
    search.set_defaults(run=run_search)
    for parser in (index, search):
        parser.add_argument(
            "--embedder", default=DEFAULT, help="`default`, `use`, or an encoder's folder"
        )


def run_check(args: argparse.Namespace) -> int:
    """Print what the world holds; WorldError lists what is wrong with it."""
    sources = read_world(args.folder)
    if args.bundle:
        heads = read_manifest(args.bundle).heads
        flags, deltas = ([head.name for head in part] for part in (heads.flags, heads.delta))
        if problems := check_names(sources, flags, deltas):
            raise WorldError(problems)
    documents = [source.document for source in sources]
    Console().print(_table(documents))
    num_npcs = len({d.npc_id for d in documents if _kind(d) == "npc_persona"})
    print(f"{args.folder}: {len(documents)} documents, {num_npcs} NPCs, no problem found")
    return 0


def run_index(args: argparse.Namespace) -> int:
    """Embed and keep what the folder of the index lacks."""
    embedder = open_embedder(args.embedder)
    folder = index_folder(args.folder, embedder.id)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=None)
        index, report = open_index(
            load_world(args.folder).documents,
            embedder,
            folder,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        progress.update(task, completed=report.num_texts, total=report.num_texts)
    print(
        f"{args.folder}: {report.num_texts} texts ({index.num_passages} of notes), "
        f"{report.num_embedded} embedded now by {embedder.id}, "
        f"graph {'made' if report.is_graph_new else 'kept'}: {folder}"
    )
    return 0


def run_search(args: argparse.Namespace) -> int:
    """Print the nearest documents with their scores."""
    world = load_world(args.folder)
    if args.npc is not None and args.npc not in world.npcs:
        print(
            f"persona world search: no NPC {args.npc!r}; known are {', '.join(world.npcs)}",
            file=sys.stderr,
        )
        return 1
    embedder = open_embedder(args.embedder)
    index, _ = open_index(world.documents, embedder, index_folder(args.folder, embedder.id))
    calibration = read_calibration(args.embedder, embedder.id)
    vector = embedder.encode([args.text])[0]
    retriever = Retriever(embedder, index, calibration)
    letters = retriever.letters(args.text)
    if args.npc:
        matches = index.near(vector, args.npc, args.limit, letters=letters)
    else:
        matches = index.search(vector, args.limit, letters=letters)
    table = Table("document", "score", "letters", "lead", "nearest passage")
    for found in retriever.weighed(matches, vector):
        match, mark = found.match, "" if found.is_near else " (too far)"
        numbers = f"{match.score:.3f}", f"{match.letters:.3f}", f"{found.lead:.3f}{mark}"
        table.add_row(Text(match.document.id), *numbers, Text(match.passage))
    Console().print(table)
    print(
        f"notes are shown to the model from a lead of {calibration.note:.3f} on, or with a passage "
        f"of {calibration.same:.3f}"
    )
    return 0


def run_new(args: argparse.Namespace) -> int:
    """Write the scaffold and say what to do next."""
    try:
        path = write_npc(args.world, args.npc_id, args.lang)
    except ScaffoldError as error:
        print(f"persona world new: {error}", file=sys.stderr)
        return 1
    print(f"wrote {path}; fill it in (each `comment` says what with), then")
    print(f"  persona world check {args.world}")
    return 0


def _kind(document: BaseDocument) -> str:
    return str(document.__struct_config__.tag)


def _table(documents: Sequence[BaseDocument]) -> Table:
    """How many documents there are of each type, and of each flag, and for how many NPCs."""
    rows: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for document in documents:
        rows[_kind(document)].append(document.npc_id)
    for document in documents:
        if isinstance(document, FlagDef):
            rows.setdefault(f"  {document.flag_name}", []).append(document.npc_id)
    table = Table("type", "documents", "NPCs")
    for name, npcs in rows.items():
        table.add_row(Text(name), str(len(npcs)), str(len({*npcs} - {ANY})))
    return table
