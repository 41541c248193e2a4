"""What hooks and checkpoints see of a run."""

from __future__ import annotations

from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from goldiprox.config import TrainConfig
from goldiprox.objectives import Objective
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import Clock, Ledger
from goldiprox.selection.plans import Draw
from goldiprox.training.feed import Feeder
from goldiprox.training.optimization import Stepped
from goldiprox.training.task import Task

__all__ = ["Run"]


class Run(Protocol):
    """A run as it goes; everything here is read, never set.

    The reference loop is one. Whatever else trains, and has these attributes, can be watched by the
    same hooks.
    """

    @property
    def config(self) -> TrainConfig:
        """Its settings."""
        ...

    @property
    def task(self) -> Task:
        """The data."""
        ...

    @property
    def objective(self) -> Objective:
        """What the model is trained for."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model, on its device."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer."""
        ...

    @property
    def feeder(self) -> Feeder:
        """Makes the model's batches."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Costs by phase."""
        ...

    @property
    def clock(self) -> Clock:
        """Charges what happens inside it: ``with run.clock("scoring", examples=n): ...``."""
        ...

    @property
    def first(self) -> int:
        """The step that the run began at: 0, unless it goes on where another one was."""
        ...

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        ...

    @property
    def drawn(self) -> Draw | None:
        """What the last step drew."""
        ...

    @property
    def stepped(self) -> Stepped | None:
        """What the last step saw."""
        ...

    @property
    def evaluations(self) -> list[Evaluation]:
        """The curve so far."""
        ...
