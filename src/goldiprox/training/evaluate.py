"""Evaluate a model over a set of examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goldiprox.batch import model_output
from goldiprox.data.examples import Examples
from goldiprox.evidence.mode import Precision, autocast, scoring_mode
from goldiprox.objectives import CLASSIFICATION, Objective, require_losses
from goldiprox.training.feed import Feeder

__all__ = ["Evaluated", "evaluate"]

EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Per-example results in the examples' order, on the CPU, and the metrics of all together.

    Attributes:
        loss_N: losses, float32.
        correct_N: bool, whether each is predicted correctly; None where nothing is right or wrong.
        results: what else the objective keeps of each example, see
            :meth:`~goldiprox.objectives.Objective.results`.
        metrics: values by the name of the objective's metrics.
    """

    loss_N: Tensor
    correct_N: Tensor | None
    results: Mapping[str, Tensor]
    metrics: Mapping[str, float]

    @property
    def mean_loss(self) -> float:
        """Mean loss."""
        return float(self.loss_N.double().mean())


def evaluate(
    model: nn.Module,
    examples: Examples,
    feeder: Feeder,
    precision: Precision = "float32",
    objective: Objective = CLASSIFICATION,
) -> Evaluated:
    """Evaluate un-augmented, in evaluation mode, with stored BatchNorm statistics; no side effects.

    Args:
        model: on the feeder's device.
        examples: what to evaluate on.
        feeder: makes the batches.
        precision: ``bf16`` runs under autocast; losses are float32 either way.
        objective: what the model is trained for.
    """
    order_N = feeder.order(examples)
    losses: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {}
    code = (objective.losses, objective.results)
    with (
        torch.no_grad(),
        scoring_mode(model, "running", code),
        autocast(feeder.device, precision),
    ):
        parts = order_N.split(EVALUATION_BATCH)
        for positions_B, following in zip(parts, [*parts[1:], None], strict=True):
            if following is not None:
                examples.prefetch(following)
            batch = feeder(examples, positions_B)
            output = model_output(model, batch)
            losses.append(require_losses(objective.losses(output, batch), batch, objective.name))
            for name, values in objective.results(output, batch).items():
                kept.setdefault(name, []).append(values)
    place_N = order_N.argsort()
    loss_N = torch.cat(losses).float().cpu()[place_N]
    results = {name: torch.cat(values).cpu()[place_N] for name, values in kept.items()}
    return Evaluated(
        loss_N=loss_N,
        correct_N=results.get("correct"),
        results=results,
        metrics=objective.measure(loss_N, results),
    )
