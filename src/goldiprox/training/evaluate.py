"""Evaluate a classifier over a set of examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goldiprox.batch import default_logits
from goldiprox.data.examples import Examples
from goldiprox.evidence.forward import Precision, autocast, scoring_mode
from goldiprox.training.feed import Feeder

__all__ = ["Evaluated", "evaluate"]

EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Per-example results in the examples' order, on the CPU.

    Attributes:
        loss_N: cross-entropy, nats, float32.
        correct_N: whether the label was predicted.
    """

    loss_N: Tensor
    correct_N: Tensor

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
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    with torch.no_grad(), scoring_mode(model, "running"), autocast(feeder.device, precision):
        for start in range(0, len(examples), EVALUATION_BATCH):
            positions_B = torch.arange(start, min(start + EVALUATION_BATCH, len(examples)))
            batch = feeder(examples, positions_B)
            logits_BC, targets_B = default_logits(model, batch).float(), batch[2]
            losses.append(F.cross_entropy(logits_BC, targets_B, reduction="none"))
            correct.append(logits_BC.argmax(1) == targets_B)
    return Evaluated(loss_N=torch.cat(losses).cpu(), correct_N=torch.cat(correct).cpu())
