"""What a run is given, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from goldiprox.data.preprocess import Preprocess
from goldiprox.data.splits import Examples
from goldiprox.objectives import Objective
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import Ledger
from goldiprox.schema import ConfigError
from goldiprox.training.feed import Feeder

__all__ = ["CheckpointEvery", "Report", "Task", "Trained"]

Report = Callable[[int, int, str], None]
"""Called now and then with (steps done, steps in all, what to say)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run trains on and is evaluated on.

    Attributes:
        train: the training examples.
        evaluation: the examples that the curve is measured on.
        preprocess: makes the model's inputs.
        num_classes: size of the model's output.
        objective: what the model is trained for; the one that the settings name unless given.
    """

    train: Examples
    evaluation: Examples
    preprocess: Preprocess
    num_classes: int
    objective: Objective | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointEvery:
    """When to write a checkpoint: after so many seconds, or so many steps where given.

    Attributes:
        seconds: between checkpoints.
        steps: between checkpoints; overrides the seconds.
        exact: refuse to go on under other threads, processors or versions than the run had before.
    """

    seconds: float = 30.0
    steps: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(
                f"--checkpoint-seconds is {self.seconds}; give a positive number, such as 30"
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--checkpoint-steps is {self.steps}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run.

    Attributes:
        model: with its final weights, or the best ones where they were asked for.
        feeder: makes its batches.
        evaluations: in order.
        ledger: costs by phase.
        steps: training steps done.
    """

    model: nn.Module
    feeder: Feeder
    evaluations: list[Evaluation]
    ledger: Ledger
    steps: int
