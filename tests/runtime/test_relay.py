"""Events from another thread: all come, in order, and a burst wakes the loop once."""

import asyncio
import threading

import pytest

from runtime.relay import EventRelay
from runtime.sequence import Token


async def read(relay: EventRelay, count: int) -> list[str]:
    events = [await relay.get() for _ in range(count)]
    return [event.text for event in events if isinstance(event, Token)]


def test_a_burst_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        relay, woken = EventRelay(), []
        original = loop.call_soon_threadsafe

        def count(*args: object) -> object:
            woken.append(args)
            return original(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        for number in range(50):
            relay.put(Token(str(number)))
        assert await read(relay, 50) == [str(number) for number in range(50)]
        return len(woken)

    assert asyncio.run(asyncio.wait_for(run(), 10)) == 1


def test_none_is_lost_between_threads() -> None:
    wanted = [str(number) for number in range(20_000)]

    async def run() -> list[str]:
        relay = EventRelay()

        def put() -> None:
            for text in wanted:
                relay.put(Token(text))

        thread = threading.Thread(target=put)
        thread.start()
        found = await read(relay, len(wanted))
        thread.join()
        return found

    assert asyncio.run(asyncio.wait_for(run(), 60)) == wanted


def test_an_event_that_comes_late_is_waited_for() -> None:
    async def run() -> list[str]:
        relay = EventRelay()
        reading = asyncio.create_task(read(relay, 2))
        for text in ("a", "b"):
            await asyncio.sleep(0)
            threading.Timer(0.01, relay.put, [Token(text)]).start()
            await asyncio.sleep(0.03)
        return await reading

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ["a", "b"]


def test_when_the_loop_is_closed_every_put_says_so() -> None:
    loop = asyncio.new_event_loop()

    async def make() -> EventRelay:
        return EventRelay()

    relay = loop.run_until_complete(make())
    relay.put(Token("still open"))
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="nobody listens"):
            relay.put(Token("late"))
