"""Controlled damage: seeded label noise and duplication, with the truth kept beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, DataError

__all__ = ["LabelNoise", "corrupt_uniform", "duplicate"]


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
