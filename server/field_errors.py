"""What is wrong with a field, said of it: `is 50; it must be from -1 to 1`."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from rag.schema_errors import locate
from server.field_names import meant

_BOUND = re.compile(r"^Expected `(?P<kind>\w+)`(?P<length> of length)? (?P<bound>[<>]=? \S+)$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<at>\d+|\.\.\.)\]")
_KINDS: dict[str, type[inspect.Type]] = {
    "int": inspect.IntType,
    "float": inspect.FloatType,
    "str": inspect.StrType,
    "array": inspect.ListType,
    "object": inspect.DictType,
}
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "array": list,
    "object": dict,
}
_PARTS = {"str": "characters", "array": "items", "object": "keys"}
_LONGEST = 40
_UNKNOWN = object()


def located(
    error: msgspec.ValidationError, body: bytes, schema: type[msgspec.Struct]
) -> tuple[str, str]:
    """`(path, what)` of the field of `schema` in `body` that the error is about."""
    path, what = locate(error)
    if what.startswith("Object missing"):
        return path, "is missing"
    if what.startswith("Object contains unknown field"):
        other = meant(path.removeprefix("$."), schema)
        return path, "is not a field" + (f"; did you mean {other}?" if other else "")
    if " - at `key` in " in str(error):
        return path, f"has a wrong key: {what[0].lower()}{what[1:]}"
    kinds = list(_kinds_at(inspect.type_info(schema), path))
    if match := _BOUND.match(what):
        value = _value_at(body, path)
        # of two equal keys the last one is found here, while msgspec stopped at the first
        is_meant = isinstance(value, _PYTHON[match["kind"]])
        return path, _out_of_bounds(match, value if is_meant else _UNKNOWN, kinds)
    if what.startswith("Invalid enum value") and (choices := _choices(kinds)):
        return path, f"is {_quoted(_value_at(body, path))}; it must be {choices}"
    return path, f"is wrong: {what[0].lower()}{what[1:]}"


def _out_of_bounds(match: re.Match[str], value: Any, kinds: list[inspect.Type]) -> str:
    kind, is_length = match["kind"], match["length"] is not None
    low, high = next(
        (_bounds(found, is_length=is_length) for found in kinds if isinstance(found, _KINDS[kind])),
        (None, None),
    )
    needed = _range(low, high) or match["bound"]
    if not is_length:
        between = "from " if low is not None and high is not None else ""
        return f"is {_quoted(value)}; it must be {between}{needed}"
    if value is _UNKNOWN:
        extreme = "long" if match["bound"].startswith("<") else "short"
        return f"is too {extreme}; it must have {needed} {_PARTS[kind]}"
    return f"has {len(value)} {_PARTS[kind]}; it must have {needed}"


def _range(low: str | None, high: str | None) -> str:
    if low is None:
        return f"at most {high}" if high is not None else ""
    return f"{low} to {high}" if high is not None else f"at least {low}"


def _bounds(kind: inspect.Type, *, is_length: bool) -> tuple[str | None, str | None]:
    names = ("min_length", "max_length") if is_length else ("ge", "le")
    low, high = (getattr(kind, name) for name in names)
    return _number(low), _number(high)


def _number(bound: float | None) -> str | None:
    return None if bound is None else str(int(bound) if bound == int(bound) else bound)


def _choices(kinds: list[inspect.Type]) -> str:
    literals = (kind for kind in kinds if isinstance(kind, inspect.LiteralType))
    return " or ".join(_quoted(value) for kind in literals for value in kind.values)


def _quoted(value: Any) -> str:
    """The value as JSON, as far as it is short."""
    if value is _UNKNOWN:
        return "wrong"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _kinds_at(kind: inspect.Type, path: str) -> Iterator[inspect.Type]:
    """The types that the schema allows at a path."""
    kinds = list(_alternatives(kind))
    for step in _STEP.finditer(path):
        kinds = [deeper for one in kinds for deeper in _below(one, step["name"])]
    yield from kinds


def _below(kind: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            if field.encode_name == name:
                yield from _alternatives(field.type)
    elif name is None and isinstance(kind, inspect.ListType):
        yield from _alternatives(kind.item_type)
    elif name is None and isinstance(kind, inspect.DictType):
        yield from _alternatives(kind.value_type)


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _value_at(body: bytes, path: str) -> Any:
    """What the body has there, as far as that can be told."""
    try:
        value = msgspec.json.decode(body)
        for step in _STEP.finditer(path):
            value = value[step["name"] if step["name"] else int(step["at"])]
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError, ValueError):
        return _UNKNOWN
    return value
