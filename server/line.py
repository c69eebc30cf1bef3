"""The NPC's line as it comes: cleaned, cut into sentences, released one by one."""

from runtime.sentences import CUT, Sentences
from server.reply import ReplyCleaner
from server.schemas import MAX_LINE

_MOST_TAKEN = MAX_LINE - len(CUT)


class Line:
    """A line in the making. `text` is what has been released; nothing of it is ever taken back.

    It has MAX_LINE characters at most: what would be longer is cut.
    """

    def __init__(self) -> None:
        self._cleaner = ReplyCleaner()
        self._sentences = Sentences()
        self.text = ""

    @property
    def asides(self) -> dict[str, str]:
        """What the model wrote inside `<DELTA>` and `<FLAG>`."""
        return self._cleaner.asides

    @property
    def is_full(self) -> bool:
        """Whether it must end, whatever the model would go on to say."""
        return len(self._cleaner.text) > _MOST_TAKEN

    def push(self, text: str) -> list[str]:
        """The sentences that the model's `text` completes, to be checked and released."""
        return self._sentences.push(self._fitting(self._cleaner.push(text)))

    def finish(self, *, is_cut: bool) -> str:
        """The last sentence, possibly empty: if the line was cut, only what is whole."""
        done = self._sentences.push(self._fitting(self._cleaner.finish()))
        return "".join(done) + self._sentences.finish(is_cut=is_cut or self.is_full)

    def release(self, sentence: str) -> None:
        """Count a sentence as said."""
        self.text += sentence

    def _fitting(self, cleaned: str) -> str:
        """What there is room for of the cleaner's last piece."""
        num_before = len(self._cleaner.text) - len(cleaned)
        return cleaned[: max(0, _MOST_TAKEN - num_before)]
