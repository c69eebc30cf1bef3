"""The fields that a request may have: which one a wrong name meant, and which names are ignored."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import islice

import msgspec

from server.schemas import AskContext, AskRequest, NpcState, PlayerState

MAX_TOLD = 8
"""Ignored fields that are told of one request."""

_GAME_STATE = ("context.game_state.quest_stage", "context.game_state.location")
_OPEN = {"context.player_state": PlayerState, "context.npc_state": NpcState}
_LONGEST = 64
_LIKENESS = 0.75


class _Context(msgspec.Struct, frozen=True):
    context: dict[str, msgspec.Raw] = {}


_decode_context = msgspec.json.Decoder(_Context).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def ignored_fields(body: bytes) -> list[str]:
    """A sentence for each field in the context of an AskRequest's body that has no effect.

    `body` is one that was decoded as AskRequest. Raises msgspec.DecodeError, for a name may be no
    Unicode where the schema skips it.
    """
    return [_told(path) for path in islice(_ignored(_decode_context(body).context), MAX_TOLD)]


def meant(path: str, schema: type[msgspec.Struct] = AskRequest) -> str | None:
    """The path of the field that a wrong one may have meant: `context.npc_state.trust`."""
    home, _, name = path.rpartition(".")
    known = _known_paths(schema)
    elsewhere = [other for other in known if _name(other) == name]
    if elsewhere:
        return min(elsewhere, key=len)
    beside = [other for other in known if other.rpartition(".")[0] == home]
    for paths in (beside, known):
        if other := _closest(name[:_LONGEST].lower(), paths):
            return other
    return None


def _closest(name: str, paths: list[str]) -> str | None:
    by_name = {_name(path): path for path in paths}
    close = get_close_matches(name, by_name, 1, _LIKENESS)
    longer = [other for other in by_name if name and name in other.split("_", 1)]
    return next((by_name[other] for other in (*close, *longer)), None)


def _ignored(context: dict[str, msgspec.Raw]) -> Iterator[str]:
    """The paths that no schema names."""
    for key, raw in context.items():
        path = f"context.{key}"
        if key not in AskContext.__struct_fields__:
            yield path
        elif path in _OPEN:
            fields = _OPEN[path].__struct_fields__
            yield from (f"{path}.{name}" for name in _decode_object(raw) if name not in fields)


def _told(path: str) -> str:
    if len(path) > 2 * _LONGEST:
        return f"{path[: 2 * _LONGEST]}… has no effect"
    return _told_of(path)


@lru_cache(maxsize=256)
def _told_of(path: str) -> str:
    """Kept, for a game sends the same fields with every turn."""
    other = meant(path)
    is_nested = other is not None and other != path  # a name with dots in it looks like a path
    return f"{path} has no effect" + (f"; did you mean {other}?" if is_nested else "")


@cache
def _known_paths(schema: type[msgspec.Struct]) -> list[str]:
    paths = list(_paths(msgspec.inspect.type_info(schema), ""))
    return [*paths, *_GAME_STATE] if schema is AskRequest else paths


def _paths(kind: msgspec.inspect.Type, home: str) -> Iterator[str]:
    if isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            yield f"{home}{field.encode_name}"
            yield from _paths(field.type, f"{home}{field.encode_name}.")


def _name(path: str) -> str:
    return path.rpartition(".")[2]
