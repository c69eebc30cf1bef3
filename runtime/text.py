"""From token bytes to text that may be shown: whole characters only, nothing past a stop string."""

import codecs


class TextStream:
    """Collects the bytes of sampled tokens and releases text as soon as it is certain.

    Held back: bytes of an unfinished UTF-8 character (a Hangul syllable may span three byte
    tokens), and text that may yet turn out to begin a stop string. Bytes that can never become a
    character are dropped, so U+FFFD never appears.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: bytes) -> str:
        """The text that `piece` lets out, possibly empty. Sets `is_stopped` at a stop string."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(piece)
        cuts = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if cuts:
            self.is_stopped = True
            return self._release(min(cuts))
        return self._release(len(self._held) - self._num_doubtful())

    def finish(self) -> str:
        """The text still held back when the reply ends without a stop string."""
        return "" if self.is_stopped else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

    def _num_doubtful(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        lengths = (
            size
            for text in self._stop
            for size in range(min(len(text) - 1, len(self._held)), 0, -1)
            if self._held.endswith(text[:size])
        )
        return max(lengths, default=0)
