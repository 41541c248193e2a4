"""Controlled damage: seeded label noise and duplication, with the truth kept beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, DataError

__all__ = [
    "LabelNoise",
    "corrupt_by_exchange",
    "corrupt_by_matrix",
    "corrupt_pairs",
    "corrupt_uniform",
    "duplicate",
]


@dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """Uniform label noise.

    Attributes:
        share: share of the examples whose label is drawn anew, in [0, 1).
        redraw_original: whether the draw may give the original label again. True is what the
            RHO-LOSS reference does: of 10 % drawn with 10 classes, about 9 % are really wrong.
    """

    share: float
    redraw_original: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(
                f"label noise {self.share} is impossible: give a share of at least 0 and below 1, "
                "such as 0.1 for 10 %"
            )


def corrupt_uniform(
    labels_N: Tensor,
    share: float,
    num_classes: int,
    redraw_original: bool,
    generator: torch.Generator,
) -> Tensor:
    """Give exactly ``round(share * N)`` examples a label drawn uniformly.

    The generator is used in a fixed order: one permutation of N, then one draw per corrupted
    example. So a seed always means the same noise (as long as torch keeps its generators), and
    the examples corrupted at a smaller share are among those corrupted at a larger one.

    Args:
        labels_N: int64 labels in 0..C-1; not changed.
        share: share of the examples, in [0, 1).
        num_classes: C.
        redraw_original: whether the original label may be drawn again (then a share of 1/C of
            the draws changes nothing); False gives a wrong label always.
        generator: a CPU generator.

    Returns:
        int64 labels, a new tensor.

    Raises:
        ConfigError: if the share is impossible, or there is no wrong label to draw.
    """
    LabelNoise(share=share, redraw_original=redraw_original)
    chosen = torch.randperm(len(labels_N), generator=generator)[: round(share * len(labels_N))]
    if redraw_original:
        drawn = torch.randint(0, num_classes, chosen.shape, generator=generator)
    else:
        if num_classes < 2:
            raise ConfigError(f"{num_classes} class(es) leave no wrong label to draw")
        drawn = torch.randint(0, num_classes - 1, chosen.shape, generator=generator)
        drawn += drawn >= labels_N[chosen]  # step over the original: uniform over the others
    noisy_N = labels_N.clone()
    noisy_N[chosen] = drawn
    return noisy_N


def corrupt_by_exchange(targets_N: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Give exactly ``round(share * N)`` examples the target of a random example.

    What uniform label noise is to classes, this is to numbers and sets of labels: the distribution
    of the targets stays as it is, and an example may by chance get a target like its own. The
    generator is used in a fixed order: one permutation of N, then one draw per corrupted example.

    Args:
        targets_N: targets of any type and shape; not changed.
        share: share of the examples, in [0, 1).
        generator: a CPU generator.

    Returns:
        A new tensor.

    Raises:
        ConfigError: if the share is impossible.
    """
    LabelNoise(share=share)
    chosen = torch.randperm(len(targets_N), generator=generator)[: round(share * len(targets_N))]
    givers = torch.randint(0, len(targets_N), chosen.shape, generator=generator)
    noisy_N = targets_N.clone()
    noisy_N[chosen] = targets_N[givers]
    return noisy_N


def corrupt_pairs(
    labels_N: Tensor, share: float, pairs: Sequence[tuple[int, int]], generator: torch.Generator
) -> Tensor:
    """Flip labels of certain classes to another one each: structured noise.

    Of every first class exactly ``round(share * count)`` labels are flipped. The generator is used
    in a fixed order, one permutation of N, so that the labels flipped at a smaller share are among
    those flipped at a larger one. Source: Mindermann et al. 2022, appendix C (share 0.5).

    Args:
        labels_N: int64 labels; not changed.
        share: share of each first class, in [0, 1).
        pairs: (from, to), each class first in one pair at most.
        generator: a CPU generator.

    Returns:
        int64 labels, a new tensor.
    """
    order = torch.randperm(len(labels_N), generator=generator)
    noisy_N = labels_N.clone()
    for true, other in pairs:
        mine = order[labels_N[order] == true]
        noisy_N[mine[: round(share * len(mine))]] = other
    return noisy_N


def corrupt_by_matrix(labels_N: Tensor, matrix_CC: Tensor, generator: torch.Generator) -> Tensor:
    """Draw every label from its class's row of a matrix.

    Args:
        labels_N: int64 labels; not changed.
        matrix_CC: float64 probabilities; row is the published class, column the label it gets.
        generator: a CPU generator; one number an example, so that examples do not depend on each
            other.

    Returns:
        int64 labels, a new tensor.

    Raises:
        ConfigError: if a row does not add up to 1.
    """
    sums = matrix_CC.sum(1)
    if (sums - 1).abs().max() > 1e-6:
        row = int((sums - 1).abs().argmax())
        raise ConfigError(
            f"row {row} of the noise matrix adds up to {float(sums[row]):g}: give the "
            "probabilities of the labels that a class gets, which add up to 1"
        )
    drawn_N = torch.rand(len(labels_N), generator=generator, dtype=torch.float64)
    edges_CC = matrix_CC.cumsum(1)
    edges_CC[:, -1] = 1.0
    return torch.searchsorted(edges_CC[labels_N], drawn_N[:, None], right=True).flatten()


MOST_COPIES = 10_000
"""More copies of each example would fill the memory before anything is trained."""


def duplicate(ids: Tensor, factor: float, generator: torch.Generator, *, stride: int) -> Tensor:
    """Repeat examples, giving each copy an id of its own.

    Copy ``j`` of example ``i`` has the id ``j * stride + i``; so ``id % stride`` is its original.

    Args:
        ids: int64 ids of originals, all below ``stride``.
        factor: how many times each example is to occur: 5 means five times; 1.5 means that half
            of them, a seeded choice, occur twice.
        generator: a CPU generator; used only where ``factor`` is no whole number.
        stride: the number of examples in the store.

    Returns:
        int64 ids: the originals in their order, then the copies.

    Raises:
        ConfigError: if the factor is below 1 or not finite.
        DataError: if an id is not an original's.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise ConfigError(
            f"duplicate {factor} is impossible: give 1 for no copies, 5 to have every example "
            "five times, 1.5 to have half of them twice"
        )
    if factor > MOST_COPIES:
        raise ConfigError(
            f"--duplicate {factor:g} is impossible: at most {MOST_COPIES:,} copies of each example"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < stride:
        raise DataError(
            f"ids {int(ids.min())}..{int(ids.max())} are not all originals of a store of {stride}"
        )
    whole = math.floor(factor)
    parts = [ids + copy * stride for copy in range(whole)]
    extra = round((factor - whole) * len(ids))
    if extra:
        chosen = torch.randperm(len(ids), generator=generator)[:extra].sort().values
        parts.append(ids[chosen] + whole * stride)
    return torch.cat(parts)
