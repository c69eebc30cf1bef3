from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents import Lang
from tests.train.turns import label
from train.dataset import DatasetError
from train.line_checks import loop, markup, repetition, spoken_language
from train.line_figures import MAX_EXAMPLES, OFFENCES, GeneratedLine, LineFigures, line_figures


def line(text: str, finish_reason: str = "stop", **changes: Any) -> GeneratedLine:
    return GeneratedLine(label(**changes), text, finish_reason)


def korean(text: str, **changes: Any) -> GeneratedLine:
    return line(text, lang="ko", response="그래, 등대는 내가 지키지.", **changes)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("어서 와. <SYS>", "<SYS>"),
        ("<RESPONSE>Welcome.</RESPONSE>", "<RESPONSE>"),
        ("Welcome.</RESPONSE>", "</RESPONSE>"),
        ("그래 <unused17>", "<unused17>"),
        ("<bos>그래", "<bos>"),
        ("Fine.<|im_end|>", "<|im_end|>"),
        ("Fine.<｜end of sentence｜>", "<｜end of sentence｜>"),
        ("<0x0A>Fine.", "<0x0A>"),
        ("[INST] Fine.", "[INST]"),
        ("trust=+ Fine.", "trust=+"),
        ('give_item="rope" Fine.', 'give_item="'),
    ],
)
def test_what_belongs_to_the_prompt_is_found(text: str, found: str) -> None:
    assert markup(text) == found


@pytest.mark.parametrize(
    "text", ["아, 그거? <바다의 노래>라는 책이지.", "2 < 3, and 3 > 2.", "x = y", "So [I] say…", ""]
)
def test_what_one_may_say_is_no_markup(text: str) -> None:
    assert markup(text) is None


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Edda한테 물어봐.", "ko"),
        ("Edda, Wren? 몰라.", "ko"),
        ("밑창 seam이 다 벌어졌거든.", "ko"),
        ("Aye aye, 주문이 길어서 좋네.", "ko"),
        ("Ask 달 at the market.", "en"),
        ("I am sorry, I do not know. 미안.", "en"),
        ("Naïve, aren't you?", "en"),
        ("你好, 나그네.", None),
        ("ありがとう", None),
        ("Привет", None),
    ],
)
@pytest.mark.parametrize("default", ["ko", "en"])
def test_the_language_is_that_of_most_words_but_names(
    text: str, lang: str | None, default: Lang
) -> None:
    assert spoken_language(text, default) == lang


@pytest.mark.parametrize("default", ["ko", "en"])
def test_what_could_be_either_language_is_the_players(default: Lang) -> None:
    assert spoken_language("…!", default) == default
    assert spoken_language("the 등대", default) == default


def test_repetition_in_korean_is_told_by_syllables() -> None:
    # 가나다라 나다라가 다라가나 라가나다, then 가나다라 again: one of five
    assert repetition("가나다라, 가나 다라!", "ko") == pytest.approx(1 / 5)
    assert repetition("저는 모릅니다. 저는 모릅니다.", "ko") == pytest.approx(3 / 9)
    assert repetition("그 망치는 형이 벼려 준 거야.", "ko") == 0


def test_repetition_in_english_is_told_by_words() -> None:
    # 5 of 10 words' 4-grams are new: a b c d, b c d e, c d e a, d e a b, e a b c; then two old ones
    assert repetition("A b c d e, a b c d e.", "en") == pytest.approx(2 / 7)
    assert repetition("nothing, anything, something, everything", "en") == 0


def test_a_line_goes_by_its_own_language_whoever_is_spoken_to() -> None:
    said = "What a fine morning this is, what a fine day."
    assert repetition(said, "ko") == repetition(said, "en") == 0


def test_a_line_too_short_for_a_4_gram_repeats_nothing() -> None:
    assert repetition("", "ko") == repetition("no no no", "en") == 0


@pytest.mark.parametrize(
    ("text", "passage"),
    [
        ("저는 몰라요. 저는 몰라요! 저는 몰라요", "저는몰라요"),
        ("I will. I will. I will.", "iwill"),
        ("Come " * 20, "come"),
        ("a" * 12, "aaaa"),
    ],
)
def test_a_passage_three_times_in_a_row_is_a_loop(text: str, passage: str) -> None:
    assert loop(text) == passage


@pytest.mark.parametrize("text", ["하하하하!", "Give it. Give it here.", "올라간다, 올라간다…", ""])
def test_laughing_and_saying_it_twice_is_no_loop(text: str) -> None:
    assert loop(text) is None


@given(passage=st.text("가나다라마바사", min_size=4, max_size=12), times=st.integers(3, 6))
def test_whatever_is_said_three_times_loops_and_repeats(passage: str, times: int) -> None:
    said = " ".join([passage] * times)
    assert loop(said) is not None
    assert repetition(said, "ko") > 0.3


def test_labelled_responses_have_no_offence_and_stand_beside() -> None:
    found = line_figures([korean("그래, 등대는 내가 지키지.")]).figures.whole
    assert found.generated == found.labelled
    assert found.generated.in_language == 1
    assert found.generated.offences == dict.fromkeys(OFFENCES, 0)


def offended() -> LineFigures:
    return line_figures(
        [
            korean("Edda가 왔어."),
            korean("I do not know you."),
            korean("<NPC> 그래."),
            korean("  "),
            korean("몰라 몰라 몰라 몰라 몰라 몰라", finish_reason="length"),
        ]
    )


def test_each_offence_is_counted_over_all_lines() -> None:
    found = offended().figures.whole
    assert found.generated.num_lines == 5
    assert found.generated.offences == dict.fromkeys(OFFENCES, 0.2)
    assert found.generated.in_language == 0.6, "what says nothing is in no language"
    assert found.labelled.in_language == 1


def test_examples_say_where_the_line_stands() -> None:
    examples = offended().examples
    assert list(examples) == list(OFFENCES)
    (example,) = examples["tag or token"]
    assert (example.npc_id, example.conversation, example.turn) == ("mina", "c", 0)
    assert (example.player_utterance, example.text) == ("hello 0", "<NPC> 그래.")


def test_only_a_few_examples_are_kept_and_none_of_what_does_not_occur() -> None:
    examples = line_figures([line("") for _ in range(MAX_EXAMPLES + 3)]).examples
    assert {name: len(found) for name, found in examples.items()} == {"empty": MAX_EXAMPLES}


def test_a_deadline_is_not_the_length() -> None:
    found = line_figures([line("So", "deadline"), line("So", "length")]).figures.whole
    assert found.generated.offences["cut by length"] == 0.5


def test_lengths_are_in_characters_without_white_space_around() -> None:
    found = line_figures([line(f" {'a' * num}\n", response="abc") for num in range(1, 102)])
    whole = found.figures.whole
    assert (whole.generated.median_length, whole.generated.p95_length) == (51, 96)
    assert whole.labelled.median_length == 3


def test_lines_that_are_all_alike_are_hardly_distinct() -> None:
    found = line_figures([line("one two three", response=f"a{n} b{n}") for n in range(10)])
    assert found.figures.whole.generated.distinct_2 == pytest.approx(2 / 20)
    assert found.figures.whole.labelled.distinct_2 == 1


def test_npcs_and_languages_are_told_apart() -> None:
    found = line_figures([korean("어", npc_id="rok"), line("", npc_id="mina")]).figures
    assert {name: each.generated.offences["empty"] for name, each in found.by_npc.items()} == {
        "mina": 1,
        "rok": 0,
    }
    assert list(found.by_lang) == ["en", "ko"]


def test_no_line_is_told() -> None:
    with pytest.raises(DatasetError, match="no generated line"):
        line_figures([])
