"""Cleans the NPC's line as it streams: nothing is released that would have to be taken back."""

import re

from runtime.prompt import Special

_NAMES = ("RESPONSE", "DELTA", "FLAG", *(special.strip("<>") for special in Special))
_TAG = re.compile(rf"</?(?:{'|'.join(_NAMES)})>", re.IGNORECASE)
_LONGEST_TAG = max(len(name) for name in _NAMES) + len("</>")


_WHITE_SPACE = re.compile(r"\s+")


class ReplyCleaner:
    """Takes tags out and makes white space single. The pieces released add up to the final line.

    A tag leaves white space, so that what stood around it can never join into another tag.
    """

    def __init__(self) -> None:
        self._held = ""
        self.text = ""

    def push(self, text: str) -> str:
        """What `text` lets out, possibly empty."""
        self._held = _WHITE_SPACE.sub(" ", _TAG.sub(" ", self._held + text))
        if not self.text:
            self._held = self._held.lstrip()
        return self._release(self._end_of_certain())

    def finish(self) -> str:
        """What is still held back when the line is over."""
        self._held = self._held.rstrip()
        return self._release(len(self._held))

    def _end_of_certain(self) -> int:
        """Length of the held text before a possible tag or trailing white space."""
        opening = self._held.rfind("<")
        if opening >= 0 and len(self._held) - opening < _LONGEST_TAG:
            return len(self._held[:opening].rstrip())
        return len(self._held.rstrip())

    def _release(self, end: int) -> str:
        released, self._held = self._held[:end], self._held[end:]
        self.text += released
        return released
