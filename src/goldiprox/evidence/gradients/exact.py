"""Exact per-example gradient norms over all parameters, mostly in one forward and backward pass.

Every norm is of one example's own, unreduced loss, so batch size and micro-batch size do not
change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointError

from goldiprox.entries import Layout
from goldiprox.evidence.gradients.engine import Engine
from goldiprox.evidence.gradients.fallback import (
    examples_of,
    joined_outputs,
    one_structure,
    rows,
)
from goldiprox.evidence.gradients.products import accumulation_dtype
from goldiprox.evidence.mode import uncompiled, undisturbed
from goldiprox.schema import ConfigError

__all__ = [
    "GradientPass",
    "cross_entropy",
    "gradient_norms",
    "run_model",
]


@dataclass(frozen=True, kw_only=True)
class GradientPass:
    """What one forward and backward pass found.

    Attributes:
        grad_norm_B: Euclidean norm of each example's gradient over all trainable parameters,
            nats per unit of parameter; float32, or float64 for a float64 model.
        loss_B: each example's loss, unreduced, in the dtype that the loss function gave.
        outputs: the model's outputs, detached; of several micro-batches joined.
        slow_parameters: names of parameters that no rule covers, whose gradients had to be
            materialised; all, if the model brings its examples into another order inside.
    """

    grad_norm_B: Tensor
    loss_B: Tensor
    outputs: Any
    slow_parameters: tuple[str, ...] = ()


def cross_entropy(output: Tensor, targets_B: Tensor) -> Tensor:
    """Cross-entropy of logits_BC in nats, unreduced: loss_B in float32, or float64 as the logits.

    Worked out in float64 where the device has it: the gradient of a confident example holds
    p - 1, which float32 rounds to 1e-4 of itself at p = 0.9995.
    """
    wide = torch.float32 if output.device.type == "mps" else torch.float64
    loss_B = F.cross_entropy(output.to(wide), targets_B, reduction="none")
    return loss_B.to(accumulation_dtype(output.dtype))


def run_model(model: nn.Module, inputs: Any) -> Any:
    """``model(inputs)``, or ``model(**inputs)`` for a dict; unwraps an output with ``logits``."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    return getattr(output, "logits", output)


def gradient_norms(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    per_example_loss: Callable[[Any, Any], Tensor] = cross_entropy,
    forward: Callable[[nn.Module, Any], Any] = run_model,
    micro_batch: int | None = None,
    layout: Layout | None = None,
) -> GradientPass:
    """Exact norms of per-example gradients over all trainable parameters.

    The model runs in the mode it is in, under the autocast that is active; squares are summed in
    float32 (float64 for a float64 model). Afterwards modes, buffers, ``.grad`` and the random
    state are as before. Norms below 1e-19 may come out as zero.

    One forward and one backward pass suffice where rules cover the layers. Otherwise gradients are
    materialised: of what no rule covers in a second pass, or of everything instead, where that is
    most of the model. Of a model that brings its examples into another order inside (checked by
    another backward pass in the 1st, 4th, 16th ... batch) the gradients are taken one at a time.
    The examples must not influence one another: unless dropout is active, the first example of each
    batch is run alone as well, and its loss must be the same.

    Args:
        model: any module. Frozen parameters do not count.
        inputs: tensor, or dict, list or tuple of tensors, with one row for each example; whatever
            else :mod:`goldiprox.entries` can cut.
        targets: likewise; int64 class labels for the default loss.
        per_example_loss: (outputs, targets) -> loss_B, unreduced.
        forward: (model, inputs) -> outputs.
        micro_batch: at most this many examples at once; None takes all together.
        layout: what other batches told of the structure of inputs and targets.

    Returns:
        Norms, and the losses and outputs of the same pass.

    Raises:
        ConfigError: if BatchNorm would use the batch's statistics, or an embedding depends on its
            batch (``max_norm``, ``scale_grad_by_freq``); if the loss is not one number for each
            example; if no parameter is trainable; if a random layer (dropout) is active
            in a model that needs a second pass; if activations are checkpointed; if the loss of an
            example depends on the others; if the model changes the order of its examples now and
            did not before.

    Source: Goodfellow 2015 (arXiv:1510.01799), Rochette et al. 2019 (arXiv:1912.06015),
        Bu et al. 2022 (arXiv:2205.10683).
    """
    count = examples_of(inputs, targets)
    if count == 0:
        raise ConfigError("there are no examples to take gradient norms of: the batch is empty")
    size = count if micro_batch is None else micro_batch
    if size < 1:
        raise ConfigError(f"micro_batch is {micro_batch}; it must be at least 1")
    engine = Engine(model, per_example_loss, forward)
    with undisturbed(model), torch.enable_grad(), uncompiled(), one_structure(layout):
        if size == 1:
            engine.probe(inputs, count)  # for its refusals alone: one example needs no tape
        parts = []
        for start in range(0, count, size):
            chunk = slice(start, min(start + size, count))
            try:
                parts.append(engine.norms(rows(inputs, chunk, count), rows(targets, chunk, count)))
            except CheckpointError as error:
                raise ConfigError(
                    "exact gradient norms cannot be taken through activation checkpointing; switch "
                    "it off for scoring, or choose by grad-norm-last-layer or grad-norm-bound"
                ) from error
    names = list(engine.parameters)
    slow = sorted(engine.slow)
    return GradientPass(
        grad_norm_B=torch.cat([norm_B for norm_B, _, _ in parts]),
        loss_B=torch.cat([loss_B for _, loss_B, _ in parts]),
        outputs=joined_outputs([outputs for _, _, outputs in parts]),
        slow_parameters=tuple(names[i] for i in slow),
    )
