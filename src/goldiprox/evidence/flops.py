"""Floating-point operations of a model, counted on one real pass of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from goldiprox.batch import Batch, ids_of, model_output, take
from goldiprox.evidence.flop_formulas import FORMULAS, looks_expensive
from goldiprox.evidence.gradients import without_checks
from goldiprox.evidence.mode import twin_of, uncompiled, undisturbed
from goldiprox.objectives import CLASSIFICATION, Objective

__all__ = [
    "Counted",
    "Flops",
    "FlopsPerExample",
    "PassFlops",
    "count_flops",
    "count_pass",
    "counting",
    "flops_per_example",
    "parameter_count",
]

FlopsPerExample = tuple[float, float]
"""(forward, forward and backward) of one example."""

FEW = 8
"""Examples that a count is taken of."""


@dataclass
class Counted:
    """What was counted so far.

    Attributes:
        total: floating-point operations.
        uncounted: names of operations that may cost much and that no formula covers.
    """

    total: float = 0.0
    uncounted: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one example.

    Attributes:
        forward: of a forward pass.
        training: of a forward and a backward pass.
        uncounted: names of operations that are missing in both, sorted.
    """

    forward: float
    training: float
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassFlops:
    """Floating-point operations of one kind of pass over pools of any size.

    Attributes:
        per_example: what each example adds.
        per_call: what each call adds, however many examples it has.
        uncounted: as in :class:`Flops`.
    """

    per_example: float = 0.0
    per_call: float = 0.0
    uncounted: tuple[str, ...] = ()

    def of(self, size: int, micro_batch: int | None = None) -> float:
        """Of a pool, scored at most ``micro_batch`` examples at once."""
        # Parts no larger than those that were counted have their calls among the examples.
        calls = 1 if micro_batch is None or micro_batch < FEW else ceil(size / micro_batch)
        return self.per_call * calls + self.per_example * size


class _Counter(TorchDispatchMode):
    """Adds up what each operation costs.

    Not torch's own FlopCounterMode, whose hooks on modules do not bear ``torch.autograd.grad``.
    """

    supports_higher_order_operators = True  # flex attention is one of them

    def __init__(self, found: Counted) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(kind not in (Tensor, nn.Parameter) for kind in types):
            return NotImplemented  # nested or distributed: what it is made of comes here again
        kwargs = kwargs or {}
        formula = FORMULAS.get(getattr(func, "_overloadpacket", func))
        if formula is None and isinstance(func, OpOverload):
            with self:  # what is made of other operations counts as these
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self._found.total += formula(*args, **kwargs, out_val=result)
        elif looks_expensive(func):
            self._found.uncounted.add(func.name().partition(".")[0].replace("::", "."))
        return result


@contextmanager
def counting() -> Iterator[Counted]:
    """Count the operations that torch runs in the block.

    Products of matrices, convolutions, attention, recurrent layers and Fourier transforms are
    counted, of whatever backend; element-wise work is not. Fused attention, encoder layers and
    recurrent layers and compiled models run in their plain form meanwhile. Work outside of torch's
    operations (NumPy, code of one's own in C) is invisible.

    Yields:
        The count so far.
    """
    found = Counted()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    (onednn, *_) = torch.backends.mkldnn.set_flags(_enabled=False)  # it fuses recurrent layers
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            uncompiled(),
            _Counter(found),
        ):
            yield found
    finally:
        torch.backends.mkldnn.set_flags(_enabled=onednn)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def count_flops(
    model: nn.Module,
    batch: Batch,
    logits: Callable[[nn.Module, Batch], Any] = model_output,
    objective: Objective = CLASSIFICATION,
) -> Flops:
    """Count a forward and a training pass and divide by the number of examples.

    A copy of the model is run, or itself if it cannot be copied; modes, buffers, gradients and the
    global random state are as before. The optimizer's update is not counted.

    Args:
        model: any.
        batch: some examples on the model's device; at most 8 of them are used.
        logits: how to get the output that the objective takes.
        objective: what the model is trained for.
    """
    few = take(batch, torch.arange(min(FEW, ids_of(batch).numel())))
    count = int(ids_of(few).numel())
    model = twin_of(model)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        with undisturbed(model):
            model.eval()
            with torch.no_grad(), counting() as forward:
                logits(model, few)
            model.train()
            with torch.enable_grad(), counting() as training:
                loss = objective.losses(logits(model, few), few).sum()
                if loss.requires_grad:  # not .backward(): it would fill .grad
                    torch.autograd.grad(loss, trainable, allow_unused=True)
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, copy in buffers:  # BatchNorm's, which change unseen under a counter
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)
    return Flops(
        forward=forward.total / count,
        training=training.total / count,
        uncounted=tuple(sorted(forward.uncounted | training.uncounted)),
    )


def flops_per_example(
    model: nn.Module,
    batch: Batch,
    logits: Callable[[nn.Module, Batch], Any] = model_output,
    objective: Objective = CLASSIFICATION,
) -> FlopsPerExample:
    """(forward, training) of :func:`count_flops`, with the same arguments."""
    flops = count_flops(model, batch, logits, objective)
    return flops.forward, flops.training


def count_pass(run: Callable[[Batch], object], batch: Batch) -> PassFlops:
    """Count a pass of any kind, by two runs of different size.

    Args:
        run: the pass; it leaves everything as it was.
        batch: some examples on the model's device; at most 8 of them are used.
    """
    size = min(FEW, int(ids_of(batch).numel()))
    few, fewer = (take(batch, torch.arange(n)) for n in (size, size // 2))
    with without_checks():
        run(few)  # the first time a model is looked at more closely
        with counting() as whole:
            run(few)
        with counting() as part:
            if size > 3:
                run(fewer)
    uncounted = tuple(sorted(whole.uncounted))
    if size <= 3:  # one example alone goes another way
        return PassFlops(per_example=whole.total / size, uncounted=uncounted)
    per_example = (whole.total - part.total) / (size - size // 2)
    return PassFlops(
        per_example=per_example,
        per_call=max(0.0, whole.total - size * per_example),
        uncounted=uncounted,
    )


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
