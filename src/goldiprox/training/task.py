"""What a run is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from goldiprox.data.preprocess import Preprocess
from goldiprox.data.splits import Examples
from goldiprox.records.ledger import Ledger
from goldiprox.training.feed import Feeder

__all__ = ["CheckpointEvery", "Evaluation", "Report", "Task", "Trained"]

Report = Callable[[int, int, str], None]
"""Called now and then with (steps done, steps in all, what to say)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run trains on and is evaluated on."""

    train: Examples
    evaluation: Examples
    preprocess: Preprocess
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A point on the curve.

    Attributes:
        step: training steps done.
        epoch: passes over the pools done, fractional.
        examples: examples trained on so far.
        accuracy: share of the evaluation set classified correctly.
        loss: mean cross-entropy on it, nats.
        matthews: Matthews correlation on it; None unless there are two classes.
        seconds: wall seconds of loading, scoring and training so far (no evaluation).
        flops: floating-point operations of the same.
    """

    step: int
    epoch: float
    examples: int
    accuracy: float
    loss: float
    matthews: float | None = None
    seconds: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class CheckpointEvery:
    """When to write a checkpoint: after so many seconds, or so many steps where given."""

    seconds: float = 30.0
    steps: int | None = None


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
