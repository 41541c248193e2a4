"""One class an example: cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.batch import Batch, require_targets, targets_of
from goldiprox.objectives.base import (
    ACCURACY,
    MATTHEWS,
    Metric,
    Objective,
    choose,
    require_tensor,
    wide,
)
from goldiprox.schema import DataError, id_list

__all__ = ["Classification", "fit", "log_probabilities", "matthews", "require_logits"]

LANES = 16
"""Classes below which log_softmax over rows does not fill a CPU's vectors."""

TOLERANCE = 1e-3
"""By how much the probabilities of a soft label may miss a sum of one."""


class Classification(Objective):
    """One class an example, by cross-entropy in nats.

    The model gives logits_BC. Targets are class numbers of any integer type, [B] or [B, 1], or a
    probability for each class, [B, C] in rows that sum to one (soft labels, one-hot rows).
    """

    name = "classification"
    target_kind = "classes"
    metrics = (
        ACCURACY,
        Metric(name="loss", title="cross-entropy", higher_is_better=False, unit="nats"),
        MATTHEWS,
    )
    has_classes = True

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy of each example: loss_B in nats, NaN where the label is no class."""
        logits_BC, targets_B = self.fitted(output, batch)
        if targets_B.is_floating_point():  # a probability for each class
            loss_B = F.cross_entropy(logits_BC, targets_B, reduction="none")
            return loss_B.masked_fill(~is_distribution(targets_B), torch.nan)
        # Label -100 would cost nothing, and others would end the process on a GPU.
        safe_B = targets_B.clamp(0, logits_BC.shape[1] - 1)
        loss_B = F.cross_entropy(logits_BC, safe_B, reduction="none")
        return loss_B.masked_fill(safe_B != targets_B, torch.nan)

    def step(
        self, output: Any, batch: Batch, weights_k: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Objective.step`; the bits of torch's own mean cross-entropy."""
        logits_kC, targets_k = self.fitted(output, batch)
        correct_k = logits_kC.argmax(1) == _labels(targets_k)
        if weights_k is None and targets_k.dim() == 1:
            # The two halves of F.cross_entropy; the log-probabilities serve both reductions.
            log_probs_kC = logits_kC.log_softmax(1)
            loss_k = F.nll_loss(log_probs_kC.detach(), targets_k, reduction="none")
            return F.nll_loss(log_probs_kC, targets_k), loss_k, correct_k
        loss_k = F.cross_entropy(logits_kC, targets_k, reduction="none")
        mean = loss_k.mean() if weights_k is None else (loss_k * weights_k).mean()
        return mean, loss_k.detach(), correct_k

    def correct(self, output: Any, batch: Batch) -> Tensor:
        """Whether the most probable class is the label (of a soft label, its most probable)."""
        logits_BC, targets_B = self.fitted(output, batch)
        return logits_BC.argmax(1) == _labels(targets_B)

    def log_probs(self, output: Any) -> Tensor:
        """See :meth:`Objective.log_probs`."""
        return log_probabilities(require_logits(output))

    def targets(self, batch: Batch) -> Tensor | None:
        """Class numbers as int64 of shape [B]; soft labels as floats of shape [B, C]."""
        found = targets_of(batch)
        return None if found is None else _class_numbers(found)

    def fitted(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and targets in one form, their shapes and types checked.

        Returns:
            logits_BC, float32 or float64; targets_B, int64, or targets_BC of the logits' type.

        Raises:
            DataError: if the two do not fit each other or the objective.
        """
        targets_B = _class_numbers(require_targets(batch))
        return fit(output, targets_B)

    def require_values(self, targets: Tensor, ids: Tensor, width: int) -> None:
        """Refuse labels that are none of ``width`` classes, and rows that do not sum to one."""
        if not targets.numel():
            return
        if targets.is_floating_point():
            bad = ~is_distribution(targets)
            if bool(bad.any()):
                raise DataError(
                    f"the labels of ids {id_list(ids[bad])} are rows of numbers that do not sum "
                    f"to one, hence no probabilities of classes; {several_labels()}"
                )
            return
        lowest, highest = targets.aminmax()
        if int(lowest) >= 0 and int(highest) < width:
            return
        bad = (targets < 0) | (targets >= width)
        label = int(targets[bad][0])
        remedy = (
            "leave unlabelled examples out"
            if label < 0
            else "count labels from 0, or give the model an output for each class"
        )
        raise DataError(
            f"label {label} is none of the model's {width} classes, 0 to {width - 1} "
            f"({int(bad.sum())} such labels, ids {id_list(ids[bad])}); {remedy}"
        )

    def results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The predicted class, the label, and whether they are the same."""
        logits_BC, targets_B = self.fitted(output, batch)
        predicted_B, labels_B = logits_BC.argmax(1), _labels(targets_B)
        return {
            "predicted": predicted_B,
            "target": labels_B,
            "correct": predicted_B == labels_B,
        }

    def measure(self, loss_N: Tensor, results: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy and mean cross-entropy; Matthews correlation if no class is above 1."""
        predicted_N, targets_N = results["predicted"], results["target"]
        found = {
            "accuracy": float(results["correct"].double().mean()),
            "loss": float(loss_N.double().mean()),
        }
        if not loss_N.numel() or max(int(predicted_N.max()), int(targets_N.max())) > 1:
            return found
        return {**found, "matthews": matthews(predicted_N, targets_N)}


def log_probabilities(logits_BC: Tensor) -> Tensor:
    """log_softmax over the classes: log_probs_BC.

    For few classes a CPU takes several times as long along rows as along columns, which fill its
    vectors; the values are the same.
    """
    if logits_BC.device.type == "cpu" and logits_BC.dim() == 2 and logits_BC.shape[1] < LANES:
        return logits_BC.t().log_softmax(0).t().contiguous()
    return logits_BC.log_softmax(1)


def matthews(predicted_N: Tensor, targets_N: Tensor) -> float:
    """Matthews correlation of predictions and labels of two classes, -1 to 1.

    0 for chance, and where all labels or all predictions are of one class.

    Source: Matthews 1975; the metric of CoLA (Warstadt et al. 2019).
    """
    predicted_N, targets_N = predicted_N == 1, targets_N == 1
    count = len(targets_N)
    both = int((predicted_N & targets_N).sum())
    predicted, actual = int(predicted_N.sum()), int(targets_N.sum())
    spread = predicted * (count - predicted) * actual * (count - actual)
    return (count * both - predicted * actual) / math.sqrt(spread) if spread else 0.0


def require_logits(output: Any, size: int | None = None) -> Tensor:
    """Check a classifier's output by shape and type alone, which costs nothing.

    Args:
        output: what the model returned.
        size: how many examples it was run on, where that is to be checked.

    Returns:
        logits_BC, float32 or float64.

    Raises:
        DataError: naming the objective that would fit.
    """
    logits = require_tensor(output)
    shape = logits.shape
    if len(shape) != 2 or shape[1] < 2 or (size is not None and shape[0] != size):
        _refuse_output(logits, size)
    return logits if logits.dtype == torch.float32 else wide(logits)


def fit(output: Any, targets_B: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits against targets by shape and type alone.

    Raises:
        DataError: naming the objective that would fit.
    """
    logits_BC = require_logits(output)
    if targets_B.dim() != 1 or targets_B.is_floating_point():
        _require_distributions(logits_BC, targets_B)
        targets_B = targets_B.to(logits_BC.dtype)
    elif targets_B.shape[0] != logits_BC.shape[0]:
        raise DataError(
            f"the batch has {targets_B.shape[0]} labels, and the model's output has the shape "
            f"{tuple(logits_BC.shape)}; the first axis of both must be the examples"
        )
    if targets_B.device != logits_BC.device:
        targets_B = targets_B.to(logits_BC.device, non_blocking=True)
    return logits_BC, targets_B


def _refuse_output(output: Tensor, size: int | None) -> NoReturn:
    shape = tuple(output.shape)
    if output.dim() == 1 or (output.dim() == 2 and output.shape[1] < 2):
        raise DataError(
            f"the model gives one number an example (output of shape {shape}), and classification "
            "needs one for each class: give it an output for each class, or choose "
            f"{choose('multilabel')} for yes or no, regression for a number"
        )
    if output.dim() != 2:
        raise DataError(
            f"the model's output has the shape {shape}, and classification needs [examples, "
            f"classes]: choose {choose('language-model')} for a text's tokens, or an objective of "
            "your own as package.module:name"
        )
    raise DataError(
        f"the model's output has the shape {shape} for {size} examples; its first axis must be the "
        "examples"
    )


def _require_distributions(output: Tensor, targets_B: Tensor) -> None:
    """Refuse targets that are neither class numbers nor a row for each example."""
    if targets_B.shape == output.shape:
        return
    shape = tuple(targets_B.shape)
    if targets_B.dim() == 1 or shape[1:] == (1,):
        kind = str(targets_B.dtype).removeprefix("torch.")
        raise DataError(
            f"the labels are {kind} of shape {shape}, numbers rather than classes: choose "
            f"{choose('regression')}, or hand class numbers over as integers"
        )
    raise DataError(
        f"the labels have the shape {shape}, and classification needs one class an example (or a "
        f"probability for each of the model's {output.shape[1]} classes): choose "
        f"{choose('language-model')} for labels of tokens, multilabel for several labels an "
        "example, or an objective of your own"
    )


def several_labels() -> str:
    """The remedy for multi-hot rows."""
    return f"for several labels an example choose {choose('multilabel')}"


def _class_numbers(targets: Tensor) -> Tensor:
    """Integers of any type, and a column of them, as int64 of shape [B]; one-hot rows as floats."""
    if targets.dim() == 0:
        raise DataError("the batch has a single label for all examples; give each example one")
    if targets.is_complex():
        raise DataError("the labels are complex numbers, not classes; number the classes from 0")
    if targets.dim() == 1:
        return targets if targets.is_floating_point() else targets.long()
    if targets.is_floating_point():
        return targets
    if targets.dim() == 2 and targets.shape[1] == 1:
        return targets.squeeze(1).long()
    return targets.float()


def _labels(targets_B: Tensor) -> Tensor:
    return targets_B.argmax(1) if targets_B.is_floating_point() else targets_B


def is_distribution(targets_BC: Tensor) -> Tensor:
    """Bool of shape [B], whether a row is a probability for each class."""
    return (targets_BC >= 0).all(1) & ((targets_BC.sum(1) - 1).abs() <= TOLERANCE)
