"""Where between two evaluations a curve reaches the target, and who is ahead at equal cost.

A curve is known at its evaluations only: at one it is below the target, at the next it has reached
it. Every cost to the target is therefore an interval, and so is every ratio of two of them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Interval", "at_equal_cost", "between", "ratio_between", "seeds_between"]

Entry = dict[str, Any]
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


def seeds_between(entry: Entry, cost: str) -> dict[int, tuple[float, float] | None]:
    """The same of each seed's own curve, by the seed's number."""
    found = _found(entry, cost)
    ends = found["values"]
    starts = found.get("values_before")
    if starts is None:  # as far before as the mean curve's evaluation
        mean = between(entry, cost)
        gap = 0.0 if mean is None else mean[1] - mean[0]
        starts = [None if end is None else max(0.0, end - gap) for end in ends]
    return {
        seed: None if end is None else (start, end)
        for seed, start, end in zip(entry["seed_numbers"], starts, ends, strict=True)
    }


def ratio_between(mine: tuple[float, float], theirs: tuple[float, float]) -> Interval:
    """How many times less than theirs mine may be, at least and at most."""
    lowest = theirs[0] / mine[1] if mine[1] else 0.0
    return lowest, theirs[1] / mine[0] if mine[0] else None


def at_equal_cost(entry: Entry, uniform: Entry) -> dict[str, Any] | None:
    """Mean accuracies of a method and of uniform at the highest cost that both have paid.

    Returns:
        ``cost`` (which), ``at``, ``accuracy``, ``uniform`` and ``ahead``: in charged seconds, or in
        steps where all of uniform's seconds do not even pay the method's first evaluation; None
        where curves are not recorded.
    """
    for field in ("seconds_charged", "step"):
        curves = [_curve(one, field) for one in (entry, uniform)]
        if not all(curves):
            continue
        at = min(curve[-1][0] for curve in curves)
        values = [_last(curve, at) for curve in curves]
        if None in values:
            continue
        mine, theirs = values
        assert mine is not None
        assert theirs is not None
        return {
            "cost": field,
            "at": at,
            "accuracy": mine,
            "uniform": theirs,
            "ahead": mine - theirs,
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
    costs = [cost for cost, _ in _curve(entry, field)]
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


def _curve(entry: Entry, field: str) -> list[tuple[float, float]]:
    """Cost and mean accuracy at each evaluation."""
    return [(point[field], point["accuracy"]["mean"]) for point in entry["curve"] if field in point]


def _last(curve: list[tuple[float, float]], at: float) -> float | None:
    """Accuracy at the last evaluation that costs no more."""
    return next((value for cost, value in reversed(curve) if cost <= at), None)
