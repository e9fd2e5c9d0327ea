"""All workers of one port serve the same files, and change them as one.

A change has two steps: every worker opens what it needs beside what it serves, then, if all have opened the same, every
worker switches. A worker that dies between them is followed by one that must have opened the new files.
"""

import asyncio
from collections.abc import Sequence

from ..errors import StartError
from ..runtime.model_folder import ModelFolder
from ..settings import Settings
from .messages import COMMIT, PREPARE
from .worker_process import WorkerProcess

DIFFERENT = "the workers have opened different files: the folder changed meanwhile"


class ModelAgreement:
    """What the workers serve, by the digests of the files."""

    def __init__(self, settings: Settings) -> None:
        self._models: dict[str, str] | None = None  # before the first agreement
        self._folder = ModelFolder(settings.models_folder, settings.named_models)
        self._limit_s = settings.model_load_timeout_s
        self._is_explicit = settings.model_control == "explicit"
        self._seen: object = self._look() if settings.model_control == "poll" else None

    @property
    def names(self) -> str | None:
        """The models that a new worker is to serve; None: as its settings say."""
        if not self._is_explicit or self._models is None:
            return None
        return ",".join(sorted(_names(self._models)))

    @property
    def versions(self) -> tuple[str, ...] | None:
        """What a successor is to open, whatever else is in the folder by now; None before the first agreement."""
        return None if self._models is None else tuple(sorted(self._models))

    def conclude(self, models: dict[str, str]) -> None:
        """All workers serve this from now on."""
        self._models = models

    def disagreement(self, workers: Sequence[WorkerProcess]) -> str:
        """Why these workers cannot serve together; empty if they can."""
        return "" if all(worker.models == workers[0].models for worker in workers) else DIFFERENT

    def difference(self, worker: WorkerProcess) -> str:
        """Names the versions that the worker has otherwise than the others; empty where there are none."""
        return ", ".join(sorted({key for key, _ in (self._models or {}).items() ^ worker.models.items()}))

    def lost(self, worker: WorkerProcess) -> dict[str, str]:
        """The models that are served and that this worker has not, and why."""
        return {
            name: "; ".join(reason for key, reason in worker.rejected.items() if key.rpartition("/")[0] == name)
            or "it is not in the folder any more"
            for name in _names(self._models or {}) - _names(worker.models)
        }

    def folder_changed(self) -> bool:
        """True if the folder is another than when it was last looked at."""
        seen = self._look()
        if seen is None or seen == self._seen:
            return False
        self._seen = seen
        return True

    async def change(self, workers: Sequence[WorkerProcess], order: str, model: str) -> str:
        """Has these workers make a change; returns why it was not made, or empty."""
        limit_s = self._limit_s
        steps = (worker.request(PREPARE, limit_s, order=order, model=model) for worker in workers)
        answers = await asyncio.gather(*steps)
        error = next((answer["error"] for answer in answers if answer["error"]), "")
        if not error and any(answer["models"] != answers[0]["models"] for answer in answers):
            error = DIFFERENT
        if error:
            lost: dict[str, str] = next((answer["lost"] for answer in answers if answer.get("lost")), {})
            for worker in workers:
                worker.abandon(error, lost)
            return error
        self._models = answers[0]["models"]
        await asyncio.gather(*(worker.request(COMMIT, limit_s) for worker in workers))
        refused = answers[0]["refused"].items()
        return f"failed to load '{model}', {'; '.join(map(': '.join, refused))}" if refused and order == "load" else ""

    def _look(self) -> object:
        try:
            listing = self._folder.scan()
        except StartError:
            return None
        return listing.files, listing.rejected


def _names(models: dict[str, str]) -> set[str]:
    return {key.rpartition("/")[0] for key in models}
