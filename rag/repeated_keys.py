"""Keys that stand twice in an object of a JSON text: decoders take the last without a word."""

import json
import re
from typing import Any

from rag.nfc import in_nfc

_END_OF_KEY = re.compile(r'"\s*:')
"""Ends every key of a JSON text; in a string it may stand too."""


class _Repeated(list[str]):
    """The paths of the keys that stand twice in an object, or in one inside it."""


def repeated_keys(text: str, content: object) -> list[list[str]]:
    """The paths of repeated keys, for each document of a JSON text: one, or a list of them.

    `content` is what a decoder made of the text, in NFC. Raises RecursionError for objects too deep
    inside one another.
    """
    if len(_END_OF_KEY.findall(text)) == _num_keys(content):  # none of them was lost
        return [[] for _ in content] if isinstance(content, list) else [[]]
    read = json.loads(text, strict=False, object_pairs_hook=_close, parse_int=str, parse_float=str)
    items = read if type(read) is list else [read]
    return [item if isinstance(item, _Repeated) else [] for item in items]


def _num_keys(value: object) -> int:
    """The keys of an object and of those inside it."""
    if isinstance(value, dict):
        return len(value) + sum(map(_num_keys, value.values()))
    return sum(map(_num_keys, value)) if isinstance(value, list) else 0


def _close(pairs: list[tuple[str, Any]]) -> _Repeated:
    """What stands for an object whose `pairs` have been read."""
    found, seen = _Repeated(), set()
    for name, value in pairs:
        key = in_nfc(name)
        if key in seen:
            found.append(key)
        seen.add(key)
        is_list = type(value) is list
        for number, part in enumerate(value if is_list else [value]):
            if isinstance(part, _Repeated):
                here = f"{key}[{number}]" if is_list else key
                found += [f"{here}.{path}" for path in part]
    return found
