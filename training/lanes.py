"""A batch in parts that are computed side by side, each by a thread of its own with its own copy of the network.

All threads of PyTorch meet after every layer, and the layers of a small network are so short that they mostly wait: on
two Zen 5 cores, beside other work, a residual network of 28 M multiply-accumulates trained at 152 images/s so, and at
510 in two lanes (medians of twelve steps, OMP_WAIT_POLICY=passive); a second of a core gave 550 and 1,282 images.
Lanes meet once a step.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

Compute = Callable[[nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Lanes:
    """So many networks with the same weights, of which the first is the one that is given.

    Batch norm takes its statistics from each part alone, as it does on several GPUs; those that stay are the first's.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        self._networks = [network]
        for _ in range(count - 1):
            twin = copy.deepcopy(network)
            for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
                theirs.data = ours.data  # the very same memory: what the optimizer changes, it changes for all
            self._networks.append(twin)

    def train(self) -> None:
        """Bring all networks into training mode."""
        for network in self._networks:
            network.train()

    def follow(self, compute: Compute, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the gradient of a batch's mean loss in the first network, in place of an earlier one.

        `compute` gives the mean loss and another tensor for these of the `rows`. Gives the whole batch's.
        """
        parts = torch.chunk(rows, len(self._networks))

        def lane(network: nn.Module, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            network.zero_grad()
            loss, other = compute(network, part)
            loss = loss * (len(part) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call] # so in PyTorch
            return loss.detach(), other.detach()

        networks = self._networks[: len(parts)]
        if len(parts) == 1 or rows.device.type != "cpu":
            found = [lane(network, part) for network, part in zip(networks, parts, strict=True)]
        else:
            found = self._side_by_side(lane, networks, parts)
        for network in networks[1:]:
            for ours, theirs in zip(networks[0].parameters(), network.parameters(), strict=True):
                if ours.grad is not None and theirs.grad is not None:
                    ours.grad += theirs.grad
        losses, others = zip(*found, strict=True)
        return torch.stack(losses).sum(), torch.cat(others)

    def _side_by_side(
        self, lane: Compute, networks: list[nn.Module], parts: tuple[torch.Tensor, ...]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // len(networks)))  # taken over by threads that begin now
        try:
            with ThreadPoolExecutor(len(networks)) as pool:
                return list(pool.map(lane, networks, parts))
        finally:
            torch.set_num_threads(threads)
