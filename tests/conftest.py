"""What all tests share: the real data, the bundled models, and running servers on both transports."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from onnx import TensorProto

from tests import onnx_models
from tests.servers import ROOT, Serve, ServerProcess

hypothesis.settings.register_profile("without clock", deadline=None)
hypothesis.settings.load_profile("without clock")


def pytest_configure() -> None:
    """Finds the data sets, for the tests and for the processes that they start. Raises UsageError without them."""
    given = os.environ.get("CONVSERVE_DATA_DIR")
    folders = [Path(given)] if given else [ROOT / "data", ROOT.parent / "shared" / "data"]
    found = [
        folder for folder in folders if {"MNIST", "cifar-10-batches-py"} <= {path.name for path in folder.glob("*")}
    ]
    if not found:
        raise pytest.UsageError(
            f"MNIST and CIFAR-10 are not in {' or '.join(map(str, folders))}: "
            "let CONVSERVE_DATA_DIR name their folder, or have `make data` download them"
        )
    os.environ["CONVSERVE_DATA_DIR"] = str(found[0].resolve())


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """Children take SIGINT even where this run's own shell ignores it: a handled signal is reset for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real MNIST and CIFAR-10 in torchvision's layout."""
    return Path(os.environ["CONVSERVE_DATA_DIR"])


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The bundled models."""
    return ROOT / "models"


@pytest.fixture(scope="session", params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Starts servers that tests share, each once, and ends them with the session."""
    with ExitStack() as stack:
        yield Serve(stack)


@pytest.fixture(scope="session")
def server(serve: Serve, transport: str, models_dir: Path) -> ServerProcess:
    """The bundled models, served."""
    return serve(models_dir, transport=transport)


@pytest.fixture(scope="session")
def native_server(serve: Serve, models_dir: Path) -> ServerProcess:
    """The bundled models, served by the default transport, for what does not depend on it."""
    return serve(models_dir)


@pytest.fixture(scope="session")
def odd_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every form the protocol allows, and some that must be refused."""
    folder = tmp_path_factory.mktemp("odd-models")
    for element in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"):
        onnx_models.identity(folder, f"identity-{element.lower()}", getattr(TensorProto, element))
    onnx_models.identity(folder, "identity-fp16", TensorProto.FLOAT16)
    onnx_models.identity(folder, "identity-fp32", TensorProto.FLOAT)
    onnx_models.identity(folder, "identity-fp64", TensorProto.DOUBLE)
    onnx_models.identity(folder, "identity-bf16", TensorProto.BFLOAT16)
    onnx_models.identity(folder, "identity-bytes", TensorProto.STRING)
    onnx_models.identity(folder, "ragged", TensorProto.FLOAT, ("batch", "length"))
    onnx_models.identity(folder, "square", TensorProto.FLOAT, ("batch", "side", "side"))
    onnx_models.identity(folder, "channels-first", TensorProto.FLOAT, ("batch", 3, 8, 8))
    onnx_models.identity(folder, "grey-both", TensorProto.UINT8, ("batch", 1, 8, 1))
    onnx_models.identity(folder, "one-image", TensorProto.FLOAT, (1, 8, 3))
    onnx_models.identity(folder, "scalar", TensorProto.FLOAT, ())
    onnx_models.identity(folder, "any-rank", TensorProto.FLOAT, None)
    onnx_models.channels_first(folder)
    onnx_models.named_axes(folder)
    onnx_models.halves(folder)
    onnx_models.appended(folder, "appended", past_needed=False)
    onnx_models.appended(folder, "needs-past", past_needed=True)
    onnx_models.two_inputs(folder)
    onnx_models.unbatched(folder)
    onnx_models.reducing(folder)
    onnx_models.laborious(folder)
    onnx_models.classifier(folder, "linear", version=1)
    onnx_models.classifier(folder, "linear", version=3)
    onnx_models.classifier(folder, "linear", version=4, shift=0.5)
    onnx_models.classifier(folder, "colour", channels=3)
    broken = folder / "broken" / "1" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"this is no model")
    return folder


@pytest.fixture(scope="session")
def odd_server(serve: Serve, transport: str, odd_models_dir: Path) -> ServerProcess:
    """The odd models, served with small limits: 64 rows a batch, 1 MiB a message, 100,000 pixels an image."""
    options = ("--max-batch-rows", "64", "--max-queue-rows", "256", "--max-message-mib", "1")
    return serve(odd_models_dir, *options, "--max-image-pixels", "100000", transport=transport)


@pytest.fixture(scope="session")
def patient_server(serve: Serve, transport: str, odd_models_dir: Path) -> ServerProcess:
    """One model, whose requests wait ten seconds for company unless 64 rows are there; 80 may wait."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "80", "--max-queue-delay-us", "10000000")
    return serve(odd_models_dir, "--models", "laborious", *limits, transport=transport)
