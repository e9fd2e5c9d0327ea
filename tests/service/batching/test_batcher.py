"""The batcher with a recording fake in place of the model."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batch import TensorMap
from service.batching.batcher import Batcher
from service.batching.policy import BatchingPolicy
from service.batching.request import Request
from service.batching.run import Run
from service.errors import Cancelled, Expired, ModelFailed, Overloaded, Stopping

POISON = -1
WAIT_S = 30


class RecordingModel:
    """Doubles its rows, writes down what each run got, and waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self._one_at_a_time = threading.Lock()
        self.entered = threading.Semaphore(0)
        self._free = threading.Event()
        self._free.set()

    @contextmanager
    def held(self, batcher: Batcher) -> Iterator[Future[TensorMap]]:
        """A first request is running, and the model does not end until the block does."""
        self._free.clear()
        try:
            first = submit(batcher, [1000])
            assert self.entered.acquire(timeout=WAIT_S)
            yield first
        finally:
            self._free.set()

    def __call__(self, inputs: TensorMap, _run: Run) -> TensorMap:
        rows = inputs["x"]
        assert self._one_at_a_time.acquire(blocking=False), "two runs at once"
        self.batches.append(rows.reshape(len(rows), -1)[:, 0].tolist())
        self.threads.append(threading.get_ident())
        if not self._free.is_set():
            self.entered.release()
        assert self._free.wait(WAIT_S)
        self._one_at_a_time.release()
        if (rows == POISON).any():
            raise ModelFailed("poisoned")
        return {"y": rows * 2}


def of(model: Callable[[TensorMap, Run], TensorMap], **policy: Any) -> Batcher:
    """A batcher of this policy."""
    return Batcher(model, BatchingPolicy(**policy))


def make_request(rows: list[int], width: int = 1, **options: Any) -> tuple[Request, Future[TensorMap]]:
    """A request of these rows, and the future of its answer."""
    answer: Future[TensorMap] = Future()

    def done(outcome: TensorMap | Exception) -> None:
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    array = np.repeat(np.array(rows)[:, None], width, axis=1)
    request = Request({"x": array}, len(rows), done, signature=array.shape[1:], **options)
    return request, answer


def submit(batcher: Batcher, rows: list[int], width: int = 1, **options: Any) -> Future[TensorMap]:
    """Queue a request of these rows."""
    request, answer = make_request(rows, width, **options)
    batcher.submit(request)
    batcher.dispatch()
    return answer


def rows_of(answer: Future[TensorMap]) -> list[int]:
    """The rows of an answer; raises its error."""
    return [int(row) for row in answer.result(WAIT_S)["y"][:, 0]]


@pytest.fixture
def model() -> RecordingModel:
    return RecordingModel()


@pytest.fixture
def batcher(model: RecordingModel) -> Iterator[Batcher]:
    with of(model, max_batch_rows=8, max_queue_rows=16) as batcher:
        yield batcher


def test_lone_requests_run_at_once(batcher: Batcher, model: RecordingModel) -> None:
    """Lone requests run alone and at once."""
    assert rows_of(submit(batcher, [1, 2])) == [2, 4]
    assert rows_of(submit(batcher, [3])) == [6]
    assert model.batches == [[1, 2], [3]]


def test_waiting_requests_share_a_run(batcher: Batcher, model: RecordingModel) -> None:
    """Requests that come during a run share the next, up to the limit in rows."""
    with model.held(batcher):
        answers = [submit(batcher, [i, i + 1, i + 2]) for i in (10, 20, 30, 40, 50)]
    assert [rows_of(answer)[0] for answer in answers] == [20, 40, 60, 80, 100]
    assert model.batches == [[1000], [10, 11, 12, 20, 21, 22], [30, 31, 32, 40, 41, 42], [50, 51, 52]]


def test_batches_fill_to_the_last_row(batcher: Batcher, model: RecordingModel) -> None:
    """A batch can be filled to the last row."""
    with model.held(batcher):
        answers = [submit(batcher, [i] * 4) for i in (1, 2, 3)]
    assert [rows_of(answer) for answer in answers] == [[2] * 4, [4] * 4, [6] * 4]
    assert [len(batch) for batch in model.batches] == [1, 8, 4]


def test_shapes_never_share_a_run(batcher: Batcher, model: RecordingModel) -> None:
    """Requests of different shapes never share a run."""
    with model.held(batcher):
        answers = [submit(batcher, [1]), submit(batcher, [2], width=3), submit(batcher, [3], width=3)]
    assert [rows_of(answer) for answer in answers] == [[2], [4], [6]]
    assert model.batches == [[1000], [1], [2, 3]]


def test_cancelled_requests_never_run(batcher: Batcher, model: RecordingModel) -> None:
    """Cancelled requests never run, and free their place."""
    with model.held(batcher):
        gone, gone_answer = make_request([1] * 16)
        batcher.submit(gone)
        batcher.dispatch()
        with pytest.raises(Overloaded):
            submit(batcher, [2])
        batcher.cancel(gone)
        stays = submit(batcher, [3])
    assert rows_of(stays) == [6]
    assert isinstance(gone_answer.exception(WAIT_S), Cancelled)
    assert model.batches == [[1000], [3]]


def test_cancelling_late_changes_nothing(batcher: Batcher, model: RecordingModel) -> None:
    """Cancelling what runs or is answered changes nothing."""
    request, answer = make_request([5])
    batcher.submit(request)
    batcher.dispatch()
    assert rows_of(answer) == [10]
    batcher.cancel(request)
    with model.held(batcher):
        fills = submit(batcher, [1] * 16)
        with pytest.raises(Overloaded):
            submit(batcher, [1])
    assert rows_of(fills) == [2] * 16


def test_expired_requests_never_run(batcher: Batcher, model: RecordingModel) -> None:
    with model.held(batcher):
        late = submit(batcher, [1], deadline=0.0)
        stays = submit(batcher, [2], deadline=float("inf"))
    assert isinstance(late.exception(WAIT_S), Expired)
    assert rows_of(stays) == [4]
    assert model.batches == [[1000], [2]]


def test_failing_requests_fail_alone(batcher: Batcher, model: RecordingModel) -> None:
    """A request that fails leaves its neighbours unharmed."""
    with model.held(batcher):
        good, bad, other = submit(batcher, [1]), submit(batcher, [POISON]), submit(batcher, [2])
    assert rows_of(good) == [2]
    assert rows_of(other) == [4]
    assert isinstance(bad.exception(WAIT_S), ModelFailed)
    assert model.batches == [[1000], [1, POISON, 2], [1], [POISON], [2]]
    assert rows_of(submit(batcher, [7])) == [14]


def test_full_queues_refuse(batcher: Batcher, model: RecordingModel) -> None:
    """A full queue refuses, and takes again when there is room."""
    with model.held(batcher):
        queued = [submit(batcher, [i] * 4) for i in range(4)]
        with pytest.raises(Overloaded, match="Exceeds maximum queue size: 16 rows wait"):
            submit(batcher, [9])
    assert [rows_of(answer)[0] for answer in queued] == [0, 2, 4, 6]
    assert rows_of(submit(batcher, [9])) == [18]


def test_requests_of_higher_priority_run_first(batcher: Batcher, model: RecordingModel) -> None:
    with model.held(batcher):
        answers = [
            submit(batcher, [1] * 8),
            submit(batcher, [2] * 4, priority=2),
            submit(batcher, [3] * 4, priority=1),
        ]
    for answer in answers:
        answer.result(WAIT_S)
    assert [sorted(set(batch)) for batch in model.batches] == [[1000], [2, 3], [1]]
    assert model.batches[1] == [3] * 4 + [2] * 4


def test_delayed_requests_fill_a_batch(model: RecordingModel) -> None:
    """With a delay a request waits for others until the batch is full."""
    with of(model, max_batch_rows=4, max_queue_rows=16, max_queue_delay_s=3600) as batcher:
        answers = [submit(batcher, [i]) for i in range(4)]
        assert [rows_of(answer) for answer in answers] == [[0], [2], [4], [6]]
    assert model.batches == [[0, 1, 2, 3]]


def test_passed_delays_end_the_wait(model: RecordingModel) -> None:
    """A delay that has passed ends the wait."""
    with of(model, max_batch_rows=4, max_queue_rows=16, max_queue_delay_s=1e-3) as batcher:
        assert rows_of(submit(batcher, [1])) == [2]


def test_closing_answers_what_still_waits(model: RecordingModel) -> None:
    batcher = of(model, max_batch_rows=4, max_queue_rows=16, max_queue_delay_s=3600)
    with batcher:
        waiting = submit(batcher, [1])
    assert isinstance(waiting.exception(WAIT_S), Stopping)
    with pytest.raises(Stopping):
        submit(batcher, [2])
    assert model.batches == []


def test_undeliverable_answers_harm_no_others(batcher: Batcher, model: RecordingModel) -> None:
    """An answer that cannot be delivered harms no other request."""

    def gone(_outcome: TensorMap | Exception) -> None:
        raise ConnectionError("the caller hung up")

    with model.held(batcher):
        batcher.submit(Request({"x": np.array([[1]])}, 1, gone, signature=(1,)))
        batcher.dispatch()
        stays = submit(batcher, [2])
    assert rows_of(stays) == [4]


def test_preferred_batch_size_limits_joining(model: RecordingModel) -> None:
    """Requests are joined up to a limit of its own, and larger ones run alone."""
    with of(model, max_batch_rows=8, preferred_batch_size=4, max_queue_rows=32) as batcher:
        with model.held(batcher):
            answers = [submit(batcher, [i] * size) for i, size in enumerate((2, 2, 8, 1, 3))]
        for answer in answers:
            answer.result(WAIT_S)
    assert [len(batch) for batch in model.batches] == [1, 4, 8, 4]


def test_allowed_runs_are_under_way() -> None:
    """As many runs as are allowed are under way at a time.

    Each run waits for the other, so one alone would never end; a third has to wait for a place.
    """
    together = threading.Barrier(2, timeout=WAIT_S)
    here = threading.get_ident()
    seen: list[int] = []

    def meet(inputs: TensorMap, _run: Run) -> TensorMap:
        seen.append(threading.get_ident())
        together.wait()
        return {"y": inputs["x"]}

    with of(meet, max_batch_rows=1, max_queue_rows=8, max_inline_s=3600, instance_count=2) as batcher:
        answers = [submit(batcher, [number]) for number in range(6)]
        assert [rows_of(answer) for answer in answers] == [[number] for number in range(6)]
    assert len(set(seen)) == 2
    assert here not in seen
    assert batcher.statistics.runs == 6


def test_parallel_runs_are_full(model: RecordingModel) -> None:
    """Beside another run only a full one begins.

    The second run is joined from all that came while the first was on, unless enough came to fill one.
    """
    with of(model, max_batch_rows=4, max_queue_rows=32, instance_count=2, min_parallel_rows=4) as batcher:
        with model.held(batcher):
            few = [submit(batcher, [1]), submit(batcher, [2, 3])]
        assert [rows_of(answer) for answer in few] == [[2], [4, 6]]
    assert model.batches == [[1000], [1, 2, 3]]


def test_parallel_runs_are_not_inline() -> None:
    """What can be run beside another run is not run in the thread that dispatches."""
    here = threading.get_ident()
    threads: list[int] = []

    def double(inputs: TensorMap, _run: Run) -> TensorMap:
        threads.append(threading.get_ident())
        return {"y": inputs["x"] * 2}

    with of(
        double, max_batch_rows=2, max_queue_rows=32, max_inline_s=3600, instance_count=2, min_parallel_rows=2
    ) as batcher:
        for _ in range(2):
            submit(batcher, [1, 2]).result(WAIT_S)
        assert threads[1] == here  # the first told how short it is
        requests = [make_request([number, number]) for number in range(3)]
        for request, _ in requests:
            batcher.submit(request)
        batcher.dispatch()
        assert [rows_of(answer) for _, answer in requests] == [[0, 0], [2, 2], [4, 4]]
    assert threads[2] != here


def test_large_requests_run_in_parts(model: RecordingModel) -> None:
    """A large request is run in parts and answered whole."""
    with of(model, max_batch_rows=8, preferred_batch_size=3, max_run_rows=3, max_queue_rows=32) as batcher:
        assert rows_of(submit(batcher, [1, 2, 3, 4, 5, 6, 7])) == [2, 4, 6, 8, 10, 12, 14]
        assert rows_of(submit(batcher, [1, 2, 3])) == [2, 4, 6]
        assert isinstance(submit(batcher, [1, 2, 3, 4, POISON]).exception(WAIT_S), ModelFailed)
    assert [len(batch) for batch in model.batches] == [3, 3, 1, 3, 3, 2]


def test_short_runs_are_inline(model: RecordingModel) -> None:
    """A run expected to be short happens in the thread that dispatches.

    The first run of its size tells how long the next will take.
    """
    here = threading.get_ident()
    with of(model, max_batch_rows=8, max_queue_rows=32, max_inline_s=3600) as batcher:
        assert rows_of(submit(batcher, [1])) == [2]
        second = submit(batcher, [2])
        assert second.done()
        assert rows_of(submit(batcher, [3, 4, 5, 6])) == [6, 8, 10, 12]
    assert [thread == here for thread in model.threads] == [False, True, False]


def test_inline_runs_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that dispatches runs no longer than it may, whatever waits.

    Twenty runs of 50 ms by the batcher's clock: eight fit the 400 that it may take.
    """
    threads: list[int] = []
    now_ns = time.monotonic_ns()
    clock = SimpleNamespace(monotonic_ns=lambda: now_ns, monotonic=lambda: now_ns / 1e9)
    monkeypatch.setattr("service.batching.batcher.time", clock)

    def slow(inputs: TensorMap, _run: Run) -> TensorMap:
        nonlocal now_ns
        threads.append(threading.get_ident())
        now_ns += 50_000_000
        return inputs

    with of(slow, max_batch_rows=1, max_queue_rows=32, max_inline_s=0.4) as batcher:
        submit(batcher, [0]).result(WAIT_S)  # by which it knows how long a run takes
        requests = [make_request([row]) for row in range(20)]
        for request, _ in requests:
            batcher.submit(request)
        batcher.dispatch()
        for _, answer in requests:
            answer.result(WAIT_S)
    assert [thread == threading.get_ident() for thread in threads] == [False] + [True] * 8 + [False] * 12


def test_long_runs_are_not_inline(model: RecordingModel) -> None:
    """A run expected to be long happens in the batcher's thread."""
    with of(model, max_batch_rows=8, max_queue_rows=32, max_inline_s=1e-12) as batcher:
        for row in range(3):
            assert rows_of(submit(batcher, [row])) == [2 * row]
    assert threading.get_ident() not in model.threads


def test_bursts_take_several_runs(model: RecordingModel) -> None:
    """A burst is dispatched in as many runs as it takes."""
    with of(model, max_batch_rows=2, max_queue_rows=32, max_inline_s=3600) as batcher:
        for size in (1, 2):
            submit(batcher, [0] * size).result(WAIT_S)
        requests = [make_request([row]) for row in range(5)]
        for request, _ in requests:
            batcher.submit(request)
        batcher.dispatch()
        assert [rows_of(answer) for _, answer in requests] == [[0], [2], [4], [6], [8]]
    assert model.batches[2:] == [[0, 1], [2, 3], [4]]


def test_dispatching_threads_get_their_own(model: RecordingModel) -> None:
    """Threads that dispatch at once never run at once, and get their own rows."""
    with of(model, max_batch_rows=8, max_queue_rows=1000, max_inline_s=3600) as batcher:

        def ask(start: int) -> None:
            for row in range(start, start + 100):
                assert rows_of(submit(batcher, [row])) == [2 * row]

        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(ask, 1000 * thread) for thread in range(8)]:
                outcome.result(WAIT_S)
    assert sorted(row for batch in model.batches for row in batch) == sorted(
        1000 * thread + row for thread in range(8) for row in range(100)
    )


def test_statistics_tell_what_was_done(batcher: Batcher, model: RecordingModel) -> None:
    with model.held(batcher):
        answers = [submit(batcher, [1, 2, 3]), submit(batcher, [4]), submit(batcher, [5], deadline=0.0)]
    for answer in answers:
        answer.exception(WAIT_S)
    assert rows_of(submit(batcher, [6])) == [12]
    assert isinstance(submit(batcher, [POISON]).exception(WAIT_S), ModelFailed)
    counted = batcher.statistics
    assert (counted.rows, counted.runs) == (6, 3)
    assert (counted.success.count, counted.fail.count) == (4, 2)
    assert {rows: duration.count for rows, duration in counted.run_by_rows.items()} == {1: 2, 4: 1}
    assert counted.success.ns >= counted.queue.ns + counted.run.ns > 0


def test_an_answer_is_given_once() -> None:
    request, answer = make_request([1])
    assert request.complete(Cancelled("first"))
    assert not request.complete({"y": np.array([[1]])})
    assert isinstance(answer.exception(WAIT_S), Cancelled)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 8), max_size=30), limit=st.integers(8, 20))
def test_everybody_gets_their_own_rows(sizes: list[int], limit: int) -> None:
    model = RecordingModel()
    with of(model, max_batch_rows=limit, max_queue_rows=1000) as batcher:
        with model.held(batcher):
            answers = [submit(batcher, list(range(100 * i, 100 * i + size))) for i, size in enumerate(sizes)]
        for i, (answer, size) in enumerate(zip(answers, sizes, strict=True)):
            assert rows_of(answer) == [2 * row for row in range(100 * i, 100 * i + size)]
    assert max(len(batch) for batch in model.batches) <= limit
    assert sum(len(batch) for batch in model.batches) == sum(sizes) + 1


def test_other_requests_run_between_parts(model: RecordingModel) -> None:
    """A large request is run in parts; what comes meanwhile does not wait for its end."""
    with of(model, max_batch_rows=9, preferred_batch_size=3, max_run_rows=3, max_queue_rows=32) as batcher:
        with model.held(batcher):
            large = submit(batcher, list(range(1, 10)))
            small = submit(batcher, [50])
        assert rows_of(large) == [2 * row for row in range(1, 10)]
        assert rows_of(small) == [100]
    assert model.batches == [[1000], [1, 2, 3], [50], [4, 5, 6], [7, 8, 9]]


def test_parts_are_short_beside_others(model: RecordingModel) -> None:
    """Right after another caller's small run, a part of a large request is a quarter as long; else it is whole."""
    with of(model, max_batch_rows=24, preferred_batch_size=8, max_run_rows=8, max_queue_rows=64) as batcher:
        with model.held(batcher):
            small = submit(batcher, [50], source="lone")
            large = submit(batcher, list(range(1, 20)), source="bulk")
        assert rows_of(small) == [100]
        assert rows_of(large) == [2 * row for row in range(1, 20)]
    assert [len(batch) for batch in model.batches] == [1, 1, 2, 8, 8, 1]


def test_connections_take_turns(model: RecordingModel) -> None:
    """One caller's many requests do not stand before another's first."""
    with of(model, max_batch_rows=2, max_queue_rows=100) as batcher:
        with model.held(batcher):
            many = [submit(batcher, [row], source="busy") for row in range(1, 7)]
            first = submit(batcher, [50], source="other")
        assert rows_of(first) == [100]
        assert [rows_of(result) for result in many] == [[2 * row] for row in range(1, 7)]
    assert model.batches == [[1000], [1, 50], [2, 3], [4, 5], [6]]


def test_too_long_a_wait_is_refused(model: RecordingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wait longer than the limit is refused at once, and told when to try again."""
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr(
        "service.batching.batcher.time",
        SimpleNamespace(monotonic_ns=lambda: clock.now_ns, monotonic=lambda: clock.now_ns / 1e9),
    )
    monkeypatch.setattr("service.batching.admission.time", SimpleNamespace(monotonic=lambda: clock.now_ns / 1e9))

    def second(inputs: TensorMap, run: Run) -> TensorMap:
        clock.now_ns += 1_000_000_000 * len(inputs["x"])
        return model(inputs, run)

    with of(second, max_batch_rows=4, max_queue_rows=100, max_queue_s=5.5) as batcher:
        assert rows_of(submit(batcher, [1, 2, 3, 4])) == [2, 4, 6, 8]  # a row takes a second
        with model.held(batcher):
            waiting = [submit(batcher, [1, 2, 3, 4])]
            with pytest.raises(Overloaded, match=r"'model' would begin this request in 5000 ms.* Try again") as refused:
                submit(batcher, [5], deadline=clock.now_ns / 1e9 + 4)
            assert refused.value.retry_after_s == 5
            with pytest.raises(Overloaded, match=r"3000 ms are allowed \(its deadline\)"):
                submit(batcher, [5], deadline=clock.now_ns / 1e9 + 7)  # its run may take three others along
            waiting.append(submit(batcher, [5]))  # behind no more than a full request
            with pytest.raises(Overloaded, match=r"6000 ms, 5500 ms are allowed \(--max-queue-ms\)"):
                submit(batcher, [6])
            waiting.append(submit(batcher, [7], source="other"))  # has its turn after the first's first
        assert [rows_of(result)[-1] for result in waiting] == [8, 10, 14]


def test_one_full_request_may_wait(model: RecordingModel) -> None:
    """However slow the model is, behind as many rows as one request may have another may wait."""
    with of(model, max_batch_rows=4, max_queue_rows=100, max_queue_s=1e-9) as batcher:
        assert rows_of(submit(batcher, [1, 2, 3, 4])) == [2, 4, 6, 8]
        with model.held(batcher):
            waiting = [submit(batcher, [1, 2, 3, 4]), submit(batcher, [5])]
            with pytest.raises(Overloaded, match="--max-queue-ms"):
                submit(batcher, [6])
        assert [rows_of(result) for result in waiting] == [[2, 4, 6, 8], [10]]


def test_expiry_does_not_wait_for_runs(model: RecordingModel) -> None:
    """Requests whose time has passed are answered while the run that keeps them goes on."""
    with of(model, max_batch_rows=4, max_queue_rows=100) as batcher:
        with model.held(batcher):
            queued = submit(batcher, [1], deadline=time.monotonic() + 1e-3)
            unhurried = submit(batcher, [2], deadline=time.monotonic() + 3600)
            while not queued.done():
                batcher.expire()
            assert isinstance(queued.exception(WAIT_S), Expired)
            assert not unhurried.done()
        assert rows_of(unhurried) == [4]
    assert model.batches == [[1000], [2]]


def test_unwanted_runs_are_ended() -> None:
    """A run is told to end when the last of its callers has gone, and not before."""
    entered, ended = threading.Event(), threading.Event()

    def endless(inputs: TensorMap, run: Run) -> TensorMap:
        run.terminate = ended.set
        entered.set()
        assert ended.wait(WAIT_S)
        return {"y": inputs["x"]}

    with of(endless, max_batch_rows=4, max_queue_rows=100, max_queue_delay_s=3600) as batcher:
        requests = [make_request([1, 2])[0], make_request([3, 4])[0]]
        for request in requests:
            batcher.submit(request)
        batcher.dispatch()
        assert entered.wait(WAIT_S)
        batcher.cancel(requests[0])
        assert not ended.is_set()
        batcher.cancel(requests[1])
        assert ended.wait(WAIT_S)


def test_closing_ends_half_run_requests(model: RecordingModel) -> None:
    """A request of which only a part has run is answered too."""
    with (
        of(model, max_batch_rows=8, preferred_batch_size=2, max_queue_rows=100) as batcher,
        ThreadPoolExecutor(1) as pool,
    ):
        with model.held(batcher):
            large = submit(batcher, [1, 2, 3, 4, 5])
            closing = pool.submit(batcher.__exit__, None, None, None)
            while not large.done():
                pass
        closing.result(WAIT_S)
    assert isinstance(large.exception(WAIT_S), Stopping)


def test_small_runs_foretell_no_queue(model: RecordingModel) -> None:
    """What a lone row took, overhead and all, is not multiplied by the rows that wait."""
    with of(model, max_batch_rows=4, max_queue_rows=100, max_queue_s=1e-9) as batcher:
        assert rows_of(submit(batcher, [1])) == [2]
        with model.held(batcher):
            waiting = [submit(batcher, [row]) for row in range(10)]
        assert [rows_of(result) for result in waiting] == [[2 * row] for row in range(10)]
