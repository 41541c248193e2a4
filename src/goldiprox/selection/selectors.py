"""Selectors: ``(evidence, k, generator) -> Selection``.

Every selector gives the same ids for the same pool in any order: ties break by id, and randomness
is keyed by id rather than by position. That also makes a choice independent of how a pool is split
over processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence, NonFinite, Selection, id_list
from goldiprox.selection.functions import ScoreFunction

__all__ = [
    "RandomChoice",
    "Selector",
    "StatefulSelector",
    "TopK",
    "fetch",
    "how_many",
    "keyed_uniform",
    "keyed_uniforms",
    "require_at_most",
    "require_finite",
    "require_finite_telling",
    "score_all",
    "score_name",
    "top_k",
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


_INT64_MAX = 2**63 - 1
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def how_many(candidates: int, share: float) -> int:
    """How many a share of some candidates is, rounded down but at least one where there are any.

    Args:
        candidates: B.
        share: in (0, 1].
    """
    # The tolerance keeps 0.1 x 320 at 32 where 0.1 is a little below a tenth.
    return min(candidates, max(1, int(candidates * share + 1e-6)))


def top_k(scores_B: Tensor, ids_B: Tensor, k: int) -> Tensor:
    """Positions of the k highest scores; of equal scores at the edge the lowest ids win.

    No full sort and no host synchronisation: one partial sort finds the k-th score, a second one
    orders what lies above it and fills up with the lowest ids of what equals it.

    Args:
        scores_B: finite scores.
        ids_B: int64 ids, 0 <= id < 2**62, all different.
        k: how many, 0 <= k <= B.

    Returns:
        positions_k: first those strictly above the k-th score, then the ties, each by id.

    Raises:
        ConfigError: if k is not in 0..B.
    """
    require_at_most(k, scores_B.shape[0])
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=scores_B.device)
    if scores_B.device.type == "cpu" and k < scores_B.shape[0]:
        quick_k = _top_k_without_ties(scores_B, ids_B, k)
        if quick_k is not None:
            return quick_k
    edge = scores_B.topk(k, sorted=True).values[-1]
    # Keys: above the edge -> id - 2**62 (first, by id), on the edge -> id, below -> never.
    key_B = torch.where(scores_B > edge, ids_B - 2**62, ids_B)
    key_B = key_B.masked_fill(scores_B < edge, _INT64_MAX)
    return key_B.topk(k, largest=False, sorted=True).indices


def require_at_most(k: int, size: int) -> None:
    """Refuse to choose more than there are.

    Raises:
        ConfigError: if k is not in 0..size.
    """
    if not 0 <= k <= size:
        raise ConfigError(f"cannot choose {k} of a pool of {size}: choose 0 to {size}")


def _top_k_without_ties(scores_B: Tensor, ids_B: Tensor, k: int) -> Tensor | None:
    """The same positions with half the kernels, on the CPU; None if there is a tie at the edge."""
    best = scores_B.topk(k + 1, sorted=True)
    values, above = best.values.numpy(), best.indices.numpy()[: k - 1]
    if not values[k - 1] > values[k] or (k > 1 and values[k - 2] == values[k - 1]):
        return None
    # The k-th score alone stands on the edge, so it comes last, after those above it, by id.
    above[:] = above[ids_B.numpy()[above].argsort()]
    return best.indices[:k]


def require_finite(values_B: Tensor, ids_B: Tensor, what: str) -> Tensor:
    """Hand values through, refusing NaN and infinity.

    Raises:
        NonFinite: naming the first ids; a NaN would otherwise sort to the top and be chosen.
    """
    require_finite_telling(values_B, ids_B, what)
    return values_B


def require_finite_telling(
    values_B: Tensor, ids_B: Tensor, what: str, *told: Tensor
) -> list[float]:
    """Refuse NaN and infinity, and tell the host some numbers in the same synchronisation.

    Args:
        values_B: what has to be finite.
        ids_B: their ids.
        what: its name, for the message.
        *told: scalars on the same device.

    Returns:
        The scalars.

    Raises:
        NonFinite: naming the first ids.
    """
    # NaN and infinity survive in a sum: one reduction and one transfer in the usual case.
    if values_B.device.type == "cpu":
        total, *numbers = values_B.sum().item(), *map(float, told)
    else:
        total, *numbers = map(float, fetch(values_B.sum(), *told))
    if not math.isfinite(total):
        _refuse_not_finite(values_B.cpu(), ids_B.cpu(), what)
    return numbers


def fetch(*values: Tensor) -> list[Tensor]:
    """Bring floating-point numbers to the host in one transfer, hence one synchronisation.

    Args:
        *values: tensors of any shapes, all on one device.

    Returns:
        The same tensors, if they are on the CPU; otherwise copies there, in double precision.
    """
    if values[0].device.type == "cpu":
        return list(values)
    together = torch.cat([value.double().flatten() for value in values]).cpu()
    parts = together.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def _refuse_not_finite(values_B: Tensor, ids_B: Tensor, what: str) -> None:
    """Find the culprits, if it was not the sum alone that overflowed."""
    bad_B = ~torch.isfinite(values_B)
    if bool(bad_B.any()):
        ids = ids_B[bad_B]
        raise NonFinite(
            f"{what} is NaN or infinite for {ids.numel()} of {ids_B.numel()} candidates "
            f"(ids {id_list(ids)}); lower the learning rate, or look at these examples"
        )


def keyed_uniform(ids_B: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform random number for each id, in (0, 1): float64 of shape [B].

    The number depends on the generator's state and on the id alone, not on the id's position: it
    is output number ``id`` of SplitMix64 (Steele et al. 2014), seeded with one draw from the
    generator.

    Args:
        ids_B: int64 ids.
        generator: a CPU generator; one draw is taken from it.
    """
    return keyed_uniforms(ids_B, generator, 1)[0]


def keyed_uniforms(ids_B: Tensor, generator: torch.Generator, turns: int) -> Tensor:
    """The numbers of so many calls of :func:`keyed_uniform`: float64 of shape [turns, B]."""
    keys = torch.randint(-(2**63), _INT64_MAX, (turns, 1), generator=generator, dtype=torch.int64)
    if ids_B.device.type == "cpu":
        return torch.from_numpy(_keyed_uniform_numpy(ids_B.numpy(), keys.numpy()))
    keys = keys.to(ids_B.device, non_blocking=True)
    top_52 = _logical_shift_right(_mix(ids_B * _GOLDEN + keys), 12)
    return (top_52.to(torch.float64) + 0.5) * 2.0**-52


def _keyed_uniform_numpy(
    ids_B: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The same numbers on the CPU, where numpy's small operations are several times cheaper."""
    x = ids_B.view(np.uint64) * np.uint64(_GOLDEN % 2**64) + keys.view(np.uint64)
    x ^= x >> np.uint64(30)
    x *= np.uint64(_MIX_1 % 2**64)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_MIX_2 % 2**64)
    x ^= x >> np.uint64(31)
    numbers = (x >> np.uint64(12)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-52
    return numbers


def _logical_shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 arithmetic wraps around as it needs."""
    x = (x ^ _logical_shift_right(x, 30)) * _MIX_1
    x = (x ^ _logical_shift_right(x, 27)) * _MIX_2
    return x ^ _logical_shift_right(x, 31)


def score_all(score: ScoreFunction, evidence: Evidence) -> Tensor:
    """Scores of a pool, refused if one is not finite: scores_B, float32 or float64."""
    scores_B = score(evidence)
    if scores_B.requires_grad or scores_B.element_size() < 4:  # of a score of the user's own
        scores_B = scores_B.detach().float()
    return require_finite(scores_B, evidence.ids_B, score_name(score))


def score_name(score: ScoreFunction) -> str:
    """What a score is called in messages."""
    return str(getattr(score, "__name__", "score")).replace("_", " ")


@dataclass(frozen=True)
class TopK:
    """Choose the k candidates with the highest score."""

    score: ScoreFunction
    draws: ClassVar[bool] = False
    """Whether the generator is used; the chooser makes a fresh one at each step if so."""

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; raises :class:`NonFinite` if a score is not finite."""
        del generator
        scores_B = score_all(self.score, evidence)
        positions_k = top_k(scores_B, evidence.ids_B, k)
        return Selection.of(evidence.ids_B, positions_k, scores_B=scores_B)


@dataclass(frozen=True)
class RandomChoice:
    """Choose k candidates uniformly, without replacement: plain shuffled training."""

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs nothing but the ids."""
        if k == len(evidence):  # plain training on whole batches: nothing to draw
            return Selection.of(evidence.ids_B, evidence.ids_B.argsort())
        numbers_B = keyed_uniform(evidence.ids_B, generator)
        return Selection.of(evidence.ids_B, top_k(numbers_B, evidence.ids_B, k))
