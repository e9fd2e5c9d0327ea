"""A call's items are spread over the threads of a pool, in fair time slices."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import Overloaded, Stopping
from service.images.decode_pool import DecodePool

TIMEOUT_S = 30
THREADS = 3


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield threads


def always() -> bool:
    return True


@pytest.mark.parametrize("items", [1, 2, 500])
def test_each_item_runs_once(pool: ThreadPoolExecutor, items: int) -> None:
    did: list[int] = []
    ended: list[int] = []
    over = threading.Event()

    def done() -> None:
        ended.append(len(did))
        over.set()

    DecodePool(pool, 10).for_each(items, did.append, done, is_wanted=always)
    assert over.wait(TIMEOUT_S)
    assert sorted(did) == list(range(items))
    assert ended == [items]


def test_one_call_uses_all_threads(pool: ThreadPoolExecutor) -> None:
    """Each item ends only when as many are under way as there are threads."""
    together = threading.Barrier(THREADS, timeout=TIMEOUT_S)
    over = threading.Event()

    def work(_item: int) -> None:
        together.wait()

    DecodePool(pool, 10).for_each(2 * THREADS, work, over.set, is_wanted=always)
    assert over.wait(TIMEOUT_S)


def test_small_call_overtakes_a_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and items that are longer than a slice."""
    monkeypatch.setattr("service.images.decode_pool.TIME_SLICE_S", 0.0)
    did: list[str] = []
    may_go, over = threading.Event(), threading.Semaphore(0)

    def work(_item: int) -> None:
        may_go.wait(TIMEOUT_S)
        did.append("large")

    with ThreadPoolExecutor(1) as pool:
        decoders = DecodePool(pool, 10**6)
        decoders.for_each(1000, work, over.release, is_wanted=always)
        decoders.for_each(1, lambda _: did.append("small"), over.release, is_wanted=always)
        may_go.set()
        for _ in range(2):
            assert over.acquire(timeout=TIMEOUT_S)
    assert did.index("small") < 4
    assert did.count("large") == 1000


def test_unwanted_items_are_dropped(pool: ThreadPoolExecutor) -> None:
    wanted = True
    began, may_go = threading.Semaphore(0), threading.Event()
    did: list[int] = []
    decoders = DecodePool(pool, 1)

    def work(item: int) -> None:
        did.append(item)
        began.release()
        may_go.wait(TIMEOUT_S)

    decoders.for_each(1000, work, lambda: did.append(-1), is_wanted=lambda: wanted)
    for _ in range(THREADS):
        assert began.acquire(timeout=TIMEOUT_S)
    wanted = False
    may_go.set()
    pool.shutdown()
    assert sorted(did) == list(range(THREADS))


def test_too_many_items_are_refused(pool: ThreadPoolExecutor) -> None:
    """The refusal tells when there will be room, by the pace of what was decoded."""
    may_go, over = threading.Event(), threading.Event()
    decoders = DecodePool(pool, 10)

    def work(_item: int) -> None:
        may_go.wait(TIMEOUT_S)

    decoders.for_each(8, lambda _: None, over.set, is_wanted=always)
    assert over.wait(TIMEOUT_S)
    over.clear()
    decoders.for_each(20, work, over.set, is_wanted=always)
    hints = []
    for count in (1, 2):
        with pytest.raises(Overloaded, match=r"20 images wait to be decoded and 10 may\. Try again in") as caught:
            decoders.for_each(count, lambda _: None, over.set, is_wanted=always)
        assert caught.value.retry_after_s is not None
        hints.append(caught.value.retry_after_s)
    assert hints[0] > 0
    assert hints[1] / hints[0] == pytest.approx(12 / 11)
    may_go.set()
    assert over.wait(TIMEOUT_S)
    over.clear()
    decoders.for_each(10, lambda _: None, over.set, is_wanted=always)
    assert over.wait(TIMEOUT_S)


def test_pool_shut_down_refuses(pool: ThreadPoolExecutor) -> None:
    pool.shutdown()
    decoders = DecodePool(pool, 10)
    for _ in range(2):  # the second shows that the first waits no more
        with pytest.raises(Stopping, match="The server is stopping"):
            decoders.for_each(20, lambda _: None, lambda: None, is_wanted=always)


def test_shutdown_drops_waiting_items() -> None:
    pool = ThreadPoolExecutor(1)
    began, may_go = threading.Event(), threading.Event()
    did: list[int] = []

    def work(item: int) -> None:
        did.append(item)
        began.set()
        may_go.wait(TIMEOUT_S)

    DecodePool(pool, 10).for_each(10, work, lambda: did.append(-1), is_wanted=always)
    assert began.wait(TIMEOUT_S)
    pool.shutdown(wait=False, cancel_futures=True)
    may_go.set()
    pool.shutdown(wait=True)
    assert did == [0]
