"""The front door: what a user types, what stands there afterwards, and what is said when it cannot be done."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from service.client import Classification, Client
from tests.servers import ServerProcess
from training import onnx_file
from training.data import Dataset
from training.data.image_files import read
from training.evaluate import OnnxFile
from training.export import main
from training.recipes import RECIPES

from .samples import ROOT, command, run
from .test_folder import save_images

MNIST_TINY = ("mnist-tiny", "--epochs", "1", "--device", "cpu")
OPTIONS = (
    *("--all", "--list", "--precision", "--force", "--no-report", "--dataset", "--network", "--name", "--epochs"),
    *(
        "--start-from",
        "--seed",
        "--learning-rate",
        "--no-flip",
        "--data-dir",
        "--models-dir",
        "--checkpoints-dir",
        "--device",
    ),
    *("--module", "--timm", "--torchvision", "--onnx", "--weights", "--pretrained", "--output", "--labels", "--test"),
    *("--temperature", "--fact", "--size", "--mean", "--std", "--crop", "--resize", "--interpolation", "--colors"),
    "--polarity",
)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def file_of(folder: Path, name: str) -> Path:
    return folder / "models" / name / "1" / "model.onnx"


class FrontDoor:
    """`main` as it is called with two folders, and what it printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folders = ("--models-dir", folder / "models", "--checkpoints-dir", folder / "checkpoints")
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str]:
        """Give the exit status, and both streams as one text."""
        status = main([*map(str, self._folders), *map(str, arguments)])
        captured = self._capsys.readouterr()
        return status, captured.out + captured.err


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> FrontDoor:
    """The front door to tmp_path."""
    return FrontDoor(tmp_path, capsys)


def own(folder: Path, network: str, *more: str) -> tuple[str | Path, ...]:
    return ("--dataset", "folder", "--data-dir", folder, "--network", network, "--name", "my-model", *more)


@pytest.fixture(scope="session")
def once(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one export leaves: a small network, trained for an epoch on the images, and its report."""
    folder = tmp_path_factory.mktemp("once")
    places = ("--models-dir", folder / "models", "--checkpoints-dir", folder / "checkpoints")
    assert main([str(part) for part in (*own(image_folder, "cifar10-tiny", "--epochs", "1"), *places)]) == 0
    return folder


@pytest.fixture
def exported(once: Path, tmp_path: Path) -> Path:
    """A copy of that in tmp_path."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def line(image_folder: Path) -> tuple[str | Path, ...]:
    """The command line that made it."""
    return own(image_folder, "cifar10-tiny", "--epochs", "1")


def test_real_export_by_a_process(tmp_path: Path, data_dir: Path, export: FrontDoor) -> None:
    """A real export from data to proved file.

    Trained and exported by a process; then nothing is left to do, so no data is needed.
    """
    places = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")
    finished = run("training.export", *MNIST_TINY, "--data-dir", data_dir, *places)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "mnist-tiny: epoch 1/1" in finished.stdout
    made = files_in(tmp_path)
    assert {f"models/mnist-tiny/1/{name}" for name in ("model.onnx", "report.json", "README.md")} < made
    assert all(name.startswith(("checkpoints/mnist-tiny-seed0.", "models/mnist-tiny/1/")) for name in made)
    metadata = onnx_file.read_metadata(file_of(tmp_path, "mnist-tiny"))
    assert float(metadata["test_accuracy"]) > 0.9
    assert f"{float(metadata['test_accuracy']):.2%}" in finished.stdout
    assert json.loads(metadata["recipe"])["epochs"] == 1
    report = json.loads((tmp_path / "models" / "mnist-tiny" / "1" / "report.json").read_text())
    assert report["test"]["correct"] == int(metadata["test_correct"])
    status, text = export(*MNIST_TINY, "--data-dir", tmp_path / "nowhere")
    assert (status, "up to date" in text) == (0, True)


def test_file_in_place_stays_without_force(exported: Path, export: FrontDoor, line: tuple[str | Path, ...]) -> None:
    """A file in place is left alone until force is used."""
    path = file_of(exported, "my-model")
    content = path.read_bytes()
    status, text = export(*line)
    assert (status, "up to date" in text) == (0, True)
    status, text = export(*line, "--seed", "7", "--learning-rate", "0.01")
    assert status == 0
    assert "my-model: kept, though made by another recipe (learning_rate, seed); --force replaces it\n" in text
    assert path.read_bytes() == content

    path.write_bytes(b"spoiled")
    status, text = export(*line)
    assert (status, "cannot be read as an ONNX file" in text) == (1, True)
    status, text = export(*line, "--force")
    assert (status, "epoch" in text) == (0, False)  # the checkpoint was finished
    assert path.read_bytes() == content


def test_checkpoint_of_other_numbers_is_refused(
    exported: Path, export: FrontDoor, line: tuple[str | Path, ...]
) -> None:
    """A checkpoint of other numbers is refused."""
    content = file_of(exported, "my-model").read_bytes()
    status, text = export(*line, "--force", "--learning-rate", "0.5")
    assert status == 1
    assert "was trained by another recipe (learning_rate 0.001 there and 0.5 here); remove it" in text
    assert file_of(exported, "my-model").read_bytes() == content


def test_missing_report_is_written_if_wanted(exported: Path, export: FrontDoor, line: tuple[str | Path, ...]) -> None:
    """A missing report is written unless it is not wanted. One that tells of another file counts as missing."""
    report = exported / "models" / "my-model" / "1" / "report.json"
    content = report.read_text()
    report.unlink()
    assert export(*line, "--no-report")[0] == 0
    assert not report.exists()
    for stale in ("", "[]", content.replace('"commit": "', '"commit": "0')):
        report.write_text(stale)
        assert export(*line)[0] == 0
        assert json.loads(report.read_text())["facts"] == json.loads(content)["facts"]


def test_variants_are_made_from_file(exported: Path, export: FrontDoor, line: tuple[str | Path, ...]) -> None:
    """Variants are made from the file in place.

    int8 and fp16, each with its report; then left alone; then told to be of an earlier training.
    """
    status, text = export(*line, "--precision", "int8,fp16")
    assert status == 0, text
    fp32 = onnx_file.read_metadata(file_of(exported, "my-model"))
    for precision in ("int8", "fp16"):
        metadata = onnx_file.read_metadata(file_of(exported, f"my-model-{precision}"))
        assert (metadata["precision"], metadata["variant_of"]) == (precision, "my-model")
        assert metadata["fp32_test_correct"] == fp32["test_correct"]
        (row,) = [row for row in text.splitlines() if row.startswith(f"│ my-model-{precision} ")]
        assert f"{float(metadata['test_accuracy']):.2%} (fp32 {float(fp32['test_accuracy']):.2%})" in row
        assert (exported / "models" / f"my-model-{precision}" / "1" / "report.json").exists()

    status, text = export(*line, "--precision", "fp16", "--precision", "int8")
    assert status == 0
    assert text.count("up to date") == 3

    # Trained anew: the same weights, but another training, as the times of its epochs say.
    shutil.rmtree(exported / "checkpoints")
    status, text = export(*line, "--force", "--no-report", "--precision", "int8")
    assert status == 0
    assert "up to date" not in text
    fp16 = file_of(exported, "my-model-fp16")
    assert f"{fp16} was made from an earlier my-model; --precision fp16 makes it anew" in text


def test_list_shows_networks_and_accuracies(exported: Path, export: FrontDoor) -> None:
    """List shows every network and how well the files in place answer."""
    other = file_of(exported, "theirs")
    other.parent.mkdir(parents=True)
    other.write_bytes(b"not ours")
    shutil.copytree(exported / "models" / "my-model", exported / "models" / "cifar10-tiny")
    status, text = export("--list")
    assert status == 0
    rows = {row.split()[1]: row for row in text.splitlines() if row.startswith("│ ")}
    assert RECIPES.keys() < rows.keys()
    accuracy = f"{float(onnx_file.read_metadata(file_of(exported, 'my-model'))['test_accuracy']):.2%}"
    shown = {name: rows[name].split("│")[-2].strip() for name in ("my-model", "cifar10-tiny", "cifar10-cnn", "theirs")}
    assert shown == {
        "my-model": accuracy,
        "cifar10-tiny": accuracy,
        "cifar10-cnn": "no",
        "theirs": "not a file of ours",
    }


def test_own_images_from_folder_to_server(image_folder: Path, tmp_path: Path, export: FrontDoor) -> None:
    """A network trained on a folder serves the folder s labels.

    From images to a real server, which gives the very probabilities that training's own reading of them gives.
    """
    status, text = export(*own(image_folder, "cifar10-cnn", "--epochs", "2", "--no-flip", "--precision", "int8"))
    assert status == 0, text
    assert "3 classes (cat, frog, ship); 48 images to train, 0 to validate, 12 to test" in text
    path = file_of(tmp_path, "my-model")
    metadata = onnx_file.read_metadata(path)
    recipe = json.loads(metadata["recipe"])
    assert (metadata["dataset"], json.loads(metadata["labels"])) == ("folder", ["cat", "frog", "ship"])
    assert (metadata["test_images"], recipe["epochs"], recipe["flip"]) == ("12", 2, False)
    assert "test " not in "".join(row for row in text.splitlines() if "epoch " in row)
    assert [epoch["test_accuracy"] for epoch in json.loads(metadata["history"])] == [None, None]
    assert metadata["architecture"].endswith("Linear 512→3")
    assert recipe["translation_pixels"] == RECIPES["cifar10-cnn"].translation_pixels
    assert json.loads(path.with_name("report.json").read_text())["test"]["images"] == 12

    shown = [image_folder / name for name in ("cat/000.PNG", "frog/001.jpg", "ship/002.PNG")]
    pixels = np.stack([read(one, (32, 32, 3)) for one in shown])
    with ServerProcess(tmp_path / "models") as server, Client(server.address) as client:
        for name in ("my-model", "my-model-int8"):
            _, expected = OnnxFile(file_of(tmp_path, name)).run(pixels)
            for result, row in zip(client.classify(shown, model=name, top_k=3), expected, strict=True):
                assert isinstance(result, Classification)
                given = {best.label: best.probability for best in result.classes}
                assert [given[label] for label in ("cat", "frog", "ship")] == pytest.approx(row.tolist(), abs=1e-5)


def test_changed_folder_is_recognised(exported: Path, image_folder: Path, export: FrontDoor) -> None:
    """A folder that changed is not taken for what was trained on.

    Neither by the file in place, nor by the checkpoint: images to test might be among those trained on.
    """
    folder = exported / "images"
    shutil.copytree(image_folder, folder)
    line = own(folder, "cifar10-tiny", "--epochs", "1")
    status, text = export(*line)  # the same images, wherever they lie
    assert (status, "up to date" in text) == (0, True)
    content = file_of(exported, "my-model").read_bytes()

    (folder / "cat" / "000.PNG").unlink()
    status, text = export(*line)
    assert status == 0
    assert "kept, though made by another recipe (images); --force replaces it" in text
    status, text = export(*line, "--precision", "int8")
    assert (status, "was made from other images than these" in text) == (1, True)
    status, text = export(*line, "--force")
    assert (status, "my-model-seed0.pt was trained by another recipe (digest" in text) == (1, True)
    assert file_of(exported, "my-model").read_bytes() == content
    shutil.rmtree(exported / "checkpoints")
    assert export(*line, "--force")[0] == 0
    assert file_of(exported, "my-model").read_bytes() != content


def test_smallest_folder_trains_batch_norm(cifar10: Dataset, tmp_path: Path, export: FrontDoor) -> None:
    """The smallest folder trains a network with batch norm.

    Two classes of two images, made grey: two train, two test. Square brackets in names are printed as they are.
    """
    folder, models = tmp_path / "images [red]", tmp_path / "models [red]"
    save_images(folder, cifar10, {"cat": 2, "ship": 2})
    status, text = export(*own(folder, "mnist", "--epochs", "2"), "--models-dir", models)
    assert status == 0, text
    assert f"{folder}: 2 classes (cat, ship); 2 images to train, 0 to validate, 2 to test" in text
    paths = [row.split("│")[-2].strip() for row in text.splitlines() if row.startswith("│")]
    assert "[red]/my-model/1/model.onnx" in "".join(paths)
    metadata = onnx_file.read_metadata(models / "my-model" / "1" / "model.onnx")
    assert (metadata["test_images"], json.loads(metadata["labels"])) == ("2", ["cat", "ship"])


def test_unusable_folder_writes_nothing(tmp_path: Path, export: FrontDoor) -> None:
    """A folder that cannot be used is a sentence and nothing is written."""
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "dog").mkdir()
    status, text = export(*own(tmp_path / "images", "cifar10-cnn"))
    assert status == 1
    assert text.startswith(f"error: {tmp_path}/images/cat holds no images (")
    assert text.count("\n") == 1
    assert files_in(tmp_path) == set()


def test_full_disk_leaves_nothing_behind(tmp_path: Path, image_folder: Path) -> None:
    """A full disk is a sentence and leaves nothing behind.

    Files are limited to 20 kB, which the first checkpoint exceeds: the system refuses the write itself.
    """
    places = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    finished = subprocess.run(
        command("training.export", *own(image_folder, "cifar10-tiny", "--epochs", "1"), *places),
        cwd=ROOT,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith(
        f"error: {tmp_path}/checkpoints/my-model-seed0.pt: File too large; nothing was left"
    )
    assert finished.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


FOLDER = ["--dataset", "folder", "--data-dir", "images"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mnist-tny"], "there is no network 'mnist-tny'; did you mean 'mnist-tiny'? --list shows all"),
        (["vgg"], "did you mean 'cifar10-vgg'?"),
        ([], "name one or more networks, or --all; --list shows them"),
        (["mnist-tiny", "--epochs", "0"], "'0' is not a whole number from 1"),
        (["mnist-tiny", "--epochs", "many"], "'many' is not a whole number from 1"),
        (["mnist-tiny", "--learning-rate", "-1"], "'-1' is not a number above 0"),
        (["mnist-tiny", "--learning-rate", "nan"], "'nan' is not a number above 0"),
        (["mnist-tiny", "--learning-rate", "fast"], "'fast' is not a number above 0"),
        (["mnist-tiny", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["mnist-tiny", "--precision", "int4"], "'int4' is none of fp32, int8, fp16"),
        (["mnist-tiny", "--precision", "int8,"], "'' is none of fp32, int8, fp16"),
        (["mnist-tiny", "--name", "x"], "--network, --name, --start-from are for images of your own: add --dataset"),
        (["--network", "mnist"], "--network, --name, --start-from are for images of your own: add --dataset"),
        (["--start-from", "cifar10"], "--network, --name, --start-from are for images of your own: add --dataset"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
        ([*FOLDER, "mnist"], "--dataset folder trains one network: give it by --network, not as NAME or by --all"),
        ([*FOLDER, "--all"], "--dataset folder trains one network: give it by --network, not as NAME or by --all"),
        (["--dataset", "folder", "--network", "mnist", "--name", "x"], "--dataset folder needs --data-dir FOLDER"),
        ([*FOLDER, "--name", "x"], "--dataset folder needs --network, one of mnist-tiny, "),
        ([*FOLDER, "--name", "x", "--network", "cifar"], "there is no network 'cifar'; did you mean 'cifar10'"),
        ([*FOLDER, "--network", "mnist"], "--dataset folder needs --name, by which the model will be served"),
        ([*FOLDER, "--network", "mnist", "--name", ""], "--name '' cannot name a model: up to 64 letters, digits, '.'"),
        ([*FOLDER, "--network", "mnist", "--name", "../x"], "--name '../x' cannot name a model"),
        ([*FOLDER, "--network", "mnist", "--name", ".x"], "--name '.x' cannot name a model"),
        ([*FOLDER, "--network", "mnist", "--name", "x" * 65], "cannot name a model: up to 64"),
        ([*FOLDER, "--network", "mnist", "--name", "cifar10-cnn"], "--name cifar10-cnn is taken by a network of ours"),
        ([*FOLDER, "--network", "mnist", "--name", "x-int8"], "--name x-int8 ends as the name of a variant"),
    ],
)
def test_wrong_command_line_is_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line is a sentence."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1


def test_help_explains_every_option() -> None:
    """Help explains every option and gives examples without importing PyTorch."""
    line = [sys.executable, "-X", "importtime", "-m", "training.export", "--help"]
    finished = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {option} " in finished.stdout or f"  {option}\n" in finished.stdout for option in OPTIONS)
    examples = finished.stdout.partition("examples:\n")[2]
    assert examples.count("python -m training.export ") == 6
    assert "training.export.arguments" in finished.stderr
    assert "torch" not in finished.stderr


@pytest.mark.parametrize("module", ["rich", "numpy"])
def test_ctrl_c_during_imports_is_sentence(module: str) -> None:
    """Ctrl-C while libraries are imported is a sentence: those of the command line, and those of the work.

    A real signal, sent when the first of many is there; the interpreter names them as they come.
    """
    line = [sys.executable, "-X", "importtime", "-m", "training.export", "mnist-tiny"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        before = [next(process.stderr)]
        while module not in before[-1]:
            before.append(next(process.stderr))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
        status = process.wait()
    assert status == 130
    assert rest[-1] == "error: interrupted before anything was begun"
    assert all(line.startswith("import time:") for line in [*before, *rest[:-1]])


def test_unusable_place_is_told_before_training(image_folder: Path, tmp_path: Path, export: FrontDoor) -> None:
    """A models folder that is none is a sentence before the first epoch."""
    (tmp_path / "file").write_text("a file")
    status, text = export(*own(image_folder, "cifar10-tiny"), "--models-dir", tmp_path / "file")
    assert (status, "epoch" in text) == (1, False)
    assert f"error: {tmp_path}/file is no folder, so nothing can be put into {tmp_path}/file/my-model/1; name" in text
    assert files_in(tmp_path) == {"file"}


def test_missing_data_writes_nothing(tmp_path: Path, export: FrontDoor) -> None:
    """Missing data is a sentence and nothing is written."""
    status, text = export("cifar10-tiny", "--data-dir", tmp_path / "nowhere")
    assert status == 1
    assert text == (
        f"error: cifar10 was not found, or is damaged, in {tmp_path}/nowhere; "
        f"run: python -m training.data cifar10 --data-dir {tmp_path}/nowhere\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_absent_cuda_is_a_sentence(
    tmp_path: Path, data_dir: Path, export: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA that is not there is a sentence, and nothing is written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, text = export("mnist-tiny", "--device", "cuda", "--data-dir", data_dir)
    assert status == 1
    assert text.startswith("error: --device cuda was asked for, but PyTorch finds no CUDA device here")
    assert list(tmp_path.iterdir()) == []
