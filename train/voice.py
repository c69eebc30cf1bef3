"""Whether responses belong where they were given: how likely they are in another's place.

A response is scored as it stands, and once more with all that comes before `<STATE>` as another
NPC, or another state of the game, would have it; the labelled decision and the response stay the
same. What a state changes is mostly told by the decision, though, so both states are also compared
with the decisions that the heads make in them (after the labelled decisions of the turns before).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from runtime.prompt import decision_segments
from train.bootstrap import Estimate, estimate, resamples
from train.dataset import TurnLabel
from train.fit_heads import Array
from train.places import Places, Turns, in_state_of, misplaced
from train.predicted import Flags
from train.states import Form, LabelledState, Reading
from train.transcripts import EncodedTranscript, TranscriptWriter

Read = Callable[[Sequence[Reading]], Sequence[LabelledState]]
Decide = Callable[[LabelledState, TurnLabel], str]
"""The decision's words at a state, for a turn as it is in that place."""


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of turns whose response is likelier in its own place, with bootstrap intervals.

    `npc`: than under another NPC; `state`: than in another state; `both`: than in either, all with
    the labelled decision. `decided`: than in another state, each with the decision of the heads in
    it; `changed`: the same, of the `num_changed` turns of which those decisions differ.
    """

    num_turns: int
    npc: Estimate
    state: Estimate
    both: Estimate
    decided: Estimate
    num_changed: int
    changed: Estimate | None
    """None if no decision differs."""


def voice(
    conversations: Iterable[Turns], writer: TranscriptWriter, read: Read, decide: Decide
) -> Voice | None:
    """The shares over `conversations`; None if there is nobody, and no state, to confuse them with.

    A conversation is left out whose NPC has, in its language, none as long in another state.
    """
    groups: dict[str, list[Turns]] = defaultdict(list)
    for turns in sorted(conversations, key=lambda turns: (turns[0].lang, turns[0].npc_id)):
        groups[turns[0].lang].append(turns)
    rows = [row for of_lang in groups.values() for row in _placed(of_lang)]
    if not rows:
        return None
    own, by_npc, by_state = ([writer.write(row[at]) for row in rows] for at in range(3))
    placed = [
        own,
        [misplaced(right, other) for right, other in zip(own, by_npc, strict=True)],
        [misplaced(right, other) for right, other in zip(own, by_state, strict=True)],
    ]
    states = [_read(transcripts, read) for transcripts in placed]
    right, npc, state = map(_nll, states)
    labels = [label for turns, _, _ in rows for label in turns]
    words = [
        [decide(found, label) for found, label in zip(found_in, labels_in, strict=True)]
        for found_in, labels_in in (
            (states[0], labels),
            (states[2], [label for _, _, turns in rows for label in turns]),
        )
    ]
    decided_right, decided_state = (
        _nll(_read(_decided(transcripts, in_words, writer), read))
        for transcripts, in_words in zip((placed[0], placed[2]), words, strict=True)
    )
    is_likelier = decided_right < decided_state
    is_changed = np.array([here != there for here, there in zip(*words, strict=True)])
    changed = [label for label, differs in zip(labels, is_changed, strict=True) if differs]
    return Voice(
        num_turns=len(labels),
        npc=_share(labels, right < npc),
        state=_share(labels, right < state),
        both=_share(labels, (right < npc) & (right < state)),
        decided=_share(labels, is_likelier),
        num_changed=len(changed),
        changed=_share(changed, is_likelier[is_changed]) if changed else None,
    )


def _placed(group: Sequence[Turns]) -> list[tuple[Turns, Turns, Turns]]:
    """Conversations of one language: each as it is, with another NPC, and in another state."""
    npc_ids = sorted({turns[0].npc_id for turns in group})
    places = Places(group)
    found: list[tuple[Turns, Turns, Turns]] = []
    for turns in group:
        npc_id = turns[0].npc_id
        other = npc_ids[(npc_ids.index(npc_id) + 1) % len(npc_ids)]
        donors = places.elsewhere(turns)
        if other != npc_id and donors:
            with_other = [msgspec.structs.replace(label, npc_id=other) for label in turns]
            found.append((turns, with_other, in_state_of(turns, donors[0])))
    return found


def _read(transcripts: Sequence[EncodedTranscript], read: Read) -> Sequence[LabelledState]:
    return read([Reading(Form.CONTINUED, transcript) for transcript in transcripts])


def _decided(
    transcripts: Sequence[EncodedTranscript], words: Sequence[str], writer: TranscriptWriter
) -> list[EncodedTranscript]:
    """`transcripts` with `words` for the decisions of their turns, in order."""
    encoded = iter([writer.encoder.encode(decision_segments(each)) for each in words])
    return [
        replace(
            transcript,
            turns=[replace(turn, decided=next(encoded)) for turn in transcript.turns],
        )
        for transcript in transcripts
    ]


def _nll(states: Sequence[LabelledState]) -> Array:
    """Nats of each response, in order."""
    return np.array([np.nan if state.nll is None else state.nll for state in states])


def _share(labels: Turns, is_likelier: Flags) -> Estimate:
    """The share of true ones; turns of a split group are drawn together."""
    names = np.array([label.split_group for label in labels])
    groups, of_turn = np.unique(names, return_inverse=True)
    sizes = np.bincount(of_turn, minlength=len(groups)).astype(float)
    hits = np.bincount(of_turn, is_likelier.astype(float), minlength=len(groups))
    drawn = resamples(len(groups))
    return estimate(float(hits.sum() / sizes.sum()), (drawn @ hits) / np.maximum(drawn @ sizes, 1))
