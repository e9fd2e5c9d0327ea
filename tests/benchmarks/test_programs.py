"""What is made of programs that are not everywhere: h2load, and other servers."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.load import LONE, H2load
from benchmarks.request_payload import MODEL_INFER, RequestPayload
from benchmarks.rivals import servers
from benchmarks.workload import Model, Workload

H2LOAD = """#!/bin/sh
# As h2load 1.52 ends after so many good responses, {right} of them with a message of 141 bytes.
for option; do case $option in --log-file=*) printf '1\\t200\\t100\\n2\\t200\\t300\\n' > "${{option#*=}}";; esac; done
cat << END
finished in 440.99ms, 1133.82 req/s, 498.62KB/s
requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout
traffic: 219.88KB (225162) total, 1.76KB (1800) headers (space savings 95.56%), 95.70KB ({data}) data
END
"""


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def h2load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], H2load]:
    """Finds a load generator that says all is well when so many of 50 responses are the right ones."""

    def install(right: int) -> H2load:
        program(tmp_path, "h2load", H2LOAD.format(requests=50, right=right, data=right * (5 + 141)))
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return H2load("127.0.0.1:1", RequestPayload(MODEL_INFER, b"request", 141), tmp_path)

    return install


def test_h2load_figures(h2load: Callable[[int], H2load]) -> None:
    """Rate and latencies are those of h2load's output and log."""
    figures = h2load(50).timed(LONE, 50)
    assert (figures["requests_per_s"], figures["mean_us"], figures["p99_us"]) == (1133.82, 200, 300)


def test_refused_requests_are_missing_bytes(h2load: Callable[[int], H2load]) -> None:
    """A gRPC error is HTTP 200, which h2load calls a success: it shows in the bytes received."""
    with pytest.raises(BenchmarkError, match=r"50 succeeded and 49\.0 brought a response of the right length"):
        h2load(49).timed(LONE, 50)


def test_rival_missing_from_its_environment(model: Model, models_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    """An environment without the server is named in one sentence."""
    notes: list[str] = []
    bench = Bench(models_dir, data_dir, "cpu", 1, 1.0, 1, tmp_path, notes.append)
    with (
        pytest.raises(BenchmarkError, match="MLServer did not start: ModuleNotFoundError"),
        servers.mlserver(bench, Path(sys.executable), [Workload(model, 1)]),
    ):
        pass
