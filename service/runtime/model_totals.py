"""What each model version has done in this process, also before its file was replaced: no figure goes back."""

import threading
import weakref
from dataclasses import dataclass

from ..batching.batcher import Batcher
from ..batching.statistics import Statistics
from ..batching.totals import Totals


@dataclass(frozen=True, eq=False)
class _Counted:
    key: str
    statistics: Statistics
    batcher: "weakref.ref[Batcher]"


class ModelTotals:
    """Adds up the statistics of batchers, those that have ended too. Any thread may ask."""

    def __init__(self) -> None:
        self._counted: list[_Counted] = []
        self._ended: dict[str, Totals] = {}
        self._lock = threading.Lock()

    def watch(self, key: str, batcher: Batcher) -> None:
        """Counts what this batcher does, under this name/version."""
        with self._lock:
            self._counted.append(_Counted(key, batcher.statistics, weakref.ref(batcher)))

    def read(self) -> dict[str, Totals]:
        """The sums by name/version."""
        with self._lock:
            ended = [counted for counted in self._counted if counted.batcher() is None]
            for counted in ended:
                self._ended.setdefault(counted.key, Totals()).merge(counted.statistics)
            self._counted = [counted for counted in self._counted if counted not in ended]
            result: dict[str, Totals] = {}
            for key, totals in (*self._ended.items(), *((each.key, each.statistics) for each in self._counted)):
                result.setdefault(key, Totals()).merge(totals)
            return result
