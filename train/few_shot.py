"""Transcripts with examples before them: what a base knows of the format once it has seen it."""

from collections.abc import Sequence
from dataclasses import replace

from rag.documents import Lang
from train.dataset import TurnLabel, conversations, spread
from train.states import Reading
from train.transcripts import TranscriptWriter


def with_examples(
    wanted: Sequence[Reading],
    labels: Sequence[TurnLabel],
    writer: TranscriptWriter,
    num_examples: int,
) -> list[Reading]:
    """`wanted`, each after the beginnings of `num_examples` conversations of `labels`.

    They are of the same NPC and language as far as there are such, else of the language. Only the
    first of all begins as a sequence does.
    """
    if num_examples == 0:
        return list(wanted)
    groups = list(conversations(labels).values())
    shown: dict[tuple[str, Lang], list[int]] = {}
    found = []
    for reading in wanted:
        label = reading.transcript.turns[0].label
        key = label.npc_id, label.lang
        if key not in shown:
            shown[key] = _examples(groups, key, writer, num_examples)
        opening = _after(shown[key], reading.transcript.opening, writer)
        found.append(replace(reading, transcript=replace(reading.transcript, opening=opening)))
    return found


def _examples(
    groups: Sequence[list[TurnLabel]],
    key: tuple[str, Lang],
    writer: TranscriptWriter,
    num_examples: int,
) -> list[int]:
    own = [turns for turns in groups if (turns[0].npc_id, turns[0].lang) == key]
    others = [turns for turns in groups if turns[0].lang == key[1] and turns[0].npc_id != key[0]]
    chosen = spread(own, num_examples)
    if num_missing := num_examples - len(chosen):
        chosen += spread(others, num_missing)
    tokens: list[int] = []
    for turns in chosen:
        transcript = writer.write(turns[:1])
        (turn,) = transcript.turns
        tokens = _after(tokens, transcript.opening, writer)
        tokens += [*turn.asked, *turn.decided, *turn.answered]
    return tokens


def _after(tokens: Sequence[int], opening: Sequence[int], writer: TranscriptWriter) -> list[int]:
    start = writer.encoder.begin([]) if tokens else []
    return [*tokens, *opening[len(start) :]]
