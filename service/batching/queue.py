"""The requests that wait for one model, in the order in which they will run.

Each connection has a lane of its own, and the lanes take turns: one caller's thousand requests do not stand before
another's first. Requests that name a priority go ahead of all lanes. Knows nothing of time, threads or runs.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from .request import LOWEST_PRIORITY, Request

PART_BESIDE_OTHERS: Final = 4
"""By so much a part of a large request is shorter right after a small run of another source, which may ask again."""


class _Lane:
    """The waiting requests of one connection."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0


class FairQueue:
    """Requests by priority, then by turns of their ``source``, then by age. Not safe for threads.

    ``rows`` counts those that wait. A request that is removed keeps its entry until the queue comes to it.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._urgent: list[tuple[int, int, Request]] = []
        self._urgent_rows = 0
        self._order = itertools.count()
        self._lanes: dict[Hashable, _Lane] = {}
        self._turns: deque[_Lane] = deque()  # the first is next
        self._last_source = 0  # its id, of the batch that was taken last: a source may have gone
        self._last_rows = 0

    def __bool__(self) -> bool:
        return bool(self._turns or self._urgent)

    def __iter__(self) -> Iterator[Request]:
        """All requests, in no particular order; removed ones may be among them."""
        for _, _, request in self._urgent:
            yield request
        for lane in self._turns:
            yield from lane.requests

    def push(self, request: Request) -> None:
        """Adds a request behind those of its priority and its source."""
        request.queued = True
        self.rows += request.rows_left
        if request.priority != LOWEST_PRIORITY:
            self._urgent_rows += request.rows_left
            heapq.heappush(self._urgent, (request.priority, next(self._order), request))
            return
        lane = self._lanes.get(request.source)
        if lane is None:
            lane = self._lanes[request.source] = _Lane()
            self._turns.append(lane)
        lane.requests.append(request)
        lane.rows += request.rows_left

    def peek(self) -> Request:
        """The next request; the queue must not be empty."""
        return self._urgent[0][2] if self._urgent else self._turns[0].requests[0]

    def take_batch(
        self, max_rows: int, max_part: int, now: float, hurried: float, comes_too_late: Callable[[Request], bool]
    ) -> tuple[list[tuple[Request, int]], list[Request]]:
        """Takes out what can share a run: requests with their rows in it; and what has expired.

        They are of one signature, and have ``max_rows`` at most; of a first request that has more, up to ``max_part``
        rows are taken, or fewer beside others. After each request it is the next source's turn. ``comes_too_late`` is
        asked of those whose deadline is before ``hurried``. One loop: it runs for each request.
        """
        batch: list[tuple[Request, int]] = []
        expired: list[Request] = []
        urgent, turns = self._urgent, self._turns
        rows = 0
        while turns or urgent:
            lane = None if urgent else turns[0]
            request = urgent[0][2] if lane is None else lane.requests[0]
            left, deadline = request.rows_left, request.deadline
            is_alive = request.queued and (deadline is None or now < deadline)
            if is_alive and batch and (rows + left > max_rows or request.signature != batch[0][0].signature):
                break
            was_queued = request.queued
            self._pop(request, lane)
            if is_alive and not (deadline is not None and deadline < hurried and self.rows and comes_too_late(request)):
                part = left if left <= max_part else self._part_of(request, max_part)
                batch.append((request, part))
                rows += part
            elif was_queued:
                expired.append(request)
        if batch:
            self._last_source, self._last_rows = id(batch[0][0].source), rows
        return batch, expired

    def _part_of(self, request: Request, max_part: int) -> int:
        """Rows of a large request that run at once."""
        short = max(1, max_part // PART_BESIDE_OTHERS)
        return short if 0 < self._last_rows <= short and id(request.source) != self._last_source else max_part

    def _pop(self, request: Request, lane: _Lane | None) -> None:
        """Takes out the first request of a lane, or of the urgent ones."""
        if request.queued:
            request.queued = False
            self.rows -= request.rows_left
            if lane is None:
                self._urgent_rows -= request.rows_left
            else:
                lane.rows -= request.rows_left
        if lane is None:
            heapq.heappop(self._urgent)
            return
        lane.requests.popleft()
        if not lane.requests:
            del self._lanes[request.source]
            self._turns.popleft()
        elif len(self._turns) > 1:
            self._turns.rotate(-1)

    def remove(self, request: Request) -> None:
        """Frees the place of a request whose result is not wanted any more."""
        request.inputs = {}  # its entry stays, its arrays need not
        request.queued = False
        self.rows -= request.rows_left
        if request.priority != LOWEST_PRIORITY:
            self._urgent_rows -= request.rows_left
        else:
            self._lanes[request.source].rows -= request.rows_left

    def rows_ahead(self, request: Request) -> int:
        """Rows that would run before the last of this request's: other sources have as many turns as its own."""
        lane = self._lanes.get(request.source)
        own = request.rows_left + (lane.rows if lane is not None else 0)
        others = sum(min(own, other.rows) for other in self._turns if other is not lane)
        return self._urgent_rows + own - request.rows_left + others

    def clear(self) -> list[Request]:
        """Takes out all requests."""
        left = [request for request in self if request.queued]
        for request in left:
            request.queued = False
        self._urgent, self._lanes, self._turns = [], {}, deque()
        self.rows = self._urgent_rows = 0
        return left
