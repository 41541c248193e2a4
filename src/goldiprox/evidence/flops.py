"""Floating-point operations of a model, counted by torch on one real step of each kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from goldiprox.batch import Batch, ids_of, model_output, take
from goldiprox.objectives import CLASSIFICATION, Objective

__all__ = ["FlopsPerExample", "flops_per_example"]

FlopsPerExample = tuple[float, float]
"""(forward, forward and backward) of one example."""


def flops_per_example(
    model: nn.Module,
    batch: Batch,
    logits: Callable[[nn.Module, Batch], Any] = model_output,
    objective: Objective = CLASSIFICATION,
) -> FlopsPerExample:
    """Count a forward and a training pass and divide by the number of examples.

    Matrix products, convolutions and attention are counted; element-wise work and the optimizer's
    update are not. A copy of the model is run, so nothing of the model or the global random state
    changes.

    Args:
        model: any.
        batch: some examples on the model's device; at most 8 of them are used.
        logits: how to get the output that the objective takes.
        objective: what the model is trained for.
    """
    few = take(batch, torch.arange(min(8, ids_of(batch).numel())))
    count = int(ids_of(few).numel())
    twin = copy.deepcopy(model)
    # Fused attention on the CPU is invisible to the counter; its mathematical form is not.
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
        twin.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as forward:
            logits(twin, few)
        twin.train()
        with FlopCounterMode(display=False) as training:
            objective.losses(logits(twin, few), few).sum().backward()
    return forward.get_total_flops() / count, training.get_total_flops() / count
