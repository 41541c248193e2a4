"""Where between two evaluations a curve reaches the target, and who is ahead at equal cost.

A curve is known at its evaluations only: at one it is below the target, at the next it has reached
it. Every cost to the target is therefore an interval, and so is every ratio of two of them.
"""

from __future__ import annotations

from goldiprox.analysis.comparison import MethodResult
from goldiprox.analysis.quantities import EqualCost, Interval, Spread
from goldiprox.analysis.spread import paired
from goldiprox.objectives import Metric

__all__ = ["COUNTED", "at_equal_cost", "between", "ratio_between"]

COUNTED = ("steps", "seconds_charged", "flops_charged")
"""Costs of which the interval is told."""


def between(entry: MethodResult, cost: str) -> tuple[float, float] | None:
    """Cost of the evaluation before a method's mean curve reaches the target, and at the one after.

    Args:
        entry: a method of a comparison. Comparisons of before 0.2.0 lack the former; it is taken
            from the curve.
        cost: one of ``COUNTED``.

    Returns:
        Both; None if the target is never reached.
    """
    found = entry.to_target.get(cost)
    if found is None or found.mean_curve is None:
        return None
    before = found.mean_curve_before
    return (_before(entry, cost, found.mean_curve) if before is None else before), found.mean_curve


def ratio_between(mine: tuple[float, float], theirs: tuple[float, float]) -> Interval:
    """How many times less than theirs mine may be, at least and at most."""
    lowest = theirs[0] / mine[1] if mine[1] else 0.0
    return lowest, theirs[1] / mine[0] if mine[0] else None


def at_equal_cost(entry: MethodResult, uniform: MethodResult, metric: Metric) -> EqualCost | None:
    """The metric of a method and of uniform at the highest cost that both have paid.

    Returns:
        In charged seconds, or in steps where all of uniform's seconds do not even pay the method's
        first evaluation. None where curves are not recorded.
    """
    for cost in ("seconds_charged", "step"):
        curves = [_curve(one, cost) for one in (entry, uniform)]
        if not all(curves):
            continue
        at = min(curve[-1][0] for curve in curves)
        mine, theirs = (_last(curve, at) for curve in curves)
        if mine is None or theirs is None:
            continue
        return EqualCost(
            cost=cost,
            at=at,
            value=mine.mean,
            uniform=theirs.mean,
            ahead=_ahead(entry, mine, uniform, theirs, metric),
        )
    return None


def _before(entry: MethodResult, cost: str, at: float) -> float:
    """Cost of the evaluation before, from the mean curve; of the first one, before the first step.

    A cost paid before it (an irreducible-loss model's) is what charged and uncharged costs differ
    by at step 0; a proxy's part of it grows with the steps.
    """
    field = "step" if cost == "steps" else cost
    costs = [paid for paid, _ in _curve(entry, field)]
    if not costs:
        return at
    place = next((i for i, value in enumerate(costs) if value >= at * (1 - 1e-9)), len(costs) - 1)
    if place:
        return costs[place - 1]
    plain = field.removesuffix("_charged")
    if plain == field:
        return 0.0
    first = [point.costs for point in entry.curve[:2]]
    beside = [costs[field] - costs[plain] for costs in first]
    steps = [costs["step"] for costs in first]
    if len(beside) < 2 or steps[1] == steps[0]:
        return 0.0
    slope = (beside[1] - beside[0]) / (steps[1] - steps[0])
    return float(min(at, max(0.0, beside[0] - slope * steps[0])))


def _ahead(
    entry: MethodResult, mine: Spread, uniform: MethodResult, theirs: Spread, metric: Metric
) -> bool | None:
    """Whether one is better than the other, over the seeds that both have."""
    others = dict(zip(uniform.seed_numbers, theirs.values, strict=True))
    pairs = [
        (value, others[seed])
        for seed, value in zip(entry.seed_numbers, mine.values, strict=True)
        if seed in others
    ]
    if len(pairs) < 2:
        return metric.gain(mine.mean, theirs.mean) > 0
    above: bool | None = paired(*zip(*pairs, strict=True))["better"]
    return above if above is None else above == metric.higher_is_better


def _curve(entry: MethodResult, cost: str) -> list[tuple[float, Spread]]:
    """Cost and metric at each evaluation."""
    return [(point.costs[cost], point.value) for point in entry.curve if cost in point.costs]


def _last(curve: list[tuple[float, Spread]], at: float) -> Spread | None:
    """The metric at the last evaluation that costs no more."""
    return next((value for cost, value in reversed(curve) if cost <= at), None)
