"""``python -m benchmarks.providers`` on this machine, with next to no time: what it compares and says, not how fast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.providers import models
from benchmarks.providers.__main__ import main
from benchmarks.providers.settings import SETTINGS
from benchmarks.providers.trial import Result
from service.runtime.providers import PROVIDERS
from service.settings import Settings
from tests.servers import ROOT

TINY = ("--seconds", "0.001", "--images", "100", "--batches", "1,3", "--in-flight", "2", "--threads", "1")


def run(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.providers", *arguments]
    env = os.environ | {"CONVSERVE_DATA_DIR": str(data_dir)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=240)


def test_providers_are_measured_or_absent(data_dir: Path, tmp_path: Path) -> None:
    """Each provider is measured three ways, or the record says that it does not run here."""
    file = tmp_path / "providers.json"
    done = run(data_dir, "--models", "mnist-tiny", *TINY, "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(file.read_text()) == record
    results = {result["setting"]: result for result in record["results"]}
    assert {SETTINGS[name].provider for name in results} == set(PROVIDERS)
    for result in results.values():
        if result["refused"]:
            assert "was asked for and does not run here" in result["refused"]
            continue
        assert result["deviation"] <= result["allowed"]
        assert result["images"] == 100
        assert result["images_per_s"].keys() == {"bare", "session", "served"}
        for rates in result["images_per_s"].values():
            assert rates.keys() == {"1", "3"}
            assert min(rates.values()) > 0
        assert f"{result['images_per_s']['served']['3']:,.0f}" in done.stdout
    assert not results["cpu"]["refused"]
    assert record["machine"]["threads"] == 1


def test_named_settings_must_run(data_dir: Path) -> None:
    """A setting that was named and does not run here makes the exit status 1."""
    done = run(data_dir, "--models", "mnist-tiny", "--settings", "cpu,cuda", "--no-served", *TINY)
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert [result["setting"] for result in results] == ["cpu", "cuda"]
    assert done.returncode == int(bool(results[1]["refused"]))
    assert results[0]["images_per_s"].keys() == {"bare", "session"}


def test_exact_within_the_allowed_deviation() -> None:
    """A deviation beyond what is allowed, or that is no number, is not exact."""
    assert Result("model", "setting", deviation=1e-4, allowed=1e-4).exact
    assert not Result("model", "setting", deviation=2e-4, allowed=1e-4).exact
    assert not Result("model", "setting", deviation=float("nan"), allowed=1e-4).exact


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--settings", "tpu"), "there is no setting 'tpu'; there are cpu, "),
        (("--batches", "0"), "expected a whole number above zero, not '0'"),
        (("--json", "no/where.json"), "the folder no does not exist"),
    ],
    ids=["setting", "batches", "json"],
)
def test_wrong_options(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends the program at once, with one sentence on standard error."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "nix"), "there is no model 'nix' in models"),
        (("--models", "mnist-tiny", "--data-dir", "nowhere"), "The folder is --data-dir, or CONVSERVE_DATA_DIR"),
    ],
    ids=["model", "data"],
)
def test_missing_files(data_dir: Path, arguments: tuple[str, ...], words: str) -> None:
    """What cannot be measured is said in one sentence on standard error."""
    done = run(data_dir, *arguments)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]


def test_the_server_takes_every_setting() -> None:
    """Each setting's words are options of the server's command line."""
    assert {setting.provider for setting in SETTINGS.values()} == set(PROVIDERS)
    for setting in SETTINGS.values():
        options = {setting.provider: dict(setting.options)} if setting.options else {}
        assert Settings.read(setting.arguments).provider_options == options


def test_missing_float16_file_is_named(data_dir: Path) -> None:
    """A float16 variant that has not been exported is refused with the command that makes it."""
    model = models.open_model(ROOT / "models", "mnist-tiny", data_dir, images=64, threads=2)
    with pytest.raises(BenchmarkError, match=r"training\.export mnist-tiny --precision fp16"):
        models.fp16(model)
