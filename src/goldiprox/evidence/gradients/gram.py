"""Inner products of all logits' gradients: the Gram matrix of the data-dependent tangent kernel.

``K[i*C + c, j*C + d] = <grad f_c(x_i), grad f_d(x_j)>`` over all trainable parameters (Fort et al.
2020; Paul et al. 2021, section 4). One gradient holds as many numbers as the model has parameters,
so none is ever held whole: each example is repeated once for each logit, one backward pass brings
every layer's inputs and output gradients, and each layer's share of the matrix is added from these
(:mod:`goldiprox.evidence.gradients.gram_products`). What no rule covers is taken with
``torch.func``, some columns at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from goldiprox.evidence.gradients.engine import Engine
from goldiprox.evidence.gradients.exact import run_model
from goldiprox.evidence.gradients.fallback import (
    Part,
    examples_of,
    looped_gradients,
    mapped_gradients,
    one_structure,
    rows,
)
from goldiprox.evidence.gradients.gram_products import GramLedger, GramSum
from goldiprox.evidence.mode import uncompiled, undisturbed
from goldiprox.schema import ConfigError

__all__ = ["tangent_kernel"]

HELD_ELEMENTS = 1 << 27
"""Activations that one pass may keep: 512 MB of float32. Larger sets go in blocks, pair by pair."""

COLUMN_ELEMENTS = 1 << 25
"""Elements of gradients held at once where no rule covers a parameter: 128 MB of float32."""


def tangent_kernel(
    model: nn.Module,
    inputs: Any,
    *,
    forward: Callable[[nn.Module, Any], Any] = run_model,
    block: int | None = None,
) -> Tensor:
    """Exact Gram matrix of the logits' gradients over all trainable parameters.

    The model runs in the mode it is in; modes, buffers, ``.grad`` and the random state are as
    before. Memory: the matrix itself, activations of a bounded number of rows, and scratch of
    bounded size; nothing grows with examples x classes x parameters.

    Args:
        model: a classifier whose examples do not influence one another.
        inputs: tensor, or dict, list or tuple of tensors, with one row for each of m examples.
        forward: (model, inputs) -> logits_BC.
        block: examples of one pass; chosen by the size of the model's activations unless given.
            n blocks cost n times the forward and backward passes of one.

    Returns:
        [m*C, m*C], symmetric; row i*C + c is logit c of example i. float32, or float64 for a
        float64 model.

    Raises:
        ConfigError: if there are no examples, the output is no matrix of logits, no parameter is
            trainable, BatchNorm would use the batch's statistics, or dropout is active.

    Source: Paul et al. 2021 (arXiv:2107.07075), section 4.
    """
    count = examples_of(inputs)
    if count == 0:
        raise ConfigError("there are no examples to take a tangent kernel of: the batch is empty")
    if block is not None and block < 1:
        raise ConfigError(f"block is {block}; it must be at least 1")
    engine = Engine(model, _chosen_logit, forward)
    with undisturbed(model), torch.enable_grad(), uncompiled(), one_structure():
        classes, held = _one_example(model, inputs, count, forward)
        engine.probe(inputs, count)
        if engine.is_random:
            raise ConfigError(
                "a tangent kernel needs a model without chance, and random layers (dropout) are "
                "active; use model.eval()"
            )
        size = block or max(1, HELD_ELEMENTS // max(1, held * classes))
        gram = torch.zeros(
            (count * classes, count * classes), dtype=engine.dtype, device=engine.device
        )
        for left, right in _pairs(count, size):
            part = _pass(engine, inputs, count, classes, left, right)
            at_left = slice(left.start * classes, left.stop * classes)
            at_right = slice(right.start * classes, right.stop * classes)
            gram[at_left, at_right] = part
            gram[at_right, at_left] = part.T
    return gram


def _pairs(count: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of blocks of examples, each once."""
    blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    for number, left in enumerate(blocks):
        for right in blocks[number:]:
            yield left, right


def _chosen_logit(logits_BC: Tensor, classes_B: Tensor) -> Tensor:
    if logits_BC.dim() != 2:
        raise ConfigError(
            f"the model's outputs have shape {tuple(logits_BC.shape)}; a tangent kernel needs "
            "logits, one row for each example"
        )
    return logits_BC.gather(1, classes_B.unsqueeze(1)).squeeze(1)


def _one_example(
    model: nn.Module, inputs: Any, count: int, forward: Callable[[nn.Module, Any], Any]
) -> tuple[int, int]:
    """The number of classes, and how many activations autograd keeps for one example."""
    held = 0
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        nonlocal held
        if tensor.untyped_storage().data_ptr() not in parameters:
            held += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BC = forward(model, rows(inputs, slice(0, 1), count))
    if not isinstance(logits_BC, Tensor) or logits_BC.dim() != 2:
        raise ConfigError(
            f"the model returned {_described(logits_BC)} for one example; a tangent kernel needs "
            "logits, one row for each example"
        )
    return int(logits_BC.shape[1]), held


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _pass(
    engine: Engine, inputs: Any, count: int, classes: int, left: slice, right: slice
) -> Tensor:
    """Inner products of one block's rows with another's (or its own)."""
    positions = torch.arange(left.start, left.stop)
    split = None
    if left != right:
        split = positions.numel() * classes
        positions = torch.cat([positions, torch.arange(right.start, right.stop)])
    positions = positions.to(engine.device)
    repeated = rows(inputs, positions.repeat_interleave(classes), count)
    chosen = torch.arange(classes, device=engine.device).repeat(positions.numel())
    total = GramSum.zeros(chosen.numel(), split, dtype=engine.dtype, device=engine.device)
    uncovered = set(range(len(engine.parameters)))
    if chosen.numel() > 1:
        ledger = GramLedger(
            torch.zeros(chosen.numel(), dtype=engine.dtype, device=engine.device),
            total=total,
            copies=classes,
        )
        engine.probe(repeated, chosen.numel())
        found = engine.sweep(repeated, chosen, ledger, check=left.start == right.start == 0)
        if not found.in_order:
            raise ConfigError(
                "the model brings its examples into another order inside, or mixes them, so a "
                "tangent kernel cannot be taken of whole batches"
            )
        uncovered = found.uncovered | ledger.left_over
    if uncovered:
        _add_slowly(engine, engine.slow_parameters(uncovered), repeated, chosen, total)
    return total.whole()


def _add_slowly(
    engine: Engine, parameters: Mapping[str, Tensor], inputs: Any, chosen: Tensor, total: GramSum
) -> None:
    """Materialise gradients, as many columns at once as may be held; again for the next columns."""
    columns = sum(p.numel() for p in parameters.values())
    width = max(1, COLUMN_ELEMENTS // chosen.numel())
    make = mapped_gradients
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        held = torch.empty((chosen.numel(), stop - start), dtype=total.dtype, device=engine.device)
        try:
            _fill(held, make(engine.run, engine.model, parameters, inputs, chosen), start)
        except RuntimeError:
            make = looped_gradients  # the model cannot be vectorised
            _fill(held, make(engine.run, engine.model, parameters, inputs, chosen), start)
        total.add_rows(held)


def _fill(held: Tensor, parts: Iterator[Part], start: int) -> None:
    """Take columns ``start`` and on from parameters' gradients laid side by side."""
    stop = start + held.shape[1]
    for part in parts:
        at = 0
        for gradient in part.gradients:
            flat = gradient.flatten(1)
            low, high = max(start, at), min(stop, at + flat.shape[1])
            if low < high:
                held[part.chunk, low - start : high - start] = flat[:, low - at : high - at]
            at += flat.shape[1]
