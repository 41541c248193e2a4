"""Orders of candidates: their random numbers, the one way to break ties, and what refuses scores.

A candidate's random number depends on a key (made of the seed and the step) and on its id, not on
its place in the pool, so a choice is the same in any order of the pool and however a pool is split
over processes. An id that a pool holds several times has a number for each copy. Equal scores are
ordered by such numbers, which prefer no id and hence no class.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.schema import ConfigError, NonFinite, id_list

__all__ = [
    "best_mask",
    "by_id",
    "draw_key",
    "fetch",
    "keyed_uniform",
    "keyed_uniforms",
    "random_k",
    "random_mask",
    "ranked",
    "require_at_most",
    "require_finite",
    "require_finite_telling",
    "shuffled",
    "tie_key",
    "top_k",
]

Ints = npt.NDArray[np.int64]
Unsigned = npt.NDArray[np.uint64]

_PART = 1 << 20
"""Ids whose numbers are made at a time, for a whole data set."""

_INT64_MAX = 2**63 - 1
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_COPY = 0xD1342543DE82EF95 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

# The same for numpy, made once: making them took a quarter of the time of mixing.
_UNSIGNED = [np.uint64(factor % 2**64) for factor in (_GOLDEN, _COPY, _MIX_1, _MIX_2)]
_BITS_12, _BITS_27, _BITS_30, _BITS_31 = map(np.uint64, (12, 27, 30, 31))


# --- random numbers of candidates ---------------------------------------------------------------


def tie_key(generator: torch.Generator) -> int:
    """The key of the numbers that break ties: made of the generator's seed; nothing is drawn.

    The chooser's generator is seeded by the run's seed and the step.

    Args:
        generator: of one step.
    """
    return generator.initial_seed()


def draw_key(generator: torch.Generator) -> int:
    """A key drawn from a generator, for random numbers that differ from call to call."""
    return int(_draw_keys(generator, 1).item())


def _draw_keys(generator: torch.Generator, turns: int) -> Tensor:
    return torch.randint(-(2**63), _INT64_MAX, (turns, 1), generator=generator, dtype=torch.int64)


def keyed_uniform(
    ids_B: Tensor, generator: torch.Generator, scores_B: Tensor | None = None
) -> Tensor:
    """A uniform random number for each candidate, in (0, 1): float64 of shape [B].

    The number depends on the generator's state and on the id alone, not on the id's position: it
    is output number ``id`` of SplitMix64 (Steele et al. 2014), seeded with one draw from the
    generator. Copies of one id have numbers of their own.

    Args:
        ids_B: int64 ids.
        generator: a CPU generator; one draw is taken from it.
        scores_B: tell copies of one id apart (the lower score is the earlier copy) where they are
            not alike, as differently augmented images are not; their places do otherwise.
    """
    return keyed_uniforms(ids_B, generator, 1, scores_B)[0]


def keyed_uniforms(
    ids_B: Tensor, generator: torch.Generator, turns: int, scores_B: Tensor | None = None
) -> Tensor:
    """The numbers of so many calls of :func:`keyed_uniform`: float64 of shape [turns, B]."""
    keys = _draw_keys(generator, turns)
    if ids_B.device.type == "cpu":
        copies = _copies_numpy(ids_B.numpy(), scores_B)
        mixed = _mixed_numpy(ids_B.numpy(), keys.numpy().view(np.uint64), copies)
        numbers = (mixed >> _BITS_12).astype(np.float64)
        numbers += 0.5
        numbers *= 2.0**-52
        return torch.from_numpy(numbers)
    mixed_B = _mixed(ids_B, keys.to(ids_B.device, non_blocking=True), _copies(ids_B, scores_B))
    return (_logical_shift_right(mixed_B, 12).to(torch.float64) + 0.5) * 2.0**-52


def _mixed_numpy(ids: Ints, keys: Unsigned | np.uint64, copies: Ints | None) -> Unsigned:
    """64 random bits for each id under each key: numpy's small operations are the cheapest."""
    golden, copy, mix_1, mix_2 = _UNSIGNED
    x: Unsigned = ids.view(np.uint64) * golden + keys
    if copies is not None:
        x += copies.view(np.uint64) * copy
    x ^= x >> _BITS_30
    x *= mix_1
    x ^= x >> _BITS_27
    x *= mix_2
    x ^= x >> _BITS_31
    return x


def _mixed(ids_B: Tensor, keys: Tensor | int, copies_B: Tensor) -> Tensor:
    """The same bits on another device, where int64 arithmetic wraps around as it needs."""
    return _mix(ids_B * _GOLDEN + copies_B * _COPY + keys)


def _logical_shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    x = (x ^ _logical_shift_right(x, 30)) * _MIX_1
    x = (x ^ _logical_shift_right(x, 27)) * _MIX_2
    return x ^ _logical_shift_right(x, 31)


def _copies_numpy(ids: Ints, scores_B: Tensor | None) -> Ints | None:
    """Which copy of its id each candidate is, from 0; None where no id comes twice."""
    ascending = np.sort(ids)
    if not np.count_nonzero(ascending[1:] == ascending[:-1]):
        return None
    order = np.lexsort((ids,) if scores_B is None else (scores_B.numpy(), ids))
    ascending, places = ids[order], np.arange(len(ids))
    first = np.append(True, ascending[1:] != ascending[:-1])
    copies = np.empty_like(places)
    copies[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return copies


def _copies(ids_B: Tensor, scores_B: Tensor | None) -> Tensor:
    """The same on another device, without waiting for it to tell whether there are any."""
    if len(ids_B) < 2:
        return torch.zeros_like(ids_B)
    order_B = by_id(ids_B, scores_B)
    ascending_B, places_B = ids_B[order_B], torch.arange(len(ids_B), device=ids_B.device)
    starts_B = places_B[1:].masked_fill(ascending_B[1:] == ascending_B[:-1], 0)
    starts_B = torch.cat([places_B[:1], starts_B]).cummax(0).values
    copies_B = torch.empty_like(places_B)
    copies_B[order_B] = places_B - starts_B
    return copies_B


# --- orders -------------------------------------------------------------------------------------


def by_id(ids_B: Tensor, scores_B: Tensor | None = None) -> Tensor:
    """Positions in ascending order of the ids; copies of one id in that of their scores."""
    if scores_B is None:
        return ids_B.argsort(stable=True)
    by_score_B = scores_B.argsort(stable=True)
    return by_score_B[ids_B[by_score_B].argsort(stable=True)]


def shuffled(ids_B: Tensor, key: int, scores_B: Tensor | None = None) -> Tensor:
    """Positions in the order of the numbers that break ties: where the first of equals is taken.

    Args:
        ids_B: int64 ids.
        key: see :func:`tie_key`.
        scores_B: tell copies of one id apart.
    """
    if ids_B.device.type == "cpu":
        return torch.from_numpy(_tie_numbers(ids_B.numpy(), key, scores_B).argsort(kind="stable"))
    signed = (key + 2**63) % 2**64 - 2**63
    mixed_B = _mixed(ids_B, signed, _copies(ids_B, scores_B))
    return _logical_shift_right(mixed_B, 1).argsort(stable=True)


def _tie_numbers(ids: Ints, key: int, scores_B: Tensor | None) -> Unsigned:
    """The number that breaks each candidate's ties: the lower one comes first."""
    copies = _copies_numpy(ids, scores_B)
    return _mixed_numpy(ids, np.uint64(key % 2**64), copies) >> np.uint64(1)


def ranked(scores_B: Tensor, ids_B: Tensor, key: int) -> Tensor:
    """All positions from the highest score to the lowest, equal ones by their random numbers.

    Args:
        scores_B: finite scores.
        ids_B: int64 ids.
        key: see :func:`tie_key`.
    """
    if scores_B.device.type != "cpu":
        shuffled_B = shuffled(ids_B, key, scores_B)
        return shuffled_B[scores_B[shuffled_B].argsort(descending=True, stable=True)]
    best = scores_B.sort(descending=True)
    values = best.values.numpy()
    if not (values[1:] == values[:-1]).any():
        return best.indices
    numbers = _tie_numbers(ids_B.numpy(), key, scores_B)
    return torch.from_numpy(np.lexsort((numbers, -scores_B.numpy())))


def top_k(
    scores_B: Tensor,
    ids_B: Tensor,
    k: int,
    key: int,
    *,
    distinct: bool = False,
    checked_B: Tensor | None = None,
    what: str = "score",
) -> Tensor:
    """Positions of the k highest scores; equal ones at the edge by their random numbers.

    There is no full sort, and random numbers are made only where there is a tie at the edge.

    Args:
        scores_B: finite scores.
        ids_B: int64 ids.
        k: how many, 0 <= k <= B.
        key: of the numbers that break ties, see :func:`tie_key`.
        distinct: no two scores are equal, as they are random; another device than the CPU need
            not be waited for then.
        checked_B: what is refused if it is not finite, in the same wait for the device.
        what: its name, for the message.

    Returns:
        positions_k: first those above the k-th score, by id, then those that equal it.

    Raises:
        ConfigError: if k is not in 0..B.
        NonFinite: if something in ``checked_B`` is NaN or infinite, naming the ids.
    """
    size = scores_B.shape[0]
    require_at_most(k, size)
    on_host = scores_B.device.type == "cpu"
    if checked_B is not None and (on_host or not 0 < k < size):
        require_finite(checked_B, ids_B, what)
        checked_B = None
    if not 0 < k < size:  # there is nothing to choose
        return ids_B.argsort(stable=True)[:k]
    best = scores_B.topk(k + 1, sorted=True)
    if on_host:
        quick_k = _without_ties(best.values, best.indices, ids_B, k)
        return _with_ties(scores_B, ids_B, k, key) if quick_k is None else quick_k
    edge, following = best.values[k - 1], best.values[k]
    if checked_B is not None:
        (tied,) = require_finite_telling(checked_B, ids_B, what, edge == following)
    else:
        tied = False if distinct else bool(edge == following)
    if tied:
        place = ids_B.device
        return _with_ties(scores_B.cpu(), ids_B.cpu(), k, key).to(place, non_blocking=True)
    above = best.indices[: k - 1]
    return torch.cat([above[ids_B[above].argsort()], best.indices[k - 1 : k]])


def _without_ties(best: Tensor, positions: Tensor, ids_B: Tensor, k: int) -> Tensor | None:
    """The first k of the k + 1 best, if the k-th stands alone on the edge; on the CPU."""
    values, above = best.numpy(), positions.numpy()[: k - 1]
    if not values[k - 1] > values[k] or (k > 1 and values[k - 2] == values[k - 1]):
        return None
    # The k-th score comes last, after those above it, by id.
    above[:] = above[ids_B.numpy()[above].argsort()]
    return positions[:k]


def _with_ties(scores_B: Tensor, ids_B: Tensor, k: int, key: int) -> Tensor:
    """The same choice on the CPU where scores at the edge are equal."""
    scores, ids = scores_B.numpy(), ids_B.numpy()
    edge = -np.partition(-scores, k - 1)[k - 1]
    above, equal = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
    above = above[ids[above].argsort(kind="stable")]
    left = k - len(above)
    if left < len(equal):
        equal = equal[_tie_numbers(ids, key, scores_B)[equal].argsort(kind="stable")]
    else:
        equal = equal[ids[equal].argsort(kind="stable")]
    return torch.from_numpy(np.concatenate([above, equal[:left]]))


def best_mask(scores_N: Tensor, ids_N: Tensor, k: int, key: int, *, lowest: bool = False) -> Tensor:
    """Which k of a whole data set :func:`top_k` would choose: a mask of shape [N], on the CPU.

    Beside the mask it takes one copy of the scores; random numbers are made for the ties at the
    edge alone.

    Args:
        scores_N: finite scores.
        ids_N: int64 ids, all different.
        k: how many, 0 <= k <= N.
        key: of the numbers that break ties, see :func:`tie_key`.
        lowest: choose the lowest scores instead.

    Raises:
        ConfigError: if k is not in 0..N.
    """
    scores, ids = scores_N.numpy(), ids_N.numpy()
    require_at_most(k, len(ids))
    if not 0 < k < len(ids):
        return torch.full((len(ids),), k > 0)
    chosen, equal, left = _beyond_the_edge(scores, k, lowest)
    if left < len(equal):
        equal = equal[_tie_numbers(ids[equal], key, None).argsort(kind="stable")]
    chosen[equal[:left]] = True
    return torch.from_numpy(chosen)


def random_mask(ids_N: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Which k of a whole data set :func:`random_k` would draw: a mask of shape [N], on the CPU.

    Of the random numbers, half of the digits are kept; the others only of those at the edge.

    Args:
        ids_N: int64 ids, all different.
        k: how many, 0 <= k <= N.
        generator: a CPU generator; one draw is taken from it unless there is nothing to choose.

    Raises:
        ConfigError: if k is not in 0..N.
    """
    ids = ids_N.numpy()
    require_at_most(k, len(ids))
    if k == len(ids):
        return torch.ones(len(ids), dtype=torch.bool)
    key = _draw_keys(generator, 1).numpy().view(np.uint64)[0]
    if not k:
        return torch.zeros(len(ids), dtype=torch.bool)
    first_digits = np.empty(len(ids), dtype=np.uint32)
    for start in range(0, len(ids), _PART):
        part = slice(start, start + _PART)
        first_digits[part] = _mixed_numpy(ids[part], key, None) >> np.uint64(32)
    chosen, equal, left = _beyond_the_edge(first_digits, k, lowest=False)
    numbers = _mixed_numpy(ids[equal], key, None) >> np.uint64(12)
    ties = _tie_numbers(ids[equal], tie_key(generator), None)
    chosen[equal[np.lexsort((ties, ~numbers))][:left]] = True
    return torch.from_numpy(chosen)


def _beyond_the_edge(
    values: npt.NDArray[Any], k: int, lowest: bool
) -> tuple[npt.NDArray[np.bool_], Ints, int]:
    """What is higher (or lower) than the k-th, the places that equal it, how many of them to take.

    Without a sort, and with one copy of the values.
    """
    parted = values.copy()
    place = k - 1 if lowest else len(values) - k
    parted.partition(place)
    edge = parted[place]
    del parted
    beyond = values < edge if lowest else values > edge
    return beyond, np.flatnonzero(values == edge), k - int(np.count_nonzero(beyond))


def random_k(
    ids_B: Tensor, k: int, generator: torch.Generator, scores_B: Tensor | None = None
) -> Tensor:
    """Positions of k candidates drawn uniformly, without replacement.

    Args:
        ids_B: int64 ids.
        k: how many, 0 <= k <= B.
        generator: a CPU generator; one draw is taken from it unless there is nothing to choose.
        scores_B: tell copies of one id apart where they are not alike.

    Raises:
        ConfigError: if k is not in 0..B.
    """
    if k == len(ids_B):  # plain training on whole batches: nothing to draw
        return ids_B.argsort(stable=True)
    numbers_B = keyed_uniform(ids_B, generator, scores_B)
    return top_k(numbers_B, ids_B, k, tie_key(generator), distinct=True)


# --- what is refused, and how it is told --------------------------------------------------------


def require_at_most(k: int, size: int) -> None:
    """Refuse to choose more than there are.

    Raises:
        ConfigError: if k is not in 0..size.
    """
    if not 0 <= k <= size:
        raise ConfigError(f"cannot choose {k} of a pool of {size}: choose 0 to {size}")


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
    """Bring numbers to the host in one transfer, hence one synchronisation.

    Args:
        *values: tensors of any shapes, all on one device.

    Returns:
        The same tensors, if they are on the CPU; otherwise copies there: int64 as it is, everything
        else in double precision.
    """
    if values[0].device.type == "cpu":
        return list(values)
    together = torch.cat([_as_doubles(value).flatten() for value in values]).cpu()
    parts = together.split([value.numel() for value in values])
    return [
        (part.view(torch.int64) if value.dtype == torch.int64 else part).view(value.shape)
        for part, value in zip(parts, values, strict=True)
    ]


def _as_doubles(values: Tensor) -> Tensor:
    """In double precision; the bits of int64, which would not all fit."""
    return values.view(torch.float64) if values.dtype == torch.int64 else values.double()


def _refuse_not_finite(values_B: Tensor, ids_B: Tensor, what: str) -> None:
    """Find the culprits, if it was not the sum alone that overflowed."""
    bad_B = ~torch.isfinite(values_B)
    if bool(bad_B.any()):
        ids = ids_B[bad_B]
        raise NonFinite(
            f"{what} is NaN or infinite for {ids.numel()} of {ids_B.numel()} candidates "
            f"(ids {id_list(ids)}); lower the learning rate, or look at these examples"
        )
