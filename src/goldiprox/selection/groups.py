"""Selectors that look at the set: by class, by stratum, diverse, or filtered first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence, Selection
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.ranking import (
    keyed_uniform,
    ranked,
    require_at_most,
    require_finite,
    require_finite_telling,
    shuffled,
    tie_key,
    top_k,
)
from goldiprox.selection.sampling import perturbed, require_temperature, tempered
from goldiprox.selection.selectors import (
    Selector,
    StatefulSelector,
    score_all,
    score_name,
    scores_of,
)

__all__ = ["ClassBalanced", "DiverseGradients", "IrreducibleFilter", "Stratified", "round_robin"]


MOST_STRATA = 1_000_000
"""Of which the numbers are exact in single precision, and far more than a pool could fill."""


def round_robin(groups_B: Tensor, scores_B: Tensor, ids_B: Tensor, k: int, key: int) -> Tensor:
    """Choose evenly over groups: every group's best first, then every group's second best, ...

    Args:
        groups_B: int64 group of each candidate.
        scores_B: finite scores; within a group the higher one comes first.
        ids_B: int64 ids.
        k: how many.
        key: of the random numbers that break ties.

    Returns:
        positions_k. If the last round cannot serve every group, the higher scores are served.
    """
    require_at_most(k, ids_B.shape[0])
    best_first_B = ranked(scores_B, ids_B, key)
    by_group_B = best_first_B[groups_B[best_first_B].argsort(stable=True)]
    sorted_groups = groups_B[by_group_B]
    starts = torch.searchsorted(sorted_groups, sorted_groups, right=False)
    round_B = torch.empty_like(by_group_B)
    round_B[by_group_B] = torch.arange(len(by_group_B), device=ids_B.device) - starts
    # Rounds first; within a round the order of the scores stays.
    return best_first_B[round_B[best_first_B].argsort(stable=True)[:k]]


@dataclass(frozen=True)
class ClassBalanced:
    """Choose the highest scores of every class in turn, as evenly as the pool allows.

    Attributes:
        score: what is chosen by within a class.
        temperature: if given, a class's candidates are drawn without replacement, in proportion to
            exp(score / temperature), instead of taken from the top.
    """

    score: ScoreFunction
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs labels."""
        scores_B, ids_B = scores_of(self.score, evidence), evidence.ids_B
        order_B = tempered(scores_B, self.temperature or 1.0, ids_B, score_name(self.score))
        if self.temperature is not None:
            order_B = perturbed(order_B, 1.0, ids_B, generator)
        positions_k = round_robin(evidence.classes(), order_B, ids_B, k, tie_key(generator))
        return Selection.of(ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class Stratified:
    """Cut the range of scores into strata of equal width; choose at random, evenly over strata.

    Source: Zheng et al. 2023 (CCS, arXiv:2210.15809), applied to each pool, without its cut-off.
    """

    score: ScoreFunction
    strata: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.strata <= MOST_STRATA:
            raise ConfigError(
                f"{self.strata} strata are impossible: give a whole number from 1 to {MOST_STRATA}"
            )

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        scores_B = score_all(self.score, evidence)
        numbers_B = keyed_uniform(evidence.ids_B, generator, scores_B)
        groups_B = torch.zeros_like(evidence.ids_B)
        if len(evidence):
            low, high = torch.aminmax(scores_B)
            width = (high - low).clamp(min=torch.finfo(scores_B.dtype).tiny)
            groups_B = ((scores_B - low) / width * self.strata).long().clamp(max=self.strata - 1)
        key = tie_key(generator)
        positions_k = round_robin(groups_B, numbers_B, evidence.ids_B, k, key)
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class IrreducibleFilter:
    """Leave out what the irreducible-loss model finds implausible, then choose with another method.

    The table does not change, so this drops the same examples at every step: once, in effect. A
    pool with fewer than k plausible candidates is filled up with the most plausible of the others.

    Attributes:
        selector: chooses among what is left.
        implausible: probability of the given label below which an example is dropped.
    """

    selector: Selector
    implausible: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.implausible < 1:
            raise ConfigError(
                f"implausible is {self.implausible}; it is a probability between 0 and 1"
            )

    def start(self) -> IrreducibleFilter:
        """A copy for a new run; the other selector may have a memory."""
        inner = self.selector
        return replace(self, selector=inner.start()) if _remembers(inner) else self

    def state_dict(self) -> dict[str, Any]:
        """The other selector's, for checkpoints."""
        return self.selector.state_dict() if _remembers(self.selector) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if _remembers(self.selector):
            self.selector.load_state_dict(state)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs irreducible losses and what the other selector needs."""
        require_at_most(k, len(evidence))
        kept = self._plausible(evidence)
        if kept.numel() < k:
            kept = top_k(-evidence.need("irreducible_B"), evidence.ids_B, k, tie_key(generator))
        chosen = self.selector(evidence.at(kept), k, generator)
        return replace(chosen, positions_k=kept[chosen.positions_k], scores_B=None)

    def _plausible(self, evidence: Evidence) -> Tensor:
        """Positions of what is plausible, ascending."""
        losses_B = evidence.need("irreducible_B")
        highest = -math.log(self.implausible)
        if losses_B.device.type == "cpu":  # numpy's small operations are several times cheaper
            require_finite(losses_B, evidence.ids_B, "irreducible loss")
            return torch.from_numpy(np.flatnonzero(losses_B.numpy() <= highest))
        out_B = losses_B > highest
        # How many there are comes with the check; nonzero would wait for the device again.
        (dropped,) = require_finite_telling(
            losses_B, evidence.ids_B, "irreducible loss", out_B.sum()
        )
        return out_B.to(torch.uint8).argsort(stable=True)[: len(evidence) - int(dropped)]


def _remembers(selector: Selector) -> TypeGuard[StatefulSelector]:
    return isinstance(selector, StatefulSelector)


@dataclass(frozen=True)
class DiverseGradients:
    """Choose greedily the last-layer gradients that add most to what is chosen already.

    With g_i the gradient of example i over the last layer, (p - y) times the features, each turn
    takes the candidate whose direction, beyond the span of those chosen, carries most of what is
    left of the pool's summed gradient. Gradients are never formed: their Gram matrix is the
    element-wise product of two small ones.

    ``sampled`` is what the authors' program does: each turn draws a candidate in proportion to the
    inner product of its gradient with what is left of the sum, over the layer's weights alone; once
    nothing is left, uniformly.

    Source: DivBS (Hong et al. 2024, arXiv:2406.04872). Raises: NonFinite.

    Attributes:
        sampled: draw as the authors' program does, instead of taking the best.
    """

    sampled: bool = False

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs probabilities, features and labels."""
        require_at_most(k, len(evidence))
        errors_BC = evidence.need("log_probs_BC").exp()
        targets_B1 = evidence.classes().unsqueeze(1)
        errors_BC = errors_BC.scatter_add(1, targets_B1, -torch.ones_like(errors_BC[:, :1]))
        # The first of equals is picked: in a random order that the order of the pool is not in.
        order_B = shuffled(evidence.ids_B, tie_key(generator), errors_BC.square().sum(1))
        errors_BC = errors_BC.index_select(0, order_B)
        features_BD = evidence.need("features_BD").index_select(0, order_B).to(errors_BC.dtype)
        inner_BB = errors_BC @ errors_BC.T
        product_BB = features_BD @ features_BD.T
        # One more for the bias, in the same pass.
        gram_BB = (
            inner_BB * product_BB if self.sampled else torch.addcmul(inner_BB, product_BB, inner_BB)
        )
        # The turns are taken on the CPU, where many small operations are cheapest; the matrix comes
        # over once, and is looked at there.
        gram_BB = gram_BB.cpu()
        require_finite(gram_BB.diagonal(), evidence.ids_B[order_B], "last-layer gradient")
        precision = 100 * torch.finfo(gram_BB.dtype).eps
        draws_k = None
        if self.sampled:
            draws_k = torch.rand(k, generator=generator, dtype=torch.float64).numpy()
        chosen_k = torch.from_numpy(_greedy(gram_BB.numpy(), k, precision, draws_k))
        chosen_k = chosen_k.to(order_B.device, non_blocking=True)
        return Selection.of(evidence.ids_B, order_B[chosen_k])


def _greedy(
    gram_BB: npt.NDArray[np.floating[Any]],
    k: int,
    precision: float,
    draws_k: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int64]:
    """Pivoted Cholesky steps, each at the candidate with the largest share of the residual.

    Args:
        gram_BB: inner products of the gradients; worked with in double precision.
        k: how many.
        precision: share of the largest squared norm below which a direction counts as spanned.
        draws_k: random numbers in [0, 1), one a turn, to draw by the inner product with the
            residual instead.
    """
    size = len(gram_BB)
    # <g_i, residual>; the residual starts as the sum of all gradients
    left_B = gram_BB.sum(1, dtype=np.float64)
    # squared norm of g_i beyond the span of those chosen; infinite for what adds nothing any more
    norm_B = gram_BB.diagonal().astype(np.float64)
    floor = precision * max(norm_B.max(initial=0.0), 1e-300)
    norm_B[norm_B <= floor] = np.inf
    basis_kB, work_B = np.empty((k, size)), np.empty(size)
    chosen: list[int] = []
    # In place throughout: each turn waits for the one before, so what a call costs adds up.
    for turn in range(k):
        if draws_k is None:
            np.multiply(left_B, left_B, out=work_B)
            work_B /= norm_B
            pick = int(work_B.argmax())
        else:
            pick = _drawn(left_B, norm_B, draws_k[turn], out=work_B)
        if not work_B[pick] > 0.0:  # nor will anything add in a later turn: the residual stays
            break
        chosen.append(pick)
        scale = math.sqrt(norm_B[pick])
        row_B = basis_kB[turn]
        np.subtract(gram_BB[pick], basis_kB[:turn, pick] @ basis_kB[:turn], out=row_B)
        row_B /= scale
        np.multiply(row_B, left_B[pick] / scale, out=work_B)
        left_B -= work_B
        np.multiply(row_B, row_B, out=work_B)
        norm_B -= work_B
        norm_B[norm_B <= floor] = np.inf
        norm_B[pick] = np.inf
    if len(chosen) < k:
        chosen += np.setdiff1d(np.arange(size), chosen)[: k - len(chosen)].tolist()
    return np.asarray(chosen, dtype=np.int64)


def _drawn(
    left_B: npt.NDArray[np.float64],
    norm_B: npt.NDArray[np.float64],
    number: float,
    *,
    out: npt.NDArray[np.float64],
) -> int:
    """Draw in proportion to |left_B|, leaving out what adds nothing; ``out`` holds the weights."""
    np.abs(left_B, out=out)
    out[np.isinf(norm_B)] = 0.0
    upper_B = out.cumsum()
    # Never on a candidate of weight zero, unless all are.
    pick = np.searchsorted(upper_B, number * upper_B[-1], side="right")
    return int(min(pick, len(out) - 1))
