from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaModel
from tests.tiny_models import make_tiny
from tests.train.nari import nari_world, turn
from train.dataset import TurnLabel
from train.few_shot import with_examples
from train.states import Reading, readings
from train.transcripts import TranscriptWriter


@pytest.fixture(scope="module", params=["gemma3", "qwen2"])
def writer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TranscriptWriter]:
    """On a vocabulary that begins its sequences with a token of their own, and on one without."""
    folder: Path = tmp_path_factory.mktemp("few")
    model = LlamaModel(make_tiny(request.param, folder).path, vocab_only=True)
    world = nari_world(folder / "world")
    yield TranscriptWriter(world, PromptEncoder(model, find_special_ids(model)))
    model.close()


def labels(*conversations: str, lang: str = "ko") -> list[TurnLabel]:
    lines = [
        turn(name, number, f"{name} {number}", "네.", lang=lang)
        for name in conversations
        for number in range(2)
    ]
    return msgspec.convert(lines, list[TurnLabel])


def read(writer: TranscriptWriter, turns: list[TurnLabel]) -> Reading:
    return readings([turns], writer)[0]


def test_without_examples_nothing_changes(writer: TranscriptWriter) -> None:
    wanted = [read(writer, labels("asked"))]
    assert with_examples(wanted, labels("a"), writer, 0) == wanted


def test_the_first_turns_of_others_come_before_and_the_sequence_begins_once(
    writer: TranscriptWriter,
) -> None:
    wanted = read(writer, labels("asked"))
    (shown,) = with_examples([wanted], labels("a", "b", "c", "d"), writer, 2)
    first, second = (read(writer, labels(name)).transcript for name in ("a", "c"))
    start = writer.encoder.begin([])

    def said(transcript: Any) -> list[int]:
        one = transcript.turns[0]
        return [*one.asked, *one.decided, *one.answered]

    assert shown.transcript.opening == [
        *first.opening,
        *said(first),
        *second.opening[len(start) :],
        *said(second),
        *wanted.transcript.opening[len(start) :],
    ]
    assert shown.transcript.turns == wanted.transcript.turns


def test_fewer_are_shown_where_there_are_no_more_of_the_language(
    writer: TranscriptWriter,
) -> None:
    wanted = read(writer, labels("asked"))
    (shown,) = with_examples([wanted], labels("a", lang="en"), writer, 3)
    assert shown == wanted
