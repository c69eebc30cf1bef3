"""One turn on its way through the pipeline: the object that carries all of its state."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from heads.session import Prediction
from rag.embedder import Heard
from rag.index import Match, WorldIndex
from rag.retriever import Recalled
from runtime.prompt import Segment
from runtime.sequence import Done, FinishReason
from server.decide import Decision
from server.explanation import ExplainedSentence
from server.fallback import Reason
from server.gate import Closed
from server.line import Line
from server.line_check import Refusal
from server.schemas import TextSource
from server.sessions import Conversation, History
from server.turn import AskedTurn
from server.turn_prompt import BuiltPrompt


@dataclass(slots=True)
class Progress:
    """What one turn has come to so far."""

    turn: AskedTurn
    owner: str = ""
    """Id of the API key that asks."""
    conversation: Conversation = field(default_factory=Conversation)
    history: History = "fresh"
    precheck_passed: bool | None = None
    deadline: float | None = None
    """When the line must be finished or replaced, on `time.monotonic()`: waiting counts."""
    closed: Closed | None = None
    heard: Heard | None = None
    """What the encoder makes of the utterance."""
    index: WorldIndex | None = None
    recalled: list[Recalled] = field(default_factory=list)
    """The notes that were ranked."""
    note_threshold: float | None = None
    shown: list[Match] = field(default_factory=list)
    prompt: BuiltPrompt | None = None
    prediction: Prediction | None = None
    decision: Decision | None = None
    decided: list[Segment] = field(default_factory=list)
    """What follows `<STATE>` in the transcript; nothing on a fallback."""
    decision_tokens: list[int] = field(default_factory=list)
    is_state_sent: bool = False
    line: Line = field(default_factory=Line)
    sentences: list[ExplainedSentence] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    is_refused: bool = False
    """Whether the last attempt ended with a sentence that must not leave."""
    num_attempts: int = 0
    done: Done | None = None
    """How the last attempt ended."""
    done_before: list[Done] = field(default_factory=list)
    """How those before it did."""
    fault: Reason | None = None
    authored: str | None = None

    @property
    def reason(self) -> Reason | None:
        """Why this is a fallback; None on the main path."""
        if self.closed:
            return self.closed.reason
        return self.fault if self.decision is None else None

    @property
    def is_stopped(self) -> bool:
        """Whether the last attempt tells no more: refused, or not checked in time."""
        return self.is_refused or self.fault is not None

    @property
    def is_cut(self) -> bool:
        """Whether the line ends where it had to, not where it wanted to."""
        is_whole = self.done is not None and self.done.finish_reason is FinishReason.STOP
        return not is_whole or self.line.is_full or self.fault is not None

    @property
    def text(self) -> str:
        """The line of the answer."""
        return self.line.text if self.authored is None else self.authored

    @property
    def text_source(self) -> TextSource:
        """Who made the line."""
        if self.authored is not None:
            return "authored"
        return "model" if self.num_attempts < 2 else "regenerated"

    def nearest(self, texts: Sequence[str]) -> float:
        """The cosine of the utterance to the nearest of the world's `texts`; -1 without any."""
        if self.index is None or self.heard is None:
            return -1.0
        return self.index.nearest(self.heard.vector, texts)[0]

    @property
    def attempts(self) -> list[Done]:
        """What each attempt came to."""
        return [*self.done_before, *([self.done] if self.done else [])]

    def begin_attempt(self) -> None:
        """Start a line from nothing."""
        self.num_attempts += 1
        self.done_before = self.attempts
        self.line, self.done, self.is_refused = Line(), None, False

    def note_sentence(self, text: str, refusal: Refusal | None) -> None:
        """Remember a sentence of the model and what came of it."""
        if refusal is not None:
            self.refusals.append(refusal)
            self.is_refused = True
        self.sentences.append(
            ExplainedSentence(
                text=text.strip(),
                released=refusal is None,
                refused=refusal.reason if refusal else None,
                because=refusal.because if refusal else None,
                attempt=self.num_attempts,
            )
        )
