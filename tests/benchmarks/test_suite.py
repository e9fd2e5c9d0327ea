"""The suite from its command line: what it prints and writes, and what it says where it cannot measure."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import calls
from benchmarks.errors import BenchmarkError
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.overload import Subject
from benchmarks.processes import ServerProcess
from benchmarks.workload import Model, Workload
from tests.servers import ROOT


def run(*arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(env or {})})


def test_a_short_run_prints_a_line_of_json_and_writes_a_page(tmp_path: Path, data_dir: Path) -> None:
    """With the parts that need no load generator but ours."""
    page = tmp_path / "page"
    short = ("--seconds", "0.2", "--rounds", "1", "--data-dir", str(data_dir))
    ran = run("--only", "cost,overload", *short, "--page", str(page))
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout.splitlines()[-1])
    assert record["command"].startswith("python -m benchmarks --only cost,overload")
    assert list(record["results"]) == ["cost", "overload"]
    targets = {line["what"]: line for part in record["results"].values() for line in part["targets"]}
    memory = targets["a worker with mnist-tiny, idle: memory"]
    assert memory["target"] == "≤ 150 MB"
    assert memory["met"] is (memory["median"] <= 150)
    points = record["results"]["overload"]["figures"]
    assert list(points) == ["20%", "35%", "50%", "65%", "80%", "90%", "95%", "110%", "200%"]
    assert all(point["goodput_per_s"]["median"] > 0 for point in points.values())
    assert points["20%"]["offered_per_s"]["median"] < points["200%"]["offered_per_s"]["median"]
    assert json.loads((page / "results.json").read_text()) == record
    text = (page / "README.md").read_text()
    assert all(what in text for what in targets)
    pictures = list(page.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert f"]({picture.name})" in text
        with Image.open(picture) as opened:
            opened.verify()
    assert {path.suffix for path in page.iterdir()} == {".md", ".json", ".png"}


def test_overload_counts_every_end(model: Model, models_dir: Path) -> None:
    """What is offered is answered or refused; the server's own statistics are compared in there."""
    options = ("--models-dir", str(models_dir), "--models", "mnist-tiny", "--port", "0", "--log-format", "json")
    with ServerProcess("service", *options) as server:
        subject = Subject(server, calls.infer(server.address, Workload(model, 1)), "mnist-tiny")
        figures = subject.load(1_000, 0.5)
        assert figures["refused"] == 0
        assert 0 < figures["mean_us"] <= figures["p99_us"]
        assert figures["rss_highest_mb"] >= figures["rss_before_mb"] > 0
        assert server.cpu_s() > 0
        assert server.ready_s > 0


def test_an_answer_is_checked_before_anything_is_measured(model: Model, tmp_path: Path) -> None:
    """The server without a model gives the right answer where it was told so; a wrong one is refused."""
    workload = Workload(model, 2)
    for answer, right in ((workload.answer, True), (Workload(model, 1).answer, False)):
        file = tmp_path / "answer.bin"
        file.write_bytes(answer)
        with ServerProcess("benchmarks.transport_ceiling", "--transport", "native", "--answer", str(file)) as server:
            if right:
                assert calls.infer(server.address, workload).response_bytes == len(answer)
            else:
                with pytest.raises(BenchmarkError, match="elements"):
                    calls.infer(server.address, workload)


def test_classify_is_checked_with_pixels_and_with_files(model: Model, models_dir: Path) -> None:
    options = ("--models-dir", str(models_dir), "--models", "mnist-tiny", "--port", "0", "--log-format", "json")
    with ServerProcess("service", *options) as server:
        payloads = [calls.classify(server.address, Workload(model, 3), encoded=encoded) for encoded in (False, True)]
    assert payloads[0].response_bytes == payloads[1].response_bytes > 0
    assert payloads[0].request != payloads[1].request


def test_a_server_that_does_not_start_is_a_sentence(tmp_path: Path) -> None:
    options = ("--models-dir", str(tmp_path), "--models", "none", "--port", "0", "--log-format", "json")
    with (
        ServerProcess("service", *options) as server,
        pytest.raises(BenchmarkError, match="`python -m service` did not start: "),
    ):
        _ = server.address


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--only", "single,speed"), 2, f"no part speed; there are {', '.join(SCENARIOS)}"),
        (("--seconds", "0"), 2, "expected seconds above 0, at most 60, not '0'"),
        (("--rounds", "many"), 2, "expected a whole number above zero, not 'many'"),
        (("--json", "nowhere/file.json"), 2, "the folder nowhere does not exist"),
        (("--mlserver-python", "nowhere/python"), 2, "nowhere/python is no program that can be run"),
        (("--only", "overload", "--models-dir", "nowhere"), 1, "there is no model 'cifar10-cnn' in nowhere"),
        (("--only", "overload", "--data-dir", "nowhere"), 1, "The folder is --data-dir, or CONVSERVE_DATA_DIR"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    ran = run(*arguments)
    assert ran.returncode == code
    assert sentence in ran.stderr.splitlines()[-1]
    assert not ran.stdout


def test_a_missing_load_generator_is_a_sentence(tmp_path: Path) -> None:
    ran = run("--only", "single", env={"PATH": str(tmp_path)})
    assert ran.returncode == 1
    assert "h2load is missing: install it with `apt-get install nghttp2-client`" in ran.stderr
