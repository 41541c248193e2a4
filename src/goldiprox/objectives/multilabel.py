"""Any number of labels an example: binary cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.batch import Batch, require_targets
from goldiprox.objectives.base import Metric, Objective, choose, require_tensor, wide
from goldiprox.schema import DataError, id_list

__all__ = ["Multilabel"]


class Multilabel(Objective):
    """Yes or no for each of several labels, by binary cross-entropy in nats, mean over the labels.

    The model gives a logit for each label, [B, C], or [B] for a single one; targets have the same
    shape, 0 or 1 (or a probability) for each label, of any type.
    """

    name = "multilabel"
    target_kind = "label sets"
    metrics = (
        Metric(name="micro_f1", title="micro F1", higher_is_better=True, unit="share"),
        Metric(name="macro_f1", title="macro F1", higher_is_better=True, unit="share"),
        Metric(
            name="mean_average_precision",
            title="mean average precision",
            higher_is_better=True,
            unit="share",
        ),
        Metric(name="exact", title="all labels right", higher_is_better=True, unit="share"),
        Metric(name="loss", title="binary cross-entropy", higher_is_better=False, unit="nats"),
    )

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Binary cross-entropy, mean over the labels: loss_B in nats."""
        logits_BC, targets_BC = self.fitted(output, batch)
        loss_B = F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none").mean(1)
        return loss_B.masked_fill(~_is_valid(targets_BC).all(1), torch.nan)

    def correct(self, output: Any, batch: Batch) -> Tensor:
        """Whether all labels are right, a label being predicted from a probability of one half."""
        logits_BC, targets_BC = self.fitted(output, batch)
        return ((logits_BC > 0) == (targets_BC > 0.5)).all(1)

    def fitted(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and targets, both [B, C] and floating-point.

        Raises:
            DataError: if their shapes differ.
        """
        logits, targets = require_tensor(output), require_targets(batch)
        logits_BC = logits.unsqueeze(1) if logits.dim() == 1 else logits
        targets_BC = targets.unsqueeze(1) if targets.dim() == 1 else targets
        if logits_BC.dim() != 2 or logits_BC.shape != targets_BC.shape or targets.is_complex():
            raise DataError(
                f"the model's output has the shape {tuple(logits.shape)} and the labels "
                f"{tuple(targets.shape)}; objective multilabel needs a logit and a 0 or 1 for each "
                f"label, both [examples, labels]: for one class an example choose "
                f"{choose('classification')}"
            )
        logits_BC = wide(logits_BC)
        return logits_BC, targets_BC.to(logits_BC.device, logits_BC.dtype, non_blocking=True)

    def require_values(self, targets: Tensor, ids: Tensor, width: int) -> None:
        """Refuse values that are not between 0 and 1."""
        del width
        targets_BC = targets.unsqueeze(1) if targets.dim() == 1 else targets
        bad = ~_is_valid(targets_BC).all(1)
        if bool(bad.any()):
            raise DataError(
                f"{int(bad.sum())} examples have labels that are not 0 or 1 (ids "
                f"{id_list(ids[bad])}); give each label a column of 0 and 1, and leave out "
                "examples whose labels are unknown"
            )

    def results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Logits, which labels there are, and whether all are right."""
        logits_BC, targets_BC = self.fitted(output, batch)
        present_BC = targets_BC > 0.5
        correct_B = ((logits_BC > 0) == present_BC).all(1)
        return {"logits": logits_BC.float(), "present": present_BC, "correct": correct_B}

    def measure(self, loss_N: Tensor, results: Mapping[str, Tensor]) -> dict[str, float]:
        """F1 over all decisions and as mean over labels, mean average precision and mean loss.

        F1 is 0 where nothing is there and nothing is predicted, as in scikit-learn. A label without
        a positive example has no average precision and is left out of the mean.
        """
        from sklearn.metrics import average_precision_score, f1_score

        logits_NC, present_NC = results["logits"].numpy(), results["present"].numpy()
        predicted_NC = logits_NC > 0
        found = {
            "exact": float(results["correct"].double().mean()),
            "loss": float(loss_N.double().mean()),
            "micro_f1": _f1(f1_score, present_NC, predicted_NC),
        }
        by_label_C = [
            _f1(f1_score, present_NC[:, c], predicted_NC[:, c]) for c in range(logits_NC.shape[1])
        ]
        found["macro_f1"] = sum(by_label_C) / len(by_label_C)
        precisions = [
            float(average_precision_score(present_NC[:, c], logits_NC[:, c]))
            for c in np.flatnonzero(present_NC.any(0))
        ]
        if precisions:
            found["mean_average_precision"] = sum(precisions) / len(precisions)
        return found


def _f1(f1_score: Any, present: Any, predicted: Any) -> float:
    """F1 of all decisions together."""
    return float(f1_score(present.ravel(), predicted.ravel(), zero_division=0.0))


def _is_valid(targets: Tensor) -> Tensor:
    return (targets >= 0) & (targets <= 1)
