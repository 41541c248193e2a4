"""Passes for exact gradient norms: of one example, of two, with the tape, or materialised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from goldiprox.evidence.gradients.fallback import (
    cheaper_looped,
    examples_of,
    looped_square_norms,
    mapped_square_norms,
    rows,
    square_of_gradient,
)
from goldiprox.evidence.gradients.graph import reachable
from goldiprox.evidence.gradients.ledger import Ledger
from goldiprox.evidence.gradients.order import RowOrder
from goldiprox.evidence.gradients.products import accumulation_dtype
from goldiprox.evidence.gradients.routes import MATERIALISED_SHARE, Route, route_of
from goldiprox.evidence.gradients.tape import BATCH_STATISTICS, Call, Probe, Tape
from goldiprox.evidence.mode import device_of
from goldiprox.schema import ConfigError

__all__ = ["Engine", "Sweep"]


class Sweep(NamedTuple):
    """What a pass with the tape gave.

    Attributes:
        uncovered: the parameters that no rule covers.
        loss_B: losses, detached.
        outputs: the model's outputs, detached.
        in_order: False if some row is not made of its own example alone.
    """

    uncovered: set[int]
    loss_B: Tensor
    outputs: Any
    in_order: bool


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
        self._alone: Any = None
        first = next(iter(self.parameters.values()))
        self.device, self.dtype = first.device, accumulation_dtype(first.dtype)
        self._rounding = _rounding(first)

    def probe(self, inputs: Any, count: int) -> None:
        """Run the first example to learn which axes hold examples, and whether chance enters."""
        device = device_of(self.model)
        before, one = _random_state(device), rows(inputs, slice(0, 1), count)
        with Probe(self.parameters.values()) as seen:
            self._alone = self._forward(self.model, one)
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
        route = route_of(self.model, tuple(self.parameters), (self._forward, self._loss))
        if route.uncovered is None:
            self.probe(inputs, count)
            self._rehearse(route, inputs, targets)
        elif not route.materialised:
            self.probe(inputs, count)
        if route.materialised:
            return self._materialised(route, set(route.uncovered or ()), inputs, targets)
        check, before = route.order_is_due(), _random_state(self.device)
        ledger = Ledger(torch.zeros(count, dtype=self.dtype, device=self.device))
        found = self.sweep(inputs, targets, ledger, check=check)
        covered = frozenset(range(len(self.parameters))) - found.uncovered
        if not check and route.was_unseen(covered):
            check = True
            _set_random_state(before, self.device)
            ledger = Ledger(torch.zeros(count, dtype=self.dtype, device=self.device))
            found = self.sweep(inputs, targets, ledger, check=True)
        if check:
            route.checked |= covered
        if route.uncovered is None:
            route.uncovered = frozenset(found.uncovered)
        if not found.in_order:
            return self._one_at_a_time(route, found.loss_B, inputs, targets)
        route.trusted |= bool(covered) and not check
        square_B = ledger.square_B
        if found.uncovered:
            square_B = square_B + self._materialise(route, found.uncovered, inputs, targets)[0]
        return square_B.clamp(min=0).sqrt(), found.loss_B, found.outputs

    def sweep(self, inputs: Any, targets: Any, ledger: Ledger, *, check: bool) -> Sweep:
        """One forward and one backward pass that fill a ledger; the probe went before.

        Args:
            inputs: at least two examples.
            targets: theirs.
            ledger: takes what the backward pass finds.
            check: whether another backward pass checks the order of rows.

        Raises:
            ConfigError: if the first example's loss depends on the others.
        """
        order = RowOrder(ledger) if check else None
        tape, outputs, loss_B = self._taped(inputs, targets, ledger, order)
        total = _total(loss_B, examples_of(inputs, targets))
        self._require_alone_the_same(loss_B, outputs, targets)
        uncovered = self._uncovered(tape, total, ledger)
        ledger.excluded |= uncovered
        in_order = True
        if any(leaf is tape.anchor for leaf in reachable(total)):
            # Backward outside of autocast, as torch advises; the operations know their dtypes.
            with torch.autocast(self.device.type, enabled=False):
                if order is not None:
                    ledger.muted = True
                    weights_B = order.weights(loss_B.detach())
                    torch.autograd.grad(
                        (loss_B * weights_B).sum(),
                        tape.anchor,
                        retain_graph=True,
                        allow_unused=True,
                    )
                    ledger.muted = False
                torch.autograd.grad(total, tape.anchor, allow_unused=True)
                if order is not None:
                    in_order = order.is_kept(weights_B, tolerance=self._rounding)
        tape.finish()
        return Sweep(uncovered, loss_B.detach(), _detached(outputs), in_order)

    def _taped(
        self, inputs: Any, targets: Any, ledger: Ledger, order: RowOrder | None
    ) -> tuple[Tape, Any, Tensor]:
        """A forward pass with the tape, outputs and losses."""
        tape = Tape(
            list(self.parameters.values()),
            self._calls,
            count=examples_of(inputs, targets),
            ledger=ledger,
            anchor=torch.zeros((), device=self.device, requires_grad=True),
            same_rows=not self._random,
            order=order,
        )
        with tape:
            outputs = self._forward(self.model, inputs)
            loss_B = self._loss(outputs, targets)
        return tape, outputs, loss_B

    def _uncovered(self, tape: Tape, total: Tensor, ledger: Ledger) -> set[int]:
        reached = reachable(total, self.parameters.values())
        uncovered = {tape.index[id(leaf)] for leaf in reached if id(leaf) in tape.index}
        return uncovered | ledger.refused(tape.derived())

    def _rehearse(self, route: Route, inputs: Any, targets: Any) -> None:
        """Learn from a forward pass of two examples what no rule covers, and decide by it."""
        before, few = _random_state(self.device), slice(0, 2)
        ledger = Ledger(torch.zeros(2, dtype=self.dtype, device=self.device))
        count = examples_of(inputs, targets)
        few_targets = rows(targets, few, count)
        try:
            tape, outputs, loss_B = self._taped(rows(inputs, few, count), few_targets, ledger, None)
        except (RuntimeError, ValueError, IndexError):
            return  # it cannot run two; if it is at fault, the pass over the whole batch says so
        finally:
            _set_random_state(before, self.device)
        if loss_B.shape != (2,):
            return  # likewise
        self._require_alone_the_same(loss_B, outputs, few_targets)
        uncovered = self._uncovered(tape, loss_B.sum(), ledger)
        sizes = [p.numel() for p in self.parameters.values()]
        slow = sum(sizes[i] for i in uncovered)
        route.uncovered = frozenset(uncovered)
        route.materialised = slow > MATERIALISED_SHARE * sum(sizes)
        route.looped = cheaper_looped(
            self.parameters.values(), (call.function for call in self._calls)
        )

    def _require_alone_the_same(self, loss_B: Tensor, outputs: Any, targets: Any) -> None:
        """Refuse a model, or a loss, in which the first example depends on the others."""
        if self._random:
            return
        with torch.no_grad():
            first = rows(targets, slice(0, 1), len(loss_B))
            alone = self._loss(self._alone, first).detach()
            self._require_same(alone, loss_B.detach()[:1], outputs)

    def _require_same(self, alone_B: Tensor, together_B: Tensor, outputs: Any) -> None:
        scale_B = 1 + together_B.abs()
        if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.numel():
            scale_B = scale_B + outputs.detach().abs().amax().to(scale_B.dtype)
        if bool(((alone_B - together_B).abs() > self._rounding * scale_B).any()):
            worst = int((alone_B - together_B).abs().argmax())
            raise ConfigError(
                "the model, or the loss, mixes the examples of a batch: the loss of one is "
                f"{float(alone_B[worst]):.6g} alone and {float(together_B[worst]):.6g} among "
                "others, so it has no gradient of its own; take statistics, attention and pairs "
                "within an example, or choose by a score that needs no gradients"
            )

    def _norm_of_one(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor, Any]:
        """With one example, the plain gradient is the example's own."""
        outputs = self._forward(self.model, inputs)
        loss_B = self._loss(outputs, targets)
        square = square_of_gradient(_total(loss_B, 1), list(self.parameters.values()))
        return square.sqrt().view(1), loss_B.detach(), _detached(outputs)

    def _materialised(
        self, route: Route, uncovered: set[int], inputs: Any, targets: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """grad_norm_B, loss_B and outputs without the tape."""
        self.slow_parameters(uncovered)  # for its refusal
        everything = set(range(len(self.parameters)))
        square_B, loss_B, outputs = self._materialise(route, everything, inputs, targets)
        self.slow |= uncovered
        return square_B.sqrt(), loss_B, outputs

    def _one_at_a_time(
        self, route: Route, together_B: Tensor, inputs: Any, targets: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """The same for a model whose rows are not its examples'."""
        if route.trusted:
            raise ConfigError(
                "the model begins to bring its examples into another order inside, so gradient "
                "norms taken so far may be wrong; take them one at a time: micro_batch=1 "
                "(--scoring-micro-batch 1)"
            )
        everything = frozenset(range(len(self.parameters)))
        self.slow_parameters(set(everything))  # for its refusal
        route.uncovered, route.materialised, route.looped = everything, True, True
        norm_B, loss_B, outputs = self._materialised(route, set(everything), inputs, targets)
        self._require_same(loss_B, together_B, outputs)
        return norm_B, loss_B, outputs

    def _materialise(
        self, route: Route, which: set[int], inputs: Any, targets: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """square_B over some parameters, loss_B and outputs."""
        parameters = self.slow_parameters(which)
        if len(which) < len(self.parameters):
            self.slow |= which
        if not route.looped:
            try:
                return mapped_square_norms(self.run, self.model, parameters, inputs, targets)
            except RuntimeError:
                route.looped = True  # the model cannot be vectorised; do not try again
        return looped_square_norms(self.run, self.model, parameters, inputs, targets)

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

    def run(self, model: nn.Module, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """loss_B, unreduced, and the outputs."""
        outputs = self._forward(model, inputs)
        return self._loss(outputs, targets), outputs


def _rounding(parameter: Tensor) -> float:
    """Relative difference that the size of a batch may make, by kernel and precision."""
    device = parameter.device.type
    if parameter.dtype.itemsize < 4 or torch.is_autocast_enabled(device):
        return 2e-2
    return 1e-4 if device == "cpu" else 2e-3  # TF32 among them


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


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU's generator, and of the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    """The inverse of :func:`_random_state`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
