"""Tensors through both clients, every model of a server, and what is told of a model that is not served."""

import asyncio
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch

from service.client import (
    AsyncClient,
    Classification,
    Client,
    ClientError,
    ModelNotFound,
    ModelRefused,
    RequestRefused,
    ServerFailure,
    ServerUnavailable,
    TensorInfo,
    UnusablePicture,
    UnusableTensor,
)
from service.client.open_inference import ModelInferResponse
from tests.client.conftest import PICTURES, ScriptedServer
from tests.servers import ServerProcess

LEFT, RIGHT = np.arange(32, dtype=np.float32).reshape(2, 16), np.ones((2, 16), np.float32)


@pytest.mark.parametrize(
    "name", ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "fp16", "fp32", "fp64"]
)
def test_tensors_come_back_unchanged(odd: ServerProcess, name: str) -> None:
    """Numbers of every datatype keep it, their order and their value, whatever their byte order and layout here."""
    dtype = np.dtype({"fp16": "f2", "fp32": "f4", "fp64": "f8"}.get(name, name))
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    with Client(odd.address) as client:
        found = client.infer(f"identity-{name}", {"x": array})["y"]
        turned = client.infer(f"identity-{name}", {"x": np.asfortranarray(array.astype(dtype.newbyteorder(">")))})["y"]
    assert found.dtype == dtype
    assert np.array_equal(found, array)
    assert np.array_equal(turned, array)
    found[0] = 0  # it is the caller's own


def test_text_comes_back_as_text(odd: ServerProcess) -> None:
    """Arrays of str, of bytes and of objects are BYTES; empty text too."""
    texts = np.array([["héllo", ""], ["a" * 300, "b"]])
    with Client(odd.address) as client:
        for form in (texts, texts.astype(object), np.char.encode(texts, "utf-8")):
            assert client.infer("identity-bytes", {"x": form})["y"].tolist() == texts.tolist()


def test_bfloat16_comes_back_as_float32(odd: ServerProcess) -> None:
    """NumPy has no bfloat16: ml_dtypes' is sent, and what comes back is the same numbers as float32."""
    array = np.array([[1.5, -2], [3e38, 0]], ml_dtypes.bfloat16)
    with Client(odd.address) as client:
        found = client.infer("identity-bf16", {"x": array})["y"]
    assert found.dtype == np.float32
    assert np.array_equal(found, array.astype(np.float32))


def test_torch_tensors_are_inputs(odd: ServerProcess) -> None:
    """Tensors of torch and plain lists are read as NumPy reads them."""
    with Client(odd.address) as client:
        found = client.infer("sum", {"left": torch.from_numpy(LEFT), "right": RIGHT})
        listed = client.infer("identity-int64", {"x": [[1, 2]]})
    assert np.array_equal(found["total"], LEFT + RIGHT)
    assert listed["y"].tolist() == [[1, 2]]


def test_wanted_outputs_are_returned(odd: ServerProcess) -> None:
    """Outputs that are named come alone; without names all come, with the version that answered."""
    inputs = {"left": LEFT, "right": RIGHT}
    with Client(odd.address) as client:
        whole = client.infer("sum", inputs, version=1)
        part = client.infer("sum", inputs, outputs=["difference"])
    assert list(whole) == ["total", "difference"]
    assert whole.model_version == "1"
    assert list(part) == ["difference"]
    assert np.array_equal(part["difference"], LEFT - RIGHT)


def test_asynchronous_tensors_are_the_same(odd: ServerProcess) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(odd.address) as client:
            found = await asyncio.gather(*(client.infer("sum", {"left": LEFT, "right": RIGHT}) for _ in range(3)))
            with pytest.raises(ModelRefused, match="does not serve model 'broken'"):
                await client.infer("broken", {"x": LEFT})
            models = await client.list_all_models()
            return [*found, models]

    *results, models = asyncio.run(ask())
    assert all(np.array_equal(found["total"], LEFT + RIGHT) for found in results)
    with Client(odd.address) as client:
        assert models == client.list_all_models()


def test_unusable_inputs_are_named(nobody: str) -> None:
    """All inputs that cannot be sent are named, before anything is sent."""
    inputs: dict[str, Any] = {
        "complex": np.zeros(2, np.complex64),
        "objects": np.array([1, "a"], object),
        "gradient": torch.zeros(2, requires_grad=True),
        "fine": LEFT,
    }
    with Client(nobody) as client, pytest.raises(UnusableTensor) as caught:
        client.infer("any", inputs)
    first, second, third = str(caught.value).splitlines()
    assert first.startswith("input 'complex' is an array of complex64: expected bool, integers")
    assert second.startswith("input 'objects' is an array of object")
    assert third.startswith("input 'gradient' cannot be read as an array: Can't call numpy() on Tensor that requires")


def test_large_inputs_name_the_limit(nobody: str) -> None:
    with Client(nobody, max_message_mib=1) as client, pytest.raises(UnusableTensor, match=r"2\.0 MiB, more than the 1"):
        client.infer("any", {"x": np.zeros(2**21, np.uint8)})


def test_unfit_tensors_are_refused(odd: ServerProcess) -> None:
    """The server says what is wrong with a datatype, a name or a shape."""
    with Client(odd.address) as client:
        for inputs in ({"x": LEFT.astype(np.float64)}, {"z": LEFT}, {"x": np.zeros((2, 7), np.float32)}):
            with pytest.raises(RequestRefused, match="identity-fp32"):
                client.infer("identity-fp32", inputs)
        with pytest.raises(ModelNotFound, match="nonesuch"):
            client.infer("nonesuch", {"x": LEFT})


@pytest.mark.parametrize(
    ("contents", "shape", "fault"),
    [([b"\0" * 4], [2], "is no FP32 of shape"), ([], [1], "cannot reshape"), ([b"", b""], [0], "2 raw contents for 1")],
    ids=["short", "none", "too many"],
)
def test_broken_responses_are_told(
    scripted: ScriptedServer, contents: list[bytes], shape: list[int], fault: str
) -> None:
    """A response that breaks the protocol is the server's failure."""
    scripted.infer = lambda _request: ModelInferResponse(
        outputs=[{"name": "y", "datatype": "FP32", "shape": shape}], raw_output_contents=contents
    )
    with Client(scripted.address) as client, pytest.raises(ServerFailure, match=fault):
        client.infer("any", {"x": LEFT})


def test_typed_contents_are_read(scripted: ScriptedServer) -> None:
    """Other servers answer in the typed field."""
    scripted.infer = lambda _request: ModelInferResponse(
        outputs=[{"name": "y", "datatype": "FP32", "shape": [1, 2], "contents": {"fp32_contents": [1.5, 2]}}]
    )
    with Client(scripted.address) as client:
        assert client.infer("any", {"x": LEFT})["y"].tolist() == [[1.5, 2]]
        with pytest.raises(ServerFailure, match="answered the outputs y where z were asked"):
            client.infer("any", {"x": LEFT}, outputs=["z"])


@pytest.mark.parametrize(("model", "version"), [("broken", ""), ("linear", "4"), ("linear", 4)], ids=str)
def test_refused_models_are_told(odd: ServerProcess, model: str, version: str | int) -> None:
    """A model that is there and not served is told as such, with the reason, by either call."""
    with Client(odd.address) as client:
        reason = next(each.reason for each in client.list_all_models().unserved if each.name == model and each.reason)
        with pytest.raises(ModelRefused) as caught:
            client.infer(model, {"x": LEFT}, version=version)
        with pytest.raises(ModelRefused) as classified:
            client.classify(PICTURES / "ship.png", model=model, version=version)
    for error in (caught.value, classified.value):
        cause = error.__cause__
        assert isinstance(cause, grpc.RpcError)
        told = {each.key: each.value for each in cause.trailing_metadata()}
        assert told["grpc-retry-pushback-ms"] in ("-1", b"-1")  # so that gRPC does not ask again
    assert str(caught.value) == str(classified.value)
    assert f"{odd.address} does not serve model '{model}' version {version or 1}: {reason}" == str(caught.value)


def test_every_model_is_listed(odd: ServerProcess) -> None:
    """Classifiers, models of tensors with their inputs and outputs, and refused files with the reason."""
    with Client(odd.address) as client:
        models = client.list_all_models()
        assert list(models.classifiers) == client.list_models()
    assert {"linear", "colour"} == {model.name for model in models.classifiers}
    tensors = {model.name: model for model in models.tensor_models}
    assert tensors["sum"].inputs == (TensorInfo("left", "FP32", (-1, 16)), TensorInfo("right", "FP32", (-1, 16)))
    assert tensors["sum"].outputs[1] == TensorInfo("difference", "FP32", (-1, 16))
    assert not tensors.keys() & {"linear", "colour", "broken"}
    broken = next(each for each in models.unserved if each.name == "broken")
    assert (broken.version, broken.state) == ("1", "UNAVAILABLE")
    assert broken.reason


def test_versions_may_be_numbers(server: ServerProcess) -> None:
    with Client(server.address) as client:
        number, text = (
            client.classify(PICTURES / "seven.png", model="mnist-tiny", version=version) for version in (1, "1")
        )
    assert number == text
    assert isinstance(number[0], Classification)


def test_tensors_are_images(server: ServerProcess) -> None:
    """A uint8 tensor may have its channels first, as torch has them, or last; many are one tensor."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    last = torch.from_numpy(pixels)
    first = last.permute(0, 3, 1, 2)
    with Client(server.address) as client:
        expected = client.classify(pixels, model="cifar10-lenet", logits=True)
        for images in (first, last, list(first), [last[0], first[1]]):
            assert client.classify(images, model="cifar10-lenet", logits=True) == expected
        grey = torch.from_numpy(pixels[0, :28, :28, 0].copy())
        assert client.classify(grey[None], model="mnist-tiny") == client.classify(grey.numpy(), model="mnist-tiny")


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.zeros(3, 8, 8), "array of float32: expected uint8"),
        (torch.zeros(3, 8, 3, dtype=torch.uint8), r"\[3, 8, 3\], whose channels may be first or last"),
        (torch.zeros(8, 8, requires_grad=True), "cannot be read as an array: Can't call numpy"),
    ],
    ids=["floats", "either end", "gradient"],
)
def test_unusable_tensors_are_explained(nobody: str, tensor: torch.Tensor, fault: str) -> None:
    with Client(nobody) as client, pytest.raises(UnusablePicture, match=fault):
        client.classify([tensor], model="any")


def label_in_a_process(client: Client, image: bytes) -> Any:
    """What another process gets from a client that it was given."""
    with client:
        return client.classify(image, model="mnist-tiny", logits=True), client.infer("mnist-tiny", {"images": SEVEN})


SEVEN = np.zeros((1, 28, 28, 1), np.uint8)


def test_spawned_processes_take_clients(server: ServerProcess) -> None:
    """A client that has been used goes to a spawned process, and its results come back equal."""
    image = (PICTURES / "seven.png").read_bytes()
    with Client(server.address) as client, multiprocessing.get_context("spawn").Pool(1) as pool:
        expected = client.classify(image, model="mnist-tiny", logits=True)
        results, outputs = pool.apply(label_in_a_process, (client, image))
        assert np.array_equal(outputs["logits"], client.infer("mnist-tiny", {"images": SEVEN})["logits"])
    assert results == expected
    assert outputs.model_version == "1"


def test_copies_keep_settings(tmp_path: Path) -> None:
    """An asynchronous client and its errors are copied too; certificates are read again, or missed."""
    copy = pickle.loads(pickle.dumps(AsyncClient("127.0.0.1:1", timeout_s=5)))  # noqa: S301 - our own
    assert copy.target == "127.0.0.1:1"
    assert str(pickle.loads(pickle.dumps(ModelRefused("why")))) == "why"  # noqa: S301 - our own
    authority = tmp_path / "authority.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    packed = pickle.dumps(Client(tls=authority))
    authority.unlink()
    with pytest.raises(ClientError, match=r"authority\.pem' cannot be read"):
        pickle.loads(packed)  # noqa: S301 - our own


def test_calls_outlive_a_restart(models_dir: Path) -> None:
    """A call that begins while the server is away is answered by its successor on the same port, by either client."""
    options = ("--models", "mnist-tiny")

    async def ask(client: AsyncClient) -> Any:
        return await client.infer("mnist-tiny", {"images": SEVEN})

    with ServerProcess(models_dir, *options) as before, asyncio.Runner() as loop, ThreadPoolExecutor(2) as threads:
        client, other = Client(before.address, timeout_s=60), AsyncClient(before.address, timeout_s=60)
        expected = client.infer("mnist-tiny", {"images": SEVEN})
        loop.run(ask(other))
        before.terminate()
        answers = threads.submit(client.infer, "mnist-tiny", {"images": SEVEN})
        others = threads.submit(loop.run, ask(other))
        with ServerProcess(models_dir, *options, "--port", before.address.rpartition(":")[2]):
            assert np.array_equal(answers.result()["logits"], expected["logits"])
            assert np.array_equal(others.result()["logits"], expected["logits"])
        client.close()
        loop.run(other.close())


def test_absent_servers_are_not_late(nobody: str) -> None:
    """A time limit that passes before all attempts are made does not hide that no server is there."""
    with Client(nobody, timeout_s=0.3) as client:
        with pytest.raises(ServerUnavailable, match="no server answers at"):
            client.infer("any", {"x": LEFT})
        with pytest.raises(ServerUnavailable, match="no server answers at"):
            client.classify(b"any", model="any")


def test_servers_gone_are_told(models_dir: Path) -> None:
    """A server that does not come back within the time limit is told as absent."""
    with ServerProcess(models_dir, "--models", "mnist-tiny") as gone, Client(gone.address, timeout_s=2) as client:
        client.infer("mnist-tiny", {"images": SEVEN})
        gone.terminate()
        with pytest.raises(ServerUnavailable, match="no server answers at"):
            client.infer("mnist-tiny", {"images": SEVEN})
