"""Choosing for the worst class: REDUCR."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from goldiprox.schema import Evidence, Selection
from goldiprox.selection.functions import label_losses
from goldiprox.selection.ranking import tie_key, top_k

__all__ = ["ClassRobust", "class_irreducible_losses"]


def class_irreducible_losses(
    irreducible_B: Tensor, targets_B: Tensor, classes: int, emphasis: float
) -> Tensor:
    """Losses under models that know one class better than the others: class_irreducible_BC, nats.

    REDUCR trains C irreducible-loss models; model c weights the holdout examples of class c by
    1 + emphasis. The best such model is known in closed form from the plain one: probabilities
    p(y|x), with p(c|x) multiplied by 1 + emphasis, normalised again. Of p(.|x) a table of
    irreducible losses tells p of the label alone; the rest is spread evenly here over the other
    classes.

    Args:
        irreducible_B: irreducible losses, nats.
        targets_B: labels.
        classes: C.
        emphasis: gamma of the paper, positive.
    """
    prob_B = (-irreducible_B).exp()
    label_B = irreducible_B + (emphasis * prob_B).log1p() - math.log1p(emphasis)
    other_B = irreducible_B + (emphasis * (1.0 - prob_B) / max(1, classes - 1)).log1p()
    others_BC = other_B.unsqueeze(1).repeat(1, classes)
    return others_BC.scatter(1, targets_B.unsqueeze(1), label_B.unsqueeze(1))


@dataclass
class ClassRobust:
    """Choose the highest excess losses, weighted by class, and raise the weights of weak classes.

    The score of an example is sum_c w_c max(0, loss - class_irreducible_c). After each choice the
    weights move multiplicatively: up for classes whose loss is high and for which little excess was
    chosen.

    Source: REDUCR (Bankes et al. 2024, arXiv:2312.00486), algorithm 1. Two things are approximated:
    the class-irreducible models (see :func:`class_irreducible_losses`), and the class-holdout loss,
    which is here the running mean of a class's loss over the pools, before they are trained on.

    Attributes:
        rate: eta of the paper.
        emphasis: gamma of the paper.
        smoothing: how much of the past remains, pool by pool, in the classes' mean losses.
        log_weights_C: state; None before the first pool.
        sums_2C: state; sums of the classes' losses and how many they are of, the past fading.
    """

    rate: float = 1e-4
    emphasis: float = 9.0
    smoothing: float = 0.9
    log_weights_C: Tensor | None = field(default=None, compare=False)
    sums_2C: Tensor | None = field(default=None, compare=False)

    def start(self) -> ClassRobust:
        """A copy for a new run."""
        return ClassRobust(self.rate, self.emphasis, self.smoothing)

    def state_dict(self) -> dict[str, Tensor | None]:
        """For checkpoints."""
        return {"log_weights": self.log_weights_C, "sums": self.sums_2C}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from a checkpoint."""
        self.log_weights_C, self.sums_2C = state["log_weights"], state["sums"]

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs log-probabilities, labels and irreducible losses. Moves the weights."""
        classes = evidence.need("log_probs_BC").shape[1]
        device = evidence.ids_B.device
        loss_B = label_losses(evidence).double()
        irreducible_B = evidence.need("irreducible_B").double()
        targets_B = evidence.classes()
        if self.log_weights_C is None:
            self.log_weights_C = torch.full((classes,), -math.log(classes), device=device).double()
        log_weights_C = self.log_weights_C.to(device)
        class_BC = class_irreducible_losses(irreducible_B, targets_B, classes, self.emphasis)
        excess_BC = (loss_B.unsqueeze(1) - class_BC).relu()
        scores_B = excess_BC @ log_weights_C.exp()
        # One check for both, as one sum would hide an infinity behind another.
        checked_B = loss_B.abs() + irreducible_B.abs()
        key = tie_key(generator)
        positions_k = top_k(
            scores_B, evidence.ids_B, k, key, checked_B=checked_B, what="excess loss"
        )
        if k > 0:
            class_loss_C = self._class_losses(loss_B, targets_B, classes)
            # For each chosen example, as eq. 8 and the authors' program have it: at their rate a
            # loss that was subtracted once for the whole batch would hardly move a weight.
            gain_C = (excess_BC[positions_k] - class_loss_C).sum(0)
            self.log_weights_C = (log_weights_C - self.rate * gain_C).log_softmax(0)
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B.float())

    def _class_losses(self, loss_B: Tensor, targets_B: Tensor, classes: int) -> Tensor:
        """Running mean loss of each class: class_loss_C; of the whole pool for one never met."""
        # Not bincount: on CUDA it waits for the device and adds in no fixed order.
        of_class_BC = targets_B.unsqueeze(1) == torch.arange(classes, device=targets_B.device)
        member_BC = of_class_BC.to(loss_B.dtype)
        now_2C = torch.stack([loss_B @ member_BC, member_BC.sum(0)])
        if self.sums_2C is not None:
            now_2C += self.smoothing * self.sums_2C.to(now_2C.device)
        self.sums_2C = now_2C
        return torch.where(now_2C[1] > 0, now_2C[0] / now_2C[1], loss_B.mean())
