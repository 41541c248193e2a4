"""Layers whose per-example gradient norms are known in closed form.

Each rule takes the arguments of one torch function, such as ``F.linear``, and says how to run it
so that its backward pass notes what the norms need: an operation. The parameters enter
it detached, so torch never spends time on their gradients; only the input's gradient flows on.

Working on functions, not modules, means that ``F.linear(x, self.embed.weight)`` and a layer that
is called twice need no case of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.evidence.gradients.ledger import Examples, Ledger
from goldiprox.evidence.gradients.norm_rules import NORM_RULES
from goldiprox.evidence.gradients.operations import LookUp, Operation, Rule, Weight, channel_sums
from goldiprox.evidence.gradients.products import ConvUse, LookupUse, OuterUse, accumulation_dtype

__all__ = ["RULES"]

# --- linear maps -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear(Operation):
    ledger: Ledger
    examples: Examples
    weight: Weight
    bias: Weight
    transposed: bool  # the weight is [in, out], as in x @ weight

    def run(self, x: Tensor) -> Tensor:
        if self.transposed:
            return torch.matmul(x, self.weight.values)
        return F.linear(x, self.weight.values, self.bias.value)

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        if self.ledger.wants(self.weight.index):
            a, g = self.examples.positions(x, 1), self.examples.positions(grad, 1)
            use = OuterUse(a, g, inputs_left=True) if self.transposed else OuterUse(g, a)
            self.ledger.add_use(self.weight.index, use)
        if self.ledger.wants(self.bias.index):
            rows = self.examples.positions(grad, 1)
            rows = rows.to(accumulation_dtype(rows.dtype)).sum(1)
            self.ledger.add_rows(self.bias.index, rows)
        if not needs_input:
            return None
        weight = self.weight.values.to(grad.dtype)
        return torch.matmul(grad, weight.mT if self.transposed else weight).to(x.dtype)


def _linear(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Operation | None:
    if input.dim() < 2 or weight.dim() != 2 or examples.axis == input.dim() - 1:
        return None
    found = _Linear(ledger, examples, look_up(weight), look_up(bias), transposed=False)
    ledger.announce(found.weight.index, "matrix")
    ledger.announce(found.bias.index, "rows")
    return found


def _matmul(
    ledger: Ledger, look_up: LookUp, examples: Examples, input: Tensor, other: Tensor
) -> Operation | None:
    if input.dim() < 2 or other.dim() != 2 or examples.axis == input.dim() - 1:
        return None
    found = _Linear(ledger, examples, look_up(other), Weight(None, None), transposed=True)
    ledger.announce(found.weight.index, "matrix")
    return found


# --- embedding -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Embedding(Operation):
    ledger: Ledger
    examples: Examples
    weight: Weight
    padding_idx: int | None

    def run(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight.values)

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> None:
        del needs_input  # row numbers have no gradient
        if self.ledger.wants(self.weight.index):
            rows_BT, grad_BTI = self.examples.positions(x, 0), self.examples.positions(grad, 1)
            if self.padding_idx is not None:
                grad_BTI = grad_BTI.masked_fill((rows_BT == self.padding_idx).unsqueeze(2), 0)
            self.ledger.add_use(self.weight.index, LookupUse(rows_BT.long(), grad_BTI))


def _embedding(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Operation | None:
    del input, norm_type, sparse
    if max_norm is not None or scale_grad_by_freq:
        return None
    if padding_idx is not None:
        padding_idx %= weight.shape[0]
    found = _Embedding(ledger, examples, look_up(weight), padding_idx)
    ledger.announce(found.weight.index, "matrix")
    return found


# --- convolution -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Conv(Operation):
    ledger: Ledger
    run_conv: Callable[..., Tensor]
    weight: Weight
    bias: Weight
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    far: tuple[int, ...]  # extra padding behind each space axis: 'same' with an even kernel

    def _extended(self, x: Tensor) -> Tensor:
        if not any(self.far):
            return x
        return F.pad(x, [margin for far in reversed(self.far) for margin in (0, far)])

    def run(self, x: Tensor) -> Tensor:
        return self.run_conv(
            self._extended(x),
            self.weight.values,
            self.bias.value,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        weight, shape = self.weight.values, x.shape
        x = self._extended(x)
        if self.ledger.wants(self.weight.index):
            use = ConvUse(
                x,
                grad,
                tuple(weight.shape[2:]),
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
            )
            self.ledger.add_use(self.weight.index, use)
        if self.ledger.wants(self.bias.index):
            wide = grad.to(accumulation_dtype(grad.dtype))
            self.ledger.add_rows(self.bias.index, channel_sums(wide))
        if not needs_input:
            return None
        # Only the input's shape matters to its gradient; a cast would cost a copy.
        shaped = x if x.dtype == grad.dtype else grad.new_empty(1).expand(x.shape)
        flags, zeros = [True, False, False], [0] * len(self.stride)
        found: Tensor = torch.ops.aten.convolution_backward(
            grad,
            shaped,
            weight.to(grad.dtype),
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            zeros,
            self.groups,
            flags,
        )[0]
        return found[tuple(slice(n) for n in shape)].to(x.dtype)


def _each(value: int | tuple[int, ...], space: int) -> tuple[int, ...]:
    """One value for each space axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * space if len(values) == 1 else values


def _conv(space: int, run_conv: Callable[..., Tensor]) -> Rule:
    def rule(
        ledger: Ledger,
        look_up: LookUp,
        examples: Examples,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Operation | None:
        if not examples.lead or input.dim() != space + 2:
            return None
        far = (0,) * space
        if padding == "valid":
            padding = 0
        if padding == "same":
            steps = zip(_each(dilation, space), weight.shape[2:], strict=True)
            needed = [d * (k - 1) for d, k in steps]
            padding, far = tuple(n // 2 for n in needed), tuple(n % 2 for n in needed)
        assert not isinstance(padding, str)
        found = _Conv(
            ledger,
            run_conv,
            look_up(weight),
            look_up(bias),
            _each(stride, space),
            _each(padding, space),
            _each(dilation, space),
            groups,
            far,
        )
        ledger.announce(found.weight.index, "kernel")
        ledger.announce(found.bias.index, "rows")
        return found

    return rule


@dataclass(frozen=True)
class _TransposedConv(Operation):
    ledger: Ledger
    run_conv: Callable[..., Tensor]
    weight: Weight
    bias: Weight
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]

    def run(self, x: Tensor) -> Tensor:
        return self.run_conv(
            x,
            self.weight.values,
            self.bias.value,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        weight = self.weight.values
        if self.ledger.wants(self.weight.index):
            use = ConvUse(
                grad,
                x,
                tuple(weight.shape[2:]),
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                inputs_left=True,
            )
            self.ledger.add_use(self.weight.index, use)
        if self.ledger.wants(self.bias.index):
            wide = grad.to(accumulation_dtype(grad.dtype))
            self.ledger.add_rows(self.bias.index, channel_sums(wide))
        if not needs_input:
            return None
        found: Tensor = torch.ops.aten.convolution_backward(
            grad,
            x if x.dtype == grad.dtype else grad.new_empty(1).expand(x.shape),
            weight.to(grad.dtype),
            None,
            self.stride,
            self.padding,
            self.dilation,
            True,
            self.output_padding,
            self.groups,
            [True, False, False],
        )[0]
        return found.to(x.dtype)


def _transposed_conv(space: int, run_conv: Callable[..., Tensor]) -> Rule:
    def rule(
        ledger: Ledger,
        look_up: LookUp,
        examples: Examples,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        dilation: int | tuple[int, ...] = 1,
    ) -> Operation | None:
        if not examples.lead or input.dim() != space + 2:
            return None
        found = _TransposedConv(
            ledger,
            run_conv,
            look_up(weight),
            look_up(bias),
            _each(stride, space),
            _each(padding, space),
            _each(output_padding, space),
            groups,
            _each(dilation, space),
        )
        ledger.announce(found.weight.index, "kernel")
        ledger.announce(found.bias.index, "rows")
        return found

    return rule


RULES: dict[Any, Rule] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    F.embedding: _embedding,
    F.conv1d: _conv(1, F.conv1d),
    F.conv2d: _conv(2, F.conv2d),
    F.conv3d: _conv(3, F.conv3d),
    F.conv_transpose1d: _transposed_conv(1, F.conv_transpose1d),
    F.conv_transpose2d: _transposed_conv(2, F.conv_transpose2d),
    F.conv_transpose3d: _transposed_conv(3, F.conv_transpose3d),
    **NORM_RULES,
}
"""Torch function -> rule. A rule returns None where it does not apply."""
