"""The parts of the suite: each a module with ``measure``, a bench in, a section out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.parts import (
    bulk,
    concurrency,
    cost,
    lone,
    overload,
    peers,
    pictures,
    policy,
    precision,
    profile,
    single,
)
from benchmarks.section import Section


@dataclass(frozen=True)
class Part:
    """One part, as it is chosen with ``--only``."""

    measure: Callable[[Bench], Section]
    what: str
    needs_h2load: bool = True


PARTS: Mapping[str, Part] = {
    "single": Part(single.measure, "one image a request: beside the transport and beside the session"),
    "bulk": Part(bulk.measure, "64 and 256 images a request, beside the session"),
    "lone": Part(lone.measure, "one request at a time: latency"),
    "precision": Part(precision.measure, "int8 beside fp32"),
    "pictures": Part(pictures.measure, "ImageClassifier.Classify: raw pixels and PNG"),
    "overload": Part(overload.measure, "Poisson arrivals up to twice the sustainable rate", needs_h2load=False),
    "cost": Part(cost.measure, "memory, start, idle processor time", needs_h2load=False),
    "concurrency": Part(concurrency.measure, "1 to 256 requests in flight"),
    "policy": Part(policy.measure, "the batching policy beside its alternatives"),
    "peers": Part(peers.measure, "other servers and runtimes, where they are named"),
    "profile": Part(profile.measure, "where the processor time goes"),
}
