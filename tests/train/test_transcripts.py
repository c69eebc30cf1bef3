"""What training writes is what serving would have written: the same tokens, turn by turn."""

from collections.abc import Sequence
from functools import partial

import msgspec
import pytest

from heads.session import Prediction
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from rag.flags import flag_rule
from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.world import World
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaModel
from runtime.prompt import End, Segment, Special, Transcript, Turn, decision_segments
from server.decide import decide
from server.schemas import AskContext, AskRequest, HistoryTurn, NpcState
from server.schemas import PlayerState as AskedPlayer
from server.turn import AskedTurn, read_turn
from server.turn_prompt import build_prompt
from tests.train.nari import FLAGS, good_lines, nari_world
from tests.train.turns import WORLD, label
from train.dataset import TurnLabel
from train.transcripts import EncodedTranscript, EncodedTurn, TranscriptWriter, remark_of

SPEC = HeadSpec(
    (DeltaSpec("trust"), DeltaSpec("relationship")), tuple(FlagSpec(name) for name in FLAGS)
)
QUEST = [
    msgspec.convert(line, TurnLabel)
    for line in good_lines()["train"]
    if line["conversation"] == "quest"
]
NOTES = {0: ["lore a"], 1: ["lore a", "lore b"], 2: ["lore c", "lore b"]}


def notes(turn: TurnLabel) -> Sequence[str]:
    return NOTES[turn.turn]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return nari_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def encoder(tiny: LlamaModel) -> PromptEncoder:
    return PromptEncoder(tiny, find_special_ids(tiny))


def asked(turn: TurnLabel, world: World, past: Sequence[TurnLabel] = ()) -> AskedTurn:
    """The turn as the server reads it from a request that says what the label says."""
    tags, player = turn.tags, turn.context.player_state
    is_known = tags.player_reputation != "unknown"
    context = AskContext(
        player_state=AskedPlayer(
            items=player.items,
            actions=player.actions,
            position=player.position,
            reputation=tags.player_reputation if is_known else None,
        ),
        game_state={"quest_stage": tags.quest_stage, "location": tags.location},
        npc_state=NpcState(
            trust=tags.trust, relationship=tags.relationship, npc_mood=tags.npc_mood
        ),
    )
    ask = AskRequest(
        npc_id=turn.npc_id,
        player_id="p",
        lang=turn.lang,
        text=turn.player_utterance,
        context=context,
        dialogue_history=[HistoryTurn(old.player_utterance, old.response) for old in past],
    )
    return read_turn(ask, world)


def decided_words(turn: TurnLabel, world: World) -> str:
    """What the server decides when the heads predict the labels."""
    prediction = Prediction(turn.delta, {name: float(v) for name, v in turn.flag.items()})
    trigger = world.trigger_def(turn.facts.scene)
    policies = trigger.delta_policy if trigger else {}
    rule_of = partial(flag_rule, world, turn.facts)
    return decide(prediction, SPEC, policies, rule_of, turn.lang).words()


def remembered(turns: Sequence[TurnLabel], world: World) -> list[Segment]:
    """What a server that answered `turns` as labelled has written."""
    transcript = Transcript()
    segments = transcript.begin(npc_for_prompt(world.npcs[turns[0].npc_id], turns[0].lang))
    for turn in turns:
        read = asked(turn, world)
        rag = rag_for_prompt(world, read.scene, read.lang)
        segments += transcript.open_turn(Turn(read.utterance, read.state, *rag, notes(turn)))
        words = decided_words(turn, world)
        segments += [*decision_segments(words), turn.response, End()]
    return segments


def tokens_of(transcript: EncodedTranscript) -> list[int]:
    tokens = [*transcript.opening, *transcript.told]
    for turn in transcript.turns:
        tokens += [*turn.asked, *turn.decided, *turn.answered]
    return tokens


def test_the_heads_are_told_of_a_labelled_turn_what_the_server_tells_them(world: World) -> None:
    for turn in QUEST:
        assert remark_of(turn, world) == asked(turn, world).remark


def test_a_continued_transcript_is_what_the_server_would_have_written(
    encoder: PromptEncoder, world: World
) -> None:
    found = TranscriptWriter(world, encoder, notes).write(QUEST)
    assert found.told == []
    assert tokens_of(found) == encoder.begin(remembered(QUEST, world))
    assert [turn.label for turn in found.turns] == QUEST


def test_the_quest_of_the_test_raises_flags_with_and_without_values(world: World) -> None:
    words = [decided_words(turn, world) for turn in QUEST]
    assert words[0].startswith("trust=+ relationship=+ quest_stage_change")
    assert 'give_item="lucky_button"' in words[1]


@pytest.mark.parametrize("start", [1, 2])
def test_a_past_that_is_told_is_what_the_server_makes_of_a_dialogue_history(
    encoder: PromptEncoder, world: World, start: int
) -> None:
    turns = QUEST[: start + 1]
    found = TranscriptWriter(world, encoder, notes).write(turns, start)
    last = turns[start]
    prompt = build_prompt(asked(last, world, turns[:start]), world, encoder, 10_000, notes(last))
    (turn,) = found.turns
    assert [*found.opening, *found.told, *turn.asked] == prompt.tokens


def test_what_is_told_of_the_past_has_neither_states_nor_decisions(
    encoder: PromptEncoder, world: World
) -> None:
    found = TranscriptWriter(world, encoder, notes).write(QUEST, 2)
    (player_state, state, npc) = encoder.encode([Special.PLAYER_STATE, Special.STATE, Special.NPC])
    assert player_state not in found.told
    after = [found.told[at + 1] for at, token in enumerate(found.told) if token == state]
    assert after == [npc, npc]
    assert found.turns[0].asked.count(player_state) == 1


def test_turns_after_a_told_past_go_on_as_in_a_remembered_transcript(
    encoder: PromptEncoder, world: World
) -> None:
    writer = TranscriptWriter(world, encoder, notes)
    told, cold = writer.write(QUEST, 1), writer.write(QUEST[1:])
    assert told.turns == cold.turns
    assert told.opening == cold.opening


def test_a_turn_ends_where_the_heads_and_the_reply_begin_and_end(
    encoder: PromptEncoder, world: World
) -> None:
    (state, npc, end) = encoder.encode([Special.STATE, Special.NPC, End()])
    for turn in TranscriptWriter(world, encoder, notes).write(QUEST).turns:
        assert (turn.asked[-1], turn.decided[-1], turn.answered[-1]) == (state, npc, end)
        assert turn.asked.count(state) == turn.decided.count(npc) == turn.answered.count(end) == 1
        assert turn.answered[:-1] == encoder.encode([turn.label.response])


def test_a_note_is_shown_once_in_a_conversation(encoder: PromptEncoder, world: World) -> None:
    found = TranscriptWriter(world, encoder, notes).write(QUEST)
    for note in ("lore a", "lore b", "lore c"):
        wanted = encoder.encode([f"note={note}"])
        num_shown = [occurrences(turn.asked, wanted) for turn in found.turns]
        assert sum(num_shown) == 1, note
        assert num_shown.index(1) == min(at for at, of in NOTES.items() if note in of)


def test_a_note_of_a_told_turn_is_still_new_to_the_next(
    encoder: PromptEncoder, world: World
) -> None:
    (turn,) = TranscriptWriter(world, encoder, notes).write(QUEST, 2).turns
    assert occurrences(turn.asked, encoder.encode(["note=lore b"])) == 1


def occurrences(tokens: Sequence[int], wanted: Sequence[int]) -> int:
    size = len(wanted)
    return sum([*tokens[at : at + size]] == [*wanted] for at in range(len(tokens)))


@pytest.mark.parametrize("special", list(Special))
def test_a_special_token_that_somebody_typed_is_harmless(
    encoder: PromptEncoder, special: Special
) -> None:
    typed = f"hello {special} there"
    turns = [
        label(0, player_utterance=typed, response=typed),
        label(1, player_utterance=typed, context={"player_state": {"items": [typed]}}),
    ]
    plain = [label(0), label(1, context={"player_state": {"items": ["lamp"]}})]
    writer = TranscriptWriter(WORLD, encoder)
    (token,) = encoder.encode([special])
    for start in (0, 1):
        found, expected = (tokens_of(writer.write(part, start)) for part in (turns, plain))
        assert found.count(token) == expected.count(token)
        assert len(found) > len(expected)


def test_the_number_of_tokens_is_that_of_all_parts(encoder: PromptEncoder, world: World) -> None:
    writer = TranscriptWriter(world, encoder, notes)
    for start in range(len(QUEST)):
        found = writer.write(QUEST, start)
        assert found.num_tokens == len(tokens_of(found))
        assert bool(found.told) == bool(start)
    turn = EncodedTurn(QUEST[0], [1, 2], [3], [4, 5, 6])
    assert turn.num_tokens == 6
    assert EncodedTranscript([0], [7, 8], [turn, turn]).num_tokens == 15


def test_an_npc_speaks_of_itself_in_the_language_of_the_conversation(
    encoder: PromptEncoder, world: World
) -> None:
    writer = TranscriptWriter(world, encoder)
    korean, english = (
        writer.write([msgspec.structs.replace(QUEST[0], lang=lang)]).opening
        for lang in ("ko", "en")
    )
    npc = world.npcs["nari"]
    assert korean == encoder.begin([*Transcript().begin(npc_for_prompt(npc, "ko"))])
    assert english == encoder.begin([*Transcript().begin(npc_for_prompt(npc, "en"))])
    assert korean != english
