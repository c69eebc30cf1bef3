"""Cuts a streamed line into sentences, so that each can be checked before it is released."""

import re

_END = re.compile(r"""(?<![.!?。！？])[.!?。！？]+[…~]*["'”’」』)\]]*(?=\s)""")
"""The end of a sentence, once white space follows: "3.5" has none, and "그게…" goes on."""
_MARK = re.compile("[.!?。！？]")
CUT = "…"
_LOOSE = " ,;:…"


class SentenceWatch:
    """Says of each piece of a line as it is sampled whether a sentence ends with it.

    White space at the end is held back from `Sentences`, so it must be followed by something.
    """

    def __init__(self) -> None:
        self._held = ""
        """From the piece on that brought a mark, as long as no sentence has ended with it."""

    def __call__(self, piece: str) -> bool:
        """Whether `piece` makes a sentence whole."""
        if not self._held and not _MARK.search(piece):
            return False  # nearly always
        self._held += piece
        if not piece.strip():
            return False
        ends = [match.end() for match in _END.finditer(self._held.rstrip())]
        if ends:
            rest = self._held[ends[-1] :]
            self._held = rest if _MARK.search(rest) else ""
        return bool(ends)


class Sentences:
    """Collects text and gives it back sentence by sentence, white space kept with what follows."""

    def __init__(self) -> None:
        self._held = ""
        self._has_spoken = False

    def push(self, text: str) -> list[str]:
        """The sentences that `text` completes."""
        self._held += text
        if text.isalnum() or not any(map(str.isspace, text)):
            return []  # a sentence ends once white space follows
        whole = []
        while match := _END.search(self._held):
            whole.append(self._held[: match.end()])
            self._held = self._held[match.end() :]
        self._has_spoken |= any(map(str.isalnum, "".join(whole)))
        return whole

    def finish(self, *, is_cut: bool) -> str:
        """The last sentence, possibly empty.

        Of a line that was cut, a sentence without its end is left out; if it is the only one, it
        ends with its last whole word and an ellipsis.
        """
        rest, self._held = self._held, ""
        if not is_cut or not rest.strip() or _END.search(f"{rest} "):
            return rest
        if self._has_spoken:
            return ""
        kept = rest.rsplit(" ", 1)[0].rstrip(_LOOSE)
        return (kept or rest.rstrip(_LOOSE)) + CUT
