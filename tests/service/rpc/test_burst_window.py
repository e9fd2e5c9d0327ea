"""Bursts of calls on the grpcio transport: when they end."""

from collections import deque
from collections.abc import Callable
from typing import Any

from service.rpc.burst_window import LONGEST_S, QUIET_TURNS, BurstWindow


class Turns:
    """An event loop that turns when it is told to; each turn takes ``turn_s``."""

    def __init__(self, turn_s: float = 1e-6) -> None:
        self._turn_s = turn_s
        self._now = 100.0
        self._next: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> object:
        self._next.append((callback, arguments))
        return None

    def turn(self) -> bool:
        """Whether there was anything to do."""
        self._now += self._turn_s
        due, self._next = self._next, deque()
        for callback, arguments in due:
            callback(*arguments)
        return bool(due)


class Settled:
    """Counts how often it was asked to dispatch."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return False


def test_calls_that_follow_each_other_closely_are_settled_once_and_then_the_loop_rests() -> None:
    loop, settled = Turns(), Settled()
    burst = BurstWindow(settled)
    for _ in range(5):
        burst.add(loop)
        for _ in range(QUIET_TURNS - 1):
            loop.turn()
    assert settled.times == 0
    while loop.turn():
        pass
    assert settled.times == 1
    burst.add(loop)
    while loop.turn():
        pass
    assert settled.times == 2


def test_a_call_alone_is_settled_after_the_quiet_turns() -> None:
    loop, settled = Turns(), Settled()
    BurstWindow(settled).add(loop)
    for _ in range(QUIET_TURNS):
        assert settled.times == 0
        loop.turn()
    assert settled.times == 1


def test_calls_that_never_cease_do_not_put_it_off_for_long() -> None:
    loop, settled = Turns(turn_s=LONGEST_S / 3.5), Settled()
    burst = BurstWindow(settled)
    for _ in range(40):
        burst.add(loop)
        loop.turn()
    assert settled.times == 10
