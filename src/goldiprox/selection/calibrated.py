"""Reducible loss at a temperature that is fitted while training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from goldiprox.schema import Evidence, Selection
from goldiprox.selection.functions import label_losses
from goldiprox.selection.ranking import tie_key, top_k

__all__ = ["CalibratedReducibleLoss", "fit_sharpness"]

BOUNDS = (0.02, 50.0)
"""Of the sharpness: a temperature between 0.02 and 50."""

FIRST_STEPS, LATER_STEPS = 10, 1
"""Newton steps on the first pool, and on every later one, which starts near the minimum."""


def fit_sharpness(log_probs_BC: Tensor, targets_B: Tensor, start: Tensor, *, steps: int) -> Tensor:
    """The sharpness (1 / temperature) that makes labels most likely: a scalar tensor.

    The mean loss of softmax(sharpness x logits) is convex in the sharpness; a few Newton steps in
    its logarithm, each at most a factor of e, find the minimum without leaving the device.

    Args:
        log_probs_BC: log-probabilities (or logits), float64.
        targets_B: labels.
        start: where to start, a positive scalar.
        steps: how many Newton steps.
    """
    finite_BC = log_probs_BC.clamp(min=torch.finfo(torch.float32).min / 1e3)
    label_B = finite_BC.gather(1, targets_B.unsqueeze(1)).squeeze(1)
    log_sharpness = start.log()
    for _ in range(steps):
        sharpness = log_sharpness.exp()
        probs_BC = (sharpness * finite_BC).softmax(1)
        weighted_BC = probs_BC * finite_BC
        mean_B = weighted_BC.sum(1)
        variance_B = (weighted_BC * finite_BC).sum(1) - mean_B.square()
        slope = sharpness * (mean_B - label_B).mean()
        # The curvature in the logarithm; its indefinite part is left out far from the minimum.
        curvature = sharpness.square() * variance_B.mean() + slope.clamp(min=0.0)
        step = slope / curvature.clamp(min=1e-12)
        log_sharpness = (log_sharpness - step.clamp(-1.0, 1.0)).exp().clamp(*BOUNDS).log()
    return log_sharpness.exp()


@dataclass
class CalibratedReducibleLoss:
    """Choose the highest reducible loss, the learner's loss taken at a fitted temperature.

    A learner that grows over-confident has a loss of many nats on a wrong label, where the
    irreducible-loss model, stopped at its lowest held-out loss and so calibrated, has a mild one.
    At the temperature at which the learner's own probabilities are most likely on data that it is
    about to be trained on, both speak with the same confidence.

    The temperature of each pool is the likeliest one, and the running mean over the pools before
    scores the next: no example's label decides its own score's temperature (but in the first pool).

    Source: goldiprox; temperature scaling is that of Guo et al. 2017 (arXiv:1706.04599).

    Attributes:
        smoothing: weight of the past in the running mean of the temperature's logarithm.
        log_sharpness: state; None before the first pool.
    """

    smoothing: float = 0.9
    log_sharpness: Tensor | None = field(default=None, compare=False)

    def start(self) -> CalibratedReducibleLoss:
        """A copy for a new run."""
        return CalibratedReducibleLoss(self.smoothing)

    def state_dict(self) -> dict[str, Tensor | None]:
        """For checkpoints."""
        return {"log_sharpness": self.log_sharpness}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from a checkpoint."""
        self.log_sharpness = state["log_sharpness"]

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs log-probabilities, labels and irreducible losses. Moves the temperature."""
        checked_B = label_losses(evidence) + evidence.need("irreducible_B")
        if len(evidence) == 0:
            return Selection.of(evidence.ids_B, evidence.ids_B)
        log_probs_BC = evidence.need("log_probs_BC").double()
        targets_B = evidence.classes()
        past = self.log_sharpness
        start = log_probs_BC.new_zeros(()) if past is None else past.to(log_probs_BC.device)
        steps = FIRST_STEPS if past is None else LATER_STEPS
        now = fit_sharpness(log_probs_BC, targets_B, start.exp(), steps=steps).log()
        # Rounded: the last digits of a sum over the pool depend on the pool's order.
        used = now.float().double() if past is None else start
        sharp_BC = (used.exp() * log_probs_BC).log_softmax(1)
        loss_B = -sharp_BC.gather(1, targets_B.unsqueeze(1)).squeeze(1)
        scores_B = (loss_B - evidence.need("irreducible_B")).float()
        key, what = tie_key(generator), "calibrated reducible loss"
        positions_k = top_k(scores_B, evidence.ids_B, k, key, checked_B=checked_B, what=what)
        self.log_sharpness = (used + (1.0 - self.smoothing) * (now - used)).float().double()
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)
