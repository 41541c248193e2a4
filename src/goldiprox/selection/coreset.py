"""Core-sets: which examples of a whole data set to train on, from a proxy's evidence.

Pure functions: a proxy's scores or features in, positions out. Every one of them breaks ties by
random numbers keyed by id, so the order of the data does not matter and no class is preferred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence, Selection
from goldiprox.selection.functions import entropy
from goldiprox.selection.plans import Course, Draw, Plan, WholeBatches
from goldiprox.selection.ranking import require_finite, shuffled, top_k
from goldiprox.selection.selectors import how_many

__all__ = [
    "PROXY_SCORES",
    "CoreSetSpec",
    "Criterion",
    "FixedSubset",
    "before_training",
    "k_center_greedy",
    "keep_highest",
    "least_confidence",
    "negative_margin",
    "prediction_entropy",
]

Criterion = Literal["entropy", "least-confidence", "margin", "forgetting", "k-center"]
"""By what a proxy's core-set is chosen."""


@dataclass(frozen=True, kw_only=True)
class CoreSetSpec:
    """A core-set that a method wants chosen before the training, by a proxy.

    Attributes:
        by: the criterion; examples that are highest by it are kept.
        keep: share of the training examples that is kept.
        epochs: passes over the data that the proxy is trained for.
    """

    by: Criterion
    keep: float = 0.5
    epochs: int = 5

    def count(self, examples: int) -> int:
        """How many of so many examples are kept, at least one of any."""
        return how_many(examples, self.keep)


class FixedSubset:
    """Train on a part of the data that is fixed before the first step, in shuffled batches.

    No example of the part comes a second time before all of it came once.

    Args:
        course: the run.
        positions_n: what to train on, positions in the training examples.
    """

    observes = False

    def __init__(self, course: Course, positions_n: Tensor) -> None:
        self._positions_n = positions_n
        self._batches = WholeBatches(replace(course, ids_N=course.ids_N[positions_n]))

    def draw(self, step: int) -> Draw:
        """The next batch; all of it is trained on."""
        draw = self._batches.draw(step)
        return replace(draw, positions_B=self._positions_n[draw.positions_B])

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def before_training(course: Course) -> Plan:
    """The plan of methods that choose before the training: there is none without their core-set.

    Raises:
        ConfigError: always.
    """
    del course
    raise ConfigError(
        "this method trains a proxy and chooses a core-set before the training: use goldiprox "
        "train or goldiprox compare, or give train(...) the hook and plan of "
        "goldiprox.precompute.coreset"
    )


def prediction_entropy(evidence: Evidence) -> Tensor:
    """Entropy of the proxy's prediction, in nats: scores_B.

    Source: Coleman et al. 2020 (arXiv:1906.11829). Raises: MissingEvidence.
    """
    return entropy(evidence.need("log_probs_BC"))


def least_confidence(evidence: Evidence) -> Tensor:
    """One minus the highest probability: scores_B, 0 to 1.

    Source: Lewis & Gale 1994; Coleman et al. 2020. Raises: MissingEvidence.
    """
    return -torch.expm1(evidence.need("log_probs_BC").amax(1))


def negative_margin(evidence: Evidence) -> Tensor:
    """Minus the difference between the two highest probabilities: scores_B, -1 to 0.

    No label is looked at. With one class the second highest probability is 0.

    Source: Scheffer et al. 2001; Coleman et al. 2020. Raises: MissingEvidence.
    """
    probs_BC = evidence.need("log_probs_BC").exp()
    if probs_BC.shape[1] == 1:
        return -probs_BC[:, 0]
    best_B2 = probs_BC.topk(2, dim=1).values
    return best_B2[:, 1] - best_B2[:, 0]


PROXY_SCORES: dict[str, Callable[[Evidence], Tensor]] = {
    "entropy": prediction_entropy,
    "least-confidence": least_confidence,
    "margin": negative_margin,
}
"""The criteria that are scores of one example under the trained proxy."""


def keep_highest(scores_N: Tensor, ids_N: Tensor, count: int, key: int) -> Tensor:
    """Positions of the highest scores, ascending: positions_n.

    Args:
        scores_N: finite scores.
        ids_N: int64 ids, all different.
        count: how many.
        key: of the random numbers that break ties.

    Raises:
        NonFinite: naming the ids.
        ConfigError: if there are not so many.
    """
    require_finite(scores_N, ids_N, "proxy score")
    return top_k(scores_N, ids_N, count, key).sort().values


def k_center_greedy(
    features_ND: Tensor, ids_N: Tensor, count: int, key: int, *, chunk: int = 16384
) -> Tensor:
    """Cover the data: each turn takes the example farthest from all that were taken.

    The first one is the example nearest to the mean. Memory beyond the features is N distances;
    time is N x D for each example taken.

    Args:
        features_ND: features under the proxy, such as the inputs of its last layer.
        ids_N: int64 ids, all different.
        count: how many.
        key: of the random numbers that break ties.
        chunk: distances are computed for this many examples at once.

    Returns:
        positions_n, in the order in which they were taken: every head of it is a core-set too.

    Source: Sener & Savarese 2018 (arXiv:1708.00489), the greedy 2-approximation.

    Raises:
        NonFinite: if a feature is NaN or infinite, naming the ids.
        ConfigError: if there are not so many examples.
    """
    size = features_ND.shape[0]
    if not 0 <= count <= size:
        raise ConfigError(f"cannot keep {count} of {size} examples: keep 0 to {size}")
    order_N = shuffled(ids_N, key)
    features_ND = features_ND[order_N]
    require_finite(features_ND.sum(1), ids_N[order_N], "proxy feature")
    taken_n = torch.empty(count, dtype=torch.int64, device=features_ND.device)
    if count == 0:
        return taken_n
    mean_D = features_ND.double().mean(0).to(features_ND.dtype)
    # argmin and argmax take the first of equals, which chance has put there.
    taken_n[0] = _distances(features_ND, mean_D, chunk).argmin()
    nearest_N = _distances(features_ND, features_ND[taken_n[0]], chunk)
    nearest_N[taken_n[0]] = -1.0
    for turn in range(1, count):
        pick = nearest_N.argmax()
        taken_n[turn] = pick
        torch.minimum(nearest_N, _distances(features_ND, features_ND[pick], chunk), out=nearest_N)
        nearest_N[pick] = -1.0  # below every distance: copies come last, but each once
    return order_N[taken_n]


def _distances(features_ND: Tensor, centre_D: Tensor, chunk: int) -> Tensor:
    """Euclidean distance of every example to one point: distance_N.

    Differences are squared, not norms subtracted: copies have a distance of exactly zero.
    """
    parts = [
        torch.cdist(part, centre_D[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
        for part in features_ND.split(chunk)
    ]
    return torch.cat(parts)
