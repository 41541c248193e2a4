"""Weights kept along a run, and runs that begin where another one was."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from goldiprox.records.runs import RunFolder
from goldiprox.training.hooks import Hook
from goldiprox.training.run import Run

__all__ = ["KeepWeights", "Start", "load_start", "weights_at"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins instead of at fresh weights.

    Attributes:
        epoch: passes over the data that were done.
        weights: the model's state dict then.
        moments: the optimizer's state then, by the parameter's number.
    """

    epoch: int
    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]

    def apply(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put the states in place."""
        model.load_state_dict(self.weights)
        state = optimizer.state_dict()
        optimizer.load_state_dict({**state, "state": self.moments})


class KeepWeights(Hook):
    """Keeps a run's weights after some epochs, in its folder under ``weights``.

    Args:
        folder: the run's folder.
        epochs: when to keep the weights; 0 is before the first step.
        starts: when to keep the optimizer's state beside them, so that another run can go on there.
    """

    def __init__(
        self, folder: RunFolder, epochs: Collection[int], starts: Collection[int] = ()
    ) -> None:
        self._folder = folder
        self._epochs = frozenset(epochs) | frozenset(starts)
        self._starts = frozenset(starts)

    def started(self, run: Run) -> None:
        """Keep the initial weights."""
        if run.step == 0:
            self.epoch_ended(run, 0)

    def epoch_ended(self, run: Run, epoch: int) -> None:
        """Keep the weights if this epoch's are wanted."""
        if epoch in self._epochs:
            self._folder.save_weights(_weights(epoch), run.model.state_dict())
        if epoch in self._starts:
            state = run.optimizer.state_dict()["state"]
            moments = {f"{n}.{key}": t for n, one in state.items() for key, t in one.items()}
            self._folder.save_weights(_moments(epoch), moments)


def weights_at(folder: RunFolder, epoch: int) -> dict[str, Tensor]:
    """The weights that a run had after an epoch.

    Raises:
        CheckpointError: if they were not kept, or are damaged.
    """
    return folder.load_weights(_weights(epoch))


def load_start(folder: RunFolder, epoch: int) -> Start:
    """Where a run was after an epoch, for another one to go on from.

    Raises:
        CheckpointError: if this was not kept, or is damaged.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in folder.load_weights(_moments(epoch)).items():
        number, _, key = name.partition(".")
        moments.setdefault(int(number), {})[key] = value
    return Start(epoch=epoch, weights=weights_at(folder, epoch), moments=moments)


def _weights(epoch: int) -> str:
    return f"weights/epoch-{epoch:04d}"


def _moments(epoch: int) -> str:
    return f"weights/optimizer-{epoch:04d}"
