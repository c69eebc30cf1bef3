"""Which lines must not leave, and which only look as if."""

from collections.abc import Sequence

import msgspec
import pytest

from heads.agreement import Agreement
from rag.calibration import Calibration
from rag.documents import Document, MainResValidate
from rag.index_store import open_index
from rag.keywords import NO_KEYWORDS, Keywords
from rag.retriever import Retriever
from server.line_check import REASONS, LineCheck, Refusal
from tests.rag.fake_embedder import GramEmbedder, TableEmbedder, at_cosine
from tests.train.responses import responses_of_each_kind as turns
from train.fit_agreement import fit_agreement

BANNED = Keywords.of(["시발", "scum"])

BREAKS = [
    "저는 AI입니다.",
    "나는 인공지능이야.",
    "저는 그저 AI라서 맛을 몰라요.",
    "전 단지 언어 모델일 뿐입니다.",
    "난 챗봇이라고!",
    "제가 에이아이여서요.",
    "내가 인공 지능이니까.",
    "인공지능으로서 말씀드리면, 염전은 위험해요.",
    "AI로서 답할 수 없습니다.",
    "언어모델이기 때문에 모르겠어요.",
    "챗봇이라서 그래요.",
    "거대 언어 모델은 그런 걸 몰라요.",
    "대규모 언어모델이 답합니다.",
    "As an AI, I have no feelings.",
    "as a language model I can't taste salt",
    "Speaking AS AN ARTIFICIAL INTELLIGENCE, no.",
    "I am an AI.",
    "Well, I'm just an AI, traveller.",
    "I'm a chatbot!",
    "I was only a computer program.",
    "I am a virtual assistant.",
    "I am a large language model, trained by someone.",
    "I'm a software, and you've got the wrong man.",
    "I've been a bot since I was nine.",
    "I am only a piece of software.",
    "I have been a robot all along.",
    "I'm just an NPC.",
    "저는 로봇입니다.",
    "나는 NPC라서 몰라.",
    "OpenAI made me.",
    "Ask ChatGPT.",
]
HARMLESS = [
    "",
    "아이고, 바람이 세군요.",
    "아이가 저기 있어요.",
    "나는 아이가 아니오.",
    "저는 아이라서 몰라요.",
    "난 에이, 그런 말 안 해.",
    "언어는 모르오.",
    "저는 그 나라 언어를 몰라요.",
    "저는 모델 배를 만들어요.",
    "그 까마귀는 지능이 높아.",
    "저는 인공 호수를 팠습니다.",
    "사람으로서 할 말이 아니오.",
    "전 봇짐장수예요.",
    "I'm an apprentice.",
    "I've been a botanist since I was nine.",
    "I am a bottle short.",
    "I was programmed by nobody, I was raised.",
    "The robot in the tale had no heart.",
    "I am an aide to the queen.",
    "I'm an airman's daughter.",
    "As an assassin I knew no fear.",
    "As an old friend, I beg you.",
    "I was a chatty boy once.",
    "Her language is the language of gulls.",
    "A large language they speak, beyond the hills.",
    "Aye, said the captain.",
    "The model of the ship is mine.",
    "It was an artificial harbour.",
]


@pytest.mark.parametrize("line", BREAKS)
def test_an_npc_that_says_it_is_a_program_is_found_out(line: str) -> None:
    refusal = LineCheck().by_words(line)
    assert refusal is not None
    assert refusal.reason == "persona_break"
    assert refusal.because in line


@pytest.mark.parametrize("line", HARMLESS)
def test_a_line_that_merely_sounds_like_that_may_leave(line: str) -> None:
    assert LineCheck().by_words(line) is None


@pytest.mark.parametrize("line", ["I’m an AI.", "I’m just a language model."])
def test_a_curly_apostrophe_hides_no_program(line: str) -> None:
    assert LineCheck().by_words(line) is not None


@pytest.mark.parametrize(
    "line", ["저는 ChatGPT입니다.", "OpenAI에서 만들었어요.", "저는 large language model이에요."]
)
def test_a_korean_ending_hides_no_program(line: str) -> None:
    assert LineCheck().by_words(line) is not None


def test_an_assistant_of_flesh_and_blood_may_say_so() -> None:
    assert LineCheck().by_words("I worked as an assistant to the smith.") is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("이 시발 바람!", "시발"),
        ("시1발, 바람이 세네.", "시발"),
        ("시 발", "시발"),
        ("ㅅㅣㅂㅏㄹ", "시발"),
        ("You scum!", "scum"),
        ("you $.c.u.m", "scum"),
        ("S C U M", "scum"),
    ],
)
def test_a_banned_word_is_found_plain_or_disguised(line: str, word: str) -> None:
    check = LineCheck(BANNED)
    assert check.by_words(line) == Refusal("banned_word", word)
    assert LineCheck().by_words(line) is None


@pytest.mark.parametrize("line", ["다시 발견했어요.", "I scumbled the paint.", "몹시 발이 아파요."])
def test_chance_neighbours_of_a_banned_word_may_leave(line: str) -> None:
    assert LineCheck(BANNED).by_words(line) is None


BAD, WORSE, GOOD, FINE = "lol whatever", "brb gotta go", "Mind the step.", "The wind is up."
SAME = 0.8
NEAR, EDGE, FAR = "near the bad one", "at the bound", "far from it"
MEANINGS: dict[str, Sequence[float]] = {
    BAD: (1, 0),
    WORSE: (-1, 0),
    NEAR: at_cosine(0.95),
    EDGE: at_cosine(0.85),
    FAR: at_cosine(0.7),
    GOOD: at_cosine(0.9),
    FINE: (0, -1),
}


def check_of(*, good: Sequence[str], bad: Sequence[str], same: float = SAME) -> LineCheck:
    examples = MainResValidate(id="v", examples_positive=[*good], examples_negative=[*bad])
    documents: list[Document] = [examples]
    embedder = TableEmbedder(MEANINGS)
    index, _ = open_index(documents, embedder)
    calibration = Calibration(embedder=embedder.id, note=0.5, same=same)
    return LineCheck(NO_KEYWORDS, examples, Retriever(embedder, index, calibration))


def test_a_line_like_a_bad_example_is_found_out() -> None:
    check = check_of(good=[FINE], bad=[WORSE, BAD])
    assert check.by_meaning(NEAR) == Refusal("like_a_bad_example", BAD)
    assert check.by_meaning(f" {WORSE}\n") == Refusal("like_a_bad_example", WORSE)


def test_a_line_is_like_a_bad_example_only_if_it_means_the_same() -> None:
    check = check_of(good=[FINE], bad=[BAD])
    assert check.by_meaning(EDGE) == Refusal("like_a_bad_example", BAD)
    assert check.by_meaning(FAR) is None
    assert check.by_meaning(FINE) is None


def test_a_line_nearer_to_a_good_example_than_to_any_bad_one_may_leave() -> None:
    assert check_of(good=[], bad=[BAD]).by_meaning(EDGE) == Refusal("like_a_bad_example", BAD)
    check = check_of(good=[FINE, GOOD], bad=[WORSE, BAD])
    assert check.by_meaning(EDGE) is None  # 0.85 to the bad one, nearly 1 to the good one
    assert check.by_meaning(GOOD) is None
    assert check.by_meaning(BAD) == Refusal("like_a_bad_example", BAD)


def test_a_line_as_near_to_a_good_example_as_to_a_bad_one_may_leave() -> None:
    assert check_of(good=[BAD], bad=[BAD]).by_meaning(BAD) is None


def test_meaning_is_asked_only_where_there_is_a_bad_example_and_an_encoder() -> None:
    assert check_of(good=[], bad=[BAD]).needs_meaning
    assert not check_of(good=[GOOD], bad=[]).needs_meaning
    assert check_of(good=[GOOD], bad=[]).by_meaning(BAD) is None
    examples = MainResValidate(id="v", examples_negative=[BAD])
    assert not LineCheck(examples=examples).needs_meaning
    assert LineCheck(examples=examples).by_meaning(BAD) is None
    assert LineCheck().by_meaning(BAD) is None


def test_white_space_is_not_embedded() -> None:
    embedder = GramEmbedder()
    examples = MainResValidate(id="v", examples_negative=[BAD])
    index, _ = open_index([examples], embedder)
    calibration = Calibration(embedder=embedder.id, note=0.5, same=-1.0)
    check = LineCheck(NO_KEYWORDS, examples, Retriever(embedder, index, calibration))
    embedder.embedded.clear()
    assert check.by_meaning(" \n") is None
    assert embedder.embedded == []
    assert check.by_meaning(f"  {BAD} ") is not None
    assert embedder.embedded == [BAD]


def test_every_reason_of_a_refusal_is_a_known_one() -> None:
    by_words = LineCheck(Keywords.of(["scum"]))
    file = msgspec.structs.replace(fit_agreement(turns(), []), thresholds=(0.5, 0.5))
    agreement = Agreement(file)
    assert by_words.by_decision("No, never.", is_raised=True) is None, "nothing to tell by"
    refusals = [
        by_words.by_words("scum"),
        by_words.by_words("I am an AI."),
        LineCheck(agreement=agreement).by_decision("No, never.", is_raised=True),
        check_of(good=[], bad=[BAD]).by_meaning(BAD),
    ]
    assert tuple(refusal.reason for refusal in refusals if refusal) == REASONS
