"""Counts of each token's requests, in memory that all processes of one port share.

Each process has a column that it alone writes, so that nothing is locked and no process waits for another.
"""

import mmap
import os
import time
from dataclasses import dataclass
from typing import Self

MAX_TOKENS = 2**12
"""Tokens that can be counted."""
NUMBER_BYTES = 8
ARRAYS = 3


@dataclass(frozen=True)
class Column:
    """One process's place in the shared memory."""

    descriptor: int
    """File descriptor of the memory; -1: of this process alone."""
    number: int = 0
    count: int = 1
    """How many columns there are."""


def memory_bytes(columns: int) -> int:
    """The size of memory for so many columns."""
    return ARRAYS * MAX_TOKENS * columns * NUMBER_BYTES


class SharedCounts:
    """Requests that were let through and those of them that have ended, and when the last one came, by row."""

    def __init__(self, column: Column) -> None:
        self._columns, self._column = column.count, column.number
        size = memory_bytes(column.count)
        memory = memoryview(mmap.mmap(column.descriptor, size))
        begun, ended, times = (memory[at : at + size // ARRAYS] for at in range(0, size, size // ARRAYS))
        self._begun, self._ended, self._times = begun.cast("Q"), ended.cast("Q"), times.cast("d")

    @classmethod
    def alone(cls) -> Self:
        """Those of a process that shares its port with no other."""
        return cls(Column(-1))

    def begin(self, row: int) -> None:
        """Counts a request of this process."""
        place = row * self._columns + self._column
        self._begun[place] += 1
        self._times[place] = time.monotonic()

    def end(self, row: int) -> None:
        """Counts the end of one."""
        self._ended[row * self._columns + self._column] += 1

    def end_all(self) -> None:
        """The process of this column has ended, and all that it had in flight."""
        for place in range(self._column, len(self._begun), self._columns):
            self._ended[place] = self._begun[place]

    def total(self, row: int) -> int:
        """The requests of all processes, also of those that have ended."""
        first = row * self._columns
        return sum(self._begun[first : first + self._columns])

    def in_flight(self, row: int) -> int:
        """Those that have not ended."""
        first = row * self._columns
        return self.total(row) - sum(self._ended[first : first + self._columns])

    def last_at(self, row: int) -> float:
        """When the last request of all was counted, on ``time.monotonic``'s clock; 0.0: none was."""
        first = row * self._columns
        return max(self._times[first : first + self._columns])


class CountColumns:
    """The memory, as the process has it that starts the others: each gets a column for as long as it lives."""

    def __init__(self, count: int) -> None:
        self._descriptor = os.memfd_create("convserve-token-counts")
        os.ftruncate(self._descriptor, memory_bytes(count))
        self._count = count
        self._lent: set[int] = set()

    def lend(self) -> Column:
        """A column that no other process has; where there is none, the last, of which some counts are lost."""
        free = set(range(self._count)) - self._lent
        number = min(free, default=self._count - 1)
        self._lent.add(number)
        return Column(self._descriptor, number, self._count)

    def give_back(self, column: Column) -> None:
        """Its process has ended; what it counted stays, and nothing of it is in flight."""
        SharedCounts(column).end_all()
        self._lent.discard(column.number)
