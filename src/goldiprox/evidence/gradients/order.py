"""Whether row r of every tapped tensor is made of example r alone.

A model may bring its examples into another order inside (sorted by length, folded with time) or
mix them. The forward pass cannot tell: any row could be any example's. The backward pass can. With
the loss of example r weighted by w_r, the gradient at row r becomes w_r times as large if that row
is of example r alone, and something else if it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from goldiprox.evidence.gradients.ledger import Examples, Ledger
from goldiprox.evidence.gradients.operations import Operation
from goldiprox.evidence.gradients.products import accumulation_dtype, square_sums

__all__ = ["RowOrder", "Watched"]

GOLDEN = 0.6180339887498949
OCTAVES = 4
"""Weights lie between 1 and 2 to this power: far apart, and harmless in half precision."""

NOISE = 1e-5
"""Of the largest gradient of a tensor: below it, rounding decides what a row's gradient is."""


class RowOrder:
    """Gradients at the taps of one forward pass, in a plain and in a weighted backward pass.

    Args:
        ledger: takes nothing while the weighted pass runs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._taps = 0
        self._plain: dict[int, Tensor] = {}
        self._weighted: dict[int, Tensor] = {}

    def weights(self, loss_B: Tensor) -> Tensor:
        """w_B: no two examples near in the batch have weights near one another."""
        places_B = torch.arange(len(loss_B), device=loss_B.device, dtype=torch.float32)
        return torch.exp2(OCTAVES * (places_B * GOLDEN).frac()).to(loss_B.dtype)

    def watched(self, operation: Operation, examples: Examples) -> Operation:
        """The operation, made to report its output's gradient."""
        self._taps += 1
        return Watched(operation, self, examples, self._taps)

    def see(self, tap: int, examples: Examples, grad: Tensor) -> None:
        """Take an output's gradient."""
        rows = examples.positions(grad, 0)
        norm_B = square_sums(rows.to(accumulation_dtype(rows.dtype))).sqrt()
        (self._weighted if self._ledger.muted else self._plain)[tap] = norm_B

    def is_kept(self, weights_B: Tensor, *, tolerance: float) -> bool:
        """After both passes: whether every row's gradient was weighted as its example.

        Args:
            weights_B: as :meth:`weights` gave them.
            tolerance: relative difference that rounding may make.
        """
        apart = torch.zeros((), dtype=torch.bool, device=weights_B.device)
        for tap, plain_B in self._plain.items():
            expected_B = plain_B * weights_B.to(plain_B.dtype)
            allowed_B = tolerance * expected_B + NOISE * expected_B.max()
            apart |= ((self._weighted[tap] - expected_B).abs() > allowed_B).any()
        return not bool(apart)


@dataclass(frozen=True)
class Watched(Operation):
    """An operation whose output's gradient is shown to a :class:`RowOrder` first."""

    operation: Operation
    order: RowOrder
    examples: Examples
    tap: int

    def run(self, x: Tensor) -> Tensor:
        """The operation's own."""
        return self.operation.run(x)

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        """Report, then the operation's own."""
        self.order.see(self.tap, self.examples, grad)
        return self.operation.backward(x, grad, needs_input)
