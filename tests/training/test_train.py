"""Training is repeatable, can be stopped at any point, and never spoils a checkpoint."""

import dataclasses
import math
import os
import signal
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console
from torch import nn

from training import checkpoint
from training.data import Dataset
from training.errors import BusyError, CheckpointError, DivergedError
from training.export import main
from training.export.arguments import read
from training.export.pipeline import customise
from training.lock import hold, refuse_if_held
from training.networks import NETWORKS, Preprocess
from training.recipes import RECIPES, Recipe
from training.train import Training, make_optimizer, rate_schedule, train

from .samples import CPU, ConsoleThatInterrupts, part, run, start

EPOCHS = 20
"""Of a training that is to be cut off: about a tenth of a second each."""


def short(name: str, epochs: int = 4) -> Recipe:
    """Cut a recipe short, so that it fits 200 images; every change of images and weights that it has stays."""
    recipe = RECIPES[name]
    plain = min(recipe.unaugmented_epochs, 1)
    return dataclasses.replace(recipe, epochs=epochs, unaugmented_epochs=plain, validation=min(recipe.validation, 40))


def part_for(recipe: Recipe, mnist: Dataset, cifar10: Dataset) -> Dataset:
    """Give 200 images: at a batch of 64 or 128 the last batch is a smaller one."""
    return part(mnist if recipe.dataset == "mnist" else cifar10, 200, 20)


def losses(training: Training) -> list[float]:
    return [epoch["loss"] for epoch in training.history]


def same_weights(one: Training, other: Training) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def metrics(training: Training) -> list[dict[str, float | None]]:
    """Give everything that was recorded of each epoch but its time."""
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in training.rounded_history()]


# One for each kind of optimizer. Between them: both schedules, batch norm, dropout, bf16, a teacher, a moving average,
# mixup, with and without a look at the test set, and all augmentation.
RESUMED = {
    "adam": short("mnist-tiny"),
    "adamw": dataclasses.replace(
        short("cifar10-cnn"),
        ema_decay=0.9,
        rotation_degrees=10,
        scale=0.1,
        elastic_pixels=1.0,
        label_smoothing=0.1,
        mixup=0.4,
    ),
    "sgd": dataclasses.replace(
        short("cifar10-tiny"), teacher="mnist-tiny", distillation_weight=0.9, distillation_temperature=4.0
    ),
    "muon": dataclasses.replace(
        RECIPES["cifar10"],
        name="mnist-deep",
        network="mnist-deep",
        dataset="mnist",
        mean=(0.1,),
        std=(0.3,),
        batch=64,
        epochs=4,
        unaugmented_epochs=1,
        validation=40,
        teacher="",
    ),
}


@pytest.mark.parametrize("optimizer", RESUMED)
def test_resumed_training_equals_straight_one(
    optimizer: str, mnist: Dataset, cifar10: Dataset, tmp_path: Path, console: Console
) -> None:
    """A training stopped and resumed equals the straight one bit for bit."""
    recipe = RESUMED[optimizer]
    assert recipe.optimizer == optimizer
    data = part_for(recipe, mnist, cifar10)
    teacher = None
    if recipe.teacher:  # any will do
        teacher = dataclasses.replace(short("cifar10-tiny", 1), name=recipe.teacher)
    straight = train(recipe, data, CPU, tmp_path / "straight.pt", console, teacher)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, CPU, tmp_path / "stopped.pt", ConsoleThatInterrupts(1), teacher)
    torch.rand(1)  # whatever the process drew meanwhile must not matter
    resumed = train(recipe, data, CPU, tmp_path / "stopped.pt", console, teacher)
    assert metrics(resumed) == metrics(straight)
    assert same_weights(resumed, straight)
    written = (tmp_path / "stopped.csv").read_text().splitlines()
    assert written[0].split(",")[:3] == ["epoch", "loss", "accuracy"]
    assert [line.split(",")[1] for line in written[1:]] == [str(loss) for loss in losses(straight)]


@pytest.fixture
def image_line(image_folder: Path) -> tuple[str | Path, ...]:
    """Arguments of a training whose epochs are short, for processes that end before it does."""
    own = ("--dataset", "folder", "--data-dir", image_folder, "--network", "cifar10-tiny", "--name", "own")
    return *own, "--epochs", str(EPOCHS), "--device", "cpu", "--no-report"


def test_killed_training_reaches_same_weights(
    tmp_path: Path, image_line: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A training killed without warning goes on to the same weights.

    A real process, killed after its first epoch, wherever it is then; with as many threads as are used here.
    """

    def arguments(name: str) -> tuple[str | Path, ...]:
        return *image_line, "--models-dir", tmp_path / name, "--checkpoints-dir", tmp_path / name

    assert main([str(word) for word in arguments("straight")]) == 0
    capsys.readouterr()
    with start("training.export", *arguments("killed")) as process:
        assert process.stdout is not None
        assert any(line.startswith(f"own: epoch 1/{EPOCHS}") for line in process.stdout)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert main([str(word) for word in arguments("killed")]) == 0
    resumed = capsys.readouterr().out
    assert f"epoch 1/{EPOCHS}" not in resumed
    assert f"epoch {EPOCHS}/{EPOCHS}" in resumed
    weights = [
        onnx.load(tmp_path / name / "own" / "1" / "model.onnx").graph.initializer for name in ("straight", "killed")
    ]
    assert [(tensor.name, tensor.raw_data) for tensor in weights[0]] == [
        (tensor.name, tensor.raw_data) for tensor in weights[1]
    ]


def test_seed_decides_the_losses(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """The same seed gives the same losses and another gives others."""
    recipe, data = short("mnist-tiny"), part(mnist, 200, 0)
    first, again = (train(recipe, data, CPU, tmp_path / f"{run}.pt", console) for run in ("first", "again"))
    other = train(dataclasses.replace(recipe, seed=1), data, CPU, tmp_path / "other.pt", console)
    assert losses(first) == losses(again)
    assert set(losses(first)).isdisjoint(losses(other))


def test_finished_checkpoint_is_not_trained(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A finished checkpoint is not trained again."""
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "done.pt"
    first = train(recipe, data, CPU, path, console)
    content = path.read_bytes()
    again = train(recipe, data, CPU, path, console)
    assert same_weights(first, again)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "cifar10-wide"])  # cifar10, but for its widths
def test_every_network_overfits_few_images(name: str, mnist: Dataset, cifar10: Dataset) -> None:
    """Every network overfits a few images.

    With its own preprocessing and optimizer; what cannot do that is wired wrongly.
    """
    # Of ten images, and forty steps, with these exceptions: the widest networks take most of a second for a step, so
    # they get only the first few images.
    exceptions = {
        "cifar10": (4, 20, 3e-3),
        "cifar10-vgg": (2, 12, 1e-4),
        "cifar10-vgg-bn": (4, 20, 3e-3),
    }
    count, steps, rate = exceptions.get(name, (10, 40, 3e-3))
    recipe = dataclasses.replace(RECIPES[name], learning_rate=rate)
    data = mnist if recipe.dataset == "mnist" else cifar10
    images, labels = data.train_images[:count], data.train_labels[:count]
    torch.manual_seed(0)
    network, preprocess = NETWORKS[name].build(), Preprocess(recipe.mean, recipe.std)
    if name == "cifar10-vgg":  # PyTorch's first weights let the signal of ten layers fade, and cost many steps
        for weights in network.parameters():
            if weights.dim() > 1:
                nn.init.kaiming_normal_(weights)
    optimizer = make_optimizer(recipe, network)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(preprocess(images)), labels)
        loss.backward()  # type: ignore[no-untyped-call] # so in PyTorch
        optimizer.step()
    with torch.inference_mode():
        answers = network.eval()(preprocess(images)).argmax(1)
    assert answers.tolist() == labels.tolist()


def test_nan_loss_leaves_the_checkpoint(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A loss that is no number stops the training and leaves the checkpoint."""
    recipe, data, path = short("mnist-tiny"), part(mnist, 200, 0), tmp_path / "tiny.pt"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, CPU, path, ConsoleThatInterrupts(1))
    state = checkpoint.load(path, recipe)
    assert state is not None
    state["network"]["linear.bias"][0] = float("inf")
    checkpoint.save(state, path)
    content = path.read_bytes()
    with pytest.raises(DivergedError, match="loss of mnist-tiny became nan in epoch 2; lower the learning rate"):
        train(recipe, data, CPU, path, console)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tiny.csv", "tiny.pt"]
    assert path.read_bytes() == content


def test_diverged_first_epoch_leaves_nothing(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
    """A rate far too high leaves no checkpoint at all."""
    recipe = dataclasses.replace(RECIPES["cifar10-tiny"], learning_rate=1e30)
    with pytest.raises(DivergedError, match="epoch 1"):
        train(recipe, part(cifar10, 200, 0), CPU, tmp_path / "tiny.pt", console)
    assert list(tmp_path.iterdir()) == []


def test_other_recipes_checkpoint_is_refused(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A checkpoint of another network or recipe is refused."""
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "tiny.pt"
    train(recipe, data, CPU, path, console)
    with pytest.raises(CheckpointError, match="is a checkpoint of mnist-tiny, not of mnist-deep; remove it"):
        train(short("mnist-deep", 1), data, CPU, path, console)
    with pytest.raises(CheckpointError, match=r"another recipe \(epochs 1 there and 2 here\); remove it"):
        train(dataclasses.replace(recipe, epochs=2), data, CPU, path, console)


def test_unknown_or_missing_numbers_are_tolerated(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A checkpoint with a number less or more goes on where the number changes nothing."""
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "tiny.pt"
    train(recipe, data, CPU, path, console)
    state = checkpoint.load(path, recipe)
    assert state is not None
    del state["recipe"]["cutout_pixels"]
    state["recipe"]["forgotten"] = 0.0  # a number that recipes have no longer
    checkpoint.save(state, path)
    assert checkpoint.load(path, recipe) is not None
    with pytest.raises(CheckpointError, match=r"another recipe \(cutout_pixels 0 there and 6 here\)"):
        checkpoint.load(path, dataclasses.replace(recipe, cutout_pixels=6))
    state["recipe"]["forgotten"] = 0.5
    checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match=r"another recipe \(forgotten 0.5 there and None here\)"):
        checkpoint.load(path, recipe)


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_damaged_checkpoint_is_refused(mnist: Dataset, tmp_path: Path, console: Console, keep: int) -> None:
    """Cut off after some bytes, as a copy that stopped half way."""
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "tiny.pt"
    train(recipe, data, CPU, path, console)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged; remove it"):
        train(recipe, data, CPU, path, console)


def test_last_batch_of_one_is_dropped(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
    """A last batch of one image is left out.

    Batch norm over a layer without height and width can make nothing of one image; each epoch leaves out another.
    """
    recipe = dataclasses.replace(short("cifar10-vgg-bn", 1), batch=2, validation=0)
    assert all(math.isfinite(loss) for loss in losses(train(recipe, part(cifar10, 3, 0), CPU, tmp_path / "a", console)))


@pytest.mark.parametrize(("epochs", "plain"), [(1, 0), (9, 0), (70, 7), (140, 14)])
def test_fewer_epochs_keep_unaugmented_share(epochs: int, plain: int) -> None:
    """A training of fewer epochs sees unaugmented images in the same share of them."""
    recipe = customise(RECIPES["cifar10"], read(["cifar10", "--epochs", str(epochs)], "export"))
    assert (recipe.epochs, recipe.unaugmented_epochs) == (epochs, plain)


def test_trained_on_names_the_last_device(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A finished training says what it was trained on and an unfinished one what goes on.

    Exported on another machine than it was trained on, a file must not name that one.
    """
    recipe, data, path = short("mnist-tiny", 2), part(mnist, 200, 0), tmp_path / "tiny.pt"
    here = train(recipe, data, CPU, path, console)
    assert (here.arithmetic, here.trained_on) == ("fp32", f"CPU, PyTorch {torch.__version__}")
    state = checkpoint.load(path, recipe)
    assert state is not None
    state["arithmetic"], state["trained_on"] = "bf16", "NVIDIA H100"
    checkpoint.save(state, path)
    there = train(recipe, data, CPU, path, console)
    assert (there.arithmetic, there.trained_on) == ("bf16", "NVIDIA H100")
    del state["history"][1]
    checkpoint.save(state, path)
    assert train(recipe, data, CPU, path, console).trained_on == here.trained_on


def test_rate_rises_then_falls() -> None:
    """The rate rises then falls along a cosine."""
    curve = rate_schedule(dataclasses.replace(RECIPES["cifar10-cnn"], warmup=0.2), 100)
    rates = [curve(step) for step in range(101)]
    assert rates[0] < rates[10] < rates[19] < rates[20] == max(rates) == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    constant = rate_schedule(RECIPES["mnist-tiny"], 100)
    assert {constant(step) for step in range(101)} == {1.0}


def test_rate_may_fall_linearly() -> None:
    """The rate is flat between the warm-up and the last share of the steps, and zero at the end."""
    curve = rate_schedule(dataclasses.replace(RECIPES["mnist-tiny"], warmup=0.1, linear_decay=0.4), 100)
    assert curve(0) < curve(9) < curve(10) == curve(60) == 1
    assert [curve(step) for step in (70, 80, 90, 100)] == pytest.approx([0.75, 0.5, 0.25, 0])


def test_ctrl_c_leaves_usable_checkpoint(tmp_path: Path, image_line: tuple[str | Path, ...]) -> None:
    """Ctrl-C leaves a usable checkpoint and exits 130. A real process, a real signal, after its first epoch."""
    folders = ("--models-dir", tmp_path / "m", "--checkpoints-dir", tmp_path)
    with start("training.export", *image_line, *folders) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith(f"own: epoch 1/{EPOCHS}") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        status = process.wait()
    assert errors.startswith("error: interrupted; epochs that were finished are kept")
    assert "Traceback" not in errors
    assert status == 130
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["own-seed0.csv", "own-seed0.pt"]
    state = torch.load(tmp_path / "own-seed0.pt", weights_only=True)
    assert 1 <= len(state["history"]) < EPOCHS


def test_second_export_is_refused_at_once(tmp_path: Path, image_line: tuple[str | Path, ...]) -> None:
    """While a model is made, another process that would make it is refused, with the first one's process id.

    By its name, and by its checkpoint where the models folder is another.
    """
    folders = ("--models-dir", tmp_path / "m", "--checkpoints-dir", tmp_path / "c", "--epochs", "100000")
    with start("training.export", *image_line, *folders) as process:
        assert process.stdout is not None
        assert any(line.startswith("own: epoch 1/100000") for line in process.stdout)
        second = run("training.export", *image_line, *folders)
        third = run("training.export", *image_line, "--models-dir", tmp_path / "n", *folders[2:])
        process.send_signal(signal.SIGINT)
        process.communicate()
    by = f"is being made by process {process.pid}; wait until it has ended, or stop it\n"
    assert (second.returncode, second.stdout, second.stderr) == (1, "", f"error: own {by}")
    assert (third.returncode, third.stderr) == (1, f"error: the checkpoint {tmp_path}/c/own-seed0.pt {by}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c"]
    assert sorted(entry.name for entry in (tmp_path / "c").iterdir()) == ["own-seed0.csv", "own-seed0.pt"]


def test_lock_of_killed_process_holds_nothing(tmp_path: Path) -> None:
    """A lock file that a killed process left is taken over, and removed in the end."""
    path = tmp_path / ".own.lock"
    path.write_text("1")
    with hold(path, "own"), pytest.raises(BusyError, match=f"own is being made by process {os.getpid()};"):
        refuse_if_held(path, "own")
    assert list(tmp_path.iterdir()) == []
