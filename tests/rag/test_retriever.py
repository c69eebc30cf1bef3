"""Which notes an NPC is reminded of, and which would tell too much."""

from collections.abc import Sequence

import msgspec
import pytest

from rag.calibration import Calibration
from rag.documents import Description, DialogueTurn, Document, Lang, Lore, Questions
from rag.index_store import open_index
from rag.retriever import NUM_CANDIDATES, Retriever, kept_back, note_ids, note_text
from rag.scopes import Scene
from tests.rag.fake_embedder import GramEmbedder

SCENE = Scene("mina", "started", "pier")
SAID = "Who rang the bell?"


def make_retriever(documents: Sequence[Document], note: float = 0.5) -> Retriever:
    embedder = GramEmbedder()
    index, _ = open_index(documents, embedder)
    return Retriever(embedder, index, Calibration(embedder=embedder.id, note=note, same=0.9))


def recalled(
    documents: Sequence[Document], scene: Scene = SCENE, lang: Lang = "en", said: str = SAID
) -> list[str]:
    retriever = make_retriever(documents)
    return note_ids(retriever.notes(said, retriever.encode(said), scene, lang))


def lore(name: str, content: str = SAID, stage: str = "any", place: str = "any") -> Lore:
    return Lore(id=name, npc_id="mina", quest_stage=stage, location=place, content=content)


def turn(
    name: str, lang: Lang = "en", stage: str = "any", place: str = "any", said: str = SAID
) -> DialogueTurn:
    return DialogueTurn(
        id=name,
        npc_id="mina",
        quest_stage=stage,
        location=place,
        player=said,
        npc="The wind.",
        lang=lang,
    )


def test_what_is_told_at_one_scene_is_not_told_at_another() -> None:
    documents: list[Document] = [
        lore("always"),
        lore("late", stage="over"),
        turn("here", place="pier"),
        turn("hier", lang="ko", place="pier"),
    ]
    retriever = make_retriever(documents)

    def told(stage: str, place: str, lang: Lang) -> set[str]:
        scene = Scene("mina", stage, place)
        return set(note_ids(retriever.notes(SAID, retriever.encode(SAID), scene, lang)))

    for _ in range(2):
        assert told("started", "tower", "en") == {"always"}
        assert told("over", "tower", "en") == {"always", "late"}
        assert told("over", "pier", "en") == {"always", "late", "here"}
        assert told("over", "pier", "ko") == {"always", "late", "hier"}
        assert told("no such stage", "nowhere", "ko") == {"always"}


@pytest.mark.parametrize("lang", ["ko", "en"])
@pytest.mark.parametrize("stage", ["any", "started", "over", "no such stage"])
@pytest.mark.parametrize("place", ["any", "pier", "tower", "nowhere"])
def test_what_is_kept_back_at_a_scene_is_all_that_is_not_told_there(
    stage: str, place: str, lang: Lang
) -> None:
    documents: list[Lore | DialogueTurn | Description] = [
        Description(id="d", npc_id="mina", content=SAID),
        *(lore(f"{s} {p}", stage=s, place=p) for s in ("any", "over") for p in ("any", "pier")),
        *(turn(f"in {tongue}", tongue) for tongue in ("ko", "en")),
        turn("later", stage="over"),
        turn("elsewhere", place="tower"),
    ]
    scene = Scene("mina", stage, place)
    open_ones = {note.id for note in documents if not kept_back(note, scene, lang)}
    assert open_ones == set(recalled(documents, scene, lang))


def test_it_is_said_why_a_note_is_kept_back() -> None:
    description = Description(id="d", npc_id="mina", content=SAID)
    assert kept_back(description, SCENE, "en") == "picked by scene"
    assert kept_back(lore("late", stage="over"), SCENE, "en") == "another stage"
    assert kept_back(turn("there", place="tower"), SCENE, "en") == "another place"
    assert kept_back(turn("hier", lang="ko"), SCENE, "en") == "another language"
    assert kept_back(turn("here", place="pier"), SCENE, "en") == ""


def test_notes_come_nearest_first() -> None:
    far, near, nearest = (
        lore("far", "염전의 소금은 희다."),
        lore("near", "The bell rings when the wind is up."),
        lore("nearest", "Nobody knows who rang the bell."),
    )
    assert recalled([far, near, nearest]) == ["nearest", "near", "far"]


def test_a_note_is_recalled_by_the_questions_about_it() -> None:
    tale = lore("tale", "염전의 소금은 희다.")
    asked = Questions(id="q", about="tale", questions=["Who rang the bell then?", "The bell?"])
    other = lore("other", "The bell keeper is a rook.")
    assert recalled([other, tale]) == ["other", "tale"]
    assert recalled([other, tale, asked]) == ["tale", "other"]


def test_no_note_of_another_stage_is_told() -> None:
    """A later stage's would spoil it, an earlier one's is over."""
    documents: list[Document] = [
        *(lore(f"lore {stage}", stage=stage) for stage in ("any", "started", "over")),
        *(turn(f"turn {stage}", stage=stage) for stage in ("any", "started", "over")),
    ]
    told = {"lore any", "lore started", "turn any", "turn started"}
    assert set(recalled(documents)) == told
    assert set(recalled(documents, Scene("mina", "any", "pier"))) == {"lore any", "turn any"}


def test_a_description_is_never_told_because_of_what_was_said() -> None:
    for stage in ("any", "started"):
        document = Description(id="d", npc_id="mina", quest_stage=stage, content=SAID)
        assert recalled([document]) == []


def test_model_dialogues_are_of_the_scenes_place_and_language() -> None:
    documents = [
        turn("here", place="pier"),
        turn("anywhere"),
        turn("elsewhere", place="tower"),
        turn("here, in Korean", "ko", place="pier"),
    ]
    assert set(recalled(documents)) == {"here", "anywhere"}
    assert recalled(documents, lang="ko") == ["here, in Korean"]
    assert set(recalled(documents, Scene("mina", "started", "tower"))) == {"elsewhere", "anywhere"}


def test_lore_about_another_place_is_told_in_every_place_and_language() -> None:
    documents = [lore("tower", place="tower"), lore("pier", place="pier")]
    assert set(recalled(documents)) == {"tower", "pier"}
    assert set(recalled(documents, lang="ko")) == {"tower", "pier"}


def test_notes_of_another_npc_are_not_told_and_everybodys_are() -> None:
    documents = [
        Lore(id="rook's", npc_id="rook", content=SAID),
        Lore(id="everybody's", content=SAID),
    ]
    assert recalled(documents) == ["everybody's"]


def test_what_may_not_be_told_takes_no_place_among_the_candidates() -> None:
    spoilers = [lore(f"over {number}", stage="over") for number in range(NUM_CANDIDATES)]
    open_ones = [lore(f"{number}", f"Ask {number}: who?") for number in range(NUM_CANDIDATES + 2)]
    found = recalled([*spoilers, *open_ones])
    assert len(found) == NUM_CANDIDATES
    assert not {*found} & {document.id for document in spoilers}


def test_far_notes_are_ranked_too_but_only_near_ones_are_worth_showing() -> None:
    documents = [lore("near", "Who rang the bell??"), lore("far", "염전의 소금은 희다.")]
    retriever = make_retriever(documents, note=0.6)
    near, far = retriever.notes(SAID, retriever.encode(SAID), SCENE, "en")
    assert (near.document.id, far.document.id) == ("near", "far")
    assert retriever.near([near, far], retriever.encode(SAID)) == [near]


def test_a_note_that_is_known_by_the_very_words_is_near_whatever_else_it_says() -> None:
    documents: list[Document] = [
        lore("bell", "염전의 소금은 희다."),
        Questions(id="bell?", about="bell", questions=[f"{SAID}!", "등대?", "소금?"]),
    ]
    retriever = make_retriever(documents, note=0.9)
    vector = retriever.encode(SAID)
    (match,) = retriever.notes(SAID, vector, SCENE, "en")
    assert match.score < 0.9 <= match.nearest
    assert retriever.near([match], vector) == [match]
    (match,) = retriever.notes("rang", retriever.encode("rang"), SCENE, "en")
    assert retriever.near([match], retriever.encode("rang")) == []


def test_a_score_of_exactly_the_bound_is_near() -> None:
    documents = [lore("note", "The bell.")]
    vector = GramEmbedder().encode([SAID])[0]
    (match,) = make_retriever(documents).index.near(vector, "mina", 1)
    assert make_retriever(documents, note=match.score).near([match], vector)
    assert not make_retriever(documents, note=match.score + 1e-6).near([match], vector)


def test_the_lead_of_a_note_is_over_what_the_utterance_has_in_common_with_all() -> None:
    retriever = make_retriever([lore("note", "The bell.")])
    vector = retriever.encode(SAID)
    (match,) = retriever.index.near(vector, "mina", 1)
    assert [found.lead for found in retriever.weighed([match], vector)] == [match.score]
    centre = [0.01] * len(vector)
    calibration = msgspec.structs.replace(retriever.calibration, centre=centre)
    centred = Retriever(retriever.embedder, retriever.index, calibration)
    expected = match.score - 0.01 * float(vector.sum())
    assert [f.lead for f in centred.weighed([match], vector)] == pytest.approx([expected])


@pytest.mark.parametrize(
    ("note", "lang", "text"),
    [
        (lore("a", "Salt."), "ko", "Salt."),
        (Lore(id="b", title="Sea", content={"ko": "소금.", "en": "Salt."}), "ko", "소금."),
        (Lore(id="b", title="Sea", content={"ko": "소금.", "en": "Salt."}), "en", "Salt."),
        (turn("c", said="Who?"), "en", "Who? → The wind."),
    ],
)
def test_a_note_is_told_in_the_language_of_the_conversation(
    note: Lore | DialogueTurn, lang: Lang, text: str
) -> None:
    assert note_text(note, lang) == text
