"""Squared norms of per-example weight gradients, from a layer's inputs and output gradients.

A weight's gradient for one example is a sum of outer products over positions t (tokens, pixels):
G = sum_t g_t (x) a_t. Its squared norm can be had in two ways, and the cheaper one is taken:

* build G, one small chunk of examples at a time, and square it: about T * O * I multiplications;
* never build it: ||G||^2 = sum_tt' (a_t . a_t') (g_t . g_t'), about T^2 * (O + I).

Sources: Goodfellow 2015 (arXiv:1510.01799) for T = 1; Rochette et al. 2019 (arXiv:1912.06015) for
convolutions; Bu et al. 2022 (arXiv:2205.10683) for choosing layer by layer.

Letters beside the legend of :mod:`goldiprox.schema`: T positions of one example, I and O the
sizes of a layer's input and output, n examples times groups in the chunk at hand. Nothing here
is reduced over examples. All arithmetic is in float32, or float64 where the inputs are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ConvUse",
    "LookupUse",
    "OuterUse",
    "Use",
    "accumulation_dtype",
    "square_norms",
    "square_sums",
]

CHUNK_ELEMENTS = 1 << 21
"""Elements of scratch memory for one chunk of examples: 8 MB of float32, near a core's cache."""

PASS_COST = 24
"""Multiplications in a matrix product that take as long as moving one element through memory."""


@dataclass(frozen=True)
class OuterUse:
    """A matrix used once by a linear map: its gradient is sum_t left_t (x) right_t.

    Attributes:
        left_BTO: factor along the matrix's first axis (output gradients of ``nn.Linear``).
        right_BTI: factor along its second axis (inputs of ``nn.Linear``).
        inputs_left: whether the inputs are the left factor, as in ``x @ weight``.
    """

    left_BTO: Tensor
    right_BTI: Tensor
    inputs_left: bool = False


@dataclass(frozen=True)
class LookupUse:
    """A matrix whose rows were looked up: its gradient is sum_t onehot(row_t) (x) grad_t.

    Attributes:
        rows_BT: int64 row numbers.
        grad_BTI: output gradients, zero where the row gets none (padding).
    """

    rows_BT: Tensor
    grad_BTI: Tensor


@dataclass(frozen=True)
class ConvUse:
    """A convolution kernel used once, over one to three space axes.

    Attributes:
        inputs: [B, channels, *space].
        grads: output gradients, [B, channels out, *space out].
        kernel: kernel size per space axis; likewise stride, padding (both sides) and dilation.
        groups: groups of channels.
        inputs_left: whether ``grads`` are the layer's inputs and ``inputs`` its output gradients:
            a transposed convolution is the same sum with the two exchanged.
    """

    inputs: Tensor
    grads: Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    inputs_left: bool = False

    @property
    def padded(self) -> tuple[int, ...]:
        """Size of the padded input per space axis."""
        return tuple(n + 2 * p for n, p in zip(self.inputs.shape[2:], self.padding, strict=True))

    def taps(self, axis: int) -> list[slice]:
        """For each kernel offset along an axis, the padded input's pixels that it meets."""
        step, count = self.stride[axis], self.grads.shape[2 + axis]
        starts = (k * self.dilation[axis] for k in range(self.kernel[axis]))
        return [slice(start, start + step * (count - 1) + 1, step) for start in starts]


Use = OuterUse | LookupUse | ConvUse


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Float64 for float64, float32 for everything below: half precision cannot hold squares."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def square_norms(uses: Sequence[Use]) -> Tensor:
    """Squared norm of one parameter's gradient, for each example.

    Args:
        uses: every use of the parameter in the forward pass. Gradients of several uses add
            before they are squared, so the cross terms between uses count.

    Returns:
        square_B in the accumulation dtype.
    """
    convs = [use for use in uses if isinstance(use, ConvUse)]
    if convs:
        assert len(convs) == len(uses), "a kernel cannot also be a matrix"
        return _conv_square_norms(convs)
    outers = [use for use in uses if isinstance(use, OuterUse)]
    lookups = [use for use in uses if isinstance(use, LookupUse)]
    terms: list[Tensor] = []
    if outers:
        # Uses only lengthen the sum over positions: laid end to end, cross terms come by
        # themselves.
        outer = OuterUse(
            _joined([u.left_BTO for u in outers]), _joined([u.right_BTI for u in outers])
        )
        terms.append(_outer_square_norms(outer))
    if lookups:
        lookup = LookupUse(
            _joined([u.rows_BT for u in lookups]), _joined([u.grad_BTI for u in lookups])
        )
        terms.append(_lookup_square_norms(lookup))
    if outers and lookups:
        terms.append(2 * _cross_terms(outer, lookup))
    return torch.stack(terms).sum(0)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _chunks(examples: int, elements_per_example: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // max(1, elements_per_example))
    for start in range(0, examples, size):
        yield slice(start, min(start + size, examples))


def _widened(x: Tensor) -> Tensor:
    return x.to(accumulation_dtype(x.dtype))


def _outer_square_norms(use: OuterUse) -> Tensor:
    left, right = use.left_BTO, use.right_BTI
    B, T, O = left.shape  # noqa: E741 - the legend's letter
    I = right.shape[2]  # noqa: E741
    if T == 1:
        return square_sums(_widened(left)) * square_sums(_widened(right))
    pairwise_cost = T * T * (O + I + PASS_COST * 2)
    building_cost = O * I * (T + PASS_COST)
    pairwise = pairwise_cost < building_cost
    found: list[Tensor] = []
    for chunk in _chunks(B, 2 * T * T if pairwise else O * I):
        a, g = _widened(right[chunk]), _widened(left[chunk])
        if pairwise:
            grams = torch.bmm(a, a.mT).mul_(torch.bmm(g, g.mT))
            found.append(grams.flatten(1).sum(1))
        else:
            found.append(square_sums(torch.bmm(g.mT, a)))
    return torch.cat(found)


def _lookup_square_norms(use: LookupUse) -> Tensor:
    B, T = use.rows_BT.shape
    found: list[Tensor] = []
    for chunk in _chunks(B, 2 * T * T):
        rows, g = use.rows_BT[chunk], _widened(use.grad_BTI[chunk])
        # Positions that looked up the same row add up; different rows never meet.
        same = rows.unsqueeze(2) == rows.unsqueeze(1)
        found.append(torch.bmm(g, g.mT).mul_(same).flatten(1).sum(1))
    return torch.cat(found)


def _cross_terms(outer: OuterUse, lookup: LookupUse) -> Tensor:
    """<sum_s left_s (x) right_s, sum_t onehot(row_t) (x) grad_t> for each example."""
    B, S, _ = outer.left_BTO.shape
    T = lookup.rows_BT.shape[1]
    found: list[Tensor] = []
    for chunk in _chunks(B, 2 * S * T):
        rows = lookup.rows_BT[chunk].unsqueeze(1).expand(-1, S, -1)
        picked = _widened(outer.left_BTO[chunk].gather(2, rows))
        inner = torch.bmm(_widened(outer.right_BTI[chunk]), _widened(lookup.grad_BTI[chunk]).mT)
        found.append(inner.mul_(picked).flatten(1).sum(1))
    return torch.cat(found)


def square_sums(x: Tensor) -> Tensor:
    """Sum of squares over all axes but the first."""
    # Row by row and then over rows: torch adds up one long row too naively, which cost 1e-4 of
    # the norm of a kernel with 2 M elements.
    if x.dim() > 1:
        x = torch.linalg.vector_norm(x, dim=-1)
    return x.square().flatten(1).sum(1) if x.dim() > 1 else x.square()


def _conv_square_norms(uses: Sequence[ConvUse]) -> Tensor:
    use = uses[0]
    channels = use.inputs.shape[1] // use.groups
    channels_out = use.grads.shape[1] // use.groups
    taps = prod(use.kernel)
    pixels, positions = prod(use.padded), prod(use.grads.shape[2:])
    pairwise_cost = pixels**2 * channels + positions**2 * (channels_out + PASS_COST * taps)
    building_cost = taps * channels * channels_out * (positions + PASS_COST)
    # Pixel Grams have no cross terms between calls; a kernel used twice is built and added.
    pairwise = len(uses) == 1 and pairwise_cost < building_cost
    columns = channels * (taps // use.kernel[0])
    scratch = max(
        pixels**2 + 2 * positions**2 if pairwise else 0,
        0 if pairwise else columns * (use.padded[0] * positions // use.grads.shape[2]),
        0 if pairwise else columns * channels_out,
    )
    one_chunk = _pairwise_conv if pairwise else _built_conv
    return torch.cat(
        [one_chunk(uses, chunk) for chunk in _chunks(len(use.inputs), use.groups * scratch)]
    )


def _split(use: ConvUse, chunk: slice) -> tuple[Tensor, Tensor]:
    """Padded inputs and output gradients with groups folded into the example axis."""
    x, g = _widened(use.inputs[chunk]), _widened(use.grads[chunk])
    margins = [p for padding in reversed(use.padding) for p in (padding, padding)]
    x = F.pad(x, margins) if any(margins) else x
    if use.groups > 1:
        x, g = (t.unflatten(1, (use.groups, -1)).flatten(0, 1) for t in (x, g))
    return x, g.flatten(2)


def _cut(x: Tensor, offsets: tuple[slice, ...]) -> Tensor:
    """A view of the last axes' pixels."""
    index: tuple[Any, ...] = (..., *offsets)
    return x[index]


def _built_conv(uses: Sequence[ConvUse], chunk: slice) -> Tensor:
    """Build the gradient one kernel row at a time; a row is summed over all uses, then squared.

    Input pixels are laid out for the kernel's later axes only. Along the first axis a kernel
    offset is a shift of whole rows, a view: a third of the memory traffic of a full unfold.
    """
    laid_out: list[tuple[ConvUse, Tensor, Tensor]] = []
    for use in uses:
        x, g_nOT = _split(use, chunk)
        later = [use.taps(axis) for axis in range(1, len(use.kernel))]
        windows = [_cut(x, offsets) for offsets in product(*later)]
        laid_out.append((use, torch.cat(windows, dim=1) if len(windows) > 1 else windows[0], g_nOT))
    square_n: Tensor | None = None
    for k in range(uses[0].kernel[0]):
        gradient: Tensor | None = None
        for use, columns, g_nOT in laid_out:
            rows_nIT = columns[:, :, use.taps(0)[k]].flatten(2)
            part = torch.bmm(g_nOT, rows_nIT.mT)
            gradient = part if gradient is None else gradient.add_(part)
        assert gradient is not None
        square_n = square_sums(gradient) if square_n is None else square_n + square_sums(gradient)
    assert square_n is not None
    return square_n.view(-1, uses[0].groups).sum(1)


def _pairwise_conv(uses: Sequence[ConvUse], chunk: slice) -> Tensor:
    """Sum over pairs of output positions, without unfolding the input.

    The inner product of two unfolded patches is the sum over kernel offsets of inner products of
    single pixels, so one Gram matrix of pixels, shifted, serves all offsets.
    """
    use = uses[0]
    x, g_nOT = _split(use, chunk)
    pixels = x.flatten(2)
    space, space_out = x.shape[2:], use.grads.shape[2:]
    gram = torch.bmm(pixels.mT, pixels).view(-1, *space, *space)
    patches: Tensor | None = None
    for offsets in product(*(use.taps(axis) for axis in range(len(use.kernel)))):
        shifted = _cut(gram, (*offsets, *offsets))
        if patches is None:
            patches = shifted.clone(memory_format=torch.contiguous_format)
        else:
            patches += shifted
    assert patches is not None
    grads = torch.bmm(g_nOT.mT, g_nOT).view(-1, *space_out, *space_out)
    return patches.mul_(grads).flatten(1).sum(1).view(-1, use.groups).sum(1)
