"""``python -m service.tune``: what it measures, decides and writes."""

import json
import shutil
from pathlib import Path

import pytest

from service import tune
from service.runtime.tuning import FILE_NAME, Tuning
from service.tune import Timed, choose
from tests import onnx_models
from tests.servers import ServerProcess


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    """A folder with a copy of mnist-tiny."""
    target = tmp_path / "mnist-tiny" / "1"
    target.mkdir(parents=True)
    shutil.copy(models_dir / "mnist-tiny" / "1" / "model.onnx", target)
    return tmp_path


def test_a_server_uses_what_was_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a table and writes a file, which the next server reads."""
    arguments = ["mnist-tiny", "--models-dir", str(folder), "--threads", "2", "--max-batch-rows", "16"]
    assert tune.main(arguments) == 0
    assert "rows" in capsys.readouterr().out
    written = json.loads((folder / "mnist-tiny" / "1" / FILE_NAME).read_text())
    assert [run["rows"] for run in written["runs"]] == [1, 2, 4, 8, 16]
    with ServerProcess(folder, "--threads", "2") as server:
        (ready,) = [event for event in server.events if event["event"] == "model ready"]
    assert ready["preferred_batch_size"] == written["tuning"]["preferred_batch_size"]
    assert ready["one_thread_rows"] == written["tuning"]["one_thread_rows"]
    assert ready["runs_at_a_time"] == written["tuning"]["instance_count"]


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --dry-run, the choice is printed and no file is written."""
    assert tune.main(["mnist-tiny", "--models-dir", str(folder), "--max-batch-rows", "2", "--dry-run"]) == 0
    assert "preferred_batch_size" in capsys.readouterr().out
    assert not (folder / "mnist-tiny" / "1" / FILE_NAME).exists()


def test_mistakes_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is not there, or that is not batched, is refused with the reason."""
    onnx_models.unbatched(folder, "fixed")
    assert tune.main(["nix", "--models-dir", str(folder)]) == 1
    assert f"there is no model 'nix' in {folder}; it has fixed, mnist-tiny" in capsys.readouterr().err
    assert tune.main(["fixed", "--models-dir", str(folder)]) == 1
    assert "there is nothing to choose: its requests do not share a run, because" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param([(1, 10, 20, 5), (64, 500, 400, 250), (128, 900, 800, 450)], Tuning(128, 1, 2), id="side by side"),
        pytest.param([(1, 10, 20, 10), (64, 800, 400, 400), (128, 1600, 800, 800)], Tuning(128, 1, 1), id="all"),
        pytest.param([(1, 50, 30, 25), (64, 3000, 1500, 1500), (128, 6000, 3000, 3000)], Tuning(64, 0, 1), id="long"),
        pytest.param([(1, 10, 20, 10), (64, 400, 300, 300), (128, 1100, 1000, 1000)], Tuning(64, 1, 1), id="slower"),
        pytest.param([(1, 10, 20, 5), (16, 100, 120, 50)], Tuning(16, 16, 2), id="few rows"),
    ],
)
def test_times_decide(times: list[tuple[int, float, float, float]], expected: Tuning) -> None:
    """Joined is what is short and loses no rows/s; a second session must gain 5 %."""
    assert choose([Timed(*line) for line in times], threads=2, least=64) == expected
