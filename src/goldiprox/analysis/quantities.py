"""The parts of a comparison: spreads over seeds, points of curves, costs to a target.

Each is frozen, and reads and writes itself as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from goldiprox.objectives import Metric
from goldiprox.records.steplog import MARKS

__all__ = [
    "COSTS",
    "CurvePoint",
    "Ends",
    "EqualCost",
    "Facts",
    "GroupResult",
    "Interval",
    "Spread",
    "ToTarget",
    "required",
]

Facts = Mapping[str, Any]
"""Settings, descriptions, provenances: recorded as they are."""

Interval = tuple[float, float | None]
"""Lowest and highest possible value; None where nothing bounds it from above."""

COSTS = (
    *("epochs", "steps", "seconds_charged", "seconds_amortised"),
    *("flops_charged", "flops_amortised"),
)
"""What reaching the target may be counted in."""

POINT_COSTS = ("step", "epoch", "seconds", "flops", "seconds_charged", "flops_charged")
"""What a point of a curve may have cost until then."""

SHARES = (*MARKS, "already_correct")
"""What is known of the examples chosen."""


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation over seeds; None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean over seeds, sample standard deviation (None for one seed), and the seeds' values."""

    mean: float
    std: float | None
    values: tuple[float, ...] = ()

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(
            mean=float(np.mean(values)),
            std=deviation(values),
            values=tuple(float(v) for v in values),
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {"mean": self.mean, "std": self.std, "values": list(self.values)}

    @staticmethod
    def from_json(found: Facts) -> Spread:
        """The inverse of :meth:`to_json`."""
        return Spread(
            mean=found["mean"], std=found.get("std"), values=tuple(found.get("values", ()))
        )


@dataclass(frozen=True, kw_only=True)
class Ends:
    """A metric at the end of the runs, and at its best along them."""

    final: Spread
    best: Spread


@dataclass(frozen=True, kw_only=True)
class ToTarget:
    """A cost at the first evaluation that reaches the target.

    The target was reached somewhere between that evaluation and the one before.

    Attributes:
        mean: over the seeds that reached it; None if none did.
        std: likewise; None for fewer than two.
        reached: how many did.
        values: seed by seed; None for those that did not.
        mean_curve: where the mean of the seeds' metric reaches it, which speedups are made of.
        values_before: cost of the evaluation before, seed by seed; None in files of before 0.2.0.
        mean_curve_before: likewise, of the mean curve.
    """

    mean: float | None = None
    std: float | None = None
    reached: int = 0
    values: tuple[float | None, ...] = ()
    mean_curve: float | None = None
    values_before: tuple[float | None, ...] | None = None
    mean_curve_before: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        before = None if self.values_before is None else list(self.values_before)
        return {**asdict(self), "values": list(self.values), "values_before": before}

    @staticmethod
    def from_json(found: Facts) -> ToTarget:
        """The inverse of :meth:`to_json`."""
        known = {field.name: found[field.name] for field in fields(ToTarget) if field.name in found}
        for name in ("values", "values_before"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return ToTarget(**known)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One evaluation, mean over seeds.

    Attributes:
        costs: paid until then, by name, see ``POINT_COSTS``.
        loss: on the test set; None where it was not measured.
        shares: of what was chosen since the evaluation before, by name, see ``SHARES``.
        value: the comparison's metric.
        others: further metrics by name.
    """

    costs: Mapping[str, float]
    loss: float | None
    shares: Mapping[str, float]
    value: Spread
    others: Mapping[str, Spread] = field(default_factory=dict)

    def metric(self, name: str | None) -> Spread:
        """A metric by name; the comparison's own for None."""
        return self.value if name is None else self.others[name]

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """As a JSON value."""
        named = {} if metric.name == "loss" else {metric.name: self.value}
        spreads = {"value": self.value, **named, **self.others}
        return {
            **self.costs,
            "loss": self.loss,
            **self.shares,
            **{name: spread.to_json() for name, spread in spreads.items()},
        }

    @staticmethod
    def from_json(found: Facts, metric: Metric) -> CurvePoint:
        """The inverse of :meth:`to_json`."""
        spreads: dict[str, Spread | None] = {
            name: Spread.from_json(value)
            for name, value in found.items()
            if isinstance(value, Mapping)
        }
        named = spreads.pop(metric.name, None)
        return CurvePoint(
            costs={name: found[name] for name in POINT_COSTS if name in found},
            loss=found.get("loss"),
            shares={name: found[name] for name in SHARES if found.get(name) is not None},
            value=spreads.pop("value", None) or required(named, metric.name),
            others={name: spread for name, spread in spreads.items() if spread is not None},
        )


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """A group of examples: its share of the training set and of what was chosen, how it fared."""

    name: str
    share_in_pool: float
    share_chosen: Spread
    final_accuracy: Spread | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {**asdict(self), **_written_spreads(self)}

    @staticmethod
    def from_json(found: Facts) -> GroupResult:
        """The inverse of :meth:`to_json`."""
        accuracy = found["final_accuracy"]
        return GroupResult(
            name=found["name"],
            share_in_pool=found["share_in_pool"],
            share_chosen=Spread.from_json(found["share_chosen"]),
            final_accuracy=None if accuracy is None else Spread.from_json(accuracy),
        )


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """A method and uniform at the highest cost that both have paid.

    Attributes:
        cost: which: ``seconds_charged``, or ``step``.
        at: how much of it.
        value: the method's metric there, mean over seeds.
        uniform: uniform's.
        ahead: whether the method is better, by more than the seeds differ; None: they do not tell.
    """

    cost: str
    at: float
    value: float
    uniform: float
    ahead: bool | None

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """As a JSON value."""
        return {**asdict(self), metric.name: self.value}

    @staticmethod
    def from_json(found: Facts, metric: Metric) -> EqualCost:
        """The inverse of :meth:`to_json`."""
        return EqualCost(
            cost=found["cost"],
            at=found["at"],
            value=found.get("value", found.get(metric.name)),
            uniform=found["uniform"],
            ahead=found["ahead"],
        )


def required(value: Any, name: str) -> Any:
    """A value that a file must have.

    Raises:
        KeyError: if it lacks it.
    """
    if value is None:
        raise KeyError(name)
    return value


def _written_spreads(group: GroupResult) -> dict[str, Any]:
    accuracy = group.final_accuracy
    return {
        "share_chosen": group.share_chosen.to_json(),
        "final_accuracy": None if accuracy is None else accuracy.to_json(),
    }
