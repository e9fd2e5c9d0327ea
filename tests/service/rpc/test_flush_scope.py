"""What is given together is sent together, and nothing is forgotten."""

import threading
from collections import deque

from service.rpc import FlushScope


class Recorder:
    """Keeps what it is given until it is flushed, and counts."""

    def __init__(self) -> None:
        self.flush_scheduled = False
        self.kept: deque[int] = deque()
        self.sent: list[int] = []
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        while self.kept:
            self.sent.append(self.kept.popleft())


def give(flush_scope: FlushScope, recorder: Recorder, number: int) -> None:
    recorder.kept.append(number)
    flush_scope.schedule_flush(recorder)


def test_within_it_is_sent_once_at_the_end_and_outside_at_once() -> None:
    flush_scope, recorder = FlushScope(), Recorder()
    give(flush_scope, recorder, 1)
    assert recorder.sent == [1]
    with flush_scope:
        give(flush_scope, recorder, 2)
        give(flush_scope, recorder, 3)
        assert recorder.sent == [1]
    assert (recorder.sent, recorder.flushes) == ([1, 2, 3], 2)


def test_the_first_to_end_of_two_sends_all_so_far() -> None:
    flush_scope, recorder = FlushScope(), Recorder()
    with flush_scope:
        give(flush_scope, recorder, 1)
        with flush_scope:
            give(flush_scope, recorder, 2)
        assert recorder.sent == [1, 2]
        give(flush_scope, recorder, 3)
        assert recorder.sent == [1, 2]
    assert recorder.sent == [1, 2, 3]


def test_one_that_fails_does_not_keep_the_others_from_being_sent() -> None:
    class Broken(Recorder):
        def flush(self) -> None:
            raise ValueError("broken")

    flush_scope, broken, recorder = FlushScope(), Broken(), Recorder()
    with flush_scope:
        give(flush_scope, broken, 1)
        give(flush_scope, recorder, 2)
    assert recorder.sent == [2]


def test_many_threads_lose_nothing() -> None:
    flush_scope, recorders = FlushScope(), [Recorder() for _ in range(4)]

    def work(first: int) -> None:
        for number in range(first, first + 2000, 2):
            with flush_scope:
                give(flush_scope, recorders[number % 4], number)
            give(flush_scope, recorders[(number + 1) % 4], number + 1)

    threads = [threading.Thread(target=work, args=(number * 2000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for recorder in recorders for number in recorder.sent) == list(range(16_000))
