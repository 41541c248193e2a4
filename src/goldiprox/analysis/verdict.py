"""Did it pay? One plain sentence for each method, from the numbers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from goldiprox.analysis.comparison import Comparison, MethodResult, Verdict
from goldiprox.analysis.crossings import at_equal_cost, between, ratio_between
from goldiprox.analysis.quantities import Interval, Spread
from goldiprox.objectives import ACCURACY, Metric

__all__ = ["verdicts"]

BASELINES = ("uniform", "uniform-full")

TIE = 1.1
"""Wall seconds within a factor of this are no difference: machines are noisier than that. Nor is a
larger one where the seeds disagree: some of them faster than uniform's, some slower."""


COARSELY = "was evaluated too rarely to tell whether it paid"

COARSE = 1.2
"""An interval whose ends differ by more than this factor is told."""

NO_UNIFORM = "no uniform run to compare with."


@dataclass(frozen=True)
class _Judged:
    """What is said of one method."""

    paid: bool | None
    sentence: str


def verdicts(comparison: Comparison) -> tuple[Verdict, ...]:
    """Sentences for a comparison, and whether each method paid.

    A claim is made only where it holds wherever between two evaluations the target was reached.

    Args:
        comparison: its own verdicts are not looked at.

    Returns:
        One for every method that selects; ``paid`` is None where the seeds or the evaluations do
        not tell.
    """
    judge = _budget if comparison.protocol == "budget" else _paper
    found = [(e.method, judge(e, comparison)) for e in comparison.methods if e.arm not in BASELINES]
    return tuple(Verdict(method=name, paid=one.paid, sentence=one.sentence) for name, one in found)


def _baseline(comparison: Comparison, arm: str) -> MethodResult | None:
    """The one line of a baseline; none where there are several, of which none is the baseline."""
    found = [entry for entry in comparison.methods if entry.arm == arm]
    return found[0] if len(found) == 1 else None


def _incomparable(entry: MethodResult, comparison: Comparison) -> str | None:
    """Why a line is not held against uniform, or None."""
    name = entry.method
    lines = [other for other in comparison.methods if other.arm == "uniform"]
    if not lines:
        return f"{name}: {NO_UNIFORM}"
    if len(lines) > 1:
        listed = " and ".join(line.method for line in lines)
        return f"{name}: several uniform runs ({listed}), so none is the baseline."
    if entry.different != lines[0].different:
        return f"{name}: its data are not {lines[0].method}'s, so it is not judged."
    return None


def _paper(entry: MethodResult, comparison: Comparison) -> _Judged:
    name, uniform, metric = entry.method, _baseline(comparison, "uniform"), comparison.metric
    target = comparison.target
    why = _incomparable(entry, comparison)
    if why is not None or target is None or uniform is None:
        return _Judged(None, why or f"{name}: {NO_UNIFORM}")
    to_target = entry.to_target["steps"]
    steps = to_target.mean_curve
    if steps is None:
        return _never_reached(entry, uniform, target, metric)
    goal = _value(metric, target)
    if entry.speedups["steps"] is None:
        return _Judged(None, f"{name} reached {goal} after {steps:,.0f} steps; uniform never did.")
    in_steps = (
        f"it reached {goal} in {_times(entry.speedups['steps'], 'steps', 'uniform')}"
        f"{_range(_interval(entry, uniform, 'steps'))}"
    )
    seeds = f"({to_target.reached} of {entry.seeds} seeds reached it)."
    charged, flops = entry.speedups["seconds_charged"], entry.speedups["flops_charged"]
    if charged is None:
        return _Judged(None, f"{name}: {in_steps} {seeds} How many seconds was not recorded.")
    interval = _interval(entry, uniform, "seconds_charged") or (charged, charged)
    paid, word = _judged(interval, charged)
    faster, slower = _seeds_faster_and_slower(entry, uniform)
    if paid is not None and (slower if paid else faster):
        paid = None
        word = f"neither clearly paid nor cost ({faster} of {faster + slower} seeds are faster)"
    counted = "" if flops is None else f" and {_times(flops, 'FLOPs')}"
    sentence = (
        f"{name} {word}: {in_steps}; with everything charged that took "
        f"{_times(charged, 'seconds')}{_range(interval)}{counted} {seeds}"
    )
    if word == COARSELY:
        sentence += " Evaluate more often to know (--evaluate-every)."
    sentence += _equal_cost(entry, uniform, metric) + _against_full(entry, comparison, charged)
    return _Judged(paid, sentence)


def _never_reached(
    entry: MethodResult, uniform: MethodResult, target: float, metric: Metric
) -> _Judged:
    name, reached, seeds = entry.method, entry.to_target["steps"].reached, entry.seeds
    # Of the mean curve: the mean of each seed's own best may lie above the target all the same.
    best = metric.best([point.value.mean for point in entry.curve])
    some = f"; {reached} of {seeds} seeds do" if reached else ""
    facts = (
        f"at best {_value(metric, best)} on average, it does not reach the target of "
        f"{_value(metric, target)}{some}."
    )
    equal = _equal_cost(entry, uniform, metric)
    same = at_equal_cost(entry, uniform, metric)
    if same is not None and same.cost == "seconds_charged" and same.ahead:
        return _Judged(None, f"{name}: too short a run to tell: {facts}{equal}")
    return _Judged(False, f"{name} did not pay: {facts}{equal}")


def _judged(interval: Interval, charged: float) -> tuple[bool | None, str]:
    """Whether it paid and the words for it, from how many times fewer seconds it may have taken."""
    lowest, highest = interval
    if lowest >= TIE:
        return True, "paid"
    if highest is not None and highest <= 1 / TIE:
        return False, "did not pay"
    if abs(math.log(charged)) < math.log(TIE) and (
        highest is not None and highest < TIE and lowest > 1 / TIE
    ):
        return None, "neither paid nor cost"
    return None, COARSELY


def _interval(entry: MethodResult, uniform: MethodResult, cost: str) -> Interval | None:
    mine, theirs = between(entry, cost), between(uniform, cost)
    return None if mine is None or theirs is None else ratio_between(mine, theirs)


def _range(interval: Interval | None) -> str:
    """What the evaluations bound a number by, where that says more than the number before it."""
    if interval is None:
        return ""
    lowest, highest = interval
    if highest is not None and lowest > 0 and highest / lowest <= COARSE:
        return ""
    if lowest == 0 and highest is None:
        return " (both had reached it by their first evaluation)"
    if highest is None:
        return f" (at least {_fewer(lowest)})" if lowest >= 1 else f" (at most {_fewer(lowest)})"
    if lowest == 0:
        return f" (at most {_fewer(highest)})" if highest >= 1 else f" (at least {_fewer(highest)})"
    if highest < 1 / ROUNDED:
        return f" (between {1 / highest:.1f} and {_fewer(lowest)})"
    if lowest > ROUNDED:
        return f" (between {lowest:.1f} and {_fewer(highest)})"
    return f" (between {_fewer(lowest)} and {_fewer(highest)})"


ROUNDED = 1.05
"""What is nearer to one than this is written as "as many"."""


def _fewer(ratio: float) -> str:
    """A ratio as a comparison of numbers: ``2.0× fewer``."""
    if 1 / ROUNDED <= ratio < ROUNDED:
        return "as many"
    return f"{1 / ratio:.1f}× more" if ratio < 1 else f"{ratio:.1f}× fewer"


def _equal_cost(entry: MethodResult, uniform: MethodResult, metric: Metric) -> str:
    """Who is ahead at equal cost, in a sentence."""
    same = at_equal_cost(entry, uniform, metric)
    if same is None:
        return ""
    cost = (
        f"{_seconds(same.at)} seconds, everything charged"
        if same.cost == "seconds_charged"
        else f"{same.at:,.0f} steps"
    )
    return (
        f" After the same {cost}, {entry.method} stood at {_value(metric, same.value)} and uniform "
        f"at {_value(metric, same.uniform)}."
    )


def _seeds_faster_and_slower(entry: MethodResult, uniform: MethodResult) -> tuple[int, int]:
    """How many seeds reached the target in fewer charged seconds than uniform's same seed did."""
    # The target is what uniform's mean curve reaches at best: that one of its seeds stays just
    # below says nothing of the time, so pairs without it are left out.
    theirs = _seconds_by_seed(uniform)
    pairs = [
        (math.inf if mine is None else mine, other)
        for seed, mine in _seconds_by_seed(entry).items()
        if (other := theirs.get(seed)) is not None
    ]
    return sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)


def _seconds_by_seed(entry: MethodResult) -> dict[int, float | None]:
    values = entry.to_target["seconds_charged"].values
    return dict(zip(entry.seed_numbers, values, strict=True))


def _against_full(entry: MethodResult, comparison: Comparison, charged: float) -> str:
    """The honest footnote: uniform with the holdout data added to its own."""
    full = _baseline(comparison, "uniform-full")
    if full is None:
        return ""
    text = (
        " Uniform on all the data, holdout included, gets to "
        f"{_value(comparison.metric, full.best.mean)} at best, {entry.method} to "
        f"{_value(comparison.metric, entry.best.mean)}"
    )
    full_seconds = full.speedups["seconds_charged"]
    if full_seconds is not None:
        faster = charged / full_seconds
        text += f"; to the target {entry.method} needs {_times(faster, 'seconds', 'that')}"
    return text + "."


def _budget(entry: MethodResult, comparison: Comparison) -> _Judged:
    metric = comparison.metric
    known = [_baseline(comparison, arm) for arm in BASELINES]
    rivals = [line for line in known if line is not None and line.different == entry.different]
    name = entry.method
    if not rivals:
        return _Judged(None, f"{name}: {NO_UNIFORM}")
    rival = max(rivals, key=lambda line: metric.gain(line.final.mean, 0.0))
    gain, noise = _paired_gain(entry, rival, metric)
    facts = (
        f"with {_seconds(comparison.budget_seconds or 0.0)} seconds for everything, {name} ended "
        f"at {_value_spread(metric, entry.final)} and {rival.method} at "
        f"{_value_spread(metric, rival.final)}"
    )
    if noise is None:
        return _Judged(None, f"{name}: one seed does not tell; {facts}.")
    if abs(gain) <= 2 * noise:
        return _Judged(None, f"{name}: a tie within the seeds' spread; {facts}.")
    return _Judged(gain > 0, f"{name} {'paid' if gain > 0 else 'did not pay'}: {facts}.")


def _paired_gain(
    entry: MethodResult, rival: MethodResult, metric: Metric
) -> tuple[float, float | None]:
    """By how much better over the seeds that both have, on average, and its standard error.

    Paired, because a seed's runs share weights and pools; None where fewer than two pairs tell.
    """
    theirs = dict(zip(rival.seed_numbers, rival.final.values, strict=True))
    mine = zip(entry.seed_numbers, entry.final.values, strict=True)
    gains = [metric.gain(value, theirs[seed]) for seed, value in mine if seed in theirs]
    count = len(gains)
    if count < 2:
        return 0.0, None
    mean = sum(gains) / count
    variance = sum((gain - mean) ** 2 for gain in gains) / (count - 1)
    return mean, math.sqrt(variance / count)


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _value(metric: Metric, value: float) -> str:
    """A value of the metric, named unless it is an accuracy: ``85.0 %``, ``RMSE 57.31``."""
    return _named(metric, metric.number(value))


def _value_spread(metric: Metric, spread: Spread) -> str:
    return _named(metric, metric.number_spread(spread.mean, spread.std))


def _named(metric: Metric, number: str) -> str:
    sign = f" {metric.sign}" if metric.sign else ""
    title = "" if metric == ACCURACY else f"{metric.title}\N{NO-BREAK SPACE}"
    return title + f"{number}{sign}".replace(" ", "\N{NO-BREAK SPACE}")


def _times(ratio: float, what: str, than: str | None = None) -> str:
    """How many times fewer or more of something, in words where it is neither."""
    times = f"{max(ratio, 1 / ratio):.1f}"
    if times == "1.0":
        return f"about as many {what}" + (f" as {than}" if than else "")
    return f"{times}× {'fewer' if ratio > 1 else 'more'} {what}" + (f" than {than}" if than else "")
