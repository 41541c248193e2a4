"""What a model's outputs tell of each candidate: losses, probabilities, norms.

Classification has a way of its own, :class:`ClassOutputs`: one log-softmax serves all that is asked
for, and the outputs of several batches are worked on together. :func:`evidence_of` serves every
other objective.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.batch import Batch, ids_of, require_targets
from goldiprox.evidence.gradients import (
    LastLayer,
    last_layer_norms,
    logit_gradient_norms,
    require_vectors,
    scaled_by_features,
)
from goldiprox.objectives import Objective, log_probabilities, require_losses
from goldiprox.objectives.classification import is_distribution
from goldiprox.schema import ConfigError, Evidence

__all__ = ["HELD_VALUES", "LABEL_FIELDS", "ClassOutputs", "evidence_of", "put"]

HELD_VALUES = 1 << 18
"""Logits and features of several batches that are held back, to compute what they tell at once."""

LABEL_FIELDS = frozenset({"loss_B", "grad_norm_bound_B", "grad_norm_last_layer_B", "grad_norm_B"})
"""What cannot be told without the labels."""

SLOPE_FIELDS = frozenset({"grad_norm_bound_B", "grad_norm_last_layer_B"})
"""What stands on the gradient of the loss with respect to the output."""


@dataclass(frozen=True, kw_only=True)
class ClassOutputs:
    """What a classifier made of some candidates, in their order."""

    ids_B: Tensor
    targets_B: Tensor | None
    logits_BC: Tensor
    features_BD: Tensor | None
    feature_norm_B: Tensor | None
    """Of the last layer's inputs, where these themselves are not asked for."""
    bias: bool
    """Whether the last layer has one."""

    @property
    def values(self) -> int:
        """How many numbers are kept."""
        features = 0 if self.features_BD is None else self.features_BD.numel()
        return self.logits_BC.numel() + features

    def told(self, wanted: Collection[str]) -> dict[str, Tensor]:
        """The evidence fields asked for, of those that logits and features tell."""
        told: dict[str, Tensor] = {}
        if self.features_BD is not None:
            told["features_BD"] = self.features_BD
        slopes = not SLOPE_FIELDS.isdisjoint(wanted)
        if slopes or "loss_B" in wanted or "log_probs_BC" in wanted:
            log_probs_BC = log_probabilities(self.logits_BC)
            told["log_probs_BC"] = log_probs_BC
            if "loss_B" in wanted:
                told["loss_B"] = self._losses(log_probs_BC)
            if slopes:
                bound_B = self._bounds(log_probs_BC)
                told["grad_norm_bound_B"] = bound_B
                if self.feature_norm_B is not None:
                    told["grad_norm_last_layer_B"] = scaled_by_features(
                        bound_B, self.feature_norm_B, bias=self.bias
                    )
        return {field: value for field, value in told.items() if field in wanted}

    def _losses(self, log_probs_BC: Tensor) -> Tensor:
        targets_B = self._labels()
        if targets_B.is_floating_point():  # a probability for each class
            loss_B = F.cross_entropy(self.logits_BC, targets_B, reduction="none")
            if targets_B.device.type == "cpu":
                return loss_B
            return loss_B.masked_fill_(~is_distribution(targets_B), torch.nan)
        if targets_B.device.type == "cpu":  # their values have been looked at
            return F.nll_loss(log_probs_BC, targets_B, reduction="none")
        safe_B = targets_B.clamp(0, log_probs_BC.shape[1] - 1)
        loss_B = F.nll_loss(log_probs_BC, safe_B, reduction="none")
        return loss_B.masked_fill_(safe_B != targets_B, torch.nan)

    def _bounds(self, log_probs_BC: Tensor) -> Tensor:
        targets_B = Evidence(ids_B=self.ids_B, targets_B=self._labels()).classes()
        if targets_B.device.type == "cpu":
            return logit_gradient_norms(log_probs_BC, targets_B)
        safe_B = targets_B.clamp(0, log_probs_BC.shape[1] - 1)
        bound_B = logit_gradient_norms(log_probs_BC, safe_B)
        return bound_B.masked_fill_(safe_B != targets_B, torch.nan)

    def _labels(self) -> Tensor:
        """The targets, or a DataError that says where labels belong."""
        return require_targets((self.ids_B, None, self.targets_B))


def put(room: Tensor | None, part: Tensor, rows: int) -> Tensor:
    """Write rows behind the first ``rows`` of a buffer, which is made or enlarged where needed."""
    end = rows + len(part)
    if room is None or end > len(room):
        larger = part.new_empty((max(2 * end, HELD_VALUES // 64), *part.shape[1:]))
        if room is not None:
            larger[:rows] = room[:rows]
        room = larger
    room[rows:end] = part
    return room


def evidence_of(
    objective: Objective,
    output: Any,
    batch: Batch,
    wanted: Collection[str],
    last: LastLayer | None,
) -> dict[str, Tensor]:
    """What a model's output tells of some candidates, whatever the objective.

    Args:
        objective: what the model is trained for.
        output: of the model on ``batch``.
        batch: the candidates.
        wanted: evidence fields.
        last: what was caught of the last linear layer, where features are wanted.

    Returns:
        The fields asked for, float32.

    Raises:
        ConfigError: if the objective or the model has no such thing.
    """
    told: dict[str, Tensor] = {}
    size = int(ids_of(batch).shape[0])
    if not SLOPE_FIELDS.isdisjoint(wanted):
        told["loss_B"], slope = _slopes(objective, output, batch)
        told["grad_norm_bound_B"] = _norms(slope)
        if last is not None and "grad_norm_last_layer_B" in wanted:
            told["grad_norm_last_layer_B"] = last_layer_norms(
                slope, last.features_BD, bias=last.bias
            )
        bad_B = told["loss_B"].isnan()  # no gradient comes through what is no loss
        told = {field: value.masked_fill(bad_B, torch.nan) for field, value in told.items()}
    elif "loss_B" in wanted:
        told["loss_B"] = require_losses(objective.losses(output, batch), batch, objective.name)
    if "log_probs_BC" in wanted:
        told["log_probs_BC"] = objective.log_probs(output)
    if last is not None and "features_BD" in wanted:
        told["features_BD"] = require_vectors(last.features_BD, size)
    return {field: value.detach().float() for field, value in told.items() if field in wanted}


def _slopes(objective: Objective, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """loss_B, and the gradient of each loss with respect to the output: as the output is shaped."""
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"the model returned a {type(output).__name__}, and the gradient of the loss with "
            "respect to the output is taken of one tensor; choose by grad-norm, or by the loss"
        )
    with torch.enable_grad():
        leaf = output.detach().float().requires_grad_()
        loss_B = require_losses(objective.losses(leaf, batch), batch, objective.name)
        (slope,) = torch.autograd.grad(loss_B.sum(), leaf)
    return loss_B.detach(), slope


def _norms(slope: Tensor) -> Tensor:
    if slope.dim() == 1:
        return slope.abs()
    norm_B: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return norm_B
