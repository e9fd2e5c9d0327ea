"""Dashboard, alerts and their tests, proved by the real Prometheus and promtool."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.metrics.catalog import METRICS
from service.pb import image_classifier_pb2 as ic
from tests.metrics import MeteredServer, free_port
from tests.servers import ROOT, START_S
from tests.wire import TIMEOUT_S, classify, infer_request, model_infer

FOLDER = ROOT / "deploy" / "observability"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed (Debian: prometheus)")
needs_prometheus = pytest.mark.skipif(not PROMETHEUS, reason="prometheus is not installed (Debian: prometheus)")
MODEL = "mnist-tiny"
VARIABLES = {"$job": ".*", "$model": ".*", "$__rate_interval": "10s"}
"""What Grafana would put for the dashboard's variables."""


def queries() -> list[tuple[str, str]]:
    """The title and the query of each target of each panel."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return [(panel["title"], each["expr"]) for panel in dashboard["panels"] for each in panel.get("targets", ())]


def promtool(*arguments: str) -> tuple[int, str]:
    """Exit code and output of promtool in the folder of the rules."""
    done = subprocess.run(
        [PROMTOOL or "promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=START_S, check=False
    )
    return done.returncode, done.stdout + done.stderr


@needs_promtool
def test_rules_keep_to_their_tests() -> None:
    """Each alert fires when its test says so, and not before."""
    code, said = promtool("test", "rules", "alerts_test.yml")
    assert code == 0, said


@needs_promtool
def test_sample_configuration_is_valid() -> None:
    code, said = promtool("check", "config", "prometheus.yml")
    assert code == 0, said


def test_every_alert_is_tested() -> None:
    """Each rule is expected to be quiet at one time, and to fire at another; the page tells of each."""
    rules = re.findall(r"^ +- alert: (\w+)$", (FOLDER / "alerts.yml").read_text(encoding="utf-8"), re.MULTILINE)
    tests = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
    assert len(rules) > 10
    assert re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests) == rules
    assert re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels:", tests) == rules
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (Convserve\w+) \|", page, re.MULTILINE) == rules


def test_only_known_metrics_are_asked() -> None:
    """Dashboard and alerts name no metric that there is not."""
    known = {metric.name for metric in METRICS}
    known |= {f"{each.name}_{end}" for each in METRICS if each.bounds for end in ("bucket", "count", "sum")}
    text = "\n".join([query for _, query in queries()] + [(FOLDER / "alerts.yml").read_text(encoding="utf-8")])
    assert set(re.findall(r"\bconvserve_\w+", text)) - known == set()


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """The real Prometheus with our rules, reading this target every second; gives its address."""
    shutil.copy(FOLDER / "alerts.yml", folder)
    config = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    config = config.replace("127.0.0.1:8002", target).replace("interval: 15s", "interval: 1s")
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROMETHEUS or "prometheus", *options], cwd=folder, stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(START_S)


def ask(address: str, query: str) -> list[Any]:
    """The result of an instant query; none while Prometheus starts."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=START_S) as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        raise AssertionError(f"{query}: {error.read().decode()}") from error
    except urllib.error.URLError:
        return []
    # Neither 0/0 nor a histogram without requests counts as data.
    return [each for each in result if each["value"][1] != "NaN"]


def load(server: MeteredServer) -> None:
    """A few requests of each kind."""
    image = ic.Image(pixels=ic.Pixels(data=bytes(784), height=28, width=28, channels=1))
    with server.channel([("grpc.use_local_subchannel_pool", 1)]) as channel:
        for _ in range(10):
            model_infer(channel)(infer_request(MODEL, images=np.zeros((3, 28, 28, 1), np.uint8)), timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError):
            model_infer(channel)(infer_request("nothing", images=np.zeros((1, 1), np.uint8)), timeout=TIMEOUT_S)
    classify(server, ic.ClassifyRequest(model_name=MODEL, images=[image, ic.Image(encoded=b"no image")]))


@needs_prometheus
def test_every_panel_has_data(tmp_path: Path, models_dir: Path) -> None:
    """Every query of the dashboard returns numbers from a server of two workers under a little load."""
    missing = queries()
    assert len(missing) > 20
    with MeteredServer(models_dir, "--models", MODEL, "--workers", "2") as server:
        server.events.await_one("all workers are ready")
        with prometheus(tmp_path, f"127.0.0.1:{server.metrics_port}") as address:
            ends = time.monotonic() + 2 * START_S
            while missing:
                load(server)
                missing = [(title, query) for title, query in missing if not ask(address, query)]
                assert time.monotonic() < ends, f"panels without data: {missing}; {(tmp_path / 'log').read_text()}"
            assert ask(address, 'ALERTS{alertstate="firing"}') == []


@needs_prometheus
def test_alert_fires_for_real(tmp_path: Path, models_dir: Path) -> None:
    """A server that has gone is an alert that is pending at once."""
    with MeteredServer(models_dir, "--models", MODEL) as server:
        target = f"127.0.0.1:{server.metrics_port}"
        with prometheus(tmp_path, target) as address:
            await_data(address, 'up{job="convserve"} == 1')
            assert ask(address, 'ALERTS{alertname="ConvserveDown"}') == []
            server.terminate()
            await_data(address, 'ALERTS{alertname="ConvserveDown", alertstate="pending"}')


def await_data(address: str, query: str) -> None:
    """Waits until a query returns something."""
    ends = time.monotonic() + START_S
    while not ask(address, query):
        assert time.monotonic() < ends, f"nothing for {query}"
        time.sleep(0.1)
