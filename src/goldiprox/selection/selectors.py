"""Selectors: ``(evidence, k, generator) -> Selection``.

Every selector gives the same ids for the same pool in any order: ties and draws alike go by random
numbers that are keyed by id rather than by position (:mod:`goldiprox.selection.ranking`). That also
makes a choice independent of how a pool is split over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from goldiprox.schema import Evidence, Selection
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.ranking import random_k, require_finite, tie_key, top_k

__all__ = [
    "RandomChoice",
    "Selector",
    "StatefulSelector",
    "TopK",
    "how_many",
    "score_all",
    "score_name",
    "scores_of",
]

Selector = Callable[[Evidence, int, torch.Generator], Selection]


@runtime_checkable
class StatefulSelector(Protocol):
    """A selector with a memory: each run starts with a fresh copy, and checkpoints keep it."""

    def start(self) -> StatefulSelector:
        """A copy for a new run."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose."""
        ...


def how_many(candidates: int, share: float) -> int:
    """How many a share of some candidates is, rounded down but at least one where there are any.

    Args:
        candidates: B.
        share: in (0, 1].
    """
    # The tolerance keeps 0.1 x 320 at 32 where 0.1 is a little below a tenth.
    return min(candidates, max(1, int(candidates * share + 1e-6)))


def scores_of(score: ScoreFunction, evidence: Evidence) -> Tensor:
    """Scores of a pool, finite or not: scores_B, float32 or float64."""
    scores_B = score(evidence)
    if scores_B.requires_grad or scores_B.element_size() < 4:  # of a score of the user's own
        scores_B = scores_B.detach().float()
    return scores_B


def score_all(score: ScoreFunction, evidence: Evidence) -> Tensor:
    """The same, refused if one is not finite."""
    return require_finite(scores_of(score, evidence), evidence.ids_B, score_name(score))


def score_name(score: ScoreFunction) -> str:
    """What a score is called in messages."""
    return str(getattr(score, "__name__", "score")).replace("_", " ")


@dataclass(frozen=True)
class TopK:
    """Choose the k candidates with the highest score; ties break by chance."""

    score: ScoreFunction

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; raises :class:`NonFinite` if a score is not finite."""
        scores_B, ids_B = scores_of(self.score, evidence), evidence.ids_B
        key, what = tie_key(generator), score_name(self.score)
        positions_k = top_k(scores_B, ids_B, k, key, checked_B=scores_B, what=what)
        return Selection.of(ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class RandomChoice:
    """Choose k candidates uniformly, without replacement: plain shuffled training."""

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs nothing but the ids."""
        return Selection.of(evidence.ids_B, random_k(evidence.ids_B, k, generator))
