"""Front matter: the `key: value` lines between two `---` at the head of a text file.

A first line of more dashes begins none: it may be the frame of a title, and stays text.

Front matter looks like YAML and is less: a value is the rest of its line. Where YAML would say
something else, that is a fault, so that nothing is read otherwise than it was meant.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

_FENCE, _CLOSING_FENCES = "---", ("---", "...")
_CLOSING = {'"': '"', "'": "'", "[": "]", "{": "}"}
_LIST = "items"
"""The key whose value is several names with commas between them."""
_CONTENT = "content"

Value: TypeAlias = str | list[str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a key (`-`: at none), and what mends it."""

    key: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """What the head of a text says, the text below, and what is wrong with the head."""

    body: str
    head: dict[str, Value] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    is_closed: bool = True
    """False: where the head ends is anyone's guess, and `body` is the whole text."""


def read_front_matter(text: str) -> FrontMatter:
    """The front matter of `text` (lines end in a newline alone), if it begins with `---`."""
    body = text.strip()
    first, *lines = body.split("\n")
    if first.rstrip() != _FENCE:
        return FrontMatter(body)
    ends = (at for at, line in enumerate(lines) if line.rstrip() in _CLOSING_FENCES)
    if (end := next(ends, None)) is None:
        remedy = "end it with a line `---`, or remove the first line if it is none"
        fault = Fault("-", "the front matter that begins with `---` has no end", remedy)
        return FrontMatter(body, faults=[fault], is_closed=False)
    found = FrontMatter("\n".join(lines[end + 1 :]).strip())
    for line in map(str.strip, lines[:end]):
        if line:
            _read_line(line, found)
    return found


def _read_line(line: str, into: FrontMatter) -> None:
    key, colon, rest = line.partition(":")
    key, value = key.strip(), rest.strip()
    if key.startswith("#") or not colon:
        remedy = (
            "notes for people go into `comment`, and a heading below the front matter"
            if key.startswith("#")
            else "write each key in a line of its own; names of a list go behind it: items: a, b"
        )
        into.faults.append(Fault("-", f"{line!r} is no `key: value`", remedy))
    elif key == _CONTENT:
        what = "the content is the text below the front matter"
        into.faults.append(Fault(key, what, "move it there"))
    elif key in into.head:
        into.faults.append(Fault(key, "stands twice", "keep one of them"))
    else:
        into.head[key] = _value(key, value, into.faults)


def _value(key: str, value: str, faults: list[Fault]) -> Value:
    """The value, out of quotes and brackets so that they are the only fault."""
    bare = _unwrapped(value)
    is_wrapped = bare != value
    names: list[str] = []
    if key == _LIST:
        parts = [part for part in map(str.strip, bare.split(",")) if part]
        names = [_unwrapped(part) for part in parts]
        is_wrapped = is_wrapped or names != parts
    if is_wrapped:
        remedy = "write it without; what needs them, or two languages, is written in JSON"
        faults.append(Fault(key, f"{value!r} stands in quotes or brackets", remedy))
    return names if key == _LIST else bare


def _unwrapped(value: str) -> str:
    is_wrapped = len(value) > 1 and _CLOSING.get(value[0]) == value[-1]
    return value[1:-1].strip() if is_wrapped else value
