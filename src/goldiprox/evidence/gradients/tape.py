"""Finds where the parameters meet the batch in a forward pass, and taps these places.

While a :class:`Tape` is active it sees every torch function that the model calls. A call with a
rule (:mod:`goldiprox.evidence.gradients.rules`) runs with its parameters detached. So, after the
forward pass, a parameter that autograd can still reach from the loss was used in some way that
no rule covers: ``graph.reachable`` finds it and nothing is missed in silence.

Which axis of a tensor holds the examples cannot be told from one batch: 64 positions look like 64
examples. So a :class:`Probe` runs one example first and the shapes are compared. What has
the same shape *and values* in both runs (position embeddings) does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from goldiprox.evidence.gradients.graph import reachable
from goldiprox.evidence.gradients.ledger import Examples, Ledger
from goldiprox.evidence.gradients.operations import Expansion, Operation, Tap, Weight
from goldiprox.evidence.gradients.order import RowOrder
from goldiprox.evidence.gradients.products import square_sums
from goldiprox.evidence.gradients.rules import RULES
from goldiprox.schema import ConfigError

__all__ = ["BATCH_STATISTICS", "Call", "Probe", "Tape"]

BATCH_STATISTICS = (
    "per-example gradients are not defined for BatchNorm with the statistics of the batch, which "
    "mix the examples; put the model in evaluation mode: model.eval()"
)
BATCH_DEPENDENT_EMBEDDING = (
    "an embedding with {0} changes with the batch that it sees, so per-example gradients are not "
    "defined; make it without {0}"
)

OUT_OF_PLACE = (
    *(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div),
    *(Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__),
    *(Tensor.__mul__, Tensor.__rmul__, Tensor.__truediv__, Tensor.__rtruediv__),
)
IN_PLACE = (
    *(Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_),
    *(Tensor.__iadd__, Tensor.__isub__, Tensor.__imul__, Tensor.__itruediv__),
)
ELEMENTWISE = frozenset((*OUT_OF_PLACE, *IN_PLACE))
REPEATING = frozenset(
    (Tensor.expand, Tensor.expand_as, torch.broadcast_to, Tensor.broadcast_to, Tensor.repeat)
)
ROW_TOLERANCE = 0.05
"""Relative difference at which a row is taken for another example's: far above rounding, even in
bfloat16, and far below the difference between two examples."""
DERIVED_ELEMENTS = 1 << 23
"""Elements of per-example gradients held at once for parameters behind a derived value."""


@dataclass(frozen=True)
class Call:
    """What the probe remembers of one torch function call.

    Attributes:
        function: the torch function.
        operands: its first one or two tensor arguments, where a parameter takes part.
        shape: shape of the result.
        value: the result, where it may be independent of the batch.
    """

    function: Any
    operands: tuple[Tensor, ...] = ()
    shape: torch.Size | None = None
    value: Tensor | None = None


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, Tensor))


def _first(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    value = args[0] if args else kwargs.get("input")
    return value if isinstance(value, Tensor) else None


def _operands(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    if func in ELEMENTWISE and not kwargs and len(args) == 2:
        found = [a for a in args if isinstance(a, Tensor)]
        if func in IN_PLACE:
            found[0] = found[0].clone()  # it is about to change
        return tuple(a.detach() for a in found)
    first = _first(args, kwargs)
    return () if first is None else (first.detach(),)


class Probe(TorchFunctionMode):
    """Records the calls of a forward pass over the first example alone.

    Args:
        parameters: the trainable parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._shared = {id(p): p for p in parameters}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function and note its call."""
        kwargs = kwargs or {}
        _refuse_mixing(func, args, kwargs)
        operands = _operands(func, args, kwargs)
        result = func(*args, **kwargs)
        tensors = list(_tensors(args, kwargs))
        if not isinstance(result, Tensor) or not any(id(t) in self._shared for t in tensors):
            self.calls.append(Call(func))
            return result
        # What a rule taps depends on the batch; whether the rest does shows in the tape's run.
        may_be_shared = func not in RULES or func is F.embedding
        value = result.detach() if may_be_shared else None
        self.calls.append(Call(func, operands, result.shape, value))
        if may_be_shared:
            self._shared[id(result)] = result
        return result


class Tape(TorchFunctionMode):
    """Taps every call that brings a parameter and the batch together.

    Args:
        parameters: the trainable parameters.
        calls: what the probe saw.
        count: number of examples of this pass, at least two.
        ledger: takes what the backward pass finds.
        anchor: a scalar that requires grad; the backward pass aims at it.
        same_rows: whether no random choice enters, so that the first example's values must be
            the probe's.
        order: is shown the gradient at every tap, if given.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        calls: Sequence[Call],
        *,
        count: int,
        ledger: Ledger,
        anchor: Tensor,
        same_rows: bool,
        order: RowOrder | None = None,
    ) -> None:
        super().__init__()
        self._order = order
        self.parameters = parameters
        self.index = {id(p): i for i, p in enumerate(parameters)}
        self.ledger = ledger
        self.anchor = anchor
        self._calls = iter(calls)
        self._in_step = True
        self._count = count
        self._same_rows = same_rows
        self._shared: dict[int, Tensor] = {id(p): p for p in parameters}
        self._derived: dict[int, tuple[Tensor, list[int]]] = {}
        self._derived_rows: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Tap the call if a parameter takes part and a rule covers it, else just run it."""
        kwargs = kwargs or {}
        call = self._next(func)
        _refuse_mixing(func, args, kwargs)
        tensors = list(_tensors(args, kwargs))
        if not any(id(t) in self._shared for t in tensors):
            return func(*args, **kwargs)
        if call is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        tapped = self._by_rule(func, call, args, kwargs)
        if tapped is None and not kwargs:
            if func in ELEMENTWISE:
                tapped = self._elementwise(func, call, args)
            elif func in REPEATING:
                tapped = self._repeating(func, call, args)
        if tapped is not None:
            return tapped
        result = func(*args, **kwargs)
        self._note_shared(call, tensors, result)
        return result

    def derived(self) -> set[int]:
        """Parameters behind values that were computed from parameters alone."""
        return {index for _, behind in self._derived.values() for index in behind}

    def finish(self) -> Tensor:
        """After the backward pass: squared norms of everything that was tapped, square_B."""
        self._square_derived()
        return self.ledger.close()

    def _next(self, func: Any) -> Call | None:
        """The probe's record of this call; None for good once the two runs differ."""
        if self._in_step:
            call = next(self._calls, None)
            if call is not None and call.function == func:
                return call
            self._in_step = False
        return None

    def _look_up(self, t: Tensor | None) -> Weight:
        if t is None or not t.requires_grad:
            return Weight(t, None)
        if id(t) not in self.index:
            raise _Uncovered
        return Weight(t.detach(), self.index[id(t)])

    def _by_rule(
        self, func: Any, call: Call, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Tensor | None:
        rule, x = RULES.get(func), _first(args, kwargs)
        if rule is None or x is None or id(x) in self._shared:
            return None
        examples = self._examples(call, x)
        if examples is None:
            return None
        try:
            operation = rule(self.ledger, self._look_up, examples, *args, **kwargs)
        except _Uncovered:
            return None
        return None if operation is None else self._tap(x, operation, examples)

    def _tap(self, x: Tensor, operation: Operation, examples: Examples) -> Tensor:
        if self._order is not None:
            operation = self._order.watched(operation, examples)
        result: Tensor = Tap.apply(self.anchor, x, operation)
        return result

    def _examples(self, call: Call, x: Tensor) -> Examples | None:
        """Find the axis that grew with the batch, and check that its rows are in order."""
        if not call.operands or call.operands[0].dim() != x.dim():
            return None
        few = call.operands[0]
        grown = [i for i in range(x.dim()) if few.shape[i] != x.shape[i]]
        if len(grown) != 1:
            return None
        axis = grown[0]
        per = few.shape[axis]
        if x.shape[axis] != self._count * per:
            return None
        if per > 1 and (axis > 0 or not self._same_rows):
            return None  # examples-first and positions-first cannot be told apart
        if self._same_rows and not _alike(x.detach().narrow(axis, 0, per), few):
            return None  # rows were reordered
        return Examples(self._count, axis, per)

    def _elementwise(self, func: Any, call: Call, args: Sequence[Any]) -> Tensor | None:
        shared = [i for i, a in enumerate(args) if id(a) in self._shared]
        if len(args) != 2 or len(shared) != 1 or not isinstance(args[1 - shared[0]], Tensor):
            return None
        position = shared[0]
        if func in IN_PLACE and position == 0:
            return None
        other, shape = args[1 - position], torch.broadcast_shapes(args[0].shape, args[1].shape)
        if not 0 < other.dim() == len(shape):
            return None  # the examples' axis must come from the other operand
        if self._same_rows and not _alike(other[:1].detach(), call.operands[1 - position]):
            return None  # rows were reordered
        expanded = self._expanded(call, args[position], shape)
        if expanded is None:
            return None
        operands = [expanded, args[1]] if position == 0 else [args[0], expanded]
        result: Tensor = func(*operands)
        return result

    def _repeating(self, func: Any, call: Call, args: Sequence[Any]) -> Tensor | None:
        value = args[0]
        if id(value) not in self._shared:
            return None
        with torch.no_grad():
            shape = func(*args).shape
        expanded = self._expanded(call, value, shape)
        if expanded is None:
            return None
        if func is not Tensor.repeat:
            return expanded.expand(shape)
        return expanded.repeat([n // m for n, m in zip(shape, expanded.shape, strict=True)])

    def _expanded(self, call: Call, value: Tensor, shape: torch.Size) -> Tensor | None:
        """One copy of a shared value for each example, if the result's first axis is examples."""
        few = call.shape
        if few is None or len(few) != len(shape) or few[1:] != shape[1:]:
            return None
        if few[0] != 1 or shape[0] != self._count:
            return None
        filled = (*[1] * (len(shape) - value.dim()), *value.shape)
        if filled[0] != 1:
            return None
        operation = Expansion(filled, self._count, self._delivery(value))
        return self._tap(value.detach(), operation, Examples(self._count))

    def _delivery(self, value: Tensor) -> Callable[[Tensor], None]:
        index = self.index.get(id(value))
        if index is not None:
            self.ledger.announce(index, "rows")
            return lambda rows_BD: self.ledger.add_rows(index, rows_BD)
        key = id(value)
        if key not in self._derived:
            behind = sorted(self.index[id(p)] for p in reachable(value) if id(p) in self.index)
            self._derived[key] = (value, behind)
            for parameter in behind:
                # Announced but never added: keeps direct uses waiting for these to join them.
                self.ledger.announce(parameter, "rows")

        def deliver(rows_BD: Tensor) -> None:
            if self.ledger.muted:
                return
            held = self._derived_rows.get(key)
            self._derived_rows[key] = rows_BD if held is None else held + rows_BD

        return deliver

    def _note_shared(self, call: Call, tensors: Sequence[Tensor], result: Any) -> None:
        if not isinstance(result, Tensor) or not result.requires_grad or call.value is None:
            return
        if any(t.requires_grad and id(t) not in self._shared for t in tensors):
            return
        if result.shape == call.value.shape and torch.equal(result.detach(), call.value):
            self._shared[id(result)] = result

    def _square_derived(self) -> None:
        """Carry the rows of derived values on to the parameters behind them, then square."""
        found = [(*self._derived[key], rows) for key, rows in self._derived_rows.items()]
        behind = sorted({i for _, indices, _ in found for i in indices} - self.ledger.excluded)
        if not behind:
            return
        parameters = [self.parameters[i] for i in behind]
        direct = [self.ledger.take_rows(i) for i in behind]
        size = max(1, DERIVED_ELEMENTS // sum(p.numel() for p in parameters))
        for start in range(0, self._count, size):
            chunk = slice(start, min(start + size, self._count))
            gradients = torch.autograd.grad(
                [value for value, _, _ in found],
                parameters,
                [rows[chunk].view(-1, *value.shape).to(value.dtype) for value, _, rows in found],
                retain_graph=True,
                is_grads_batched=True,
            )
            for gradient, rows in zip(gradients, direct, strict=True):
                total = gradient.to(self.ledger.square_B.dtype)
                if rows is not None:
                    total = total + rows[chunk].view(total.shape)
                self.ledger.square_B[chunk] += square_sums(total)


class _Uncovered(Exception):  # noqa: N818 - never leaves this module
    """A weight of the call is itself computed, so no rule covers the call."""


def _alike(rows: Tensor, probed: Tensor) -> bool:
    if rows.shape != probed.shape or not rows.is_floating_point():
        return torch.equal(rows, probed)
    difference = torch.linalg.vector_norm((rows - probed).float())
    return bool(difference <= ROW_TOLERANCE * torch.linalg.vector_norm(probed.float()))


def _refuse_mixing(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuse, before they run, functions that let the examples of a batch influence one another."""

    def argument(name: str, position: int) -> Any:
        return args[position] if len(args) > position else kwargs.get(name)

    if func is F.batch_norm and argument("training", 5):
        raise ConfigError(BATCH_STATISTICS)
    if func is F.embedding and argument("max_norm", 3) is not None:
        raise ConfigError(BATCH_DEPENDENT_EMBEDDING.format("max_norm"))
    if func is F.embedding and argument("scale_grad_by_freq", 5):
        raise ConfigError(BATCH_DEPENDENT_EMBEDDING.format("scale_grad_by_freq"))
