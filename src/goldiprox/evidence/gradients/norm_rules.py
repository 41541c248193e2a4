"""Rules for normalisation layers and PReLU: their parameters are small, so rows are held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.evidence.gradients.ledger import Examples, Ledger
from goldiprox.evidence.gradients.operations import LookUp, Operation, Rule, Weight, channel_sums
from goldiprox.evidence.gradients.products import accumulation_dtype

__all__ = ["NORM_RULES"]


@dataclass(frozen=True)
class _Norm(Operation):
    """A normalisation followed by an affine map, whose input gradient torch works out itself."""

    ledger: Ledger
    examples: Examples
    call: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    weight: Weight
    bias: Weight
    trailing: bool  # parameters cover the last axes; otherwise axis 1

    def run(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight.value, self.bias.value)

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        wide = accumulation_dtype(x.dtype)
        grad = grad.to(wide)
        with torch.enable_grad():
            source = x.detach().to(wide).requires_grad_(needs_input)
            normal = self.call(source, None, None)
        if self.ledger.wants(self.weight.index):
            self.ledger.add_rows(self.weight.index, self._summed(grad * normal.detach()))
        if self.ledger.wants(self.bias.index):
            self.ledger.add_rows(self.bias.index, self._summed(grad))
        if not needs_input:
            return None
        if self.weight.value is not None:
            scale = self.weight.value.to(wide)
            grad = grad * (scale if self.trailing else _per_channel(scale, x))
        return torch.autograd.grad(normal, source, grad)[0].to(x.dtype)

    def _summed(self, t: Tensor) -> Tensor:
        if not self.trailing:
            return channel_sums(t)
        parameter = self.weight.value if self.weight.value is not None else self.bias.values
        return self.examples.positions(t, parameter.dim()).sum(1).flatten(1)


@dataclass(frozen=True)
class _RunningNorm(Operation):
    """BatchNorm with stored statistics: a fixed affine map of each channel."""

    ledger: Ledger
    mean: Tensor
    variance: Tensor
    weight: Weight
    bias: Weight
    eps: float

    def run(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.mean, self.variance, self.weight.value, self.bias.value, False, 0.0, self.eps
        )

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        wide = accumulation_dtype(x.dtype)
        rate = torch.rsqrt(self.variance.to(wide) + self.eps)
        if self.ledger.wants(self.weight.index):
            # Centred first: sum(g x) - mean sum(g) would cancel where the mean is large.
            centred = x.to(wide) - _per_channel(self.mean.to(wide), x)
            self.ledger.add_rows(self.weight.index, channel_sums(centred.mul_(grad)) * rate)
        if self.ledger.wants(self.bias.index):
            self.ledger.add_rows(self.bias.index, channel_sums(grad.to(wide)))
        if not needs_input:
            return None
        if self.weight.value is not None:
            rate = rate * self.weight.value.to(wide)
        return (grad * _per_channel(rate, x)).to(x.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 2))


def _announce_affine(ledger: Ledger, weight: Weight, bias: Weight) -> None:
    ledger.announce(weight.index, "rows")
    ledger.announce(bias.index, "rows")


def _layer_norm(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Operation | None:
    def call(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, normalized_shape, weight, bias, eps)

    if examples.axis >= input.dim() - len(normalized_shape):
        return None
    found = _Norm(ledger, examples, call, look_up(weight), look_up(bias), trailing=True)
    _announce_affine(ledger, found.weight, found.bias)
    return found


def _rms_norm(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Operation | None:
    def call(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        del bias
        return F.rms_norm(x, normalized_shape, weight, eps)

    if examples.axis >= input.dim() - len(normalized_shape):
        return None
    if eps is None:
        eps = torch.finfo(input.dtype).eps  # as torch takes it, before the input is widened
    found = _Norm(ledger, examples, call, look_up(weight), Weight(None, None), trailing=True)
    _announce_affine(ledger, found.weight, found.bias)
    return found


def _group_norm(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Operation | None:
    def call(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(x, num_groups, weight, bias, eps)

    if not examples.lead or input.dim() < 2:
        return None
    found = _Norm(ledger, examples, call, look_up(weight), look_up(bias), trailing=False)
    _announce_affine(ledger, found.weight, found.bias)
    return found


def _batch_norm(
    ledger: Ledger,
    look_up: LookUp,
    examples: Examples,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Operation | None:
    del input, momentum
    if not examples.lead or training or running_mean is None or running_var is None:
        return None
    scale, shift = look_up(weight), look_up(bias)
    _announce_affine(ledger, scale, shift)
    return _RunningNorm(ledger, running_mean, running_var, scale, shift, eps)


@dataclass(frozen=True)
class _PReLU(Operation):
    """max(0, x) + weight * min(0, x), with one weight or one for each channel."""

    ledger: Ledger
    weight: Weight

    def run(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.values)

    def backward(self, x: Tensor, grad: Tensor, needs_input: bool) -> Tensor | None:
        wide, weight = accumulation_dtype(x.dtype), self.weight.values
        if self.ledger.wants(self.weight.index):
            below = channel_sums(grad.to(wide) * x.to(wide).clamp(max=0))
            self.ledger.add_rows(
                self.weight.index, below if weight.numel() > 1 else below.sum(1, keepdim=True)
            )
        if not needs_input:
            return None
        slope = weight if weight.numel() == 1 else _per_channel(weight, x)
        return torch.where(x > 0, grad, slope.to(grad.dtype) * grad).to(x.dtype)


def _prelu(
    ledger: Ledger, look_up: LookUp, examples: Examples, input: Tensor, weight: Tensor
) -> Operation | None:
    if not examples.lead or input.dim() < 2:
        return None
    found = _PReLU(ledger, look_up(weight))
    ledger.announce(found.weight.index, "rows")
    return found


NORM_RULES: dict[Callable[..., Tensor], Rule] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    torch.prelu: _prelu,
    Tensor.prelu: _prelu,
}
"""Torch function -> rule, as in :data:`goldiprox.evidence.gradients.rules.RULES`."""
