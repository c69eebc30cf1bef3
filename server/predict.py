"""`/predict_main`: a prompt written by someone else, in the tagged text format."""

import re
import time
from collections.abc import Sequence

from heads.clues import Remark
from rag.deltas import bounded
from runtime.prompt import (
    LINE_END,
    Segment,
    Special,
    decision_segments,
    format_decision,
    read_last_turn,
)
from runtime.sequence import Request, Token, Vector
from server.errors import DeadlinePassed, InvalidField
from server.reply import ReplyCleaner
from server.schemas import Prediction, PredictRequest
from server.service import Service

_TAG = re.compile("|".join(re.escape(special) for special in Special))


def parse_prompt(text: str) -> list[Segment]:
    """Segments of a tagged prompt up to its last `<STATE>`; what follows is ours to write.

    Raises InvalidField if there is no `<STATE>`.
    """
    segments: list[Segment] = []
    start = 0
    for match in _TAG.finditer(text):
        segments += [text[start : match.start()], Special(match.group())]
        start = match.end()
    if Special.STATE not in segments:
        raise InvalidField("$.prompt", "has no <STATE>, the token that the heads read")
    last = len(segments) - segments[::-1].index(Special.STATE)
    return [segment for segment in segments[:last] if segment]


async def predict(service: Service, body: PredictRequest) -> Prediction:
    """Deltas, flags and line for a prompt, by the manifest's thresholds; no world has a say.

    Raises InvalidField, Overloaded, PromptTooLong or DeadlinePassed.
    """
    loaded = service.loaded
    heads, encoder = loaded.heads, loaded.encoder
    segments = parse_prompt(body.prompt)
    clues = heads.find(Remark(*read_last_turn(segments)))
    delta: dict[str, float] = {}
    flags: dict[str, bool] = {}

    def on_state(vector: Vector) -> Sequence[int]:
        prediction = heads.predict(vector, clues)
        delta.update({h.name: bounded(prediction.delta[h.name], h) for h in heads.spec.delta})
        scores = prediction.flag_scores
        flags.update({h.name: scores[h.name] >= h.threshold for h in heads.spec.flags})
        raised = {name: None for name, is_raised in flags.items() if is_raised}
        words = format_decision(delta, raised)
        return encoder.encode(decision_segments(words))

    request = Request(
        encoder.begin(segments),
        body.gen_params.sampling(LINE_END),
        on_state,
        deadline=time.monotonic() + service.settings.deadline_ms / 1e3,
        is_due=lambda _: False,
    )
    cleaner = ReplyCleaner()
    with loaded.in_use():
        async for event in loaded.engine.stream(request):
            if isinstance(event, Token):
                cleaner.push(event.text)
    cleaner.finish()
    if not delta:
        raise DeadlinePassed("no state in time; try again later")
    return Prediction(cleaner.text, list(delta.values()), flags)
