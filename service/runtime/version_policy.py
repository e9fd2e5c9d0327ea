"""Which versions of a model are served, by what was set for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersionPolicy:
    """All versions, the latest, or those that are named."""

    latest: int = 0
    """So many of the highest; 0: no limit."""
    versions: tuple[int, ...] = ()
    """Only these; empty: any."""

    def candidates(self, found: Collection[int]) -> list[int]:
        """The versions that may be served, the most wanted first."""
        return sorted((version for version in found if not self.versions or version in self.versions), reverse=True)

    def enough(self, count: int) -> bool:
        """True if so many need no further one."""
        return bool(self.latest) and count >= self.latest


@dataclass(frozen=True)
class VersionPolicies:
    """The policies of all models."""

    by_model: Mapping[str, VersionPolicy] = field(default_factory=dict)
    """By name; "" for all others."""

    def of(self, name: str, configured: str = "") -> VersionPolicy:
        """That of a model, whose own configuration says ``configured``; what was set for it by name comes first."""
        if name in self.by_model:
            return self.by_model[name]
        return parse_policy(configured) if configured else self.by_model.get("", VersionPolicy())


def parse_policies(text: str) -> VersionPolicies:
    """``latest:2`` or ``latest:1;NAME=all;NAME=1,3``; raises ValueError."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, policy = part.rpartition("=")
        found[name.strip()] = parse_policy(policy.strip())
    return VersionPolicies(found)


def parse_policy(text: str) -> VersionPolicy:
    """``all``, ``latest``, ``latest:2`` or ``1,3``; raises ValueError."""
    if text == "all":
        return VersionPolicy()
    kind, _, count = text.partition(":")
    if kind == "latest" and (parse_version(count or "1") is not None):
        return VersionPolicy(latest=int(count or "1"))
    return VersionPolicy(versions=tuple(_versions(text.split(","), text)))


def parse_pins(text: str) -> dict[str, int]:
    """``NAME=2,NAME=1``: the version of a model that answers where none is asked for; raises ValueError."""
    pins = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, version = part.rpartition("=")
        (pins[name],) = _versions([version], part)
        if not name:
            raise ValueError(f"'{part}' is not NAME=VERSION")
    return pins


def parse_version(text: str) -> int | None:
    """The number of a version, 1 and up, written without sign or leading zeros; else None."""
    return int(text) if text.isascii() and text.isdigit() and not text.startswith("0") and len(text) < 19 else None


def _versions(texts: Sequence[str], whole: str) -> list[int]:
    versions = [parse_version(text.strip()) for text in texts]
    if None in versions:
        raise ValueError(f"'{whole}' is neither all, latest:N nor numbers of versions (1,3)")
    return [version for version in versions if version is not None]
