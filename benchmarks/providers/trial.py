"""One model on one setting: compared with the CPU, and measured bare, in the service's session, and served."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerProcess
from benchmarks.providers.models import Model, logits_of
from benchmarks.providers.settings import Setting
from benchmarks.request_payload import MODEL_INFER
from service.pb import open_inference_pb2 as pb
from service.runtime.providers import open_session
from service.runtime.session import Session
from service.tensors import Array

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

    @property
    def largest(self) -> int:
        """Rows that a run must take."""
        return max(64, *self.batches)


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
    other_predictions: int = 0
    images: int = 0
    buckets: tuple[int, ...] = ()
    load_s: float = 0.0
    images_per_s: dict[str, dict[int, float]] = field(default_factory=dict)
    """By way and number of images in a run or request."""

    @property
    def exact(self) -> bool:
        """True where no logit is further off than the file and the arithmetic of the provider allow."""
        return self.deviation <= self.allowed


@dataclass(frozen=True)
class Trial:
    """A model's file, or its float16 form, on a setting."""

    model: Model
    setting: Setting
    path: Path
    budget: Budget
    note: Callable[[str], None]

    def measure(self) -> Result:
        """Raises ProviderUnavailable, ModelRejected, BenchmarkError."""
        model, budget = self.model, self.budget
        result = Result(model.name, self.setting.name, images=len(model.logits))
        self._note("comparing")
        started = time.perf_counter()
        session = Session(self.path, self.setting.providers, threads=budget.threads, max_batch_rows=budget.largest)
        result.load_s = time.perf_counter() - started
        result.buckets = session.buckets
        result.allowed = max(
            session.metadata.probe.tolerance if session.metadata.probe else 0.0,
            session.arithmetic.tolerance * float(np.abs(model.logits).max()),
        )
        logits = logits_of(session, model.images[: result.images])
        result.deviation = float(np.abs(logits - model.logits).max())
        result.other_predictions = int((logits.argmax(1) != model.logits.argmax(1)).sum())
        bare = open_session(self.path, self.setting.providers, budget.threads)
        self._runs(result, "bare", lambda images: bare.run(None, {"images": images}))
        self._runs(result, "session", lambda images: session.run({"images": images}))
        if budget.in_flight:
            result.images_per_s["served"] = self._served(session)
        return result

    def _note(self, text: str) -> None:
        self.note(f"{self.model.name} on {self.setting.name}: {text}")

    def _runs(self, result: Result, way: str, run: Callable[[Array], Any]) -> None:
        """Rates of each batch size."""
        rates = result.images_per_s[way] = {}
        for rows in self.budget.batches:
            self._note(f"{way}, batches of {rows}")
            rates[rows] = rows / _median_s(run, self.model.batch(rows), self.budget.seconds)

    def _served(self, session: Session) -> dict[int, float]:
        rates: dict[int, float] = {}
        name, largest = self.path.parents[1].name, self.budget.largest
        self._note("starting a server")
        with (
            ServerProcess(
                "service",
                *("--models-dir", str(self.path.parents[2]), "--models", name, "--port", "0", "--log-format", "json"),
                *("--max-batch-rows", str(largest), "--max-queue-rows", str(largest * (self.budget.in_flight + 1))),
                *("--threads", str(self.budget.threads), *self.setting.arguments),
            ) as server,
            grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel,
        ):
            method = channel.unary_unary(MODEL_INFER, request_serializer=None, response_deserializer=None)
            for rows in self.budget.batches:
                self._note(f"served, requests of {rows}")
                images = self.model.batch(rows)
                message = pb.ModelInferRequest(model_name=name)
                message.inputs.add(name="images", datatype="UINT8", shape=images.shape)
                message.raw_input_contents.append(images.tobytes())
                request = message.SerializeToString()
                try:
                    self._check(method(request, timeout=TIMEOUT_S), session.run({"images": images})["logits"])
                    rates[rows] = rows * _requests_per_s(method, request, self.budget)
                except grpc.RpcError as error:
                    raise BenchmarkError(f"the server refused a request of {rows} images: {error.details()}") from error
        return rates

    def _check(self, served: bytes, logits: Array) -> None:
        """Raises BenchmarkError unless a served response holds the session's logits, but for rounding."""
        response = pb.ModelInferResponse.FromString(served)
        place = [output.name for output in response.outputs].index("logits")
        values = np.frombuffer(response.raw_output_contents[place], np.float32).reshape(logits.shape)
        allowed = max(1e-4, self.setting.providers[0].arithmetic.tolerance * float(np.abs(logits).max()))
        deviation = float(np.abs(values - logits).max())
        if not deviation <= allowed:  # NaN must fail too
            raise BenchmarkError(
                f"{self.model.name} as served on {self.setting.name} is off by {deviation:.3g} from its session"
            )


def _median_s(run: Callable[[Array], Any], images: Array, seconds: float) -> float:
    """Seconds of the median run; the first, which may plan and take memory, is not counted."""
    run(images)
    durations: list[float] = []
    ends = time.perf_counter() + seconds
    while len(durations) < LEAST_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        run(images)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def _requests_per_s(method: Any, request: bytes, budget: Budget) -> float:
    """Of a closed loop: so many on their way, and after each response the next request."""
    waiting = deque(method.future(request, timeout=TIMEOUT_S) for _ in range(budget.in_flight))

    def turn() -> None:
        waiting.popleft().result()
        waiting.append(method.future(request, timeout=TIMEOUT_S))

    for _ in range(budget.in_flight):
        turn()
    started, count = time.perf_counter(), 0
    while count < LEAST_RUNS or time.perf_counter() - started < budget.seconds:
        turn()
        count += 1
    rate = count / (time.perf_counter() - started)
    for call in waiting:
        call.result()
    return rate
