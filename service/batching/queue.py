"""The requests that wait for one model, in the order in which they will run.

Each connection has a lane of its own, and the lanes take turns: one caller's thousand requests do not stand before
another's first. Requests that name a priority go ahead of all lanes. Knows nothing of time, threads or runs.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterator

from service.batching.request import LOWEST_PRIORITY, Request


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

    def pop(self) -> Request:
        """Takes out the next request, and gives the turn to the next source; the queue must not be empty."""
        if self._urgent:
            request = heapq.heappop(self._urgent)[2]
            self._uncount(request)
            return request
        turns = self._turns
        lane = turns[0]
        request = lane.requests.popleft()
        self._uncount(request)
        if not lane.requests:
            del self._lanes[request.source]
            turns.popleft()
        elif len(turns) > 1:
            turns.rotate(-1)
        return request

    def remove(self, request: Request) -> None:
        """Frees the place of a request that nobody waits for any more."""
        self._uncount(request)
        request.inputs = {}  # its entry stays, its arrays need not

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

    def _uncount(self, request: Request) -> None:
        if not request.queued:
            return
        request.queued = False
        self.rows -= request.rows_left
        if request.priority != LOWEST_PRIORITY:
            self._urgent_rows -= request.rows_left
        else:
            self._lanes[request.source].rows -= request.rows_left
