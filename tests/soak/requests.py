"""What callers send: right, wrong, hurried and cancelled requests, and what may come back for each."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from tests.servers import ROOT
from tests.wire import arrays, infer_request

INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY = "/convserve.v1.ImageClassifier/Classify"
FILES = {"digits": ("mnist-tiny",), "colours": ("cifar10-tiny",), "swapped": ("mnist-tiny", "mnist")}
"""The bundled model behind each served name; of ``swapped``, behind its even and its odd versions."""
POOL = 64
MAX_ROWS = 32
TIMEOUT_S = 60.0
RTOL, ATOL = 1e-5, 1e-4
"""Runs of different sizes may differ in the last bits."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ask:
    """One request: what is sent, what may come back, and how an answer is checked."""

    kind: str
    payload: bytes
    path: str = INFER
    timeout_s: float = TIMEOUT_S
    cancelled: bool = False
    expected: frozenset[str] = frozenset({"OK"})
    wrong: Callable[[bytes], str] = lambda _: ""
    """What is wrong with the bytes of an answer; empty if nothing is."""


def file_of(model: str, version: int) -> Path:
    """The bundled file that this version of a served model is a copy of."""
    names = FILES[model]
    return ROOT / "models" / names[version % len(names)] / "1" / "model.onnx"


class Pool:
    """Images, and what ONNX Runtime itself answers for them."""

    def __init__(self, seed: int) -> None:
        random_ = np.random.default_rng(seed)
        self.images = {"digits": random_.integers(0, 256, (POOL, 28, 28, 1), np.uint8)}
        self.images["swapped"] = self.images["digits"]
        self.images["colours"] = random_.integers(0, 256, (POOL, 32, 32, 3), np.uint8)
        self.expected = {
            (model, place): self._run(file_of(model, place), self.images[model])
            for model, names in FILES.items()
            for place in range(len(names))
        }

    @staticmethod
    def _run(path: Path, images: NDArray[np.uint8]) -> dict[str, Array]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    def difference(self, model: str, version: str, rows: slice, answer: dict[str, Array]) -> str:
        """How an answer differs from ONNX Runtime's; empty if it does not."""
        expected = self.expected[model, int(version) % len(FILES[model])]
        if answer.keys() != expected.keys():
            return f"{model}/{version}: outputs {sorted(answer)}"
        for name, right in expected.items():
            if not np.allclose(answer[name], right[rows], RTOL, ATOL):
                return f"{model}/{version}: {name} of rows {rows} is off by {np.abs(answer[name] - right[rows]).max()}"
        return ""


class Mix:
    """Draws one request after another."""

    def __init__(self, seed: int) -> None:
        self._pool = Pool(seed)
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._bad = self._bad_requests()
        self._kinds: list[tuple[int, Callable[[], Ask]]] = [
            (58, lambda: self._infer("one row", "digits", 1)),
            (8, lambda: self._infer("one row, swapped model", "swapped", 1)),
            (4, lambda: self._infer("one row, colours", "colours", 1)),
            (6, lambda: self._infer("2 to 32 rows", "digits", self._random.randint(2, MAX_ROWS))),
            (6, self._classify),
            (6, lambda: self._infer("deadline of 1 to 10 ms", "digits", 4, hurried=True)),
            (6, lambda: self._infer("cancelled", "colours", 4, cancelled=True)),
            (6, lambda: self._random.choice(self._bad)),
        ]

    def draw(self) -> Ask:
        """The next request."""
        weights, makers = zip(*self._kinds, strict=True)
        make: Callable[[], Ask] = self._random.choices(makers, weights)[0]
        return make()

    def _infer(self, kind: str, model: str, rows: int, *, hurried: bool = False, cancelled: bool = False) -> Ask:
        start = self._random.randrange(POOL - rows)
        part = slice(start, start + rows)
        message = infer_request(model, images=self._pool.images[model][part])
        message.id = str(self._random.getrandbits(30)) if self._random.random() < 0.5 else ""
        asked_id = message.id

        def wrong(payload: bytes) -> str:
            answer = pb.ModelInferResponse.FromString(payload)
            if answer.id != asked_id:
                return f"the id is {answer.id!r}, not {asked_id!r}"
            return self._pool.difference(model, answer.model_version, part, arrays(answer))

        also = {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"} if hurried else {"CANCELLED"} if cancelled else set()
        return Ask(
            kind,
            message.SerializeToString(),
            timeout_s=self._random.uniform(0.001, 0.01) if hurried else TIMEOUT_S,
            cancelled=cancelled,
            expected=frozenset({"OK"} | also),
            wrong=wrong,
        )

    def _classify(self) -> Ask:
        at = self._random.randrange(POOL)
        pixels = ic.Pixels(height=28, width=28, channels=1, data=self._pool.images["digits"][at].tobytes())
        request = ic.ClassifyRequest(model_name="digits", images=[ic.Image(pixels=pixels)], top_k=10)

        def wrong(payload: bytes) -> str:
            result = ic.ClassifyResponse.FromString(payload).results[0].classification
            told = np.zeros((1, 10), np.float32)
            for each in result.classes:
                told[0, int(each.label)] = each.probability
            expected = self._pool.expected["digits", 0]["probabilities"][at : at + 1]
            return "" if np.allclose(told, expected, RTOL, ATOL) else f"Classify: {told} is not {expected}"

        return Ask("Classify", request.SerializeToString(), CLASSIFY, wrong=wrong)

    @staticmethod
    def _bad_requests() -> list[Ask]:
        image = np.zeros((1, 28, 28, 1), np.uint8)
        short = infer_request("digits", images=image)
        short.raw_input_contents[0] = b"short"
        wrongs = [
            ("no such model", infer_request("nix", images=image), "NOT_FOUND"),
            ("no such version", infer_request("digits", "999", images=image), "NOT_FOUND"),
            ("no such input", infer_request("digits", pictures=image), "INVALID_ARGUMENT"),
            ("wrong shape", infer_request("digits", images=image[:, 1:]), "INVALID_ARGUMENT"),
            ("wrong datatype", infer_request("digits", images=image.astype(np.float32)), "INVALID_ARGUMENT"),
            ("too many rows", infer_request("digits", images=np.repeat(image, 257, 0)), "INVALID_ARGUMENT"),
            ("too few bytes", short, "INVALID_ARGUMENT"),
        ]
        asks = [
            Ask(f"bad: {kind}", message.SerializeToString(), expected=frozenset({code}))
            for kind, message, code in wrongs
        ]
        garbage = Ask("bad: no message", b"\xff" * 40, expected=frozenset({"INVALID_ARGUMENT", "INTERNAL"}))
        nowhere = Ask("bad: no such method", b"", "/inference.Nothing/Nothing", expected=frozenset({"UNIMPLEMENTED"}))
        return [*asks, garbage, nowhere]
