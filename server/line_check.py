"""What an NPC must not say: banned words, talk of being a program, the world's bad examples."""

import re
from dataclasses import dataclass

from heads.agreement import Agreement
from rag.documents import MainResValidate
from rag.keywords import NO_KEYWORDS, Keywords
from rag.retriever import Retriever

_PROGRAM = (
    r"(?:ai|artificial intelligence|(?:ai )?language model|chat ?bot|bot|robot|npc|algorithm"
    r"|software|(?:computer |software )?program|(?:ai|virtual) assistant)"
)
_KO_PROGRAM = (
    r"(?:(?<![a-z])(?:ai|npc)|에이아이|엔피시|인공\s*지능|언어\s*모델|챗봇|로봇|소프트웨어)"
)
_BREAKS = (
    rf"(?<![a-z])as (?:an? )?{_PROGRAM}(?![a-z])",
    rf"(?<![a-z])i(?:['’]m| am| was|['’]ve been| have been) (?:(?:just|only|actually) )?"
    rf"(?:an? |some )?(?:piece of )?{_PROGRAM}(?![a-z])",
    r"(?<![a-z])large language model",
    r"(?<![a-z])(?:openai|chatgpt|anthropic|deepmind|alibaba cloud|gpt-\d)(?![a-z])",
    r"(?<![a-z])(?:i['’]m|i am|저는|나는) (?:gemma|qwen|llama)(?![a-z])",
    rf"(?:저는|나는|전|난|제가|내가)\s*(?:그저\s*|단지\s*|사실\s*)?{_KO_PROGRAM}",
    rf"{_KO_PROGRAM}(?:\s*모델)?(?:으로서|로서|이라서|라서|이기 때문|이므로|입니다|이에요|예요)",
    r"(?:대규모|거대|인공\s*지능)\s*언어\s*모델",
)
"""Latin words end where no letter follows: `\\b` is no border between Latin and Hangul."""
PERSONA_BREAK = re.compile("|".join(f"(?:{pattern})" for pattern in _BREAKS), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a sentence must not leave: `reason` is one of REASONS, `because` what it ran into."""

    reason: str
    because: str


REASONS = ("banned_word", "persona_break", "contradicts_decision", "like_a_bad_example")


@dataclass(frozen=True, slots=True)
class LineCheck:
    """The checks of one scene."""

    banned: Keywords = NO_KEYWORDS
    examples: MainResValidate | None = None
    retriever: Retriever | None = None
    agreement: Agreement | None = None

    @property
    def needs_meaning(self) -> bool:
        """Whether sentences are compared with examples, which takes milliseconds."""
        return bool(self.retriever and self.examples and self.examples.examples_negative)

    def by_words(self, sentence: str) -> Refusal | None:
        """What the words alone say against a sentence."""
        if word := self.banned.found_in(sentence):
            return Refusal("banned_word", word)
        if match := PERSONA_BREAK.search(sentence):
            return Refusal("persona_break", match.group())
        return None

    def by_decision(self, said: str, *, is_raised: bool) -> Refusal | None:
        """Whether a line, as far as it is spoken, seems to contradict what was decided."""
        found = self.agreement and self.agreement.contradiction(said, is_raised=is_raised)
        return Refusal("contradicts_decision", found) if found else None

    def by_meaning(self, sentence: str) -> Refusal | None:
        """Whether a sentence means the same as a bad example, and more so than as any good one."""
        if not self.retriever or not self.examples or not sentence.strip():
            return None
        vector = self.retriever.encode(sentence.strip())
        bad, example = self.retriever.index.nearest(vector, self.examples.examples_negative)
        good, _ = self.retriever.index.nearest(vector, self.examples.examples_positive)
        is_bad = bad >= self.retriever.calibration.same and bad > good
        return Refusal("like_a_bad_example", example) if is_bad else None
