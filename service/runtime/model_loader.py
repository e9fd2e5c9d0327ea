"""Opens models beside those that serve, and has the repository switch to them when all are proved.

A version that cannot be opened leaves the one it would have replaced.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from ..errors import ModelRejected, StartError, UnknownModel
from .endpoint import Endpoint, EndpointOpener
from .model_folder import Listing, ModelFolder, Place, VersionFile
from .repository import Contents, Repository
from .version_policy import VersionPolicies

log = structlog.get_logger(__name__)

LEAST_OPENERS = 2
"""Files that are opened side by side: one that takes long delays none of the others."""


@dataclass(frozen=True)
class Switch:
    """What would be served, opened and proved, before it is."""

    contents: Contents
    lost: Mapping[str, str]
    """Models that are served and would not be any more, and why."""
    refused: Mapping[Place, str]
    """Files that were to be opened for it, and cannot be served."""


@dataclass
class _Opening:
    """What is known while models are opened."""

    files: dict[Place, VersionFile]
    ready: dict[Place, Endpoint] = field(default_factory=dict)
    rejected: dict[Place, str] = field(default_factory=dict)
    refused: dict[Place, str] = field(default_factory=dict)

    def contents(self, loading: Collection[Place] = (), unloaded: Collection[Place] = ()) -> Contents:
        """The state of a repository that serves what is ready by now."""
        endpoints: dict[str, dict[int, Endpoint]] = {}
        for (name, version), endpoint in sorted(self.ready.items()):
            endpoints.setdefault(name, {})[version] = endpoint
        return Contents(endpoints, dict(self.rejected), frozenset(loading), frozenset(unloaded))


class ModelLoader:
    """Opens what the folder has, for one repository. Not for several threads at once."""

    def __init__(
        self,
        folder: ModelFolder,
        opener: EndpointOpener,
        repository: Repository,
        *,
        policies: VersionPolicies | None = None,
        pins: Mapping[str, int] | None = None,
        must_serve: Collection[str] = (),
    ) -> None:
        """``must_serve``: models without which there is no start."""
        self.folder = folder
        self._opener = opener
        self._repository = repository
        self._policies = policies or VersionPolicies()
        self._pins = pins or {}
        self._must_serve = must_serve
        self._told: dict[Path, str] = {}

    def open_first(
        self,
        names: Collection[str] | None,
        opened: Callable[[], None] | None = None,
        *,
        may_be_empty: bool = False,
        places: Collection[Place] | None = None,
    ) -> None:
        """Opens the models of these names, else all, for a repository that has none yet; raises StartError.

        ``places``: only these versions. ``opened`` is called whenever one can be asked; without it, all can be at once.
        """
        listing = self.folder.scan()
        self._tell(listing)
        self._check_names(listing)
        opening, unloaded = self._begin(listing, names)
        if places is not None:
            opening.files = {place: file for place, file in opening.files.items() if place in places}
        waiting = set(opening.files)
        self._repository.switch(opening.contents(waiting, unloaded))
        for place in self._open(opening):
            waiting.discard(place)
            if opened is not None and place in opening.ready:
                self._repository.switch(opening.contents(waiting, unloaded))
                opened()
        if opened is not None:  # then the others are served, whatever is missing
            self._repository.switch(opening.contents((), unloaded))
        self._check_served(opening, listing, may_be_empty=may_be_empty)
        self._repository.switch(opening.contents((), unloaded))

    def prepare(self, names: Collection[str] | None, only: str = "") -> Switch:
        """Opens what has changed in the folder, of these models or of all, while the old ones serve.

        The index tells of it as LOADING until the repository switches to this or to anything else.
        ``only``: of this one alone; all others stay. Raises StartError where the folder cannot be read.
        """
        listing = self.folder.scan()
        self._tell(listing)
        before = self._repository.contents
        scope = {only} if only else names
        opening, unloaded = self._begin(listing, scope)
        served = {(name, version) for name, versions in before.endpoints.items() for version in versions}
        self._repository.switch(replace(before, loading=frozenset(set(opening.files) - served)))
        for _ in self._open(opening):
            pass
        lost = {
            name: self._why_lost(name, opening)
            for name in before.endpoints
            if (scope is None or name in scope) and not any(name == ready for ready, _ in opening.ready)
        }
        for name, version in self._pins.items():
            if version in before.endpoints.get(name, {}) and (name, version) not in opening.ready:
                lost[name] = f"its default version {version} is not there any more"
        contents = opening.contents((), unloaded)
        return Switch(_beside(before, contents, only) if only else contents, lost, opening.refused)

    def unload(self, name: str) -> Switch:
        """Leaves one model out; raises UnknownModel where there is none."""
        before = self._repository.contents
        if name not in self._repository.names:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        places = {(name, version) for version in before.endpoints.get(name, {})}
        places |= {place for place in before.rejected if place[0] == name}
        contents = _beside(before, Contents(unloaded=frozenset(places) | before.unloaded), name)
        return Switch(contents, {}, {})

    def _begin(self, listing: Listing, names: Collection[str] | None) -> tuple[_Opening, set[Place]]:
        files = {place: file for place, file in listing.files.items() if names is None or place[0] in names}
        opening = _Opening(files)
        opening.rejected = {
            place: reason for place, reason in listing.rejected.items() if names is None or place[0] in names
        }
        return opening, set(listing.files) - set(files)

    def _open(self, opening: _Opening) -> Iterator[Place]:
        """Opens side by side what is wanted of each model; yields each place as it is done. Raises StartError."""
        queue = {name: self._candidates(name, opening) for name in dict.fromkeys(name for name, _ in opening.files)}
        with ThreadPoolExecutor(max(LEAST_OPENERS, self._opener.options.threads), "opener") as openers:
            try:
                while round_ := [place for name in queue for place in self._next(name, queue[name], opening)]:
                    pending = {openers.submit(self._open_one, place, opening.files[place]): place for place in round_}
                    for future in as_completed(pending):
                        self._settle(pending[future], future.result(), opening)
                        yield pending[future]
            except BaseException:
                openers.shutdown(wait=False, cancel_futures=True)
                raise

    def _candidates(self, name: str, opening: _Opening) -> list[int]:
        versions = [version for other, version in opening.files if other == name]
        configured = next(file.config.version_policy for (other, _), file in opening.files.items() if other == name)
        return self._policies.of(name, configured).candidates(versions)

    def _next(self, name: str, left: list[int], opening: _Opening) -> list[Place]:
        """Takes as many versions as are still wanted; those that have not changed are served as they are."""
        configured = next(file.config.version_policy for (other, _), file in opening.files.items() if other == name)
        policy = self._policies.of(name, configured)
        chosen: list[Place] = []
        while left:
            ready = sum(other == name for other, _ in opening.ready)
            if policy.enough(ready + len(chosen)):
                break
            place = name, left.pop(0)
            old = self._served(place)
            if old is not None and _is_same(old.file, opening.files[place]):
                opening.ready[place] = old
            else:
                chosen.append(place)
        return chosen

    def _open_one(self, place: Place, file: VersionFile) -> Endpoint | ModelRejected:
        try:
            return self._opener.open(*place, file)
        except ModelRejected as error:
            return error
        except OSError as error:
            return ModelRejected(f"it went away while it was opened: {error}")

    def _settle(self, place: Place, outcome: Endpoint | ModelRejected, opening: _Opening) -> None:
        """Notes what came of opening a file; where it cannot be served, what it would have replaced stays."""
        if isinstance(outcome, Endpoint):
            opening.ready[place] = outcome
            return
        reason = str(outcome)
        opening.rejected[place] = opening.refused[place] = reason
        name, version = place
        log.error("model rejected", model=name, version=version, file=str(opening.files[place].path), reason=reason)
        old = self._served(place)
        if old is not None:
            opening.ready[place] = old

    def _served(self, place: Place) -> Endpoint | None:
        return self._repository.contents.endpoints.get(place[0], {}).get(place[1])

    def _why_lost(self, name: str, opening: _Opening) -> str:
        reasons = [reason for (other, _), reason in sorted(opening.rejected.items()) if other == name]
        return "; ".join(reasons) or f"it is not in {self.folder.described} any more"

    def _check_names(self, listing: Listing) -> None:
        missing = sorted(set(self._must_serve) - set(listing.names))
        if missing:
            has = ", ".join(listing.names) or "none"
            raise StartError(f"there is no model {missing[0]!r} in {self.folder.described}; it has {has}")
        for name in sorted(set(self._opener.options.batching) - {"", *listing.names}):
            log.warning("--batching names a model that is not there", model=name, models=listing.names)

    def _check_served(self, opening: _Opening, listing: Listing, *, may_be_empty: bool) -> None:
        served = {name for name, _ in opening.ready}
        unserved = [name for name in self._must_serve if name not in served]
        if unserved:
            reason = self._why_lost(unserved[0], opening)
            raise StartError(f"the model {unserved[0]!r} must be served and cannot be: {reason}")
        for name, version in self._pins.items():
            if name in served and (name, version) not in opening.ready:
                raise StartError(f"--default-version pins version {version} of '{name}', which is not served")
        if not served and not may_be_empty:
            folder = self.folder.described
            has = ", ".join(listing.names) or "none"
            raise StartError(
                f"no model in {folder} can be served; it has {has}. Expected: {folder}/<name>/<version>/model.onnx"
            )

    def _tell(self, listing: Listing) -> None:
        """Warns of what is passed over; again only if it has changed."""
        for path, remark in listing.remarks.items():
            if self._told.get(path) != remark:
                (log.info if path in listing.empty else log.warning)("passed over", path=str(path), reason=remark)
        for path in listing.hidden:
            if path not in self._told:
                log.info("hidden folders are not served", path=str(path))
        self._told = listing.remarks | dict.fromkeys(listing.hidden, "")


def _beside(before: Contents, after: Contents, name: str) -> Contents:
    """What was before, but for one model, which is as it is after."""
    endpoints = {other: versions for other, versions in before.endpoints.items() if other != name}
    rejected = {place: reason for place, reason in before.rejected.items() if place[0] != name}
    remarks = {other: remark for other, remark in before.remarks.items() if other != name}
    return replace(
        before,
        endpoints=endpoints | dict(after.endpoints),
        rejected=rejected | dict(after.rejected),
        unloaded=after.unloaded
        if name not in after.endpoints
        else before.unloaded - {(name, v) for _, v in after.unloaded},
        remarks=remarks,
    )


def _is_same(old: VersionFile, new: VersionFile) -> bool:
    return (old.path, old.config, old.state) == (new.path, new.config, new.state)
