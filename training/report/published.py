"""What the source documents publish about their networks, to be set beside our own figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """What a source document gives for a network; percentages as printed there."""

    document: str
    losses: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """For epochs from 1: the mean loss, or the least and the largest of the means that it prints in that epoch."""
    first_loss: float | None = None
    """Mean loss of the first 2,000 batches."""
    test: float | None = None
    train: float | None = None


def _exactly(*losses: float) -> dict[int, tuple[float, float]]:
    return {epoch: (loss, loss) for epoch, loss in enumerate(losses, start=1)}


# By network; those not named here are ours.
PUBLISHED = {
    "mnist-tiny": Published("000"),
    "cifar10-cnn": Published("001"),
    "mnist-deep": Published("002"),
    "cifar10-tiny": Published("003", {4: (0.94, 1.04), 5: (0.94, 1.04)}, first_loss=1.782),
    "cifar10-lenet": Published(
        "004", _exactly(1.6373, 1.3495, 1.2232, 1.1402, 1.0829, 1.0246, 0.9847, 0.9444, 0.9085, 0.8776), test=63.35
    ),
    "cifar10-vgg": Published(
        "004",
        _exactly(1.7319, 1.2856, 1.0517, 0.9135, 0.8232, 0.7474, 0.6840, 0.6324, 0.6030, 0.5668),
        test=74.71,
        train=86.02,
    ),
    "cifar10-vgg-bn": Published("004"),
}
# The same network and document; only what it is trained in differs.
PUBLISHED["cifar10-lenet-bf16"] = PUBLISHED["cifar10-lenet"]
