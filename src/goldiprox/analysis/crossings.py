"""Where between two evaluations a curve reaches the target, and who is ahead at equal cost.

A curve is known at its evaluations only: at one it is below the target, at the next it has reached
it. Every cost to the target is therefore an interval, and so is every ratio of two of them.
"""

from __future__ import annotations

from typing import Any

from goldiprox.analysis.spread import paired

__all__ = ["Interval", "at_equal_cost", "between", "ratio_between"]

Entry = dict[str, Any]
Spread = dict[str, Any]
Interval = tuple[float, float | None]
"""Lowest and highest possible value; None where nothing bounds it from above."""

PATHS = {
    "steps": ("steps_to_target",),
    "seconds_charged": ("seconds_to_target", "charged"),
    "flops_charged": ("flops_to_target", "charged"),
}
"""Of each cost, where a method's entry holds it."""


def between(entry: Entry, cost: str) -> tuple[float, float] | None:
    """Cost of the evaluation before a method's mean curve reaches the target, and at the one after.

    Args:
        entry: a method of a comparison. Comparisons of before 0.2.0 lack the former; it is taken
            from the curve.
        cost: ``steps``, ``seconds_charged`` or ``flops_charged``.

    Returns:
        Both; None if the target is never reached.
    """
    found = _found(entry, cost)
    at = found.get("mean_curve")
    if at is None:
        return None
    before = found.get("mean_curve_before")
    return (_before(entry, cost, at) if before is None else before), at


def ratio_between(mine: tuple[float, float], theirs: tuple[float, float]) -> Interval:
    """How many times less than theirs mine may be, at least and at most."""
    lowest = theirs[0] / mine[1] if mine[1] else 0.0
    return lowest, theirs[1] / mine[0] if mine[0] else None


def at_equal_cost(entry: Entry, uniform: Entry) -> dict[str, Any] | None:
    """Mean accuracies of a method and of uniform at the highest cost that both have paid.

    Returns:
        ``cost`` (which), ``at``, ``accuracy`` and ``uniform``; ``ahead``: whether the method is, by
        more than the seeds differ, or None. In charged seconds, or in steps where all of uniform's
        seconds do not even pay the method's first evaluation. None where curves are not recorded.
    """
    for field in ("seconds_charged", "step"):
        curves = [_curve(one, field) for one in (entry, uniform)]
        if not all(curves):
            continue
        at = min(curve[-1][0] for curve in curves)
        values = [_last(curve, at) for curve in curves]
        if None in values:
            continue
        mine, theirs = (value for value in values if value is not None)
        return {
            "cost": field,
            "at": at,
            "accuracy": mine["mean"],
            "uniform": theirs["mean"],
            "ahead": _ahead(entry, mine, uniform, theirs),
        }
    return None


def _found(entry: Entry, cost: str) -> dict[str, Any]:
    found = entry
    for key in PATHS[cost]:
        found = found[key]
    return found


def _before(entry: Entry, cost: str, at: float) -> float:
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
    beside = [point[field] - point[plain] for point in entry["curve"][:2]]
    steps = [point["step"] for point in entry["curve"][:2]]
    if len(beside) < 2 or steps[1] == steps[0]:
        return 0.0
    slope = (beside[1] - beside[0]) / (steps[1] - steps[0])
    return float(min(at, max(0.0, beside[0] - slope * steps[0])))


def _ahead(entry: Entry, mine: Spread, uniform: Entry, theirs: Spread) -> bool | None:
    """Whether one accuracy is above the other, over the seeds that both have."""
    others = dict(zip(uniform["seed_numbers"], theirs["values"], strict=True))
    pairs = [
        (value, others[seed])
        for seed, value in zip(entry["seed_numbers"], mine["values"], strict=True)
        if seed in others
    ]
    if len(pairs) < 2:
        return bool(mine["mean"] > theirs["mean"])
    better: bool | None = paired(*zip(*pairs, strict=True))["better"]
    return better


def _curve(entry: Entry, field: str) -> list[tuple[float, Spread]]:
    """Cost and accuracy at each evaluation."""
    return [(point[field], point["accuracy"]) for point in entry["curve"] if field in point]


def _last(curve: list[tuple[float, Spread]], at: float) -> Spread | None:
    """Accuracy at the last evaluation that costs no more."""
    return next((value for cost, value in reversed(curve) if cost <= at), None)
