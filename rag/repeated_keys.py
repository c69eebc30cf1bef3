"""Keys that stand twice in an object of a JSON text: decoders take the last without a word."""

import json
from typing import Any

from rag.nfc import in_nfc


class _Repeated(list[str]):
    """The paths of the keys that stand twice in an object, or in one inside it."""


def repeated_keys(text: str) -> list[list[str]]:
    """The paths of repeated keys, for each document of a valid JSON text: one, or a list of them.

    Raises RecursionError for objects too deep inside one another.
    """
    content = json.loads(
        text, strict=False, object_pairs_hook=_close, parse_int=str, parse_float=str
    )
    items = content if type(content) is list else [content]
    return [item if isinstance(item, _Repeated) else [] for item in items]


def _close(pairs: list[tuple[str, Any]]) -> _Repeated:
    """What stands for an object whose `pairs` have been read."""
    found, seen = _Repeated(), set()
    for name, value in pairs:
        key = in_nfc(name)
        if key in seen:
            found.append(key)
        seen.add(key)
        for part in value if type(value) is list else [value]:
            if isinstance(part, _Repeated):
                found += [f"{key}.{path}" for path in part]
    return found
