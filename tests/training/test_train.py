"""Training is repeatable, can be stopped at any point, and never spoils a checkpoint."""

import dataclasses
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from training import checkpoint
from training.data import Dataset
from training.errors import CheckpointError, DivergedError
from training.networks import NETWORKS, Preprocess
from training.recipes import RECIPES, Recipe
from training.train import Training, make_optimizer, rate_curve, train

from .samples import CPU, ROOT, ConsoleThatInterrupts, command, part

# Between them: all three optimizers, both schedules, batch norm, dropout, bf16, shifts and flips.
VARIED = ("mnist-tiny", "mnist-deep", "cifar10-tiny", "cifar10-cnn")


def short(name: str, epochs: int = 3) -> Recipe:
    return dataclasses.replace(RECIPES[name], epochs=epochs)


def part_for(recipe: Recipe, mnist: Dataset, cifar10: Dataset) -> Dataset:
    """Give 200 images: at a batch of 64 or 128 the last batch is a smaller one."""
    return part(mnist if recipe.dataset == "mnist" else cifar10, 200, 0)


def losses(training: Training) -> list[float]:
    return [epoch["loss"] for epoch in training.history]


def same_weights(one: Training, other: Training) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", VARIED)
def test_a_training_stopped_and_resumed_equals_the_straight_one_bit_for_bit(
    name: str, mnist: Dataset, cifar10: Dataset, tmp_path: Path, console: Console
) -> None:
    recipe = short(name)
    data = part_for(recipe, mnist, cifar10)
    straight = train(recipe, data, CPU, tmp_path / "straight.pt", console)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, CPU, tmp_path / "stopped.pt", ConsoleThatInterrupts(1))
    torch.rand(1)  # whatever the process drew meanwhile must not matter
    resumed = train(recipe, data, CPU, tmp_path / "stopped.pt", console)
    assert losses(resumed) == losses(straight)
    assert same_weights(resumed, straight)


def test_the_same_seed_gives_the_same_losses_and_another_gives_others(
    mnist: Dataset, tmp_path: Path, console: Console
) -> None:
    recipe, data = short("mnist-tiny"), part(mnist, 200, 0)
    first, again = (train(recipe, data, CPU, tmp_path / f"{run}.pt", console) for run in ("first", "again"))
    other = train(dataclasses.replace(recipe, seed=1), data, CPU, tmp_path / "other.pt", console)
    assert losses(first) == losses(again)
    assert set(losses(first)).isdisjoint(losses(other))


def test_a_finished_checkpoint_is_not_trained_again(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "done.pt"
    first = train(recipe, data, CPU, path, console)
    content = path.read_bytes()
    again = train(recipe, data, CPU, path, console)
    assert same_weights(first, again)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_a_few_images_by_heart(name: str, mnist: Dataset, cifar10: Dataset) -> None:
    """With its own preprocessing and optimizer; what cannot do that is wired wrongly."""
    # The widest network takes most of a second for a step, so it gets only two images, a frog and a truck.
    count, steps, rate = (2, 12, 1e-4) if name == "cifar10-vgg" else (10, 40, 3e-3)
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


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_the_checkpoint(
    mnist: Dataset, tmp_path: Path, console: Console
) -> None:
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
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.pt"]
    assert path.read_bytes() == content


def test_a_rate_far_too_high_leaves_no_checkpoint_at_all(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
    recipe = dataclasses.replace(RECIPES["cifar10-tiny"], learning_rate=1e30)
    with pytest.raises(DivergedError, match="epoch 1"):
        train(recipe, part(cifar10, 200, 0), CPU, tmp_path / "tiny.pt", console)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_or_recipe_is_refused(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "tiny.pt"
    train(recipe, data, CPU, path, console)
    with pytest.raises(CheckpointError, match="is a checkpoint of mnist-tiny, not of mnist-deep; remove it"):
        train(short("mnist-deep", 1), data, CPU, path, console)
    with pytest.raises(CheckpointError, match=r"another recipe \(epochs 1 there and 2 here\); remove it"):
        train(dataclasses.replace(recipe, epochs=2), data, CPU, path, console)


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_damaged_checkpoint_is_refused(mnist: Dataset, tmp_path: Path, console: Console, keep: int) -> None:
    """Cut off after some bytes, as a copy that stopped half way."""
    recipe, data, path = short("mnist-tiny", 1), part(mnist, 200, 0), tmp_path / "tiny.pt"
    train(recipe, data, CPU, path, console)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged; remove it"):
        train(recipe, data, CPU, path, console)


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    curve = rate_curve(dataclasses.replace(RECIPES["cifar10-cnn"], warmup=0.2), 100)
    rates = [curve(step) for step in range(101)]
    assert rates[0] < rates[10] < rates[19] < rates[20] == max(rates) == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    constant = rate_curve(RECIPES["mnist-tiny"], 100)
    assert {constant(step) for step in range(101)} == {1.0}


def test_ctrl_c_leaves_a_usable_checkpoint_and_exits_130(tmp_path: Path, data_dir: Path) -> None:
    """A real process, a real signal, in the middle of an epoch."""
    folders = ("--data-dir", data_dir, "--models-dir", tmp_path / "m", "--checkpoints-dir", tmp_path)
    line = command("training.export", "mnist-tiny", "--epochs", "50", "--device", "cpu", *folders)
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        status = process.wait()
    assert first.startswith("mnist-tiny: epoch 1/50")
    assert errors.startswith("error: interrupted; epochs that were finished are kept")
    assert "Traceback" not in errors
    assert status == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["mnist-tiny.pt"]
    state = checkpoint.load(tmp_path / "mnist-tiny.pt", short("mnist-tiny", 50))
    assert state is not None
    assert len(state["history"]) >= 1
