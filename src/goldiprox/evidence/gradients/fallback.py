"""Per-example gradient norms of any model by materialising the gradients, a few at a time.

Slower and hungrier than :mod:`goldiprox.evidence.gradients.tape`, but it makes no assumption about
how the model uses a parameter: recurrent layers, ``nn.MultiheadAttention``, parametrizations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goldiprox.batch import ids_of
from goldiprox.entries import Cut, Layout, Positions, Span, cut, fits, tensors
from goldiprox.evidence.gradients.products import accumulation_dtype, square_sums
from goldiprox.schema import ConfigError, DataError

__all__ = [
    "Part",
    "Run",
    "cheaper_looped",
    "examples_of",
    "joined_outputs",
    "looped_gradients",
    "looped_square_norms",
    "mapped_gradients",
    "mapped_square_norms",
    "one_structure",
    "rows",
    "square_of_gradient",
]

HELD_ELEMENTS = 1 << 22
"""Elements of per-example gradients that are held at once on a CPU: 16 MB, near its caches."""

HELD_ELSEWHERE = 16
"""Times as many on an accelerator, whose kernels must be large."""

LOOPED_ELEMENTS = 1 << 18
"""Trainable numbers from which on a CPU loops over examples faster than it maps over them: then
moving the gradients through memory takes longer than starting the model's kernels."""

RECURRENT = frozenset((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))
"""A map takes these apart into steps and holds gradients of the weights at every step."""

Run = Callable[[nn.Module, Any, Any], tuple[Tensor, Any]]
"""(model, inputs, targets) -> loss_B and the model's outputs."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a pass over some examples gave.

    Attributes:
        chunk: which examples.
        gradients: one for each parameter, examples first, in the accumulation dtype.
        loss_B: their losses, detached.
        outputs: the model's outputs for them, detached.
    """

    chunk: slice
    gradients: list[Tensor]
    loss_B: Tensor
    outputs: Any


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def one_structure(layout: Layout | None = None) -> Iterator[None]:
    """Within this context all inputs, and all targets, are of one structure or cut from it.

    Two of its examples may leave open what a list holds; the whole, cut before, has told.

    Args:
        layout: what is known of the structure already.
    """
    token = _layout.set(Layout() if layout is None else layout)
    try:
        yield
    finally:
        _layout.reset(token)


def examples_of(*values: Any) -> int:
    """The number of examples in inputs and targets.

    Raises:
        ConfigError: if there is no tensor, or the tensors' first axes differ.
        DataError: if a batch with ids, or tensors that agree, have something beside them that
            cannot be cut.
    """
    sizes = [leaf.size(0) if leaf.dim() else None for value in values for leaf in tensors(value)]
    # A tensor of itself is the surest, then the ids that a batch carries.
    counts = {value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()}
    ids = set[int]() if counts else _ids_in(values)
    counts = counts or ids or {size for size in sizes if size is not None}
    if len(counts) > 1:
        counts -= {1}  # a first axis of size 1 may broadcast
    if len(counts) == 1:
        (count,) = counts
        if all(fits(value, count) for value in values):
            return count
        if ids or {*sizes, count} == {count}:
            for value in values:  # raises, and names the part that is at fault
                rows(value, slice(0, 0), count)
    raise ConfigError(
        "inputs and targets must be tensors (or dicts, lists or tuples of tensors) with one "
        f"row for each example; their first axes are {sizes}"
    )


def _ids_in(values: Iterable[Any]) -> set[int]:
    """How many ids each batch among some values carries."""
    counts: set[int] = set()
    for value in values:
        with suppress(DataError):
            counts.add(len(ids_of(value)))
    return counts


def rows(value: Any, chunk: slice | Tensor, count: int) -> Any:
    """The rows of some examples, in the structure of the whole.

    Args:
        value: inputs or targets.
        chunk: a slice, or int64 positions.
        count: how many examples there are.

    Raises:
        DataError: if some part has neither one entry for each example nor none at all.
    """
    return _cut(value, count, Span(chunk) if isinstance(chunk, slice) else Positions(chunk))


def _cut(value: Any, count: int, how: Cut) -> Any:
    return cut(value, count, how, _layout.get())


class _UnmappableError(RuntimeError):
    """Lists and arrays with an entry for each example, which ``torch.func`` cannot map over."""


class _Columns:
    """Collects the tensors that have one row for each example."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def tensor(self, rows: Tensor) -> Tensor:
        self.found.append(rows)
        return rows

    def array(self, _rows: object) -> Any:
        raise _UnmappableError

    def sequence(self, _entries: object) -> Any:
        raise _UnmappableError


class _Replaced(_Columns):
    """Puts other tensors in their places."""

    def __init__(self, others: Iterable[Tensor]) -> None:
        self._others = iter(others)

    def tensor(self, _rows: Tensor) -> Tensor:
        return next(self._others)


def square_of_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Squared norm of one loss's gradient over parameters: a scalar, zero where there is none."""
    dtype = accumulation_dtype(parameters[0].dtype)
    square = torch.zeros((), dtype=dtype, device=parameters[0].device)
    if not loss.requires_grad:
        return square
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            # to_dense: nn.Embedding(sparse=True)
            square += square_sums(gradient.to_dense().to(dtype).unsqueeze(0)).squeeze(0)
    return square


def cheaper_looped(parameters: Iterable[Tensor], functions: Iterable[Any]) -> bool:
    """Whether one example after the other is faster than a map over them.

    An estimate, not a measurement: the two differ in the last digits, and a run that is resumed
    must choose as before.

    Args:
        parameters: those whose gradients are taken.
        functions: the torch functions that the model calls.
    """
    parameters = list(parameters)
    if parameters[0].device.type != "cpu":
        return False
    if sum(p.numel() for p in parameters) >= LOOPED_ELEMENTS:
        return True
    return not RECURRENT.isdisjoint(functions)


def looped_square_norms(
    run: Run, model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any, targets: Any
) -> tuple[Tensor, Tensor, Any]:
    """One example at a time with autograd: the way that always works.

    Args:
        run: gives loss_B and outputs.
        model: the model.
        parameters: the parameters whose gradients count.
        inputs: tensors with one row for each example.
        targets: likewise.

    Returns:
        square_B (the squared norms), loss_B and outputs.
    """
    squares, losses, outputs = [], [], []
    wanted = list(parameters.values())
    count = examples_of(inputs, targets)
    for i in range(count):
        one = slice(i, i + 1)
        loss_B, output = run(model, rows(inputs, one, count), rows(targets, one, count))
        squares.append(square_of_gradient(loss_B.sum(), wanted))
        losses.append(loss_B.detach())
        outputs.append(_detached(output))
    return torch.stack(squares), torch.cat(losses), joined_outputs(outputs)


def mapped_square_norms(
    run: Run, model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any, targets: Any
) -> tuple[Tensor, Tensor, Any]:
    """Chunks of examples with ``torch.func``.

    Args:
        run: gives loss_B and outputs.
        model: the model.
        parameters: the parameters whose gradients count, by name in the model.
        inputs: tensors with one row for each example.
        targets: likewise.

    Returns:
        square_B (the squared norms), loss_B and outputs.

    Raises:
        RuntimeError: where the model cannot be vectorised: layers without a batching rule, branches
            on data. A fault of the model's own shows again in the loop.
    """
    squares, losses, outputs = [], [], []
    for part in mapped_gradients(run, model, parameters, inputs, targets):
        squares.append(torch.stack([square_sums(g) for g in part.gradients]).sum(0))
        losses.append(part.loss_B)
        outputs.append(part.outputs)
    return torch.cat(squares), torch.cat(losses), joined_outputs(outputs)


def joined_outputs(parts: list[Any]) -> Any:
    """Outputs of consecutive examples as one: joined if they are tensors, else as a list."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if all(isinstance(part, Tensor) for part in parts) else parts


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def mapped_gradients(
    run: Run, model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any, targets: Any
) -> Iterator[Part]:
    """Per-example gradients with ``torch.func``, a chunk of examples at a time.

    Args:
        run: gives loss_B and outputs.
        model: the model.
        parameters: the parameters whose gradients count, by name in the model.
        inputs: tensors with one row for each example.
        targets: likewise.

    Yields:
        One chunk after the other.
    """
    dtype = accumulation_dtype(next(iter(parameters.values())).dtype)
    runner = _Runner(run, model)
    wanted = {f"model.{name}": p.detach() for name, p in parameters.items()}

    def loss_of_one(
        values: dict[str, Tensor], leaves: list[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Any]]:
        single = _Replaced(leaf.unsqueeze(0) for leaf in leaves)
        arguments = (_cut(inputs, count, single), _cut(targets, count, single))
        loss_B, outputs = torch.func.functional_call(runner, values, arguments)
        if not isinstance(outputs, Tensor):
            raise RuntimeError("outputs that are no tensor cannot be carried out of a map")
        return loss_B.sum(), (loss_B.detach(), outputs.detach())

    gradients_of = torch.func.vmap(torch.func.grad(loss_of_one, has_aux=True), in_dims=(None, 0))
    count = examples_of(inputs, targets)
    held = HELD_ELEMENTS
    if next(iter(wanted.values())).device.type != "cpu":
        held *= HELD_ELSEWHERE
    size = max(1, held // sum(p.numel() for p in wanted.values()))
    columns = _Columns()
    _cut(inputs, count, columns)
    _cut(targets, count, columns)
    for start in range(0, count, size):
        chunk = slice(start, min(start + size, count))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            gradients, (loss_B1, outputs_B1) = gradients_of(
                wanted, [leaf[chunk] for leaf in columns.found]
            )
        yield Part(
            chunk=chunk,
            gradients=[gradients[name].detach().to(dtype) for name in wanted],
            loss_B=loss_B1.flatten(),
            outputs=outputs_B1.flatten(0, 1),
        )


def looped_gradients(
    run: Run, model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any, targets: Any
) -> Iterator[Part]:
    """The same as :func:`mapped_gradients`, one example at a time with autograd."""
    wanted = list(parameters.values())
    dtype = accumulation_dtype(wanted[0].dtype)
    count = examples_of(inputs, targets)
    for i in range(count):
        one = slice(i, i + 1)
        loss_B, outputs = run(model, rows(inputs, one, count), rows(targets, one, count))
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss_B.requires_grad:
            with torch.autocast(loss_B.device.type, enabled=False):
                gradients = torch.autograd.grad(loss_B.sum(), wanted, allow_unused=True)
        yield Part(
            chunk=one,
            gradients=[
                torch.zeros_like(p, dtype=dtype).unsqueeze(0)
                if g is None
                else g.to_dense().to(dtype).unsqueeze(0)
                for p, g in zip(wanted, gradients, strict=True)
            ],
            loss_B=loss_B.detach(),
            outputs=_detached(outputs),
        )


class _Runner(nn.Module):
    """The model and its loss as one module, so that parameters can be swapped by name."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__()
        self._run = run
        self.model = model

    def forward(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """loss_B and outputs."""
        return self._run(self.model, inputs, targets)
