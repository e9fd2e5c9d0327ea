"""Changes what is served while it is served: reloads of the folder, and models that callers load and unload.

One thread does all of it, one change after another, in two steps: prepare (open, prove and warm beside what serves) and
commit (switch). Where several processes serve one port, their supervisor has all prepare before any commits.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty
from typing import Literal, Self

import structlog

from ..errors import ModelChangeFailed, ServiceError, StartError, UnknownModel, Unsupported
from .model_folder import Place
from .model_loader import ModelLoader, Switch
from .repository import Repository

log = structlog.get_logger(__name__)

Mode = Literal["none", "poll", "explicit"]
Done = Callable[[Exception | None], None]


@dataclass(frozen=True)
class ControlOptions:
    """When models are opened and what may change them."""

    names: tuple[str, ...] = ()
    """The models that are served; empty: all that can be, or none where callers load them."""
    mode: Mode = "none"
    """``poll``: the folder is looked at again and again; ``explicit``: callers load and unload models."""
    poll_s: float | None = None
    """How often the folder is looked at; None: not by this process."""
    ready_when: Literal["first", "all"] = "all"
    """What must have been opened before the start is over."""
    lossy: bool = False
    """True if a reload may leave out a model that is served."""
    first_places: frozenset[Place] | None = None
    """The versions that the start opens, whatever else is in the folder; None: all that are wanted."""


@dataclass(frozen=True)
class Order:
    """One change that was asked for."""

    kind: Literal["reload", "load", "unload"]
    model: str = ""


class ReloadRefused(StartError):
    """A reload would lose models that are served."""

    def __init__(self, lost: dict[str, str]) -> None:
        reasons = "; ".join(f"'{name}' would be lost: {reason}" for name, reason in sorted(lost.items()))
        super().__init__(f"{reasons}. --reload-lossy lets a reload lose models")
        self.lost = lost


class ModelControl:
    """The thread that changes one repository. A context manager: entering opens the first models."""

    def __init__(self, loader: ModelLoader, repository: Repository, options: ControlOptions) -> None:
        self._loader = loader
        self._repository = repository
        self._options = options
        self._names: set[str] | None = set(options.names) or (set() if options.mode == "explicit" else None)
        self._prepared: tuple[Switch, set[str] | None] | None = None
        self._last_seen: object = None
        self._opened: Future[None] = Future()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="model control", daemon=True)
        self.coordinate: Callable[[Order, Done], None] | None = None
        """Has all processes of one port make a change; None: this one is alone."""

    def __enter__(self) -> Self:
        """Opens the models; raises StartError where those that must be served cannot be."""
        self._thread.start()
        self._opened.result()
        return self

    def __exit__(self, *_: object) -> None:
        """Makes no further change."""
        self.stop()

    def stop(self) -> None:
        """Makes no further change; waits for the end of the one that is under way."""
        self._stopped = True
        self._repository.tasks.put(lambda: None)
        self._thread.join()

    def reload(self) -> None:
        """Serves what is in the folder now; any thread may ask, and the log tells how it went."""
        self._ask(Order("reload"), lambda _: None)

    def load(self, name: str, done: Done) -> None:
        """Serves a model, or its new versions; ``done`` is told of failure by an error. Raises Unsupported."""
        self._check_explicit()
        self._ask(Order("load", name), done)

    def unload(self, name: str, done: Done) -> None:
        """Serves a model no longer; requests in flight are answered. Raises Unsupported."""
        self._check_explicit()
        self._ask(Order("unload", name), done)

    def prepare(self, order: Order, reply: Callable[[Switch | Exception], None]) -> None:
        """Opens what the change needs; ``reply`` gets what would be served, or why it cannot be."""

        def work() -> None:
            try:
                self._prepared = self._prepare(order)
                reply(self._prepared[0])
            except Exception as error:
                reply(error)
                if not isinstance(error, ServiceError | StartError):
                    raise

        self._repository.tasks.put(work)

    def commit(self, done: Callable[[], None]) -> None:
        """Switches to what was prepared."""

        def work() -> None:
            self._commit()
            done()

        self._repository.tasks.put(work)

    def abandon(self, reason: str, lost: dict[str, str]) -> None:
        """Drops what was prepared, and has the index tell of the models that would have been lost."""

        def work() -> None:
            self._prepared = None
            self._refuse(reason, lost)

        self._repository.tasks.put(work)

    def _check_explicit(self) -> None:
        if self._options.mode != "explicit":
            raise Unsupported(
                "explicit model load / unload is not allowed: the server was started with --model-control "
                f"{self._options.mode}, explicit allows it"
            )

    def _ask(self, order: Order, done: Done) -> None:
        if self.coordinate is not None:
            self.coordinate(order, done)
        else:
            self._repository.tasks.put(lambda: self._change(order, done))

    def _run(self) -> None:
        try:
            self._loader.open_first(
                self._names,
                self._note_opened if self._options.ready_when == "first" else None,
                may_be_empty=self._options.mode == "explicit",
                places=self._options.first_places,
            )
            self._last_seen = self._look()
            self._note_opened()
        except BaseException as error:
            if self._opened.done():
                log.error("not all models could be opened", reason=str(error))
            else:
                self._opened.set_exception(error)
                return
        while not self._stopped:
            try:
                task = self._repository.tasks.get(timeout=self._options.poll_s)
            except Empty:
                task = self._poll
            try:
                task()
            except Exception:  # what is served goes on
                log.exception("a change of the models failed")

    def _note_opened(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _look(self) -> object:
        """What the folder has, to be compared; None where it cannot be read."""
        try:
            listing = self._loader.folder.scan()
        except StartError:
            return None
        return listing.files, listing.rejected

    def _poll(self) -> None:
        seen = self._look()
        if seen is not None and seen != self._last_seen:
            self._last_seen = seen
            self._ask(Order("reload"), lambda _: None)

    def _change(self, order: Order, done: Done) -> None:
        """Prepares and commits; the log tells what came of a reload."""
        try:
            self._prepared = self._prepare(order)
            switch, _ = self._prepared
            self._commit()
        except Exception as error:
            self._refuse(str(error), getattr(error, "lost", {}))
            done(error)
            if not isinstance(error, ServiceError | StartError):
                raise
            return
        failed = [f"version {version}: {reason}" for (_, version), reason in sorted(switch.refused.items())]
        done(
            ModelChangeFailed(f"failed to load '{order.model}', {'; '.join(failed)}")
            if failed and order.kind == "load"
            else None
        )

    def _prepare(self, order: Order) -> tuple[Switch, set[str] | None]:
        names = self._names
        if order.kind == "unload":
            return self._loader.unload(order.model), names and names - {order.model}
        if order.kind == "load":
            switch = self._loader.prepare(names, only=order.model)
            if order.model not in switch.contents.endpoints and not switch.refused:
                raise UnknownModel(f"failed to load '{order.model}', no version is available in the models folder")
            return switch, (names or set()) | {order.model}
        switch = self._loader.prepare(names)
        if switch.lost and not self._options.lossy:
            raise ReloadRefused(dict(switch.lost))
        return switch, names

    def _commit(self) -> None:
        if self._prepared is None:
            return
        (switch, self._names), self._prepared = self._prepared, None
        self._repository.switch(switch.contents)
        served = {name: self._repository.versions(name) for name in switch.contents.endpoints}
        log.info("the models are renewed", models=served)

    def _refuse(self, reason: str, lost: dict[str, str]) -> None:
        log.error("the models are not renewed, and go on serving", reason=reason)
        before = self._repository.contents
        remarks = {
            name: f"the last reload was refused: {why}" for name, why in lost.items() if name in before.endpoints
        }
        self._repository.switch(replace(before, loading=frozenset(), remarks=remarks))


@contextmanager
def open_models(loader: ModelLoader, repository: Repository, options: ControlOptions) -> Iterator[ModelControl]:
    """The repository with its first models, and what changes it; on leaving, all batchers end. Raises StartError."""
    with repository, ModelControl(loader, repository, options) as control:
        yield control
