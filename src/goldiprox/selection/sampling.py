"""Selectors that draw: with or without replacement, by score, by rank, with weights.

All randomness is keyed by id, as in :mod:`goldiprox.selection.ranking`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence, NonFinite, Selection
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.ranking import (
    by_id,
    keyed_uniform,
    random_k,
    ranked,
    require_at_most,
    require_finite,
    require_finite_telling,
    tie_key,
    top_k,
)
from goldiprox.selection.selectors import score_all, score_name, scores_of

__all__ = [
    "Boltzmann",
    "GumbelTopK",
    "ImportanceSampling",
    "RankBased",
    "SoftWeights",
    "draw_with_replacement",
    "gumbel_noise",
    "gumbel_top_k",
    "perturbed",
    "possible_temperature",
    "require_temperature",
    "tempered",
]

COLDEST, HOTTEST = 1e-30, 1e30
"""Temperatures within these bounds make no float32 score overflow or vanish in double precision."""


def possible_temperature(value: float) -> bool:
    """Whether a temperature is within the bounds."""
    return COLDEST <= value <= HOTTEST


def require_temperature(value: float) -> None:
    """Refuse a temperature at which scores overflow or vanish.

    Raises:
        ConfigError: if it is not a number within the bounds.
    """
    if not possible_temperature(value):
        raise ConfigError(
            f"temperature is {value}; it must be a number from {COLDEST:g} to {HOTTEST:g}, such as "
            "1 (the lower, the closer to the highest scores alone)"
        )


def tempered(scores_B: Tensor, temperature: float, ids_B: Tensor, what: str) -> Tensor:
    """Scores over a temperature, in double precision.

    Raises:
        NonFinite: if a score is not finite, naming the ids.
        ConfigError: if the quotient overflows.
    """
    values_B = scores_B.double() / temperature
    try:
        return require_finite(values_B, ids_B, what)
    except NonFinite:
        _blame(scores_B, temperature, ids_B, what)


def _blame(scores_B: Tensor, temperature: float, ids_B: Tensor, what: str) -> NoReturn:
    """Say whether it was a score or the temperature that made a quotient infinite."""
    require_finite(scores_B, ids_B, what)
    raise ConfigError(
        f"{what} over a temperature of {temperature:g} overflows (the largest score is "
        f"{float(scores_B.abs().max()):g}); choose a higher temperature"
    ) from None


def gumbel_top_k(
    scores_B: Tensor,
    ids_B: Tensor,
    k: int,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    what: str = "score",
) -> Tensor:
    """Draw k candidates without replacement, each next one in proportion to the weights left.

    Args:
        scores_B: logarithms of positive weights at temperature 1, up to a constant.
        ids_B: int64 ids.
        k: how many.
        generator: a CPU generator.
        temperature: the higher, the more random.
        what: name of the scores, for messages.

    Returns:
        positions_k.

    Raises:
        NonFinite: if a score is not finite, naming the ids.
        ConfigError: if a score over the temperature overflows, or there are not so many.

    Source: Kool et al. 2019 (arXiv:1903.06059), the Gumbel top-k trick.
    """
    noisy_B = perturbed(scores_B, temperature, ids_B, generator)
    try:
        # At a low temperature the noise is lost in the scores, and equal scores tie.
        return top_k(noisy_B, ids_B, k, tie_key(generator), checked_B=noisy_B, what=what)
    except NonFinite:
        _blame(scores_B, temperature, ids_B, what)


def perturbed(
    scores_B: Tensor, temperature: float, ids_B: Tensor, generator: torch.Generator
) -> Tensor:
    """Scores over a temperature plus Gumbel noise: float64; their order is the order of drawing.

    Args:
        scores_B: logarithms of weights at temperature 1, up to a constant.
        temperature: the higher, the more random.
        ids_B: int64 ids.
        generator: a CPU generator.
    """
    numbers_B = keyed_uniform(ids_B, generator, scores_B)
    return scores_B.double() / temperature + gumbel_noise(numbers_B)


def gumbel_noise(numbers: Tensor) -> Tensor:
    """Standard Gumbel noise of uniform random numbers in (0, 1)."""
    return -(-numbers.log()).log()


def draw_with_replacement(
    probs_B: Tensor, ids_B: Tensor, k: int, generator: torch.Generator
) -> Tensor:
    """Draw k candidates with replacement: positions_k.

    Args:
        probs_B: weights that are not negative and not all zero; need not sum to one.
        ids_B: int64 ids; the cumulative distribution runs along them, so that the order of the
            pool does not matter.
        k: how many.
        generator: a CPU generator.
    """
    order_B = by_id(ids_B, probs_B)
    upper_B = probs_B.double()[order_B].cumsum(0)
    draws_k = torch.rand(k, generator=generator, dtype=torch.float64)
    draws_k = draws_k.to(upper_B.device, non_blocking=True)
    # right=True never lands on a candidate of probability zero.
    places_k = torch.searchsorted(upper_B, draws_k * upper_B[-1], right=True)
    return order_B[places_k.clamp(max=ids_B.shape[0] - 1)]


def _nothing(evidence: Evidence) -> Selection:
    none = torch.empty(0, dtype=torch.int64, device=evidence.ids_B.device)
    return Selection.of(evidence.ids_B, none)


@dataclass(frozen=True)
class GumbelTopK:
    """Draw without replacement, in proportion to exp(score / temperature).

    Source: Kool et al. 2019 (arXiv:1903.06059).
    """

    score: ScoreFunction
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        scores_B, what = scores_of(self.score, evidence), score_name(self.score)
        positions_k = gumbel_top_k(
            scores_B, evidence.ids_B, k, generator, temperature=self.temperature, what=what
        )
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class Boltzmann:
    """Draw with replacement, in proportion to exp(score / temperature)."""

    score: ScoreFunction
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        require_at_most(k, len(evidence))
        if k == 0:
            return _nothing(evidence)
        scores_B, what = scores_of(self.score, evidence), score_name(self.score)
        probs_B = tempered(scores_B, self.temperature, evidence.ids_B, what).softmax(0)
        positions_k = draw_with_replacement(probs_B, evidence.ids_B, k, generator)
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class RankBased:
    """Draw without replacement; probability falls exponentially with the rank of the score.

    The first of B ranks is ``ratio`` times as probable as one past the last.
    Source: Loshchilov & Hutter 2015 (arXiv:1511.06343), eq. 3, applied to each pool.
    """

    score: ScoreFunction
    ratio: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.ratio < math.inf:
            raise ConfigError(f"ratio is {self.ratio}; it must be a number of at least 1")

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        scores_B = score_all(self.score, evidence)
        size = len(evidence)
        key = tie_key(generator)
        ranked_B = ranked(scores_B, evidence.ids_B, key)
        rank_B = torch.empty_like(ranked_B)
        rank_B[ranked_B] = torch.arange(size, device=ranked_B.device)
        log_weights_B = -math.log(self.ratio) / max(size, 1) * rank_B.double()
        noisy_B = perturbed(log_weights_B, 1.0, evidence.ids_B, generator)
        positions_k = top_k(noisy_B, evidence.ids_B, k, key, distinct=True)
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class SoftWeights:
    """Choose uniformly; weight each chosen example by softmax(score / temperature), mean one.

    Source: the soft counterpart of top-k on reducible loss; cf. Evans et al. 2023 and DRRho.
    """

    score: ScoreFunction
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        scores_B = score_all(self.score, evidence)
        positions_k = random_k(evidence.ids_B, k, generator, scores_B)
        weights_k = k * (scores_B[positions_k].double() / self.temperature).softmax(0)
        return Selection.of(evidence.ids_B, positions_k, weights_k.float(), scores_B)


@dataclass
class ImportanceSampling:
    """Draw in proportion to a norm, weight by 1 / (B p): an unbiased gradient of less variance.

    Sampling starts only where it pays: ``gain``, a running mean of the factor by which uniform
    batches would have to grow for the same variance, has to exceed ``gate``; until then the choice
    is uniform. (B + 3k) / (3k) is the gate at which a speedup is guaranteed if a backward pass
    costs twice a forward pass.

    Source: Katharopoulos & Fleuret 2018 (arXiv:1803.00942), algorithm 1. Deviation: their gate
    also saves the scoring pass while it is closed; here the pool is scored at every step.

    Attributes:
        norm: what to sample by; not negative.
        gate: the gain from which on importance sampling is used; 0 uses it always.
        smoothing: weight of the past in the running mean.
        gain: state.
    """

    norm: ScoreFunction
    gate: float = 1.5
    smoothing: float = 0.9
    gain: float | None = field(default=None, compare=False)

    def start(self) -> ImportanceSampling:
        """A copy for a new run."""
        return ImportanceSampling(self.norm, self.gate, self.smoothing)

    def state_dict(self) -> dict[str, float | None]:
        """For checkpoints."""
        return {"gain": self.gain}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a checkpoint."""
        self.gain = state["gain"]

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; moves the running gain."""
        require_at_most(k, len(evidence))
        if k == 0:
            return _nothing(evidence)
        norms_B = self.norm(evidence)
        size = len(evidence)
        total = norms_B.double().sum()
        # A pool whose gradients are all zero has nothing to prefer.
        probs_B = torch.where(total > 0, norms_B.double() / total, 1.0 / size)
        (now,) = require_finite_telling(
            norms_B, evidence.ids_B, score_name(self.norm), _gain(probs_B)
        )
        past = now if self.gain is None else self.gain
        self.gain = self.smoothing * past + (1 - self.smoothing) * now
        if self.gain <= self.gate:
            positions_k = random_k(evidence.ids_B, k, generator, norms_B)
            return Selection.of(evidence.ids_B, positions_k, scores_B=norms_B)
        positions_k = draw_with_replacement(probs_B, evidence.ids_B, k, generator)
        weights_k = 1.0 / (size * probs_B[positions_k])
        return Selection.of(evidence.ids_B, positions_k, weights_k.float(), norms_B)


def _gain(probs_B: Tensor) -> Tensor:
    """Their tau, at least 1; a uniform batch would have to grow by its square for this variance."""
    square = probs_B.square().sum()
    distance = (probs_B - 1.0 / probs_B.shape[0]).square().sum()
    left = (1.0 - distance / square).clamp(min=1e-12)
    return left.rsqrt()
