"""A conversation in Korean and English, as prompts that tests run."""

from collections.abc import Sequence

from runtime.encoder import PromptEncoder
from runtime.prompt import Npc, Segment, StateValue, Transcript, Turn, decision_segments
from runtime.sampling import SamplingParams
from runtime.sequence import Request
from tests.runtime.driving import greedy

NPC = Npc("okbun", "서옥분", "염전의 주인. 무뚝뚝하고 의심이 많다.", "옛 말투 반말")
LINES = (
    ("안녕하세요, 혹시 도움이 필요하신가요?", "수문 열쇠나 찾아오거라."),
    ("이 바보 멍청이야, 꺼져!", "썩 물러가거라."),
    ("Forgive me. I found the sluice key.", "그것이 정말이냐."),
    ("열쇠 여기 있습니다, 할머니.", "고맙다는 말은 안 한다."),
)


def turn_segments(number: int) -> list[Segment]:
    """The conversation up to `<STATE>` of a turn, counted from 0."""
    script = Transcript()
    parts = script.begin(NPC)
    for said, answered in LINES[:number]:
        parts += script.past_turn(said, answered)
    state: dict[str, StateValue] = {"location": "salt_fields", "trust": 0.2 * number}
    return parts + script.open_turn(Turn(LINES[number][0], state))


def prompts(encoder: PromptEncoder) -> list[list[int]]:
    """A prompt for each turn, each with all the turns before it."""
    return [encoder.begin(turn_segments(number)) for number in range(len(LINES))]


def decision(encoder: PromptEncoder) -> list[int]:
    """What follows `<STATE>`, the reply's first word too: the tiny gemma3 would say nothing."""
    return encoder.encode([*decision_segments('trust=+ relationship== give_item="첫소금"'), "help"])


def request(
    encoder: PromptEncoder, prompt: Sequence[int], sampling: SamplingParams | None = None
) -> Request:
    """A request whose `on_state` always decides the same."""
    return Request(prompt, sampling or greedy(), lambda _: decision(encoder))
