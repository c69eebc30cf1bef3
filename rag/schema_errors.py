"""Where a document or a request breaks its schema, read from msgspec's message."""

import re

import msgspec

_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>.*)`)?$", re.DOTALL)
_FIELD = re.compile(
    r"^Object (?:missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL
)
_LONGEST = 200
"""Characters of a path or text: both may quote what a stranger sent."""


def locate(error: msgspec.ValidationError) -> tuple[str, str]:
    """`(path, what)`: a JSON path like `$.context.npc_state.trust`, and what is wrong there.

    The path of a missing or unknown field is its own, not that of the object around it.
    """
    match = _PATH.match(str(error))
    assert match is not None, "every part of the pattern is optional"
    path, what = match["path"] or "$", match["what"]
    if field := _FIELD.match(what):
        path = f"{path}.{field['name']}"
    return _shortened(path), _shortened(what)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
