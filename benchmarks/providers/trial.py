"""One model on one setting: compared with the CPU, and measured bare, in the service's session, and served."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerProcess
from benchmarks.providers.models import Model, logits_of
from benchmarks.providers.settings import Setting
from service.pb import open_inference_pb2 as pb
from service.runtime.providers import open_session
from service.runtime.session import Session
from service.tensors import Array

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 60.0
LEAST_RUNS = 3
"""Of any measurement, however long they take."""


@dataclass(frozen=True)
class Budget:
    """How much is measured."""

    batches: Sequence[int]
    seconds: float
    """Of one measurement."""
    in_flight: int
    """Requests on their way to a server at a time; 0: no server."""
    threads: int
    """Of the CPU."""


@dataclass
class Result:
    """One model on one setting."""

    model: str
    setting: str
    refused: str = ""
    """Why there is nothing more here."""
    deviation: float = 0.0
    """The largest of a logit from the float32 file's on the CPU."""
    allowed: float = 0.0
    other_answers: int = 0
    images: int = 0
    buckets: tuple[int, ...] = ()
    load_s: float = 0.0
    switch_ms: dict[str, float] = field(default_factory=dict)
    """What a run takes longer when the one before had another number of images, by way."""
    images_per_s: dict[str, dict[int, float]] = field(default_factory=dict)
    """By way and number of images in a run or request."""

    @property
    def exact(self) -> bool:
        """Whether no logit is further off than the file and the arithmetic of the provider allow."""
        return self.deviation <= self.allowed


def measure(model: Model, setting: Setting, path: Path, budget: Budget, note: Callable[[str], None]) -> Result:
    """Raises ProviderUnavailable, ModelRejected, BenchmarkError."""
    result = Result(model.name, setting.name, images=len(model.logits))
    note("opening")
    started = time.perf_counter()
    session = Session(path, setting.providers, threads=budget.threads, max_batch_rows=max(64, *budget.batches))
    result.load_s = time.perf_counter() - started
    result.buckets = session.buckets
    result.allowed = max(
        session.card.probe.tolerance if session.card.probe else 0.0,
        session.arithmetic.tolerance * float(np.abs(model.logits).max()),
    )
    note("comparing")
    logits = logits_of(session, model.pictures[: result.images])
    result.deviation = float(np.abs(logits - model.logits).max())
    result.other_answers = int((logits.argmax(1) != model.logits.argmax(1)).sum())
    bare = open_session(path, setting.providers, budget.threads)
    ways: dict[str, Callable[[Array], Any]] = {
        "bare": lambda images: bare.run(None, {"images": images}),
        "session": lambda images: session.run({"images": images}),
    }
    for way, run in ways.items():
        result.images_per_s[way] = {}
        for rows in budget.batches:
            note(f"{way}, batches of {rows}")
            result.images_per_s[way][rows] = rows / _median_s(lambda: None, run, model.batch(rows), budget.seconds)
        if len(budget.batches) > 1:
            one, other = model.batch(budget.batches[0]), model.batch(budget.batches[1])
            note(f"{way}, batches of {len(one)} and {len(other)} in turns")
            switched = _median_s(partial(run, one), run, other, budget.seconds)
            result.switch_ms[way] = (switched - len(other) / result.images_per_s[way][len(other)]) * 1e3
    if budget.in_flight:
        result.images_per_s["served"] = _served(model, setting, path, session, budget, note)
    return result


def _median_s(before: Callable[[], Any], run: Callable[[Array], Any], images: Array, seconds: float) -> float:
    """Seconds of the median run, each after ``before``; the first, which may plan and take memory, is not counted."""
    run(images)
    durations: list[float] = []
    ends = time.perf_counter() + seconds
    while len(durations) < LEAST_RUNS or time.perf_counter() < ends:
        before()
        started = time.perf_counter()
        run(images)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def _served(
    model: Model, setting: Setting, path: Path, session: Session, budget: Budget, note: Callable[[str], None]
) -> dict[int, float]:
    rates: dict[int, float] = {}
    name, models_dir = path.parents[1].name, path.parents[2]
    largest = max(64, *budget.batches)
    note("starting a server")
    with (
        ServerProcess(
            "service",
            *("--models-dir", str(models_dir), "--models", name, "--port", "0", "--log-format", "json"),
            *("--max-batch-rows", str(largest), "--max-queue-rows", str(largest * (budget.in_flight + 1))),
            *("--threads", str(budget.threads), *setting.arguments),
        ) as server,
        grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel,
    ):
        method = channel.unary_unary(MODEL_INFER, request_serializer=None, response_deserializer=None)
        for rows in budget.batches:
            note(f"served, requests of {rows}")
            images = model.batch(rows)
            message = pb.ModelInferRequest(model_name=name)
            message.inputs.add(name="images", datatype="UINT8", shape=images.shape)
            message.raw_input_contents.append(images.tobytes())
            request = message.SerializeToString()
            try:
                _compare(model, setting, method(request, timeout=TIMEOUT_S), session.run({"images": images})["logits"])
                rates[rows] = rows * _requests_per_s(method, request, budget)
            except grpc.RpcError as error:
                raise BenchmarkError(f"the server refused a request of {rows} images: {error.details()}") from error
    return rates


def _requests_per_s(method: Any, request: bytes, budget: Budget) -> float:
    """Of a closed loop: so many on their way, and for each that is answered the next."""
    waiting = deque(method.future(request, timeout=TIMEOUT_S) for _ in range(budget.in_flight))

    def turn() -> None:
        waiting.popleft().result()
        waiting.append(method.future(request, timeout=TIMEOUT_S))

    for _ in range(budget.in_flight):
        turn()
    started, answered = time.perf_counter(), 0
    while answered < LEAST_RUNS or time.perf_counter() - started < budget.seconds:
        turn()
        answered += 1
    rate = answered / (time.perf_counter() - started)
    for call in waiting:
        call.result()
    return rate


def _compare(model: Model, setting: Setting, answer: bytes, logits: Array) -> None:
    """Raises BenchmarkError unless a served answer holds the session's logits, but for rounding."""
    response = pb.ModelInferResponse.FromString(answer)
    (place,) = [place for place, output in enumerate(response.outputs) if output.name == "logits"]
    served = np.frombuffer(response.raw_output_contents[place], np.float32).reshape(logits.shape)
    largest = float(np.abs(logits).max())
    allowed = max(1e-4, setting.providers[0].arithmetic.tolerance * largest)
    deviation = float(np.abs(served - logits).max())
    if not deviation <= allowed:  # NaN must fail too
        raise BenchmarkError(f"{model.name} as served on {setting.name} is off by {deviation:.3g} from its session")
