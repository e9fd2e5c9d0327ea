"""/metrics itself: where it is told, how, and at what cost where nobody wants it."""

import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from service.errors import Overloaded, ServiceError
from service.metrics.catalog import METRICS, TRITON_METRICS
from tests import onnx_models
from tests.metrics import MeteredServer
from tests.servers import ROOT, START_S, run_until_exit
from tests.test_imports import modules_after
from tests.wire import infer, infer_request

PROMTOOL = shutil.which("promtool")
TABLE = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*?) *\| (.+?) \|$", re.MULTILINE)


def test_page_has_known_metrics_only(metered: MeteredServer) -> None:
    """Each sample belongs to a metric of the catalog, and has its labels."""
    known = {metric.name: set(metric.labels) for metric in METRICS + TRITON_METRICS}
    for name, labels in metered.page():
        base = name if name in known else re.sub(r"_(bucket|count|sum)$", "", name)
        assert {label for label, _ in labels} - {"le"} == known[base], name


def test_triton_names_are_optional(models_dir: Path) -> None:
    """Without the flag, no metric has one of Triton's names."""
    with MeteredServer(models_dir, "--models", "mnist-tiny") as server:
        assert {name for name, _ in server.page() if name.startswith("nv_")} == set()


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_accepts_the_page(models_dir: Path) -> None:
    """Names, units and help texts keep to Prometheus's rules."""
    with MeteredServer(models_dir, "--models", "mnist-tiny") as server:
        command = [PROMTOOL or "promtool", "check", "metrics"]
        checked = subprocess.run(command, input=server.text(), capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_other_paths_are_not_found(metered: MeteredServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{metered.metrics_port}/", timeout=START_S)
    with refused.value as error:
        assert error.code == 404


def test_silent_clients_hinder_nobody(metered: MeteredServer) -> None:
    """A client that connects and says nothing keeps no other from the page."""
    with socket.create_connection(("127.0.0.1", metered.metrics_port)):
        assert metered.page().value("convserve_ready") == 1


@pytest.mark.parametrize("workers", ["0", "2"], ids=["alone", "workers"])
def test_taken_port_is_refused(models_dir: Path, workers: str) -> None:
    """A port that another has ends the start, with a sentence, before models are opened."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, said = run_until_exit(models_dir, "--metrics-port", port, "--workers", workers)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port} for metrics" in said
    assert "--metrics-port" in said
    assert "model ready" not in said


def test_any_address_is_listened_on(models_dir: Path) -> None:
    """[::] serves IPv4 too."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with MeteredServer(models_dir, "--models", "mnist-tiny", "--metrics-host", "::") as server:
        assert server.page().value("convserve_ready") == 1


def test_off_imports_nothing() -> None:
    """Without a port, neither the exporter nor prometheus-client is imported."""
    loaded = modules_after("import service.server, service.process.worker, service.process.supervisor")
    assert "service.metrics.counters" in loaded
    assert loaded & {"prometheus_client", "http.server", "service.metrics.exporter", "service.metrics.process"} == set()


def test_page_of_documentation_is_complete() -> None:
    """docs/metrics.md lists every metric with its type, labels and meaning, and no other."""
    told = TABLE.findall((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
    expected = [(each.name, each.kind, ", ".join(each.labels), each.meaning) for each in METRICS + TRITON_METRICS]
    assert told == expected


def test_every_reason_is_explained() -> None:
    """docs/metrics.md explains each reason that an error can have."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \|$", page, re.MULTILINE))
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    reasons = {kind.reason for kind in kinds if kind is not Overloaded}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    reasons |= set(re.findall(r'\breason: str = "(\w+)"', sources)) | set(re.findall(r'\breason="([a-z_]+)"', sources))
    assert told == reasons - {"cancelled"}  # a caller that has gone is sent nothing


def test_reloaded_models_keep_counts(tmp_path: Path) -> None:
    """A version that is gone after a reload leaves what it counted, and its gauges go."""
    for name in ("stays", "goes"):
        onnx_models.identity(tmp_path, name, TensorProto.FLOAT)
    goes = frozenset({("model", "goes"), ("version", "1")})
    with MeteredServer(tmp_path, "--reload-lossy") as server:
        for _ in range(3):
            infer(server, infer_request("goes", x=np.zeros((1, 2), np.float32)))
        shutil.rmtree(tmp_path / "goes")
        server.process.send_signal(signal.SIGHUP)
        page = server.await_page(lambda page: ("convserve_model_ready", goes) not in page)
        infer(server, infer_request("stays", x=np.zeros((1, 2), np.float32)))
        later = server.page()
    assert ("convserve_queue_rows", goes) not in page
    for each in (page, later):
        assert each.value("convserve_requests_total", model="goes", version="1", code="OK") == 3
        assert each.value("convserve_batch_rows_count", model="goes", version="1") == 3
