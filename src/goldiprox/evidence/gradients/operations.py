"""One call of a torch function whose backward pass notes what gradient norms need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Expansion", "LookUp", "Operation", "Rule", "Tap", "Weight", "channel_sums"]


class Operation:
    """One call of a torch function: how to run it and what its backward pass does."""

    def run(self, x: Tensor) -> Tensor:
        """The function itself, with detached parameters."""
        raise NotImplementedError

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        """Note the parameters' contributions; return the input's gradient if it is needed."""
        raise NotImplementedError


class Tap(torch.autograd.Function):
    """Runs an operation. ``anchor`` makes the output part of the graph although no parameter is."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, operation: Operation) -> Tensor:
        """Run the operation on x."""
        del anchor  # it only has to be among the inputs
        ctx.operation = operation
        ctx.save_for_backward(x)
        y = operation.run(x)
        # A later in-place operation (ReLU) on a view made in here would be an error.
        return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, None]:
        """Note contributions and pass the input's gradient on."""
        (x,) = ctx.saved_tensors
        return None, ctx.operation.backward(x, grads[0], ctx.needs_input_grad[1]), None


@dataclass(frozen=True)
class Weight:
    """A weight or bias of a call: its value, and its index if its gradient counts."""

    value: Tensor | None
    index: int | None

    @property
    def values(self) -> Tensor:
        """The value, where it is known to be there."""
        assert self.value is not None
        return self.value


LookUp = Callable[[Tensor | None], Weight]
Rule = Callable[..., Operation | None]


def channel_sums(t: Tensor) -> Tensor:
    """Sum over all axes but the first two: [B, channels]."""
    return t.sum(dim=tuple(range(2, t.dim()))) if t.dim() > 2 else t


@dataclass(frozen=True)
class Expansion(Operation):
    """Gives a value that all examples share (a scale, position embeddings) one copy for each.

    The copies are views; their gradient is the per-example gradient of the shared value.

    Attributes:
        shape: the value's shape, filled up with ones in front to the result's number of axes.
        count: number of examples, which becomes the first axis.
        deliver: takes the gradient's rows, [B, elements of the value].
    """

    shape: tuple[int, ...]
    count: int
    deliver: Callable[[Tensor], None]

    def run(self, x: Tensor) -> Tensor:
        """The value repeated for each example."""
        return x.reshape(self.shape).expand(self.count, *self.shape[1:])

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> None:
        """Deliver the rows."""
        del x, needs_input
        self.deliver(grad.reshape(self.count, -1))
