"""Reads a world folder: JSON (one document or a list a file) and Markdown or text for lore.

All problems are collected before anything is raised, each with file, id and key.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rag.documents import ANY, BaseDocument, Document
from rag.schema_errors import locate

LORE_SUFFIXES = {".md", ".txt"}
_FRONT_MATTER = re.compile(r"\A---\n(?P<head>.*?)\n---\n(?P<body>.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a world, and where."""

    file: str
    document_id: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.document_id}: {self.key}: {self.what}"


class WorldError(Exception):
    """A world folder cannot be used; `problems` lists every reason."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"the world has {len(problems)} problem(s):\n{lines}")


@dataclass(frozen=True, slots=True)
class Source:
    """A document and the file (relative to the world folder) that it came from."""

    file: str
    document: Document


def read_documents(folder: Path) -> tuple[list[Source], list[Problem]]:
    """Every document under `folder`, in file order, and every problem met while reading them."""
    if not folder.is_dir():
        return [], [Problem(str(folder), "-", "-", "no such folder")]
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        file = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            results = _read_json(path, file)
        elif path.suffix in LORE_SUFFIXES and path.stem.lower() != "readme":
            results = _read_lore(path, file)
        else:
            continue
        for result in results:
            if isinstance(result, Problem):
                problems.append(result)
            else:
                sources.append(Source(file, result))
    return sources, problems


def _read_json(path: Path, file: str) -> Iterator[Document | Problem]:
    try:
        content = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield Problem(file, "-", "-", f"not valid JSON: {error}")
        return
    for item in content if isinstance(content, list) else [content]:
        yield _convert(item, file)


def _convert(item: object, file: str) -> Document | Problem:
    name = str(item.get("id", "-")) if isinstance(item, dict) else "-"
    try:
        document: Document = msgspec.convert(item, Document)
    except msgspec.ValidationError as error:
        where, what = locate(error)
        return Problem(file, name, where.removeprefix("$").removeprefix(".") or "-", what)
    return document


def _read_lore(path: Path, file: str) -> Iterator[Document | Problem]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
    except UnicodeDecodeError as error:
        yield Problem(file, "-", "-", f"not UTF-8: {error.reason} at byte {error.start}")
        return
    head: dict[str, str] = {}
    if match := _FRONT_MATTER.match(text):
        pairs = (line.partition(":") for line in match["head"].splitlines() if line.strip())
        head = {key.strip(): value.strip() for key, _, value in pairs}
        text = match["body"]
    defaults = {"id": path.stem, "type": "lore"}
    yield _convert({**defaults, **head, "content": text.strip()}, file)


def find_duplicates(sources: list[Source]) -> list[Problem]:
    """Documents whose id an earlier document already has."""
    first: dict[str, str] = {}
    problems = []
    for source in sources:
        name = source.document.id
        if name in first:
            what = f"also used in {first[name]}; ids are unique"
            problems.append(Problem(source.file, name, "id", what))
        first.setdefault(name, source.file)
    return problems


def scope_of(document: BaseDocument) -> tuple[str, str, str]:
    """Where a document applies: `(npc_id, quest_stage, location)`, each a name or "any"."""
    return document.npc_id, document.quest_stage, document.location


def fallback_scopes(npc_id: str, stage: str, location: str) -> Iterator[tuple[str, str, str]]:
    """Scopes to try in turn: stage and place, place, stage, neither; then the same for any NPC."""
    for npc in (npc_id, ANY):
        yield npc, stage, location
        yield npc, ANY, location
        yield npc, stage, ANY
        yield npc, ANY, ANY
