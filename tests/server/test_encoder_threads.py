"""The sentence encoder keeps nobody waiting: no turn beyond its deadline, and no other turn."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import httpx
import msgspec
import pytest

from rag.calibration import Calibration
from rag.documents import Document
from rag.embedder import Vectors
from rag.index_store import open_index
from rag.retriever import Retriever
from rag.world import World
from runtime.errors import Overloaded
from runtime.host import num_cores
from runtime.sequence import Done, FinishReason, Timings, Usage
from server import encoder_threads
from server.encoder_threads import EncoderThreads
from server.fallback import Reason
from server.progress import Progress
from server.schemas import AskRequest
from server.service import Service
from server.turn import read_turn
from tests.rag.fake_embedder import GramEmbedder
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    altered,
    ask_body,
    check_problem,
    client_of,
    opened,
    wait_until,
)
from tests.server.small_world import DOCUMENTS

SOON_S = 0.05
KEYWORD = "scum"
SLURS: list[dict[str, Any]] = [
    {"id": "slurs", "type": "forbidden_trigger_list", "triggers": {"keywords": [KEYWORD]}},
    {"id": "slurs-meta", "type": "trigger_meta", "trigger": "slurs"},
]
MUST_NOT_LEAVE = {
    "id": "mina-validate",
    "type": "main_res_validate",
    "npc_id": "mina",
    "examples_negative": ["I will not speak to you."],
}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[EncoderThreads]:
    """One thread for each kind of work; one remark may wait."""
    monkeypatch.setattr(encoder_threads, "num_cores", lambda: 1)
    threads = EncoderThreads(max_waiting=1)
    yield threads
    threads.close()


@pytest.fixture
def gate(threads: EncoderThreads) -> Iterator[Gate]:
    """A gate that is open before the threads must end."""
    gate = Gate()
    yield gate
    gate.opened.set()


def soon() -> float:
    return time.monotonic() + SOON_S


async def reached(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)


@pytest.mark.parametrize("kind", ["hear", "check"])
def test_nobody_waits_beyond_the_deadline(
    threads: EncoderThreads, gate: Gate, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_threads, "GRACE_S", SOON_S)
    run: Callable[..., Awaitable[object]] = getattr(threads, kind)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await run(gate.wait, soon())

    asyncio.run(wait())
    assert gate.reached.is_set()
    assert not gate.opened.is_set()


def test_a_sentence_that_is_whole_at_the_deadline_may_still_be_checked(
    threads: EncoderThreads,
) -> None:
    async def both() -> int:
        with pytest.raises(TimeoutError):
            await threads.hear(lambda: 1, time.monotonic())
        return await threads.check(lambda: 2, time.monotonic())

    assert asyncio.run(both()) == 2


def test_one_remark_more_than_may_wait_is_refused_at_once(
    threads: EncoderThreads, gate: Gate
) -> None:
    async def three() -> list[object]:
        running = asyncio.create_task(threads.hear(gate.wait))
        await reached(gate)
        waiting = asyncio.create_task(threads.hear(lambda: "heard"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 remarks"):
            await threads.hear(lambda: "too many")
        gate.opened.set()
        heard = await asyncio.gather(running, waiting)
        return [*heard, await threads.hear(lambda: "there is room again")]

    assert asyncio.run(three()) == [None, "heard", "there is room again"]


def test_what_nobody_waits_for_any_more_is_never_begun(threads: EncoderThreads, gate: Gate) -> None:
    begun: list[str] = []

    async def leave_in_two_ways() -> None:
        running = asyncio.create_task(threads.hear(gate.wait))
        await reached(gate)
        with pytest.raises(TimeoutError):
            await threads.hear(lambda: begun.append("late"), soon())
        gone = asyncio.create_task(threads.hear(lambda: begun.append("gone")))
        await asyncio.sleep(SOON_S)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        gate.opened.set()
        await running
        await threads.hear(lambda: begun.append("next"))

    asyncio.run(leave_in_two_ways())
    assert begun == ["next"]


def test_no_line_waits_for_remarks(threads: EncoderThreads, gate: Gate) -> None:
    async def check() -> str:
        hearing = asyncio.create_task(threads.hear(gate.wait))
        await reached(gate)
        found = await threads.check(lambda: "checked")
        assert not hearing.done()
        gate.opened.set()
        await hearing
        return found

    assert asyncio.run(check()) == "checked"


def test_work_sees_the_context_of_its_turn(threads: EncoderThreads) -> None:
    turn: ContextVar[str] = ContextVar("turn")

    async def hear(name: str) -> str:
        turn.set(name)
        return await threads.hear(turn.get)

    async def both() -> list[str]:
        return [await asyncio.create_task(hear(name)) for name in ("one", "other")]

    assert asyncio.run(both()) == ["one", "other"]


class GatedEmbedder(GramEmbedder):
    """Stops at a gate before whatever `is_slow`."""

    def __init__(self, gate: Gate, is_slow: Callable[[str], bool]) -> None:
        super().__init__()
        self._gate, self._is_slow = gate, is_slow
        self.is_ready = False

    def encode(self, texts: Sequence[str]) -> Vectors:
        if self.is_ready and any(map(self._is_slow, texts)):
            self._gate.wait()
        return super().encode(texts)


def hearing(
    service: Service, gate: Gate, is_slow: Callable[[str], bool] = lambda _: True, **dialogue: Any
) -> Service:
    """The service with a world that is compared by meaning, the encoder stopping at the gate."""
    documents = [msgspec.convert(d, Document) for d in [*DOCUMENTS, *SLURS, MUST_NOT_LEAVE]]
    embedder = GatedEmbedder(gate, is_slow)
    index, _ = open_index(documents, embedder)
    embedder.is_ready = True
    calibration = Calibration(embedder=embedder.id, note=0.9, same=0.9)
    retriever = Retriever(embedder, index, calibration)
    return altered(service, world=World(documents), retriever=retriever, **dialogue)


@pytest.mark.parametrize("is_explained", [False, True])
def test_a_remark_that_is_not_heard_in_time_gets_an_authored_line(
    tiny_service: Service, threads: EncoderThreads, gate: Gate, is_explained: bool
) -> None:
    with client_of(hearing(tiny_service, gate, threads=threads)) as client:
        body = ask_body(deadline_ms=100, explain=is_explained)
        answer = client.post("/ask", json=body).json()
        assert not gate.opened.is_set()
    assert answer["meta"]["reason"] == "deadline"
    assert answer["meta"]["valid"] is False
    assert answer["meta"]["text_source"] == "authored"


def test_a_keyword_that_fired_stands_where_only_the_explanation_is_late(
    tiny_service: Service, threads: EncoderThreads, gate: Gate
) -> None:
    with client_of(hearing(tiny_service, gate, threads=threads)) as client:
        body = ask_body(KEYWORD, deadline_ms=100, explain=True)
        answer = client.post("/ask", json=body).json()
        assert not gate.opened.is_set()
    assert answer["meta"]["reason"] == "forbidden_trigger"


@pytest.mark.parametrize("on_overload", ["fallback", "reject"])
def test_more_remarks_than_may_wait_are_an_overload(
    tiny_service: Service, threads: EncoderThreads, gate: Gate, on_overload: str
) -> None:
    service = hearing(tiny_service, gate, threads=threads, on_overload=on_overload)
    with client_of(service) as client, ThreadPoolExecutor() as pool:

        def post(player: str) -> httpx.Response:
            return client.post("/ask", json=ask_body(player_id=player))

        others = [pool.submit(post, "heard")]
        assert gate.reached.wait(PATIENCE_S)
        others.append(pool.submit(post, "waits"))
        wait_until(lambda: threads._num_heard == 2)
        try:
            response = post("too many")
        finally:
            gate.opened.set()
        for other in others:
            assert other.result().json()["meta"]["valid"] is True
    if on_overload == "reject":
        check_problem(response, 429, "overloaded")
    else:
        assert response.json()["meta"]["reason"] == "overloaded"


def test_a_sentence_that_is_not_checked_in_time_does_not_leave(
    tiny_service: Service, threads: EncoderThreads, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided stands: it was told before."""
    monkeypatch.setattr(encoder_threads, "GRACE_S", -3_600.0)  # the deadline of checks alone
    monkeypatch.setattr("runtime.llama_backend.LlamaModel.piece", lambda *_: b"Not now. ")
    body = ask_body("hello there")
    service = hearing(tiny_service, gate, lambda text: text != body["text"], threads=threads)
    with client_of(service) as client:
        answer = client.post("/ask", json=body).json()
        assert not gate.opened.is_set()
    assert answer["meta"]["valid"] is True
    assert answer["meta"]["text_source"] == "authored"
    assert answer["meta"]["flags_detail"]
    assert "line_refused" not in answer["meta"]
    assert answer["meta"]["usage"]["prompt_tokens"] > 0, "what it cost is told all the same"
    assert answer["meta"]["timings_ms"]["total"] > 0


def test_a_line_that_lacks_a_sentence_for_want_of_time_is_cut() -> None:
    ask = msgspec.convert({"npc_id": "mina", "player_id": "p1", "text": "hello"}, AskRequest)
    progress = Progress(read_turn(ask, World(msgspec.convert(DOCUMENTS, list[Document]))))
    progress.done = Done(
        FinishReason.STOP, (), Usage(9, 0, 3), Timings(None, None, None, None, None)
    )
    assert not progress.is_cut
    progress.fault = Reason.DEADLINE
    assert progress.is_cut


def test_a_service_ends_its_threads(tiny_service: Service) -> None:
    bundle, world = tiny_service.settings.bundle, tiny_service.settings.world
    with opened(bundle, world, max_waiting=7) as service:
        threads = service.dialogue.threads
        assert threads._most_heard == 7 + num_cores()
    with pytest.raises(RuntimeError, match="shutdown"):
        asyncio.run(threads.hear(lambda: None))
