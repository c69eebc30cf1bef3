"""Reads a world folder: JSON (one document or a list a file) and Markdown or text for lore.

All problems are collected before anything is raised, each with file, id, key and remedy. Text comes
out in NFC, so that names are equal where they look equal.
"""

import difflib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from rag.documents import BaseDocument, Document
from rag.front_matter import read_front_matter
from rag.nfc import in_nfc
from rag.repeated_keys import repeated_keys
from rag.schema_errors import locate

JSON_SUFFIX, LORE_SUFFIXES = ".json", {".md", ".txt"}
KINDS: dict[str, type[BaseDocument]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(Document)
}
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
    paths, problems = _find(folder)
    for path in sorted(paths):
        file = path.relative_to(folder).as_posix()
        for result in _read(path, file):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                sources.append(Source(file, result))
    return sources, problems


def _find(folder: Path) -> tuple[list[Path], list[Problem]]:
    """The documents' files under `folder`, links followed, and which folders cannot be read."""
    paths: list[Path] = []
    problems: list[Problem] = []

    def note(error: OSError) -> None:
        file = Path(error.filename).relative_to(folder).as_posix()
        problems.append(_unreadable(file, error))

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=note):
        here = Path(place)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back, or a second one
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [here / name for name in files if _is_document(here / name)]
    return paths, problems


def _is_document(path: Path) -> bool:
    """Whether a file in a world's folder is a document's: not an editor's, nor for people.

    So is a link to nowhere: it may have led to a folder of them.
    """
    name, suffix = path.name, path.suffix.lower()
    if name.startswith("."):
        return False
    is_lore = suffix in LORE_SUFFIXES and not name.lower().startswith("readme")
    return is_lore or suffix == JSON_SUFFIX or _leads_nowhere(path)


def _leads_nowhere(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return True
    return False


def _read(path: Path, file: str) -> Iterator[Document | Problem]:
    """The documents of a file, or what is wrong with it; nothing of a pipe."""
    is_json = path.suffix.lower() == JSON_SUFFIX
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        if (problem := _badly_named(file)) is not None:
            yield problem
            return
        text = _text(path)
    except OSError as error:
        yield _unreadable(file, error)
    except UnicodeDecodeError as error:
        what = f"not UTF-8: {error.reason} at byte {error.start}"
        yield Problem(file, "-", "-", what, "save the file as UTF-8")
    else:
        yield from _read_json(text, file) if is_json else _read_lore(text, path, file)


def _unreadable(file: str, error: OSError) -> Problem:
    what = f"cannot be read: {error.strerror}"
    return Problem(file, "-", "-", what, "make it readable, or remove it")


def _badly_named(file: str) -> Problem | None:
    """What is wrong with a file's name, or with that of a folder around it."""
    shown = os.fsencode(file).decode("utf-8", "replace")
    if shown == file:
        return None
    what = "the name is not UTF-8"
    return Problem(shown, "-", "-", what, "rename it; an archive from Windows may have made it")


def _text(path: Path) -> str:
    """Raises OSError, and UnicodeDecodeError for what is not text in UTF-8."""
    raw = path.read_bytes()
    if (at := raw.find(b"\0")) >= 0:
        raise UnicodeDecodeError("utf-8", raw, at, at + 1, "zero byte")
    return raw.decode("utf-8-sig")  # Windows editors begin with a mark


def _hidden_json(text: str, path: Path, file: str) -> Problem | None:
    """What is wrong with a text file that is JSON by its name and its first sign."""
    meant = path.with_suffix("")
    if meant.suffix.lower() != JSON_SUFFIX or not text.lstrip().startswith(("{", "[")):
        return None
    what = f"JSON is not read from a {path.suffix} file"
    remedy = f"rename it to {meant.name}; the file manager may be hiding its last ending"
    return Problem(file, "-", "-", what, remedy)


def _read_json(text: str, file: str) -> Iterator[Document | Problem]:
    try:
        content = in_nfc(msgspec.json.decode(text))
        repeated = repeated_keys(text, content)
    except (msgspec.DecodeError, RecursionError) as error:
        remedy = "look for a missing comma, quote or bracket just before that byte"
        yield Problem(file, "-", "-", f"not valid JSON: {error}", remedy)
        return
    items = content if isinstance(content, list) else [content]
    for item, keys in zip(items, repeated, strict=True):
        for key in keys:
            yield Problem(file, _id_of(item), key, "stands twice", "keep one of them")
        yield from _convert(item, file)


def _read_lore(text: str, path: Path, file: str) -> Iterator[Document | Problem]:
    if (problem := _hidden_json(text, path, file)) is not None:
        yield problem
        return
    found = read_front_matter(in_nfc(text.replace("\r\n", "\n").replace("\r", "\n")))
    item = {"id": in_nfc(path.stem), "type": "lore", **found.head, "content": found.body}
    for fault in found.faults:
        yield Problem(file, _id_of(item), fault.key, fault.what, fault.remedy)
    if found.is_closed:
        yield from _convert(item, file)


def _id_of(item: object) -> str:
    return str(item.get("id", "-")) if isinstance(item, dict) else "-"


def _convert(item: object, file: str) -> Iterator[Document | Problem]:
    """The document, or all that is wrong with it.

    msgspec stops at the first error, so what it names is left out and the rest is tried again.
    """
    name = _id_of(item)
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
