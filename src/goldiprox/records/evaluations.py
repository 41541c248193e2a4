"""A point on a run's curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Evaluation"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A point on the curve.

    Attributes:
        step: training steps done.
        epoch: passes over the pools done, fractional.
        examples: examples trained on so far.
        loss: mean loss on the evaluation set.
        accuracy: share of it classified correctly; None where the objective has no accuracy.
        matthews: Matthews correlation on it; None unless there are two classes.
        metrics: all metrics of the objective by name; empty in records of version 0.1.0.
        seconds: wall seconds of loading, scoring and training so far (no evaluation).
        flops: floating-point operations of the same.
    """

    step: int
    epoch: float
    examples: int
    accuracy: float | None
    loss: float
    matthews: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    flops: float
