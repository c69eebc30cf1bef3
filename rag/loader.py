"""Reads a world folder: JSON (one document or a list a file) and Markdown or text for lore.

All problems are collected before anything is raised, each with file, id, key and remedy. Text comes
out in NFC, so that names are equal where they look equal.
"""

import codecs
import difflib
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from rag.documents import BaseDocument, Document
from rag.nfc import in_nfc
from rag.schema_errors import locate

LORE_SUFFIXES = {".md", ".txt"}
KINDS: dict[str, type[BaseDocument]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(Document)
}
_FRONT_MATTER = re.compile(r"\A---\n(?P<head>.*?)\n---\n(?P<body>.*)\Z", re.DOTALL)
_UNKNOWN, _MISSING = "unknown field", "missing required field"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a world, where, and what mends it."""

    file: str
    document_id: str
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.document_id}: {self.key}: {self.what}; {self.remedy}"


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
        return [], [Problem(str(folder), "-", "-", "no such folder", "name a world's folder")]
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not _is_document(relative):
            continue
        file = relative.as_posix()
        for result in _read(path, file):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                sources.append(Source(file, result))
    return sources, problems


def _is_document(relative: Path) -> bool:
    """Whether a path in a world's folder is a document's: not an editor's, nor for people."""
    if any(part.startswith(".") for part in relative.parts):
        return False
    is_lore = relative.suffix in LORE_SUFFIXES and not relative.name.lower().startswith("readme")
    return is_lore or relative.suffix == ".json"


def _read(path: Path, file: str) -> Iterator[Document | Problem]:
    """The documents of a file, or what is wrong with it; nothing of a folder or a pipe."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            yield from (_read_json if path.suffix == ".json" else _read_lore)(path, file)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        yield Problem(file, "-", "-", what, "make it readable, or remove it")


def _read_json(path: Path, file: str) -> Iterator[Document | Problem]:
    try:
        content = in_nfc(msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        remedy = "look for a missing comma, quote or bracket just before that byte"
        yield Problem(file, "-", "-", f"not valid JSON: {error}", remedy)
        return
    for item in content if isinstance(content, list) else [content]:
        yield from _convert(item, file)


def _read_lore(path: Path, file: str) -> Iterator[Document | Problem]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
    except UnicodeDecodeError as error:
        what = f"not UTF-8: {error.reason} at byte {error.start}"
        yield Problem(file, "-", "-", what, "save the file as UTF-8")
        return
    head: dict[str, object] = {}
    if match := _FRONT_MATTER.match(text):
        pairs = (line.partition(":") for line in match["head"].splitlines() if line.strip())
        head = {key.strip(): value.strip() for key, _, value in pairs}
        if isinstance(items := head.get("items"), str):
            head["items"] = [name.strip() for name in items.split(",")]
        text = match["body"]
    defaults = {"id": path.stem, "type": "lore"}
    yield from _convert(in_nfc({**defaults, **head, "content": text.strip()}), file)


def _convert(item: object, file: str) -> Iterator[Document | Problem]:
    """The document, or all that is wrong with it.

    msgspec stops at the first error, so what it names is left out and the rest is tried again.
    """
    name = str(item.get("id", "-")) if isinstance(item, dict) else "-"
    left: Any = dict(item) if isinstance(item, dict) else item
    wrong: set[str] = set()
    while True:
        try:
            document: Document = msgspec.convert(left, Document)
        except msgspec.ValidationError as error:
            where, what = locate(error)
            key = where.removeprefix("$").removeprefix(".")
            top = re.split(r"[.\[]", key, maxsplit=1)[0]
            if not (_MISSING in what and top in wrong):
                yield Problem(file, name, key or "-", what, _remedy(item, key, what))
            if not isinstance(left, dict) or top not in left or top == "type":
                yield from _other_missing_keys(left, wrong | {top}, file, name)
                return
            wrong.add(top)
            del left[top]
        else:
            if not wrong:
                yield document
            return


def _other_missing_keys(
    item: object, told: set[str], file: str, name: str
) -> Iterator[Document | Problem]:
    if not isinstance(item, dict) or (kind := KINDS.get(str(item.get("type")))) is None:
        return
    for info in msgspec.structs.fields(kind):
        if info.required and info.name not in item and info.name not in told:
            what = f"Object {_MISSING} `{info.name}`"
            yield Problem(file, name, info.name, what, _remedy(item, info.name, what))


def _remedy(item: object, key: str, what: str) -> str:
    """What to do about a schema error at `key` of `item`."""
    kind = str(item.get("type")) if isinstance(item, dict) else ""
    if not isinstance(item, dict):
        return 'write a document as an object: {"id": …, "type": …, …}'
    if key == "type" or kind not in KINDS:
        return f"types are {', '.join(sorted(KINDS))}"
    name = key.rpartition(".")[2]
    if _UNKNOWN in what:
        known = _keys_of(KINDS[kind])
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"did you mean {close[0]!r}?" if close else "remove it; notes go into `comment`"
    if _MISSING in what:
        return f"add {name!r}"
    return f"see {kind} in docs/world.md"


def _keys_of(kind: type[Any]) -> list[str]:
    """The keys of a document type and of its nested parts."""
    keys: dict[str, None] = {}
    pending, seen = [kind], set()
    while pending:
        struct = pending.pop()
        if struct in seen:
            continue
        seen.add(struct)
        for info in msgspec.structs.fields(struct):
            keys[info.name] = None
            pending += _structs_in(info.type)
    return list(keys)


def _structs_in(annotation: Any) -> list[type[Any]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [struct for part in get_args(annotation) for struct in _structs_in(part)]
