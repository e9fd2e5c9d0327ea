"""What the client's tests share: the images, the command line, and a small server that does as it is told."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.client import open_inference as oip
from service.client.connection import INFERENCE_SERVICE
from service.pb import image_classifier_pb2 as pb
from tests.servers import ROOT, Serve, ServerProcess

PICTURES = ROOT / "tests" / "pictures"
SHOWN = {"seven.png": "7", "ship.png": "ship", "cat.png": "cat", "frog.png": "frog"}
"""What the images show."""


class ScriptedServer:
    """A real gRPC server whose Classify is a function of the test; it records the requests."""

    def __init__(self) -> None:
        self.requests: list[pb.ClassifyRequest] = []
        self.arrived = threading.Event()
        """Set once a request has come."""
        self.classify: Callable[[pb.ClassifyRequest, Any], pb.ClassifyResponse] = echo
        self.infer: Callable[[Any], Any] = lambda _request: oip.ModelInferResponse()
        self.models: list[pb.ModelSummary] = []
        self.address = ""

    def answer(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        """Record the request, then do as the test says."""
        self.requests.append(request)
        self.arrived.set()
        return self.classify(request, context)

    def infer_handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """ModelInfer alone of the Open Inference Protocol."""
        method = grpc.unary_unary_rpc_method_handler(
            lambda request, _context: self.infer(request),
            oip.ModelInferRequest.FromString,
            oip.ModelInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(INFERENCE_SERVICE, {"ModelInfer": method})

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":  # a generic class in the stubs only
        """Both methods of the service."""
        return grpc.method_handlers_generic_handler(
            "convserve.v1.ImageClassifier",
            {
                "Classify": grpc.unary_unary_rpc_method_handler(
                    self.answer, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
                ),
                "ListModels": grpc.unary_unary_rpc_method_handler(
                    lambda _request, _context: pb.ListModelsResponse(models=self.models),
                    pb.ListModelsRequest.FromString,
                    pb.ListModelsResponse.SerializeToString,
                ),
            },
        )


def echo(request: pb.ClassifyRequest, _context: Any) -> pb.ClassifyResponse:
    """Answer each image with the number of its bytes as the class."""
    sizes = [len(image.encoded) + len(image.pixels.data) for image in request.images]
    return pb.ClassifyResponse(
        model_name=request.model_name,
        model_version="1",
        results=[
            pb.ImageResult(classification=pb.Classification(classes=[pb.Class(index=size, label=str(size))]))
            for size in sizes
        ],
    )


@pytest.fixture(scope="session")
def server(native_server: ServerProcess) -> ServerProcess:
    """The bundled models; a client does not see by which transport."""
    return native_server


@pytest.fixture(scope="session")
def odd(serve: Serve, odd_models_dir: Path) -> ServerProcess:
    """Models of tensors, small classifiers, and files that are refused."""
    return serve(odd_models_dir)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A scripted server, listening."""
    script = ScriptedServer()
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", 64 * 2**20)])
        server.add_generic_rpc_handlers((script.handlers(), script.infer_handlers()))
        script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield script
        server.stop(0).wait()


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def summary(name: str) -> pb.ModelSummary:
    """A model of ten classes, trained on CIFAR-10 if it is named so and on MNIST otherwise."""
    data = "cifar10" if name.startswith("cifar10") else "mnist"
    return pb.ModelSummary(name=name, version="1", dataset=data, labels=list("0123456789"))


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command, without what the developer's shell may say about it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CONVSERVE_ADDRESS", "FORCE_COLOR", "NO_COLOR", "COLUMNS")
    }
    return kept | changes


def command(*arguments: str | Path) -> list[str]:
    """The command line that runs the client."""
    return [sys.executable, "-W", "error", "-m", "service.client", *map(str, arguments)]


def run(*arguments: str | Path, given: bytes = b"", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, off a terminal."""
    done = subprocess.run(
        command(*arguments),
        input=given,
        capture_output=True,
        cwd=ROOT,
        env=environment(**changes),
        timeout=120,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
