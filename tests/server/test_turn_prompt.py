"""What of retrieval fits a prompt, and what a prompt is made of. `test_turn.py` has the rest."""

from hypothesis import given
from hypothesis import strategies as st

from rag.documents import DialogueTurn, Lore
from rag.index import Match
from rag.retriever import fitting_notes
from runtime.encoder import PromptEncoder
from runtime.prompt import Npc, Special, Transcript, Turn
from server.explanation import ExplainedBlock
from server.turn_prompt import build_prompt, explain_blocks
from tests.server.test_turn import SPECIAL_IDS, WORLD, Letters, read

ENCODER = PromptEncoder(Letters(), SPECIAL_IDS)


def match(text: str, score: float = 0.9) -> Match:
    return Match(Lore(id=text, content=text), score, text, score)


def chosen(matches: list[Match], budget: int) -> list[str]:
    return [found.document.id for found in fitting_notes(matches, "en", ENCODER, budget)]


@given(st.lists(st.text("ab", min_size=1, max_size=9), max_size=8), st.integers(0, 40))
def test_notes_together_take_at_most_the_budget_and_the_nearest_go_first(
    texts: list[str], budget: int
) -> None:
    found = chosen([match(text) for text in texts], budget)
    assert sum(map(len, found)) <= budget
    left, expected = budget, []
    for text in texts:
        if len(text) <= left:
            expected.append(text)
            left -= len(text)
    assert found == expected


def test_a_note_that_does_not_fit_makes_way_for_a_shorter_one() -> None:
    matches = [match("a" * 6), match("b" * 5), match("c" * 4)]
    assert chosen(matches, 10) == ["a" * 6, "c" * 4]
    assert chosen(matches, 9) == ["a" * 6]
    assert chosen(matches, 3) == []


def test_a_note_is_measured_as_it_is_told() -> None:
    """A dialogue is longer than what it is found by; a text is shorter in another language."""
    dialogue = DialogueTurn(id="d", player="Who?", npc="Me.", lang="en")
    told = len("Who? → Me.")
    assert fitting_notes([Match(dialogue, 0.9, "Who?", 0.9)], "en", ENCODER, told - 1) == []
    assert len(fitting_notes([Match(dialogue, 0.9, "Who?", 0.9)], "en", ENCODER, told)) == 1
    lore = Match(Lore(id="l", content={"ko": "소금", "en": "Salt of the sea"}), 0.9, "소금", 0.9)
    assert fitting_notes([lore], "ko", ENCODER, 2) == [lore]
    assert fitting_notes([lore], "en", ENCODER, 2) == []


def test_a_prompt_is_explained_block_by_block() -> None:
    script = Transcript()
    segments = [
        *script.begin(Npc("mina", "Mina", "Keeper")),
        *script.past_turn("Hi", "Aye."),
        *script.open_turn(Turn("Who?", {"trust": 0.1}, "Night", notes=["Salt."])),
    ]
    persona = "npc_id=mina\nname=Mina\npersona=Keeper"
    rag, state = "description=Night\nnote=Salt.", "trust=0.10"
    assert explain_blocks(segments, ENCODER) == [
        ExplainedBlock("SYS", 1 + len(persona), persona),
        ExplainedBlock("CTX", 1, ""),
        ExplainedBlock("PLAYER", 3, "Hi"),
        ExplainedBlock("STATE", 1, ""),
        ExplainedBlock("NPC", 6, "Aye."),  # the end of the reply counts, and has no text
        ExplainedBlock("RAG", 1 + len(rag), rag),
        ExplainedBlock("PLAYER_STATE", 1 + len(state), state),
        ExplainedBlock("PLAYER", 5, "Who?"),
        ExplainedBlock("STATE", 1, ""),
    ]


def test_the_blocks_of_a_prompt_add_up_to_its_tokens() -> None:
    turn = read(dialogue_history=[{"player": "Hi", "npc": "Aye."}])
    prompt = build_prompt(turn, WORLD, ENCODER, 10_000, ["Salt.", "Tide."])
    blocks = explain_blocks(prompt.segments, ENCODER)
    assert sum(block.tokens for block in blocks) + 1 == len(prompt.tokens)  # and the base's BOS
    assert [block.text for block in blocks if block.block == "RAG"] == [
        "description=Night at the pier\nnote=Salt.\nnote=Tide."
    ]
    assert [block.block for block in blocks][-1] == Special.STATE.strip("<>")
