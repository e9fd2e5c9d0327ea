"""What is made of the output of programs that are not everywhere: h2load, perf, py-spy, and other servers."""

import sys
from pathlib import Path

import pytest

from benchmarks import profilers
from benchmarks.bench import Bench, Rivals
from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import MODEL_INFER, RequestPayload
from benchmarks.load import LONE, H2load
from benchmarks.workload import Model, Workload

H2LOAD = """#!/bin/sh
# As h2load 1.52 ends after so many good answers, {answers} of them with a message of 141 bytes.
for option; do case $option in --log-file=*) printf '1\\t200\\t100\\n2\\t200\\t300\\n' > "${{option#*=}}";; esac; done
cat << END
finished in 440.99ms, 1133.82 req/s, 498.62KB/s
requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout
traffic: 219.88KB (225162) total, 1.76KB (1800) headers (space savings 95.56%), 95.70KB ({data}) data
END
"""
PERF = """#!/bin/sh
[ "$1" = record ] || cat << END
    40.00%|python          |onnxruntime_pybind11_state.so  |[.] MlasConvDepthwise
    25.00%|python          |[kernel.kallsyms]              |[k] tcp_sendmsg
    20.00%|python          |libpython3.11.so.1.0           |[.] _PyEval_EvalFrameDefault
    10.00%|python          |libpython3.11.so.1.0           |[.] take_gil
     5.00%|python          |_message.abi3.so               |[.] upb_Decode
END
"""
PY_SPY = """#!/bin/sh
if [ "$1" = dump ]; then echo '[{"os_thread_id": 7, "thread_name": "native transport"}]'; exit; fi
while [ "$1" != --output ]; do shift; done
cat > "$2" << END
thread (26238): native transport;run (threading.py:982);answer (service/batcher.py:249) 3
thread (26238): native transport;run (threading.py:982);answer (service/batcher.py:251);split (service/a.py:1) 1
thread (26228): batcher;wait (/x/site-packages/other/wait.py:327) 5
END
"""


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("answers", "right"), [(50, True), (49, False)])
def test_refused_requests_are_missing_bytes(
    answers: int, right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H2load calls every HTTP 200 a success, and gRPC's errors are that."""
    program(tmp_path, "h2load", H2LOAD.format(requests=50, answers=answers, data=answers * (5 + 141)))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    load = H2load("127.0.0.1:1", RequestPayload(MODEL_INFER, b"request", 141), tmp_path)
    if right:
        figures = load.timed(LONE, 50)
        assert (figures["requests_per_s"], figures["mean_us"], figures["p99_us"]) == (1133.82, 200, 300)
    else:
        with pytest.raises(BenchmarkError, match=r"50 succeeded and 49\.0 brought an answer of the right length"):
            load.timed(LONE, 50)


def test_samples_are_counted_by_what_they_were_spent_on(tmp_path: Path) -> None:
    shares = profilers.libraries(program(tmp_path, "perf", PERF), 1, 0.1, tmp_path)
    assert shares == pytest.approx(
        {
            "session.run": 0.4,
            "kernel": 0.25,
            "Python": 0.2,
            "lock and hand-over": 0.1,
            "protobuf": 0.05,
        }
    )


def test_functions_are_shares_of_their_thread(tmp_path: Path) -> None:
    py_spy = program(tmp_path, "py-spy", PY_SPY)
    assert profilers.threads(py_spy, 1) == {7: "native transport"}
    assert profilers.functions(py_spy, 1, 0.1, tmp_path) == {
        "native transport": {"answer (service/batcher.py)": 0.75, "split (service/a.py)": 0.25},
        "batcher": {"wait (other/wait.py)": 1.0},
    }


def test_a_sampler_that_may_not_look_is_a_sentence(tmp_path: Path) -> None:
    perf = program(tmp_path, "perf", "#!/bin/sh\necho 'No permission to enable cpu-clock event.' >&2\nexit 255\n")
    with pytest.raises(BenchmarkError, match=r"perf failed: No permission to enable cpu-clock event\."):
        profilers.libraries(perf, 1, 0.1, tmp_path)


@pytest.mark.parametrize("name", list(servers.SERVERS))
def test_an_environment_without_the_server_is_a_sentence(
    name: str, model: Model, models_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    bench = Bench(models_dir, data_dir, "cpu", 1, 1.0, 1, Rivals({}), tmp_path, notes.append)
    server = servers.SERVERS[name]
    with (
        pytest.raises(BenchmarkError, match=f"{server.name} did not start: ModuleNotFoundError"),
        server.start(bench, Path(sys.executable), [Workload(model, 1)]),
    ):
        pass
