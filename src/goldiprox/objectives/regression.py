"""Numbers: squared, absolute or Huber's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.batch import Batch, require_targets
from goldiprox.objectives.base import LOSS, Metric, Objective, choose, require_tensor, wide
from goldiprox.schema import ConfigError, DataError, id_list

__all__ = ["Kind", "Regression"]

Kind = Literal["squared", "absolute", "huber"]

RMSE = Metric(name="rmse", title="RMSE", higher_is_better=False, unit="target")
MAE = Metric(name="mae", title="MAE", higher_is_better=False, unit="target")
R2 = Metric(name="r2", title="R²", higher_is_better=True)


class Regression(Objective):
    """One or several numbers an example.

    The model gives [B] or [B, D], targets have as many numbers an example, of any type. The loss is
    the mean over an example's numbers of the squared error, the absolute error, or Huber's loss
    (half of the squared error up to ``delta``, and linear from there).

    Args:
        kind: of the loss.
        delta: where Huber's loss becomes linear, in units of the target.

    Raises:
        ConfigError: for another kind, or a delta that is not positive.
    """

    target_kind = "numbers"

    def __init__(self, kind: Kind = "squared", delta: float = 1.0) -> None:
        if kind not in ("squared", "absolute", "huber"):
            raise ConfigError(f'regression by "{kind}"; use squared, absolute or huber')
        if not (math.isfinite(delta) and delta > 0):
            raise ConfigError(f"delta of Huber's loss is {delta}; it must be a positive number")
        self.kind = kind
        self.delta = delta
        self.name = "regression" if kind == "squared" else f"regression-{kind}"
        first = (RMSE, MAE) if kind == "squared" else (MAE, RMSE)
        self.metrics = (*first, R2, LOSS)

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """The loss, mean over an example's numbers: loss_B."""
        predicted_BD, targets_BD = self.fitted(output, batch)
        if self.kind == "squared":
            loss_BD = F.mse_loss(predicted_BD, targets_BD, reduction="none")
        elif self.kind == "absolute":
            loss_BD = F.l1_loss(predicted_BD, targets_BD, reduction="none")
        else:
            loss_BD = F.huber_loss(predicted_BD, targets_BD, reduction="none", delta=self.delta)
        return loss_BD.mean(1)

    def fitted(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions and targets, both [B, D] and floating-point.

        Raises:
            DataError: if they have not as many numbers an example.
        """
        predicted, targets = require_tensor(output), require_targets(batch)
        shapes = tuple(predicted.shape), tuple(targets.shape)
        if not targets.dim() or shapes[0][0] != shapes[1][0]:
            raise DataError(
                f"the model's output has the shape {shapes[0]} and the targets {shapes[1]}; the "
                "first axis of both must be the examples"
            )
        predicted_BD, targets_BD = _rows(wide(predicted)), _rows(targets)
        if targets.is_complex():
            raise DataError("the targets are complex numbers; give their two parts as two targets")
        # [B] against [B, 1] would broadcast to [B, B].
        if predicted_BD.shape != targets_BD.shape:
            raise DataError(
                f"the model's output has the shape {shapes[0]} and the targets {shapes[1]}; "
                "objective regression needs as many outputs as targets an example: for classes "
                f"choose {choose('classification')}"
            )
        to = predicted_BD.device, predicted_BD.dtype
        return predicted_BD, targets_BD.to(*to, non_blocking=True)

    def require_values(self, targets: Tensor, ids: Tensor, width: int) -> None:
        """Refuse targets that are NaN or infinite."""
        del width
        bad = ~torch.isfinite(_rows(targets)).all(1)
        if bool(bad.any()):
            raise DataError(
                f"the targets of {int(bad.sum())} examples are NaN or infinite (ids "
                f"{id_list(ids[bad])}); leave examples without a target out"
            )

    def results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Predictions and targets."""
        predicted_BD, targets_BD = self.fitted(output, batch)
        return {"predicted": predicted_BD, "target": targets_BD}

    def measure(self, loss_N: Tensor, results: Mapping[str, Tensor]) -> dict[str, float]:
        """RMSE, MAE, R² (mean over outputs, of targets that vary) and the mean loss."""
        targets_ND = results["target"].double()
        error_ND = results["predicted"].double() - targets_ND
        found = {
            "rmse": float(error_ND.square().mean().sqrt()),
            "mae": float(error_ND.abs().mean()),
            "loss": float(loss_N.double().mean()),
        }
        spread_D = (targets_ND - targets_ND.mean(0)).square().sum(0)
        varying = spread_D > 0
        if bool(varying.any()):
            r2_D = 1 - error_ND.square().sum(0)[varying] / spread_D[varying]
            found["r2"] = float(r2_D.mean())
        return found


def _rows(values: Tensor) -> Tensor:
    """[B] and [B, ...] as [B, D]."""
    return values.unsqueeze(1) if values.dim() == 1 else values.flatten(1)
