"""The scenarios of the suite, each a module whose ``measure`` takes a bench and returns a section."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.scenarios import bulk, cost, headers, images, lone, overload, precision, rest, rivals, single
from benchmarks.section import Section


@dataclass(frozen=True)
class Scenario:
    """One scenario, as it is chosen with ``--only``."""

    measure: Callable[[Bench], Section]
    what: str
    needs_h2load: bool = True


SCENARIOS: Mapping[str, Scenario] = {
    "single": Scenario(single.measure, "one image a request, beside the transport and session ceilings"),
    "bulk": Scenario(bulk.measure, "64 and 256 images a request, beside the session ceiling"),
    "lone": Scenario(lone.measure, "one request at a time: latency"),
    "precision": Scenario(precision.measure, "int8 beside fp32"),
    "images": Scenario(images.measure, "ImageClassifier.Classify: raw pixels and PNG"),
    "overload": Scenario(overload.measure, "Poisson arrivals up to twice the sustainable rate", needs_h2load=False),
    "rest": Scenario(rest.measure, "one image a request over HTTP: processor time", needs_h2load=False),
    "cost": Scenario(cost.measure, "memory, start, idle processor time", needs_h2load=False),
    "headers": Scenario(
        headers.measure, "ids, deadlines, traces, gRPC-core's client, Envoy and distance over plain load"
    ),
    "rivals": Scenario(rivals.measure, "other servers, where they are named"),
}
