"""What every objective is: per-example losses, what counts as right, and the metrics reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from goldiprox.batch import Batch, ids_of, targets_of
from goldiprox.schema import ConfigError, DataError

TargetKind = Literal["classes", "numbers", "label sets", "tensors"]

__all__ = [
    "ACCURACY",
    "LOSS",
    "MATTHEWS",
    "Metric",
    "Objective",
    "choose",
    "require_losses",
    "require_tensor",
    "wide",
]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that an evaluation reports.

    Attributes:
        name: its key in records, such as ``nats_per_token``.
        title: its name on pages and in tables, such as ``nats per token``.
        higher_is_better: its direction.
        unit: ``share`` (of 1, shown in percent), ``nats``, ``target`` (whatever the targets are
            measured in), or empty for a number without a unit.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str = ""

    def best(self, values: list[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def reaches(self, value: Any, target: float) -> Any:
        """Whether a value (or each of an array) is as good as a target."""
        return value >= target if self.higher_is_better else value <= target

    def gain(self, value: float, other: float) -> float:
        """By how much a value is better than another one; negative where it is worse."""
        return value - other if self.higher_is_better else other - value

    @property
    def sign(self) -> str:
        """What stands behind a number: a percent sign, or nothing."""
        return "%" if self.unit == "share" else ""

    @property
    def heading(self) -> str:
        """The title with its unit, for an axis or a column: ``accuracy, %``."""
        unit = {"share": "%", "nats": "nats"}.get(self.unit, "")
        return f"{self.title}, {unit}" if unit and unit not in self.title else self.title

    def number(self, value: float) -> str:
        """A value as a reader wants it, without its sign: in percent, or four digits."""
        return self._rounded(value, value)

    def written(self, value: float) -> str:
        """The same with its sign, as a terminal shows it: ``85.0%``."""
        return f"{self.number(value)}{self.sign}"

    def number_spread(self, mean: float, deviation: float | None) -> str:
        """Mean and standard deviation with the same decimals: ``81.5 ± 0.4``."""
        extra = "" if deviation is None else f" ± {self._rounded(deviation, mean)}"
        return self._rounded(mean, mean) + extra

    def _rounded(self, value: float, scale: float) -> str:
        """A value with the decimals that a value of the size ``scale`` gets."""
        if self.unit == "share":
            return f"{100 * value:.1f}"
        if not math.isfinite(scale) or abs(scale) >= 1e7 or 0 < abs(scale) < 1e-4:
            return f"{value:.3e}"
        decimals = 3 - math.floor(math.log10(abs(scale))) if scale else 3
        return f"{value:,.{max(0, decimals)}f}"


LOSS = Metric(name="loss", title="loss", higher_is_better=False)
ACCURACY = Metric(name="accuracy", title="accuracy", higher_is_better=True, unit="share")
MATTHEWS = Metric(
    name="matthews", title="Matthews correlation", higher_is_better=True, unit="share"
)


class Objective:
    """What a model is trained for.

    An objective of one's own overrides :meth:`losses` and whatever else has a better answer than
    the default. Methods may be called inside ``torch.func`` transforms, so none of them may branch
    on the values of tensors.

    Attributes:
        name: as on the command line.
        metrics: what :meth:`measure` may report, the headline first.
        has_classes: whether :meth:`log_probs` gives a probability for each of a fixed set of
            classes, of which each example has one.
        per_token: whether targets have one entry for each token of the input.
        target_kind: what labels in files are read as: ``classes``, ``numbers`` or ``label sets``;
            None takes what the file looks like.
    """

    name: str = ""
    metrics: tuple[Metric, ...] = (LOSS, ACCURACY)
    has_classes: bool = False
    per_token: bool = False
    target_kind: TargetKind | None = None

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Each example's own loss, unreduced.

        Args:
            output: what the model made of the batch, see :func:`goldiprox.batch.model_output`.
            batch: the examples, targets included.

        Returns:
            loss_B, differentiable; float32, or float64 of a float64 output. NaN where the target
            is no valid one.

        Raises:
            DataError: if the shapes or types of output and targets do not fit the objective.
        """
        raise NotImplementedError

    def correct(self, output: Any, batch: Batch) -> Tensor | None:
        """Bool of shape [B], whether each example is predicted correctly.

        None where there is no right or wrong.
        """
        del output, batch
        return None

    def log_probs(self, output: Any) -> Tensor:
        """Log-probabilities of the classes, log_probs_BC in nats.

        Raises:
            ConfigError: if the objective has no class probabilities.
        """
        del output
        raise ConfigError(f'objective "{self.name}" has no class probabilities')

    def targets(self, batch: Batch) -> Tensor | None:
        """The batch's targets in the form that selection methods read; None if there are none."""
        return targets_of(batch)

    def require_values(self, targets: Tensor, ids: Tensor, width: int) -> None:
        """Refuse targets whose values cannot be right.

        It waits for the device: call it on tensors of the CPU, or where something went wrong.

        Args:
            targets: of some examples, as :meth:`targets` gives them.
            ids: their ids.
            width: size of the last axis of the model's output.

        Raises:
            DataError: naming values and ids.
        """
        del targets, ids, width

    def step(
        self, output: Any, batch: Batch, weights_k: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a training step needs.

        Args:
            output: what the model made of the chosen examples.
            batch: the chosen examples.
            weights_k: weights of the losses in the mean; None for all ones.

        Returns:
            The mean of the losses, to be differentiated; loss_k and :meth:`correct`, detached.
        """
        loss_k = require_losses(self.losses(output, batch), batch, self.name)
        mean = loss_k.mean() if weights_k is None else (loss_k * weights_k).mean()
        with torch.no_grad():
            return mean, loss_k.detach(), self.correct(output, batch)

    def results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """What an evaluation keeps of each example beside its loss; axis 0 is the examples.

        Keep ``correct`` among it where there is right and wrong: it is what audits count.
        """
        correct_B = self.correct(output, batch)
        return {} if correct_B is None else {"correct": correct_B}

    def measure(self, loss_N: Tensor, results: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics of a whole evaluation.

        Args:
            loss_N: all examples' losses, on the CPU.
            results: what :meth:`results` gave, joined over all examples.

        Returns:
            Values by :class:`Metric` name; a metric that is not defined here is left out.
        """
        found = {}
        if "correct" in results:
            found["accuracy"] = float(results["correct"].double().mean())
        return {"loss": float(loss_N.double().mean()), **found}

    @property
    def headline(self) -> Metric:
        """The metric that a comparison is about."""
        return self.metrics[0]


def require_losses(loss_B: Tensor, batch: Batch, name: str) -> Tensor:
    """Hand losses through, if there is one for each example.

    Raises:
        ConfigError: if not; a mean or a column would broadcast and choose nonsense.
    """
    count = int(ids_of(batch).shape[0])
    shape = tuple(loss_B.shape) if isinstance(loss_B, Tensor) else type(loss_B).__name__
    if shape != (count,):
        raise ConfigError(
            f'the losses of objective "{name}" are {shape} for {count} examples; return one loss '
            'for each (reduction="none", averaged over anything but examples)'
        )
    return loss_B


def require_tensor(output: Any) -> Tensor:
    """Hand a model's output through, if it is one tensor with an axis for the examples.

    Raises:
        DataError: if not; the message says what to return.
    """
    if isinstance(output, Tensor) and output.dim() and output.is_floating_point():
        return output
    kind = type(output).__name__
    if isinstance(output, Tensor):
        kind = f"{output.dtype} tensor of shape {tuple(output.shape)}"
    elif isinstance(output, Mapping):
        kind = f"{kind} with {', '.join(map(str, output)) or 'nothing in it'}"
    elif isinstance(output, tuple | list):
        kind = f"{kind} of {len(output)}"
    raise DataError(
        f"the model returned a {kind}, not one tensor of floating-point numbers: let its forward "
        'return the tensor alone or under the key "logits" (in a loop of your own, logits= takes '
        "a function of model and batch that picks it)"
    )


def choose(name: str) -> str:
    """How an objective is asked for, for error messages."""
    return f'--objective {name} (in Python objective="{name}")'


def wide(output: Tensor) -> Tensor:
    """An output in float32, or float64 if it is that: what losses are computed in."""
    return output if output.dtype == torch.float64 else output.float()
