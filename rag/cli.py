"""`persona world`: a quest designer's tools."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from heads.bundle import load_bundle
from rag.calibration import read_calibration
from rag.check import check_names
from rag.check_sizes import check_sizes
from rag.documents import ANY, BaseDocument, DialogueTurn, FlagDef, Lang
from rag.embedder import DEFAULT, open_embedder
from rag.index_store import index_folder, open_index
from rag.language import detect_language
from rag.loader import KINDS, Problem, Source, WorldError
from rag.nfc import in_nfc
from rag.retriever import NOTE_TOKENS, Recalled, Retriever, kept_back
from rag.scaffold import ScaffoldError, write_npc
from rag.scopes import Scene
from rag.world import World, load_world, read_world


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `world`."""
    world = commands.add_parser("world", help="work on a world folder")
    actions = world.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="report every problem of a world, and what it holds")
    check.add_argument("folder", type=Path)
    check.add_argument(
        "--bundle",
        type=Path,
        help="also hold flags and deltas against this bundle's heads, and notes against the budget",
    )
    check.add_argument(
        "--note-tokens",
        type=_count,
        default=NOTE_TOKENS,
        help=f"that budget: the server's PERSONA_NOTE_TOKENS (default: {NOTE_TOKENS})",
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
    search.add_argument("text", type=_typed, help="what a player says")
    search.add_argument(
        "--npc", type=_typed, help="search as this NPC would (default: the whole world)"
    )
    for option, what in (("--stage", "quest stage"), ("--location", "place")):
        search.add_argument(option, type=_typed, help=f"the {what} (default: the NPC's first)")
    search.add_argument("--lang", choices=("ko", "en"), help="(default: that of the text)")
    search.add_argument("--limit", type=_count, default=5)
    search.set_defaults(run=run_search)
    for parser in (index, search):
        parser.add_argument(
            "--embedder", default=DEFAULT, help="`default`, `use`, or an encoder's folder"
        )


def run_check(args: argparse.Namespace) -> int:
    """Print what the world holds; WorldError lists what is wrong with it."""
    sources = read_world(args.folder)
    if args.bundle and (problems := _problems_with(args.bundle, sources, args.note_tokens)):
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
    """Print the nearest documents with their scores, and which of them a turn is told."""
    world = load_world(args.folder)
    if wrong := _no_such(world, args):
        print(f"persona world search: {wrong}", file=sys.stderr)
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
    place = _place_of(world, args) if args.npc else None
    table = Table("document", "score", "letters", "lead", "told", "nearest passage")
    for found in retriever.weighed(matches, vector):
        match = found.match
        numbers = f"{match.score:.3f}", f"{match.letters:.3f}", f"{found.lead:.3f}"
        table.add_row(Text(match.document.id), *numbers, _told(found, place), Text(match.passage))
    Console().print(table)
    where = "where its scope says"
    if place:
        scene, lang = place
        where = f"at stage {scene.quest_stage!r}, place {scene.location!r}, in {lang!r}"
    print(
        f"a note is told {where}, from a lead of {calibration.note:.3f} on, or with a passage of "
        f"{calibration.same:.3f}"
    )
    return 0


def _no_such(world: World, args: argparse.Namespace) -> str:
    """What of the scene that is asked for the world lacks; empty if nothing."""
    if args.npc is None:
        is_placed = args.stage or args.location or args.lang
        return "--stage, --location and --lang need --npc" if is_placed else ""
    if (persona := world.npcs.get(args.npc)) is None:
        return f"no NPC {args.npc!r}; known are {', '.join(world.npcs)}"
    for what, name, known in (
        ("stage", args.stage, persona.stages),
        ("place", args.location, persona.locations and world.places),
    ):
        if known and name not in (None, ANY, *known):
            return f"no {what} {name!r}; known are {', '.join(known)}"
    return ""


def _place_of(world: World, args: argparse.Namespace) -> tuple[Scene, Lang]:
    """Where and in which language a turn would be, as `/ask` fills what is not given."""
    persona = world.npcs[args.npc]
    stage = args.stage or next(iter(persona.stages), ANY)
    location = args.location or next(iter(persona.locations), ANY)
    lang = args.lang or detect_language(args.text, persona.lang)
    return Scene(args.npc, stage, location), lang


def _told(found: Recalled, place: tuple[Scene, Lang] | None) -> str:
    """Whether a turn is told it, there or (without `place`) where it belongs; else why not."""
    note = found.match.document
    if place is None:
        lang = note.lang if isinstance(note, DialogueTurn) else "ko"
        place = Scene(note.npc_id, note.quest_stage, note.location), lang
    why_not = kept_back(note, *place) or ("" if found.is_near else "too far")
    return f"not told: {why_not}" if why_not else "yes"


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


def _problems_with(folder: Path, sources: Sequence[Source], note_tokens: int) -> list[Problem]:
    """What a world has that the bundle in `folder` has no heads for, or no room."""
    from heads.loading import open_encoder  # noqa: PLC0415 (llama.cpp: slow)
    from runtime.llama_backend import LlamaModel  # noqa: PLC0415

    bundle = load_bundle(folder, verify_hashes=False)
    heads = bundle.manifest.heads
    flags, deltas = ([head.name for head in part] for part in (heads.flags, heads.delta))
    with closing(LlamaModel(bundle.model, vocab_only=True)) as model:
        sizes = check_sizes(sources, open_encoder(bundle, model), note_tokens)
        return [*check_names(sources, flags, deltas), *sizes]


def _typed(text: str) -> str:
    """`text` as the world spells its own. Raises ArgumentTypeError for what is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError("it is not UTF-8") from error
    spelt: str = in_nfc(text)
    return spelt


def _count(text: str) -> int:
    """Raises ArgumentTypeError for anything but a number above 0."""
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


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
