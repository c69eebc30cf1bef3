"""Cleans the NPC's line as it streams: nothing is released that would have to be taken back."""

import re

from runtime.prompt import Special
from server.preprocess import without_controls

_ASIDE = ("DELTA", "FLAG")
"""Elements that other models write beside the line: told apart, never said."""
_NAMES = ("RESPONSE", *_ASIDE, *(special.strip("<>") for special in Special))
_TAG = re.compile(rf"<(?P<end>/?)(?P<name>{'|'.join(_NAMES)})>", re.IGNORECASE)
_LONGEST_TAG = max(len(name) for name in _NAMES) + len("</>")


_WHITE_SPACE = re.compile(r"\s+")
_NEVER_FIRST = " ,;、，；"
"""No line begins with one of these, though a model now and then makes as if it went on."""


class ReplyCleaner:
    """Takes tags and control characters out, makes white space single.

    The pieces released add up to the final line. A tag leaves white space, so that what stood
    around it can never join into another tag. What stands inside `<DELTA>` or `<FLAG>`, up to the
    next tag, goes to `asides` by that name.
    """

    def __init__(self) -> None:
        self._raw = ""
        self._held = ""
        self._inside: str | None = None
        self.text = ""
        self.asides: dict[str, str] = {}

    def push(self, text: str) -> str:
        """What `text` lets out, possibly empty."""
        self._raw += without_controls(text)
        if "<" not in self._raw:  # nearly always
            self._take(self._raw)
            self._raw = ""
            return self._release(len(self._held.rstrip()))
        while match := _TAG.search(self._raw):
            self._take(self._raw[: match.start()])
            name = match["name"].upper()
            self._inside = name if name in _ASIDE and not match["end"] else None
            self._take(" ")
            self._raw = self._raw[match.end() :]
        certain = self._end_of_certain()
        self._take(self._raw[:certain])
        self._raw = self._raw[certain:]
        return self._release(len(self._held.rstrip()))

    def finish(self) -> str:
        """What is still held back when the line is over."""
        self._take(self._raw)
        self._raw, self._held = "", self._held.rstrip()
        return self._release(len(self._held))

    def _take(self, text: str) -> None:
        if self._inside:
            before = self.asides.get(self._inside, "")
            self.asides[self._inside] = (before + text).lstrip()
            return
        self._held += text
        if not text.isalnum() and any(map(str.isspace, text)):
            self._held = _WHITE_SPACE.sub(" ", self._held)
        if not self.text:
            self._held = self._held.lstrip(_NEVER_FIRST)

    def _end_of_certain(self) -> int:
        """Length of the raw text before a possible tag."""
        opening = self._raw.rfind("<")
        is_doubtful = opening >= 0 and len(self._raw) - opening < _LONGEST_TAG
        return opening if is_doubtful else len(self._raw)

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        self.text += released
        return released
