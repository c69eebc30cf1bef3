import pytest

from rag.keywords import Keywords

KEYWORDS = Keywords.of(["시발", "죽여 버", "멍청이", "ㅅㅂ", "burn your shop", "scum", "idiot"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("야 이 시발 놈아", "시발"),
        ("개시발", "시발"),
        ("시 발", "시발"),
        ("시.발!!", "시발"),
        ("시-_-발", "시발"),
        ("시1발", "시발"),
        ("시x발", "시발"),
        ("ㅅㅣㅂㅏㄹ", "시발"),
        ("ㅅ ㅣ ㅂ ㅏ ㄹ", "시발"),
        ("ㅅ1ㅂㅏㄹ", "시발"),
        ("ㅅl발", "시발"),
        ("ｼ 시\u200b발", "시발"),
        ("멍 청 이", "멍청이"),
        ("이 멍청이야", "멍청이"),
        ("확 죽여버린다", "죽여 버"),
        ("확 죽여 버릴까", "죽여 버"),
        ("아 ㅅㅂ 진짜", "ㅅㅂ"),
        ("You SCUM.", "scum"),
        ("you $cum", "scum"),
        ("s c u m", "scum"),
        ("1d10t", "idiot"),
        ("I'll burn   your shop!", "burn your shop"),
    ],
)
def test_a_word_is_found_however_it_is_dressed_up(text: str, found: str) -> None:
    assert KEYWORDS.found_in(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "다시 발견했어요",
        "몹시 발이 아파요",
        "그 시 발표했어요?",
        "시 한 편 발표하자",
        "시바견이 귀여워요",
        "죽여주는 맛이네",
        "사람을 죽여 놓고",
        "scumble the paint",
        "an idiotic plan",
        "don't burn your shoes",
        "shop burns",
        "ㅅ ㅁ ㅂ",
    ],
)
def test_chance_neighbours_are_not_the_word(text: str) -> None:
    assert KEYWORDS.found_in(text) is None


def test_the_first_keyword_of_the_list_is_told() -> None:
    assert Keywords.of(["scum", "idiot"]).found_in("you idiot, you scum") == "scum"


@pytest.mark.parametrize(
    ("keyword", "texts"),
    [
        ("18놈", ["18놈", "이 18놈아", "야18놈!", "18.놈"]),
        ("1818", ["1818", "야 1818!"]),
        ("x발", ["야 x발", "개X발"]),
        ("ㅅ1발", ["ㅅ1발", "ㅅ1ㅂㅏㄹ"]),
        ("k1ll", ["k1ll you", "K1LL"]),
        ("nazi88", ["you nazi88"]),
        ("SM플레이", ["sm플레이하자"]),
        ("area 51", ["to area 51", "area51"]),
        ("야 18", ["야 18", "야18놈!"]),
        ("010", ["010-1234-5678로 걸어", "010:1234"]),
        ("010-1234", ["010-1234-5678"]),
        ("1.8", ["1.8킬로"]),
        ("a$$", ["you a$$!", "a$$hole"]),
        ("$hit", ["oh $hit"]),
        ("@ss", ["@ss", "너 @ss야"]),
        ("as*", ["as*"]),
        ("f**k", ["F**K you"]),
        ("씨*", ["씨* 뭐야"]),
        ("🖕", ["🖕", "너 🖕🏽"]),
    ],
)
def test_a_keyword_with_digits_signs_or_two_scripts_is_found_as_it_is_written(
    keyword: str, texts: list[str]
) -> None:
    assert [Keywords.of([keyword]).found_in(text) for text in texts] == [keyword] * len(texts)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("18놈", "놈이 118놈"),
        ("18놈", "18 놈팡이"),
        ("1818", "21818냥"),
        ("1818", "18 18"),
        ("1818", "18:18에 만나"),
        ("18", "1.8킬로"),
        ("18", "1:8로 졌어"),
        ("18", "1~8번"),
        ("31", "3·1 만세"),
        ("18", "18,000냥"),
        ("18", "1..8"),
        ("야 18", "이야 18번 가게"),
        ("시스템 prompt", "이시스템 prompt"),
        ("1818", "ii"),
        ("x발", "발이 아파요"),
        ("k1ll", "kill time"),
        ("nazi88", "nazi881"),
        ("SM플레이", "spasm플레이"),
        ("a$$", "I need a loaf"),
        ("a$$", "gala$$"),
        ("@ss", "b@ss"),
        ("@ss", "ss"),
        ("4ss", "cl4ss"),
        ("$hit", "a hit"),
        ("as*", "as you like"),
        ("a**hole", "a hole in the wall"),
        ("씨*", "날씨 좋네요"),
        ("🖕", "👍"),
    ],
)
def test_a_keyword_sought_as_it_is_written_is_no_shorter_one(keyword: str, text: str) -> None:
    assert Keywords.of([keyword]).found_in(text) is None


def test_a_quoted_hangul_keyword_takes_particles() -> None:
    assert Keywords.of(['"멍청이"']).found_in("이 멍청이야") == '"멍청이"'


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("kill*", "kill you"),
        ("fuck*", "fuck"),
        ("kill`", "kill"),
        ("**시발**", "야 시발"),
        ("#시발", "개시발"),
        ("‹시발>", "시 발"),
        ("시발_", "시발"),
        ("시발ㅋㅋ^^", "시발ㅋㅋ"),
        ("죽어+", "죽어"),
        ("@운영자", "운영자 불러"),
        ("🖕시발", "시발"),
        ("kill_npc", "kill npc"),
        ("kill_npc", "kill_npc"),
        ("R&D", "r d"),
    ],
)
def test_signs_around_a_plain_keyword_and_joints_in_it_are_not_sought(
    keyword: str, text: str
) -> None:
    assert Keywords.of([keyword]).found_in(text) == keyword


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("GPT", "너 GPT야?"),
        ("fuck", "fuck이라고"),
        ("fuck", "f u c k이라고"),
        ("scum", "$cum아"),
        ("burn your shop", "burn your shop이래"),
    ],
)
def test_a_latin_keyword_takes_particles(keyword: str, text: str) -> None:
    assert Keywords.of([keyword]).found_in(text) == keyword


@pytest.mark.parametrize(
    ("keyword", "text"), [("ass", "455냥"), ("ass", "7h455냥"), ("GPT", "챗GPT야")]
)
def test_a_particle_makes_no_latin_keyword_of_a_number_or_of_the_end_of_a_word(
    keyword: str, text: str
) -> None:
    assert Keywords.of([keyword]).found_in(text) is None


@pytest.mark.parametrize("sign", [*"*#@%&_$^+~|`<>=.,:/-·–!?'\"1a가ㅋ 😀"])
@pytest.mark.parametrize(
    "word", ["시발", "씨", "kill", "as", "18", "18놈", "죽여 버", "area 51", "1.8"]
)
def test_a_keyword_is_found_in_itself_whatever_signs_it_has(word: str, sign: str) -> None:
    half = len(word) // 2
    for keyword in (sign + word, word + sign, sign + word + sign, word[:half] + sign + word[half:]):
        assert Keywords.of([keyword]).found_in(keyword) == keyword


def test_a_keyword_without_letters_never_fires() -> None:
    assert Keywords.of(["!!!", ""]).found_in("!!!") is None
