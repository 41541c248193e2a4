"""Exact per-example gradient norms over all parameters, in one forward and one backward pass.

Every norm is of one example's own, unreduced loss, so batch size and micro-batch size do not
change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.utils.checkpoint import CheckpointError

from goldiprox.evidence.gradients.fallback import (
    examples_of,
    mapped_square_norms,
    rows,
    square_of_gradient,
)
from goldiprox.evidence.gradients.ledger import Ledger
from goldiprox.evidence.gradients.products import accumulation_dtype
from goldiprox.evidence.gradients.tape import BATCH_STATISTICS, Call, Probe, Tape, reachable
from goldiprox.evidence.mode import device_of
from goldiprox.schema import ConfigError

__all__ = [
    "Engine",
    "GradientPass",
    "cross_entropy",
    "gradient_norms",
    "run_model",
    "undisturbed",
]


@dataclass(frozen=True, kw_only=True)
class GradientPass:
    """What one forward and backward pass found.

    Attributes:
        grad_norm_B: Euclidean norm of each example's gradient over all trainable parameters,
            nats per unit of parameter; float32, or float64 for a float64 model.
        loss_B: each example's loss, unreduced, in the dtype that the loss function gave.
        outputs: the model's outputs, detached; of several micro-batches joined.
        slow_parameters: names of parameters that no rule covers, whose norms took a second pass
            that materialises their gradients.
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
) -> GradientPass:
    """Exact norms of per-example gradients over all trainable parameters.

    The model runs in the mode it is in, under the autocast that is active; squares are summed in
    float32 (float64 for a float64 model). Afterwards modes, buffers, ``.grad`` and the random
    state are as before. The examples must not influence one another. That rows of
    activations stay in the order of the examples is checked on the first of them, unless dropout
    is active; norms below 1e-19 may come out as zero.

    Args:
        model: any module. Frozen parameters do not count.
        inputs: tensor, or dict, list or tuple of tensors, with one row for each example.
        targets: likewise; int64 class labels for the default loss.
        per_example_loss: (outputs, targets) -> loss_B, unreduced.
        forward: (model, inputs) -> outputs.
        micro_batch: at most this many examples at once; None takes all together.

    Returns:
        Norms, and the losses and outputs of the same pass.

    Raises:
        ConfigError: if BatchNorm would use the batch's statistics, or an embedding depends on its
            batch (``max_norm``, ``scale_grad_by_freq``); if the loss is not one number for each
            example; if no parameter is trainable; if a random layer (dropout) is active
            in a model that needs a second pass; if activations are checkpointed.

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
    with undisturbed(model), torch.enable_grad():
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
        outputs=_join_outputs([outputs for _, _, outputs in parts]),
        slow_parameters=tuple(names[i] for i in slow),
    )


class Engine:
    """Runs the passes of one micro-batch after another."""

    def __init__(
        self,
        model: nn.Module,
        per_example_loss: Callable[[Any, Any], Tensor],
        forward: Callable[[nn.Module, Any], Any],
    ) -> None:
        self.model = model
        self.parameters = _trainable(model)
        self.slow: set[int] = set()
        self._loss = per_example_loss
        self._forward = forward
        self._calls: list[Call] = []
        self._random = False
        first = next(iter(self.parameters.values()))
        self.device, self.dtype = first.device, accumulation_dtype(first.dtype)

    def probe(self, inputs: Any, count: int) -> None:
        """Run the first example to learn which axes hold examples, and whether chance enters."""
        device = device_of(self.model)
        before, one = _random_state(device), rows(inputs, slice(0, 1), count)
        with Probe(self.parameters.values()) as seen:
            self._forward(self.model, one)
        self._calls = seen.calls
        self._random = not all(map(torch.equal, before, _random_state(device)))
        _set_random_state(before, device)

    @property
    def is_random(self) -> bool:
        """Whether the probe's pass drew random numbers."""
        return self._random

    def norms(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor, Any]:
        """grad_norm_B, loss_B and outputs of one micro-batch."""
        count = examples_of(inputs, targets)
        if count == 1:
            return self._norm_of_one(inputs, targets)
        ledger = Ledger(torch.zeros(count, dtype=self.dtype, device=self.device))
        uncovered, loss_B, outputs = self.sweep(inputs, targets, ledger)
        square_B = ledger.square_B
        if uncovered:
            square_B = square_B + self._slow_square_norms(uncovered, inputs, targets)
        return square_B.clamp(min=0).sqrt(), loss_B, outputs

    def sweep(self, inputs: Any, targets: Any, ledger: Ledger) -> tuple[set[int], Tensor, Any]:
        """One forward and one backward pass that fill a ledger.

        Args:
            inputs: at least two examples.
            targets: theirs.
            ledger: takes what the backward pass finds.

        Returns:
            The parameters that no rule covers, loss_B and the outputs, both detached.
        """
        count = examples_of(inputs, targets)
        self.probe(inputs, count)
        anchor = torch.zeros((), device=self.device, requires_grad=True)
        tape = Tape(
            list(self.parameters.values()),
            self._calls,
            count=count,
            ledger=ledger,
            anchor=anchor,
            same_rows=not self._random,
        )
        with tape:
            outputs = self._forward(self.model, inputs)
            loss_B = self._loss(outputs, targets)
        total = _total(loss_B, count)
        reached = reachable(total)
        uncovered = {tape.index[id(leaf)] for leaf in reached if id(leaf) in tape.index}
        uncovered |= ledger.refused(tape.derived())
        ledger.excluded |= uncovered
        if any(leaf is anchor for leaf in reached):
            # Backward outside of autocast, as torch advises; the operations know their dtypes.
            with torch.autocast(self.device.type, enabled=False):
                torch.autograd.grad(total, anchor, allow_unused=True)
        tape.finish()
        return uncovered, loss_B.detach(), _detached(outputs)

    def _norm_of_one(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor, Any]:
        """With one example, the plain gradient is the example's own."""
        outputs = self._forward(self.model, inputs)
        loss_B = self._loss(outputs, targets)
        square = square_of_gradient(_total(loss_B, 1), list(self.parameters.values()))
        return square.sqrt().view(1), loss_B.detach(), _detached(outputs)

    def _slow_square_norms(self, uncovered: set[int], inputs: Any, targets: Any) -> Tensor:
        self.slow |= uncovered
        return mapped_square_norms(
            self.losses, self.model, self.slow_parameters(uncovered), inputs, targets
        )

    def slow_parameters(self, uncovered: set[int]) -> dict[str, nn.Parameter]:
        """The parameters that need a second pass, by name.

        Raises:
            ConfigError: if that pass would draw other random numbers.
        """
        names = list(self.parameters)
        chosen = {names[i]: self.parameters[names[i]] for i in sorted(uncovered)}
        if self._random:
            raise ConfigError(
                f"{', '.join(chosen)} need a second pass for exact gradient norms, in which the "
                "model's random layers (dropout) would draw anew; use model.eval()"
            )
        return chosen

    def losses(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """loss_B, unreduced."""
        return self._loss(self._forward(model, inputs), targets)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters whose gradients count, each once; refuses models that have no such norms."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ConfigError(f"{name or type(module).__name__}: {BATCH_STATISTICS}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(f"{name} has no shape yet; run the model once on a batch first")
    if not parameters:
        raise ConfigError(
            "the model has no trainable parameter, so there is no gradient to take the norm of; "
            "set requires_grad on what should count"
        )
    return parameters


def _total(loss_B: Tensor, count: int) -> Tensor:
    if loss_B.shape != (count,):
        raise ConfigError(
            f"per_example_loss gave shape {tuple(loss_B.shape)} for {count} examples; it must "
            "give one loss for each example: use reduction='none', and sum over positions"
        )
    return loss_B.sum()


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _join_outputs(parts: list[Any]) -> Any:
    """Micro-batches' outputs as one: joined if they are tensors, else as a list."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if all(isinstance(part, Tensor) for part in parts) else parts


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back buffers and the random state, whatever the forward pass does to them."""
    device = device_of(model)
    random_state = _random_state(device)
    buffers = [
        (module._buffers, name, buffer, buffer._version, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, version, copy in buffers:
                if buffer._version != version:
                    buffer.copy_(copy)
                owner[name] = buffer
        _set_random_state(random_state, device)
