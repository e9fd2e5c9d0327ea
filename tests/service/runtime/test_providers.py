"""Execution providers: their options, what runs in buckets, and how exact a probe must be.

Buckets are tried on the CPU's provider, which takes the same buffers and sessions as a GPU's would.
"""

import dataclasses
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelFailed, ModelRejected, ProviderUnavailable, StartError
from service.options import descriptions, options_of
from service.runtime.execution_provider import TF32, Arithmetic, Cpu, Cuda, Openvino
from service.runtime.pinned_memory import zeros
from service.runtime.providers import PROVIDERS, choose, open_session
from service.runtime.runner import ModelInstance, ShapeBucket
from service.runtime.session import Session
from service.server import longest_inline_us
from service.settings import PROVIDERS as SET_PROVIDERS
from service.settings import Settings
from service.tensors import Array
from tests import onnx_models
from tests.servers import ServerProcess, run_until_exit
from tests.wire import infer, infer_request


@dataclass(frozen=True)
class Bucketed(Cpu):
    """The CPU's provider with buckets, run by several instances that each keep to a thread."""

    buckets: ClassVar[tuple[int, ...]] = (1, 4)

    @property
    def instance_count(self) -> int:
        return 2

    @property
    def captures(self) -> bool:
        return True


@dataclass(frozen=True)
class Coarse(Cpu):
    """The CPU's provider, said to round."""

    @property
    def arithmetic(self) -> Arithmetic:
        return TF32


def opened(path: Path, provider: Cpu, max_batch_rows: int = 10) -> Session:
    return Session(path, (provider,), threads=1, max_batch_rows=max_batch_rows)


def rows_with_their_sum(folder: Path) -> Path:
    """``y = x + the sum of all rows``: a model whose rows see each other, which nothing in its shapes betrays."""
    return onnx_models.save(
        folder,
        "company",
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        [onnx_models.value("x", TensorProto.FLOAT, ["batch", 2])],
        [onnx_models.value("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.array([0]), "axes")],
    )


def test_every_option_of_a_provider_is_a_setting_with_the_same_default() -> None:
    assert set(SET_PROVIDERS) == set(PROVIDERS)
    for name, provider in PROVIDERS.items():
        options = {field.name: field.default for field in dataclasses.fields(provider)}
        settings = {
            setting.removeprefix(f"{name}_"): field.default
            for setting, field in options_of(Settings).items()
            if setting.startswith(f"{name}_")
        }
        assert settings == options
        assert all(descriptions(Settings)[f"{name}_{option}"] for option in options)


def test_options_reach_the_provider_that_they_are_of() -> None:
    assert choose(["cpu"]) == (Cpu(),)
    assert choose(["cuda", "cpu"], {"cuda": {"tf32": True, "instances": 2}}) == (Cuda(tf32=True, instances=2), Cpu())
    assert choose(["openvino"], {"openvino": {"precision": "bf16"}}) == (Openvino(precision="bf16"),)


def test_an_option_of_a_provider_that_is_not_in_use_is_an_error_with_the_remedy() -> None:
    with pytest.raises(StartError) as caught:
        choose(["cpu"], {"cuda": {"memory_mib": 64}})
    assert str(caught.value) == (
        "--cuda-memory-mib (CONVSERVE_CUDA_MEMORY_MIB) is an option of the execution provider 'cuda', which is not in "
        "use: --providers is cpu. Leave the option out, or name cuda with --providers"
    )


def test_the_server_says_so_too_for_the_command_line_and_the_environment(
    odd_models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, stderr = run_until_exit(odd_models_dir, "--providers", "cpu", "--no-cuda-tf32")
    assert (code, "Traceback" in stderr) == (1, False)
    assert "--cuda-tf32 (CONVSERVE_CUDA_TF32) is an option of the execution provider 'cuda'" in stderr
    monkeypatch.setenv("CONVSERVE_OPENVINO_DEVICE", "gpu")
    code, stderr = run_until_exit(odd_models_dir, "--providers", "cpu")
    assert (code, "Traceback" in stderr) == (1, False)
    assert "--openvino-device (CONVSERVE_OPENVINO_DEVICE) is an option of the execution provider 'openvino'" in stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cuda-instances", "0"), "--cuda-instances Input should be greater than or equal to 1"),
        (("--openvino-precision", "fp8"), "--openvino-precision Input should be 'fp32' or 'bf16'"),
    ],
)
def test_values_out_of_bounds_are_one_sentence_and_exit_code_2(
    odd_models_dir: Path, options: tuple[str, ...], words: str
) -> None:
    code, stderr = run_until_exit(odd_models_dir, *options)
    assert (code, "Traceback" in stderr) == (2, False)
    assert words in stderr


def test_the_server_serves_with_an_option_of_its_provider_and_logs_what_it_computes_in(odd_models_dir: Path) -> None:
    with ServerProcess(odd_models_dir, "--providers", "cpu", "--cpu-spin-us", "0", "--models", "linear") as server:
        images = np.zeros((3, 8, 8, 1), np.uint8)
        assert infer(server, infer_request("linear", images=images))["logits"].shape == (3, 10)
    (ready,) = [event for event in server.events if event["event"] == "model ready" and event["version"] == 3]
    assert (ready["arithmetic"], ready["buckets"], ready["probe_tolerance"]) == ("fp32", [], 1e-4)
    assert ready["probe_deviation"] <= 1e-4


@pytest.mark.parametrize(("spin_us", "allowed"), [(0, "0"), (20, "1")])
def test_threads_of_the_cpu_spin_for_so_long_and_only_within_a_run(spin_us: int, allowed: str) -> None:
    options = ort.SessionOptions()
    Cpu(spin_us=spin_us).attach(options, threads=3, fixed=False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == allowed
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == str(spin_us)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.intra_op_num_threads == 3


@pytest.mark.parametrize(
    ("provider", "threads", "cores", "longest"),
    [("cpu", 2, 2, 2000), ("cpu", 1, 1, 2000), ("cpu", 1, 2, 500), ("cpu", 8, 8, 500), ("cuda", 2, 2, 500)],
)
def test_longer_runs_are_inline_where_no_core_is_left_beside_them(
    provider: str, threads: int, cores: int, longest: int
) -> None:
    assert longest_inline_us(provider, threads, cores) == longest


def test_cuda_computes_in_fp32_unless_tf32_is_asked_for() -> None:
    assert Cuda().onnx_options(fixed=True)["use_tf32"] == "0"
    assert Cuda().arithmetic.name == "fp32"
    assert Cuda(tf32=True).onnx_options(fixed=True)["use_tf32"] == "1"
    assert Cuda(tf32=True).arithmetic.name == "tf32"


def test_cuda_records_graphs_only_of_sessions_with_fixed_shapes() -> None:
    assert Cuda(graphs=True).onnx_options(fixed=True)["enable_cuda_graph"] == "1"
    assert Cuda(graphs=True).onnx_options(fixed=False)["enable_cuda_graph"] == "0"
    assert Cuda().onnx_options(fixed=True)["enable_cuda_graph"] == "0"


def test_cuda_takes_its_gpu_and_its_memory_in_bytes() -> None:
    options = Cuda(device=1, memory_mib=3).onnx_options(fixed=False)
    assert (options["device_id"], options["gpu_mem_limit"]) == ("1", str(3 * 2**20))
    assert "gpu_mem_limit" not in Cuda().onnx_options(fixed=False)
    assert Cuda(device=1).placement == ("cuda", 1)


def test_openvino_is_told_its_precision_and_threads() -> None:
    cpu = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "3", "NUM_STREAMS": "1"}
    assert Openvino().load_config(3) == {"CPU": cpu}
    assert Openvino(precision="bf16").load_config(3) == {"CPU": cpu | {"INFERENCE_PRECISION_HINT": "bf16"}}
    assert Openvino(device="gpu").load_config(3) == {"GPU": {"INFERENCE_PRECISION_HINT": "f32"}}


def test_a_provider_whose_sessions_do_not_run_on_it_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime opens the session all the same, on its CPU provider."""

    @dataclass(frozen=True)
    class Elsewhere(Cpu):
        name: ClassVar[str] = "elsewhere"
        onnx: ClassVar[str] = "ElsewhereExecutionProvider"

    path = onnx_models.two_inputs(tmp_path)
    with pytest.raises(ProviderUnavailable, match=r"'elsewhere' was asked for and does not run here: .* on CPUExec"):
        open_session(path, (Elsewhere(), Cpu()), 1)


@pytest.mark.parametrize("rows", range(1, 11))
def test_rows_are_padded_to_a_bucket_and_cut_off_again(tmp_path: Path, rows: int) -> None:
    path = onnx_models.two_inputs(tmp_path)
    whole, bucketed = opened(path, Cpu()), opened(path, Bucketed())
    assert (whole.buckets, bucketed.buckets) == ((), (1, 4, 10))
    left, right = np.random.default_rng(rows).normal(size=(2, rows, 16)).astype(np.float32)
    expected = whole.run({"left": left, "right": right})
    for _ in range(3):  # both instances, and one of them again
        outputs = bucketed.run({"left": left, "right": right})
        assert outputs.keys() == expected.keys()
        assert all(np.array_equal(outputs[name], expected[name]) for name in expected)


def test_more_rows_than_the_largest_bucket_fail_alone(tmp_path: Path) -> None:
    session = opened(onnx_models.two_inputs(tmp_path), Bucketed())
    ones = np.ones((11, 16), np.float32)
    with pytest.raises(ModelFailed, match="11 rows are more than the 10 that were prepared for"):
        session.run({"left": ones, "right": ones})
    assert session.run({"left": ones[:1], "right": ones[:1]})["total"][0, 0] == 2


def test_padding_is_zeros(tmp_path: Path) -> None:
    """Rows of padding are zeros, not what others sent before: seen by a model that adds the sum of all rows."""
    path = rows_with_their_sum(tmp_path)
    bare = open_session(path, (Cpu(),), 1)
    spec = opened(path, Cpu()).spec
    instance = ModelInstance([ShapeBucket(bare, spec.inputs, spec.outputs, 4, ("cpu", 0))], one_thread=False)
    instance.run({"x": np.full((4, 2), 100, np.float32)})
    for rows in (3, 2):
        outputs = instance.run({"x": np.ones((rows, 2), np.float32)})
        assert np.array_equal(outputs["y"], np.full((rows, 2), 1 + rows))


def test_dependent_rows_are_not_padded(tmp_path: Path) -> None:
    """A model whose rows see each other runs as it is asked, without buckets."""
    session = opened(rows_with_their_sum(tmp_path), Bucketed())
    assert (session.buckets, session.spec.batches) == ((), False)
    assert np.array_equal(session.run({"x": np.ones((3, 2), np.float32)})["y"], np.full((3, 2), 4))


def test_an_answer_is_not_changed_by_the_next_run(tmp_path: Path) -> None:
    session = opened(onnx_models.two_inputs(tmp_path), Bucketed())
    ones = np.ones((1, 16), np.float32)
    kept = [session.run({"left": ones * i, "right": ones})["total"] for i in range(5)]
    assert [float(total[0, 0]) for total in kept] == [1, 2, 3, 4, 5]


def test_each_bucket_proves_itself_before_it_serves(tmp_path: Path) -> None:
    """A function that is another one for batches of four is found out where there is a bucket of four."""
    path = onnx_models.classifier(tmp_path)
    model = onnx.load(path)
    (add,) = [node for node in model.graph.node if node.op_type == "Add"]
    add.input[1] = "shift in fours"
    model.graph.initializer.append(numpy_helper.from_array(np.array([4]), "four"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.5], np.float32), "half"))
    place = list(model.graph.node).index(add)
    for node in (
        helper.make_node("Mul", ["half", "is four as number"], ["shift in fours"]),
        helper.make_node("Cast", ["is four"], ["is four as number"], to=TensorProto.FLOAT),
        helper.make_node("Equal", ["rows", "four"], ["is four"]),
        helper.make_node("Shape", ["products"], ["rows"], start=0, end=1),
    ):
        model.graph.node.insert(place, node)
    onnx_models.write(model, {entry.key: entry.value for entry in model.metadata_props}, path)

    @dataclass(frozen=True)
    class WithoutFours(Bucketed):
        buckets: ClassVar[tuple[int, ...]] = (1, 3)

    assert opened(path, WithoutFours()).probe_deviation is not None
    with pytest.raises(ModelRejected, match=r"the logits are off by 0\.5"):
        opened(path, Bucketed())


def test_only_rows_of_fixed_size_run_in_buckets(tmp_path: Path) -> None:
    ragged = opened(onnx_models.identity(tmp_path, "ragged", TensorProto.FLOAT, ("batch", "length")), Bucketed())
    strings = opened(onnx_models.identity(tmp_path, "strings", TensorProto.STRING), Bucketed())
    bfloat16 = opened(onnx_models.identity(tmp_path, "bfloat16", TensorProto.BFLOAT16), Bucketed())
    unbatched = opened(onnx_models.unbatched(tmp_path), Bucketed())
    for session in (ragged, strings, bfloat16, unbatched):
        assert (session.buckets, session.instance_count) == ((), 1)
    assert ragged.run({"x": np.ones((2, 7), np.float32)})["y"].shape == (2, 7)


@pytest.mark.parametrize("element", ["BOOL", "UINT8", "INT64", "FLOAT16", "DOUBLE"])
def test_buckets_hold_every_type_of_number(tmp_path: Path, element: str) -> None:
    session = opened(onnx_models.identity(tmp_path, element, getattr(TensorProto, element)), Bucketed())
    assert session.buckets == (1, 4, 10)
    rows = np.array([[1, 0], [0, 1], [1, 1]]).astype(session.spec.inputs[0].datatype.numpy)
    assert np.array_equal(session.run({"x": rows})["y"], rows)


def test_many_threads_share_the_instances_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    session = opened(onnx_models.two_inputs(tmp_path), Bucketed())
    assert session.instance_count == 2

    def ask(number: int) -> bool:
        rows = np.full((1 + number % 10, 16), number, np.float32)
        return bool((session.run({"left": rows, "right": rows})["total"] == 2 * number).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(400)))


def test_an_instance_that_records_runs_in_one_thread_whoever_asks() -> None:
    """ONNX Runtime keeps the graphs that it records for the thread that recorded them."""

    class Recording(ShapeBucket):
        def __init__(self) -> None:
            self.rows = 1
            self.threads: set[int] = set()

        def run(self, inputs: Mapping[str, Array], rows: int, options: object = None) -> dict[str, Array]:  # noqa: ARG002
            self.threads.add(threading.get_ident())
            return {"rows": np.full(rows, len(inputs))}

    for one_thread in (True, False):
        bucket = Recording()
        instance = ModelInstance([bucket], one_thread=one_thread)
        barrier = threading.Barrier(2)

        def ask(_: int, instance: ModelInstance = instance, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(60)
            instance.run({"x": np.zeros(1)})

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(ask, range(2)))
        assert len(bucket.threads) == (1 if one_thread else 2)


def test_a_provider_that_rounds_may_leave_the_tolerance_of_the_file_by_so_much_and_no_more(tmp_path: Path) -> None:
    probe = opened(onnx_models.classifier(tmp_path, "exact"), Cpu()).metadata.probe
    assert probe is not None
    allowed = TF32.tolerance * float(np.abs(probe.logits).max())
    path = onnx_models.classifier(tmp_path, "rounded", shift=allowed * 0.9)
    assert allowed * 0.9 > 1e-4
    with pytest.raises(ModelRejected, match=r"0\.0001 is allowed"):
        opened(path, Cpu())
    session = opened(path, Coarse())
    assert session.probe_tolerance == pytest.approx(allowed)
    assert session.probe_deviation == pytest.approx(allowed * 0.9, rel=1e-2)
    with pytest.raises(ModelRejected, match=f"{allowed:.3g} is allowed"):
        opened(onnx_models.classifier(tmp_path, "wrong", shift=allowed * 1.1), Coarse())


def test_a_wider_tolerance_of_the_file_holds_for_any_arithmetic(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path, shift=0.4, probe_tolerance=0.5)
    assert opened(path, Coarse()).probe_tolerance == 0.5


@pytest.mark.parametrize("placement", [("cpu", 0), ("cuda", 0)])
def test_a_host_buffer_is_zeros_that_can_be_written_page_locked_or_not(placement: tuple[str, int]) -> None:
    buffer = zeros((3, 2), np.dtype("<f2"), placement)
    assert (buffer.shape, buffer.dtype.name, float(buffer.sum())) == ((3, 2), "float16", 0)
    buffer[1:] = 2
    assert float(buffer.sum()) == 8
