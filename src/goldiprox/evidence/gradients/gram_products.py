"""Inner products between all rows' gradients of one parameter, from a layer's inputs and gradients.

A row is one logit of one example. A weight's gradient for a row is a sum of outer products over
positions t (tokens, pixels), G_r = sum_t g_rt (x) a_t, so there are two ways here as well, and the
cheaper one is taken:

* build the G, some columns at a time, and multiply: about R * T * O * I + R^2 * O * I;
* never build them: <G_r, G_s> = sum_tt' (a_rt . a_st') (g_rt . g_st'), about R^2 * T^2 * O.

The inputs a of an example are the same for all its logits, so they are kept once.

Letters beside the legend of :mod:`goldiprox.schema`: R rows, n examples, so R = n * C; T positions
of one example, I and O the sizes of a layer's input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.evidence.gradients.ledger import Ledger
from goldiprox.evidence.gradients.products import (
    PASS_COST,
    ConvUse,
    LookupUse,
    OuterUse,
    Use,
    accumulation_dtype,
)

__all__ = ["GramLedger", "GramSum"]

SCRATCH_ELEMENTS = 1 << 24
"""Elements of scratch memory held at once: 64 MB of float32."""

ROW_BLOCK = 256
"""Rows whose products are added at once; blocks below the diagonal are left out."""


@dataclass
class GramSum:
    """A running sum of inner products between rows.

    Attributes:
        values: [left rows, right rows]; below the diagonal's blocks nothing is added if both sides
            are the same rows.
        split: the rows before it are the left side, the others the right; None: all rows are both.
    """

    values: Tensor
    split: int | None

    @staticmethod
    def zeros(rows: int, split: int | None, *, dtype: torch.dtype, device: torch.device) -> GramSum:
        """Nothing added yet."""
        shape = (rows, rows) if split is None else (split, rows - split)
        return GramSum(torch.zeros(shape, dtype=dtype, device=device), split)

    @property
    def dtype(self) -> torch.dtype:
        """Of the sum."""
        return self.values.dtype

    def blocks(self, step: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Pairs of row slices with the part of the sum that is theirs.

        Args:
            step: rows on each side.
        """
        left, right = self.values.shape
        first = self.split or 0
        for a in range(0, left, step):
            for b in range(a if self.split is None else 0, right, step):
                rows, others = slice(a, min(a + step, left)), slice(b, min(b + step, right))
                shifted = slice(first + others.start, first + others.stop)
                yield rows, shifted, self.values[rows, others]

    def add_rows(self, rows_RD: Tensor) -> None:
        """Add the inner products of rows that are held."""
        for rows, others, target in self.blocks(ROW_BLOCK):
            target.addmm_(rows_RD[rows], rows_RD[others].T)

    def whole(self) -> Tensor:
        """The sum, its lower half filled in."""
        if self.split is not None:
            return self.values
        return self.values.triu() + self.values.triu(1).T


@dataclass(kw_only=True)
class _Factors:
    """A parameter's gradients as outer products.

    Attributes:
        grads_RTO: output gradients of every row.
        taps: makes, for each part of the weight's input side (each offset of a kernel), the inputs
            [n, T, I] that meet these gradients.
        count: how many such parts there are.
        width: I.
    """

    grads_RTO: Tensor
    taps: Callable[[], Iterator[Tensor]]
    count: int
    width: int


@dataclass
class GramLedger(Ledger):
    """Takes what a backward pass over rows finds, and adds inner products instead of squares.

    Attributes:
        total: the running sum.
        copies: consecutive rows that are the same example.
        left_over: parameters that could not be added after all.
    """

    total: GramSum = field(kw_only=True)
    copies: int = field(kw_only=True)
    left_over: set[int] = field(default_factory=set, kw_only=True)

    def refused(self, derived: set[int]) -> set[int]:
        """Those of mixed kinds, and those behind derived values: rows of these are not added."""
        return super().refused(derived) | derived

    def take_uses(self, index: int, uses: list[Use]) -> None:
        """Add the inner products of a matrix's or kernel's gradients."""
        convs = [use for use in uses if isinstance(use, ConvUse)]
        outers = [use for use in uses if isinstance(use, OuterUse)]
        lookups = [use for use in uses if isinstance(use, LookupUse)]
        if outers and lookups:
            self.left_over.add(index)  # a matrix both looked up and multiplied with
        elif convs:
            # Of a transposed convolution it is the gradients that take the inputs' place.
            copies = 1 if any(use.inputs_left for use in convs) else self.copies
            for group in range(convs[0].groups):
                _add_products(self.total, _conv_factors(convs, group, copies), copies)
        elif lookups:
            _add_lookups(self.total, lookups, self.copies)
        else:
            copies = 1 if len({use.inputs_left for use in outers}) > 1 else self.copies
            _add_products(self.total, _outer_factors(outers, copies), copies)

    def take_whole_rows(self, rows_BD: Tensor) -> None:
        """Add the inner products of a small parameter's gradients."""
        self.total.add_rows(rows_BD.to(self.total.dtype))


def _wide(parts: Sequence[Tensor], axis: int) -> Tensor:
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=axis)
    return whole.to(accumulation_dtype(whole.dtype))


def _outer_factors(uses: Sequence[OuterUse], copies: int) -> _Factors:
    """Uses only lengthen the sum over positions: laid end to end."""
    # With one copy only, inputs and gradients are on either side: left is as good as gradients.
    swapped = uses[0].inputs_left and copies > 1
    grads = _wide([u.right_BTI if swapped else u.left_BTO for u in uses], 1)
    inputs = _wide([(u.left_BTO if swapped else u.right_BTI)[::copies] for u in uses], 1)
    return _Factors(
        grads_RTO=grads, taps=lambda: iter([inputs]), count=1, width=int(inputs.shape[2])
    )


def _conv_factors(uses: Sequence[ConvUse], group: int, copies: int) -> _Factors:
    groups = uses[0].groups

    def of_group(x: Tensor) -> Tensor:
        width = x.shape[1] // groups
        return x[:, group * width : (group + 1) * width]

    grads = _wide([of_group(use.grads).flatten(2).mT for use in uses], 1)
    padded = []
    for use in uses:
        x = of_group(use.inputs[::copies])
        margins = [p for padding in reversed(use.padding) for p in (padding, padding)]
        padded.append(F.pad(x, margins) if any(margins) else x)

    def taps() -> Iterator[Tensor]:
        axes = range(len(uses[0].kernel))
        per_use = [list(product(*(use.taps(axis) for axis in axes))) for use in uses]
        for offsets in zip(*per_use, strict=True):
            found = [x[(..., *cut)].flatten(2).mT for x, cut in zip(padded, offsets, strict=True)]
            yield _wide(found, 1)

    return _Factors(
        grads_RTO=grads, taps=taps, count=prod(uses[0].kernel), width=int(padded[0].shape[1])
    )


def _add_products(total: GramSum, factors: _Factors, copies: int) -> None:
    R, T, O = factors.grads_RTO.shape  # noqa: E741 - the legend's letter
    n, I = R // copies, factors.width  # noqa: E741
    pairwise = R * R * T * T * (O + 3 * PASS_COST) + n * n * T * T * I * factors.count
    building = factors.count * I * O * (R * T + R * R + R * PASS_COST)
    if pairwise < building:
        _add_pairwise(total, factors, copies)
    else:
        _add_built(total, factors, copies)


def _add_built(total: GramSum, factors: _Factors, copies: int) -> None:
    """Build all rows' gradients, some columns at a time."""
    R, T, O = factors.grads_RTO.shape  # noqa: E741
    n, I = R // copies, factors.width  # noqa: E741
    inner = min(I, max(1, SCRATCH_ELEMENTS // R))
    outer = min(O, max(1, SCRATCH_ELEMENTS // (R * inner)))
    grads_nCOT = factors.grads_RTO.reshape(n, copies, T, O).transpose(2, 3)
    for inputs_nTI in factors.taps():
        for o in range(0, O, outer):
            some = grads_nCOT[:, :, o : o + outer].reshape(n, -1, T)
            for i in range(0, I, inner):
                built = torch.bmm(some, inputs_nTI[:, :, i : i + inner])
                total.add_rows(built.view(R, -1))


def _add_pairwise(total: GramSum, factors: _Factors, copies: int) -> None:
    """Multiply inner products of inputs with those of gradients, for pairs of positions."""
    inputs_nTD = torch.cat(list(factors.taps()), dim=2)

    def alike(left: slice, right: slice) -> Tensor:
        a, b = inputs_nTD[left], inputs_nTD[right]
        return (a.flatten(0, 1) @ b.flatten(0, 1).T).view(*a.shape[:2], *b.shape[:2])

    _add_weighted(total, factors.grads_RTO, alike, copies)


def _add_lookups(total: GramSum, uses: Sequence[LookupUse], copies: int) -> None:
    """Gradients of looked-up rows meet only where the same row was looked up."""
    looked_nT = torch.cat([use.rows_BT[::copies] for use in uses], dim=1)
    grads_RTO = _wide([use.grad_BTI for use in uses], 1)

    def same(left: slice, right: slice) -> Tensor:
        a, b = looked_nT[left], looked_nT[right]
        return (a[:, :, None, None] == b[None, None]).to(total.dtype)

    _add_weighted(total, grads_RTO, same, copies)


def _add_weighted(
    total: GramSum,
    grads_RTO: Tensor,
    weight: Callable[[slice, slice], Tensor],
    copies: int,
) -> None:
    """Add sum_tt' weight(i, t, j, t') (g_rt . g_st') for rows r of example i and s of example j."""
    _, T, O = grads_RTO.shape  # noqa: E741
    each = max(1, int((SCRATCH_ELEMENTS / (2 * (copies * T) ** 2)) ** 0.5))
    for rows, others, target in total.blocks(copies * each):
        g, h = grads_RTO[rows].reshape(-1, O), grads_RTO[others].reshape(-1, O)
        products = (g @ h.T).view(-1, copies, T, len(h) // (copies * T), copies, T)
        left = slice(rows.start // copies, rows.stop // copies)
        right = slice(others.start // copies, others.stop // copies)
        products *= weight(left, right)[:, None, :, :, None, :]
        target += (
            products.sum((2, 5)).flatten(2, 3).flatten(0, 1)
            if T > 1
            else products.view(target.shape)
        )
