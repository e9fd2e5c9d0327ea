"""The suite from its command line: what it prints and writes, and what it says where it cannot measure."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import calls
from benchmarks.__main__ import main
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerProcess
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.overload import Subject
from benchmarks.workload import Model, Workload
from service.http2 import is_compiled
from tests.servers import ROOT


def run(*arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(env or {})})


def test_short_run_writes_a_page(tmp_path: Path, data_dir: Path) -> None:
    """The suite prints a line of JSON and writes a page, without a load generator but ours."""
    page = tmp_path / "page"
    short = ("--seconds", "0.2", "--rounds", "1", "--data-dir", str(data_dir))
    ran = run("--only", "cost,overload,rest", *short, "--page", str(page))
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout.splitlines()[-1])
    assert record["command"].startswith("python -m benchmarks --only cost,overload,rest")
    assert list(record["results"]) == ["cost", "overload", "rest"]
    assert record["versions"]["request_path"] == ("compiled" if is_compiled() else "Python")
    targets = {line["what"]: line for scenario in record["results"].values() for line in scenario["targets"]}
    memory = targets["a worker with mnist-tiny, idle: memory"]
    assert memory["target"] == "≤ 150 MB"
    assert memory["met"] is (memory["median"] <= 150)
    points = record["results"]["overload"]["figures"]
    loads = ["35%", "65%", "80%", "95%", "110%"]
    assert list(points) == loads + [f"{x}%{end}" for x in (200, 1000) for end in ("", ", deadlines of 200 ms")]
    assert all(point["offered_per_s"]["median"] > 0 for point in points.values())
    assert points["35%"]["offered_per_s"]["median"] < points["1000%"]["offered_per_s"]["median"]
    assert json.loads((page / "results.json").read_text()) == record
    text = (page / "README.md").read_text()
    assert f"Python {record['versions']['python']}; request path: {record['versions']['request_path']}." in text
    assert all(f"| {what} " in text for what in targets)
    assert "\n\n| load |" in text.replace("  ", "")
    assert {path.name for path in page.iterdir()} == {"README.md", "results.json"}


def test_overload_counts_every_end(model: Model, models_dir: Path) -> None:
    """What is offered succeeds or is refused; the server's own statistics are compared in there."""
    options = ("--models-dir", str(models_dir), "--models", "mnist-tiny", "--port", "0", "--log-format", "json")
    with ServerProcess("service", *options) as server:
        subject = Subject(server, calls.infer(server.address, Workload(model, 1)), "mnist-tiny")
        figures = subject.load(1_000, 0.5)
        assert figures["refused"] == 0
        assert 0 < figures["mean_us"] <= figures["p99_us"]
        assert min(figures["rss_before_mb"], figures["rss_after_mb"]) > 0
        assert server.cpu_s() > 0
        assert server.ready_s > 0


def test_wrong_response_is_refused(model: Model, tmp_path: Path) -> None:
    """The transport ceiling gives the right response where it was told so; a wrong one is refused."""
    workload = Workload(model, 2)
    for response, right in ((workload.response, True), (Workload(model, 1).response, False)):
        file = tmp_path / "response.bin"
        file.write_bytes(response)
        with ServerProcess("benchmarks.transport_ceiling", "--transport", "native", "--response", str(file)) as server:
            if right:
                assert calls.infer(server.address, workload).response_bytes == len(response)
            else:
                with pytest.raises(BenchmarkError, match="elements"):
                    calls.infer(server.address, workload)


def test_classify_with_pixels_and_files(model: Model, models_dir: Path) -> None:
    """The same images give the same response as pixels and as PNG files."""
    options = ("--models-dir", str(models_dir), "--models", "mnist-tiny", "--port", "0", "--log-format", "json")
    with ServerProcess("service", *options) as server:
        payloads = [calls.classify(server.address, Workload(model, 3), encoded=encoded) for encoded in (False, True)]
    assert payloads[0].response_bytes == payloads[1].response_bytes > 0
    assert payloads[0].request != payloads[1].request


def test_server_that_does_not_start(tmp_path: Path) -> None:
    """The reason of a server that does not start is in one sentence."""
    options = ("--models-dir", str(tmp_path), "--models", "none", "--port", "0", "--log-format", "json")
    with (
        ServerProcess("service", *options) as server,
        pytest.raises(BenchmarkError, match="`python -m service` did not start: "),
    ):
        _ = server.address


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--only", "single,speed"), f"there is no scenario 'speed'; there are {', '.join(SCENARIOS)}"),
        (("--only", ","), "expected at least one name"),
        (("--seconds", "0"), "expected seconds above 0, at most 60, not '0'"),
        (("--rounds", "many"), "expected a whole number above zero, not 'many'"),
        (("--json", "nowhere/file.json"), "the folder nowhere does not exist"),
        (("--mlserver-python", "nowhere/python"), "nowhere/python is no program that can be run"),
    ],
    ids=["scenario", "no scenario", "seconds", "rounds", "json", "interpreter"],
)
def test_wrong_options(arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends the program at once, with one sentence on standard error."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    out, err = capsys.readouterr()
    assert sentence in err.splitlines()[-1]
    assert not out


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--models-dir", "there is no model 'mnist-deep' in nowhere"),
        ("--data-dir", "The folder is --data-dir, or CONVSERVE_DATA_DIR"),
    ],
    ids=["models", "data"],
)
def test_missing_files(option: str, sentence: str) -> None:
    """What cannot be measured is said in one sentence on standard error."""
    ran = run("--only", "overload", option, "nowhere")
    assert ran.returncode == 1
    assert sentence in ran.stderr.splitlines()[-1]
    assert not ran.stdout


def test_missing_load_generator(tmp_path: Path) -> None:
    """The remedy for a missing h2load is in the sentence."""
    ran = run("--only", "single", env={"PATH": str(tmp_path)})
    assert ran.returncode == 1
    assert "h2load is missing: install it with `apt-get install nghttp2-client`" in ran.stderr
