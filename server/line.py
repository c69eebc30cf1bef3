"""The NPC's line as it comes: cleaned, cut into sentences, released one by one."""

from runtime.sentences import Sentences
from server.reply import ReplyCleaner


class Line:
    """A line in the making. `text` is what has been released; nothing of it is ever taken back."""

    def __init__(self) -> None:
        self._cleaner = ReplyCleaner()
        self._sentences = Sentences()
        self.text = ""

    @property
    def asides(self) -> dict[str, str]:
        """What the model wrote inside `<DELTA>` and `<FLAG>`."""
        return self._cleaner.asides

    def push(self, text: str) -> list[str]:
        """The sentences that the model's `text` completes, to be checked and released."""
        return self._sentences.push(self._cleaner.push(text))

    def finish(self, *, is_cut: bool) -> str:
        """The last sentence, possibly empty: if the line was cut, only what is whole."""
        done = self._sentences.push(self._cleaner.finish())
        return "".join(done) + self._sentences.finish(is_cut=is_cut)

    def release(self, sentence: str) -> None:
        """Count a sentence as said."""
        self.text += sentence
