"""Players who talk to a target: closed loop (answer heard, next turn) and open loop (Poisson)."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Protocol, TypeVar

from bench.load_targets import Kind, Listener, Outcome, Target
from train.dataset import TurnLabel

T = TypeVar("T")


class Player:
    """Somebody who has one conversation after another, each in a session of its own."""

    def __init__(self, name: str, conversations: Iterator[list[TurnLabel]]) -> None:
        self._lines = (
            (f"{name}, {number}", line, at == 0)
            for number, lines in enumerate(conversations)
            for at, line in enumerate(lines)
        )

    def say(self, listener: Listener[T]) -> T:
        """The next line, and what comes of it."""
        session, line, is_first = next(self._lines)
        return listener.turn(session, line, is_first=is_first)


@dataclass(frozen=True, slots=True)
class Players:
    """New players without end; no two are at the same conversation before all have been had."""

    conversations: Iterator[list[TurnLabel]]
    _numbers: Iterator[int] = field(default_factory=count)

    def new(self) -> Player:
        """One who has not said anything yet."""
        return Player(f"player {next(self._numbers)}", self.conversations)


class Load(Protocol):
    """A way to put a target under load."""

    @property
    def name(self) -> str:
        """What it is called in a table."""

    def run(self, target: Target, players: Players, seconds: float) -> list[Outcome]:
        """What became of all turns that began in `seconds`; waits for the last to end."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many sessions at once, each of which says its next line when it has its answer."""

    num_sessions: int

    @property
    def name(self) -> str:
        """Sessions at once."""
        return f"closed, {self.num_sessions} at once"

    def run(self, target: Target, players: Players, seconds: float) -> list[Outcome]:
        """A session to which a turn failed says no more."""
        end = time.monotonic() + seconds

        def talk(player: Player) -> list[Outcome]:
            outcomes: list[Outcome] = []
            while time.monotonic() < end and not (outcomes and outcomes[-1].kind is Kind.FAILED):
                outcomes.append(player.say(target))
            return outcomes

        with ThreadPoolExecutor(self.num_sessions) as pool:
            found = pool.map(talk, [players.new() for _ in range(self.num_sessions)])
            return [outcome for outcomes in found for outcome in outcomes]


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Turns that come when they come: a Poisson process of `rate` a minute, drawn by `seed`.

    Each is said by the player who has been silent longest, or by a new one if all wait for answers.
    """

    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Arrivals a minute."""
        return f"open, {self.rate:g} a minute"

    def arrivals(self, seconds: float) -> list[float]:
        """When turns come, in seconds from the start."""
        draw, at, found = Random(self.seed), 0.0, []
        while (at := at + draw.expovariate(self.rate / 60)) < seconds:
            found.append(at)
        return found

    def run(self, target: Listener[T], players: Players, seconds: float) -> list[T]:
        """Arrivals never wait for answers."""
        start, arrivals = time.monotonic(), self.arrivals(seconds)
        silent: deque[Player] = deque()

        def say(player: Player) -> T:
            outcome = player.say(target)
            silent.append(player)
            return outcome

        with ThreadPoolExecutor(max(1, len(arrivals))) as pool:
            said = []
            for due in arrivals:
                time.sleep(max(0.0, start + due - time.monotonic()))
                said.append(pool.submit(say, silent.popleft() if silent else players.new()))
            return [turn.result() for turn in said]


def num_completed(outcomes: Sequence[Outcome], start: float, seconds: float) -> float:
    """Answers that came within `seconds` of `start`; of one under way then, the part of its time.

    Without that part long turns would be counted too seldom. What was refused was not answered.
    """
    end = start + seconds
    return sum(
        min(1.0, (end - outcome.start) / outcome.total_s)
        for outcome in outcomes
        if outcome.kind not in (Kind.FAILED, Kind.OVERLOADED)
    )
