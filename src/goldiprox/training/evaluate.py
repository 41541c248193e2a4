"""Evaluate a classifier over a set of examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goldiprox.batch import default_logits
from goldiprox.data.examples import Examples
from goldiprox.evidence.mode import Precision, autocast, scoring_mode
from goldiprox.training.feed import Feeder

__all__ = ["Evaluated", "evaluate"]

EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Per-example results in the examples' order, on the CPU.

    Attributes:
        loss_N: cross-entropy, nats, float32.
        predicted_N: int64, the most probable class.
        targets_N: int64, the label.
    """

    loss_N: Tensor
    predicted_N: Tensor
    targets_N: Tensor

    @property
    def correct_N(self) -> Tensor:
        """Bool, whether the label was predicted."""
        return self.predicted_N == self.targets_N

    @property
    def matthews(self) -> float:
        """Matthews correlation of predictions and labels of two classes, -1 to 1.

        0 for chance, and where all labels or all predictions are of one class.

        Source: Matthews 1975; the metric of CoLA (Warstadt et al. 2019).
        """
        predicted_N, targets_N = self.predicted_N == 1, self.targets_N == 1
        count = len(targets_N)
        both = int((predicted_N & targets_N).sum())
        predicted, actual = int(predicted_N.sum()), int(targets_N.sum())
        spread = predicted * (count - predicted) * actual * (count - actual)
        return (count * both - predicted * actual) / math.sqrt(spread) if spread else 0.0

    @property
    def accuracy(self) -> float:
        """Share predicted correctly."""
        return float(self.correct_N.double().mean())

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy, nats."""
        return float(self.loss_N.double().mean())


def evaluate(
    model: nn.Module, examples: Examples, feeder: Feeder, precision: Precision = "float32"
) -> Evaluated:
    """Evaluate un-augmented, in evaluation mode, with stored BatchNorm statistics; no side effects.

    Args:
        model: a classifier on the feeder's device.
        examples: what to evaluate on.
        feeder: makes the batches.
        precision: ``bf16`` runs under autocast; losses are float32 either way.
    """
    order_N = feeder.order(examples)
    losses: list[Tensor] = []
    predicted: list[Tensor] = []
    with torch.no_grad(), scoring_mode(model, "running"), autocast(feeder.device, precision):
        parts = order_N.split(EVALUATION_BATCH)
        for positions_B, following in zip(parts, [*parts[1:], None], strict=True):
            if following is not None:
                examples.prefetch(following)
            batch = feeder(examples, positions_B)
            logits_BC, targets_B = default_logits(model, batch).float(), batch[2]
            losses.append(F.cross_entropy(logits_BC, targets_B, reduction="none"))
            predicted.append(logits_BC.argmax(1))
    place_N = order_N.argsort()
    return Evaluated(
        loss_N=torch.cat(losses).cpu()[place_N],
        predicted_N=torch.cat(predicted).cpu()[place_N],
        targets_N=examples.targets_N,
    )
