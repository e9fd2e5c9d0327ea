"""The front door: what a user types, what stands there afterwards, and what is said when it cannot be done."""

import json
import resource
import subprocess
from pathlib import Path

import pytest

from training import onnx_file
from training.export import main
from training.recipes import RECIPES

from .samples import ROOT, command, run


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_list_shows_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


def test_a_real_export_from_data_to_proved_file(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained and exported by a process; then left alone, refused under another recipe, exported to the same bytes."""
    folders = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")
    line = ("mnist-tiny", "--epochs", "1", "--data-dir", data_dir, "--device", "cpu", *folders)
    first = run("training.export", *line)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "mnist-tiny: epoch 1/1" in first.stdout
    assert files_in(tmp_path) == ["checkpoints/mnist-tiny.pt", "models/mnist-tiny/1/model.onnx"]
    path = tmp_path / "models" / "mnist-tiny" / "1" / "model.onnx"
    facts = onnx_file.read_metadata(path)
    assert float(facts["test_accuracy"]) > 0.9
    assert f"{float(facts['test_accuracy']):.2%}" in first.stdout
    assert json.loads(facts["recipe"])["epochs"] == 1
    content = path.read_bytes()

    def again(*more: str) -> tuple[int, str]:
        status = main([*map(str, line), *more])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    status, text = again("--data-dir", str(tmp_path))  # nothing to do, so no data is needed
    assert (status, "up to date" in text) == (0, True)
    status, text = again("--seed", "7")
    assert (status, "kept, though made by another recipe" in text) == (0, True)
    assert path.read_bytes() == content

    path.write_bytes(b"spoiled")
    status, text = again()
    assert (status, "cannot be read as an ONNX file" in text) == (1, True)
    status, text = again("--force")
    assert (status, "epoch" in text) == (0, False)  # the checkpoint was finished
    assert path.read_bytes() == content

    status, text = again("--force", "--seed", "7")
    assert (status, "was trained by another recipe (seed 0 there and 7 here); remove it" in text) == (1, True)
    assert path.read_bytes() == content


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path, data_dir: Path) -> None:
    """Files are limited to 20 kB, which the first checkpoint exceeds: the system refuses the write itself."""
    folders = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")
    line = command(
        "training.export", "mnist-tiny", "--epochs", "1", "--data-dir", data_dir, "--device", "cpu", *folders
    )

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    finished = subprocess.run(
        line,
        cwd=ROOT,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"error: {tmp_path}/checkpoints/mnist-tiny.pt: File too large; nothing was left")
    assert finished.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mnist-tny"], "there is no network 'mnist-tny'; did you mean 'mnist-tiny'? --list shows all"),
        (["vgg"], "did you mean 'cifar10-vgg'?"),
        ([], "name one or more networks, or --all; --list shows them"),
        (["mnist-tiny", "--epochs", "0"], "'0' is not a whole number from 1; a network is never exported untrained"),
        (["mnist-tiny", "--epochs", "many"], "'many' is not a whole number from 1"),
        (["mnist-tiny", "--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_missing_data_is_a_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    folders = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")
    finished = run("training.export", "cifar10-tiny", "--data-dir", tmp_path / "nowhere", *folders)
    assert finished.returncode == 1
    assert finished.stderr == (
        f"error: cifar10 was not found, or is damaged, in {tmp_path}/nowhere; "
        f"run: python -m training.data cifar10 --data-dir {tmp_path}/nowhere\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_cuda_that_is_not_there_is_a_sentence(tmp_path: Path, data_dir: Path) -> None:
    finished = run(
        *("training.export", "mnist-tiny", "--device", "cuda", "--data-dir", data_dir, "--models-dir", tmp_path),
        CUDA_VISIBLE_DEVICES="",
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: --device cuda was asked for, but PyTorch finds no CUDA device here")
    assert list(tmp_path.iterdir()) == []
