"""Did it pay? One plain sentence for each method, from the numbers alone."""

from __future__ import annotations

import math
from typing import Any

from goldiprox.analysis.crossings import (
    Interval,
    at_equal_cost,
    between,
    ratio_between,
)

__all__ = ["verdicts"]

BASELINES = ("uniform", "uniform-full")

TIE = 1.1
"""Wall seconds within a factor of this are no difference: machines are noisier than that. Nor is a
larger one where the seeds disagree: some of them faster than uniform's, some slower."""


COARSELY = "may or may not have paid, its evaluations are too coarse to tell"

COARSE = 1.2
"""An interval whose ends differ by more than this factor is told."""


def verdicts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Sentences for a comparison, and whether each method paid.

    A claim is made only where it holds wherever between two evaluations the target was reached.

    Args:
        comparison: as built by :func:`goldiprox.analysis.compare.summarise`.

    Returns:
        For every method that selects: ``method``, ``paid`` (true, false, or null where the seeds
        or the evaluations do not tell) and ``sentence``.
    """
    judge = _budget if comparison["protocol"] == "budget" else _paper
    return [
        {"method": entry["method"], **judge(entry, comparison)}
        for entry in comparison["methods"]
        if _arm(entry) not in BASELINES
    ]


def _arm(entry: dict[str, Any]) -> str:
    name: str = entry.get("arm", entry["method"])
    return name


def _baseline(comparison: dict[str, Any], arm: str) -> dict[str, Any] | None:
    """The one line of a baseline; none where there are several, of which none is the baseline."""
    found = [entry for entry in comparison["methods"] if _arm(entry) == arm]
    return found[0] if len(found) == 1 else None


def _incomparable(entry: dict[str, Any], comparison: dict[str, Any]) -> str | None:
    """Why a line is not held against uniform, or None."""
    name = entry["method"]
    lines = [other for other in comparison["methods"] if _arm(other) == "uniform"]
    if not lines:
        return f"{name}: no uniform run to compare with."
    if len(lines) > 1:
        listed = " and ".join(line["method"] for line in lines)
        return f"{name}: several uniform runs ({listed}), so none is the baseline."
    if entry.get("different", {}) != lines[0].get("different", {}):
        return f"{name}: its data are not {lines[0]['method']}'s, so it is not judged."
    return None


def _paper(entry: dict[str, Any], comparison: dict[str, Any]) -> dict[str, Any]:
    name, uniform = entry["method"], _baseline(comparison, "uniform")
    target = comparison["target_accuracy"]
    why = _incomparable(entry, comparison)
    if why is not None or target is None or uniform is None:
        return {
            "paid": None,
            "sentence": why or f"{name}: no uniform run to compare with.",
        }
    reached, seeds = entry["steps_to_target"]["reached"], entry["seeds"]
    steps = entry["steps_to_target"]["mean_curve"]
    if steps is None:
        return _never_reached(entry, uniform, target)
    speedup = entry["speedup_over_uniform"]
    if speedup["steps"] is None:
        return {
            "paid": None,
            "sentence": (
                f"{name} reached {_percent(target)} after {steps:,.0f} steps; uniform never did."
            ),
        }
    charged = speedup["seconds_charged"]
    interval = _interval(entry, uniform, "seconds_charged") or (charged, charged)
    paid, word = _judged(interval, charged)
    faster, slower = _seeds_faster_and_slower(entry, uniform)
    if paid is not None and (slower if paid else faster):
        paid = None
        word = f"neither clearly paid nor cost ({faster} of {faster + slower} seeds are faster)"
    sentence = (
        f"{name} {word}: it reached {_percent(target)} in "
        f"{_times(speedup['steps'], 'steps', 'uniform')}"
        f"{_range(_interval(entry, uniform, 'steps'))}; with everything charged that took "
        f"{_times(charged, 'seconds')}{_range(interval)} and "
        f"{_times(speedup['flops_charged'], 'FLOPs')} "
        f"({reached} of {seeds} seeds reached it)."
    )
    if word == COARSELY:
        sentence += " Evaluate more often to know (--evaluate-every)."
    sentence += _equal_cost(entry, uniform) + _against_full(entry, comparison, charged)
    return {"paid": paid, "sentence": sentence}


def _never_reached(entry: dict[str, Any], uniform: dict[str, Any], target: float) -> dict[str, Any]:
    name, reached, seeds = entry["method"], entry["steps_to_target"]["reached"], entry["seeds"]
    # Of the mean curve: the mean of each seed's own best may lie above the target all the same.
    best = max(point["accuracy"]["mean"] for point in entry["curve"])
    some = f"; {reached} of {seeds} seeds do" if reached else ""
    facts = (
        f"at best {_percent(best)} on average, it does not reach the target of "
        f"{_percent(target)}{some}."
    )
    same = at_equal_cost(entry, uniform)
    if same is not None and same["cost"] == "seconds_charged" and same["ahead"]:
        sentence = f"{name}: too short a run to tell: {facts}"
        return {"paid": None, "sentence": sentence + _equal_cost(entry, uniform)}
    return {"paid": False, "sentence": f"{name} did not pay: {facts}" + _equal_cost(entry, uniform)}


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


def _interval(entry: dict[str, Any], uniform: dict[str, Any], cost: str) -> Interval | None:
    mine, theirs = between(entry, cost), between(uniform, cost)
    return None if mine is None or theirs is None else ratio_between(mine, theirs)


def _range(interval: Interval | None) -> str:
    """The interval in brackets where it says more than the number before it."""
    if interval is None:
        return ""
    lowest, highest = interval
    if highest is not None and lowest > 0 and highest / lowest <= COARSE:
        return ""
    least = f"{1 / lowest:.1f}× more" if 0 < lowest < 1 else f"{lowest:.1f}× fewer"
    least = "any number more" if lowest == 0 else least
    most = "any number fewer" if highest is None else f"{highest:.1f}× fewer"
    if highest is not None and highest < 1:
        most = f"{1 / highest:.1f}× more"
    return f" (between evaluations: {least} to {most})"


def _equal_cost(entry: dict[str, Any], uniform: dict[str, Any]) -> str:
    """Who is ahead at equal cost, in a sentence."""
    same = at_equal_cost(entry, uniform)
    if same is None:
        return ""
    name = entry["method"]
    cost = (
        f"{_seconds(same['at'])} seconds, everything charged"
        if same["cost"] == "seconds_charged"
        else f"{same['at']:,.0f} steps"
    )
    return (
        f" After the same {cost}, {name} stood at {_percent(same['accuracy'])} and uniform at "
        f"{_percent(same['uniform'])}."
    )


def _seeds_faster_and_slower(entry: dict[str, Any], uniform: dict[str, Any]) -> tuple[int, int]:
    """How many seeds reached the target in fewer charged seconds than uniform's same seed did."""
    # The target is what uniform's mean curve reaches at best: that one of its seeds stays just
    # below says nothing of the time, so pairs without it are left out.
    theirs = _seconds_by_seed(uniform)
    pairs = [
        (math.inf if seconds is None else seconds, theirs[seed])
        for seed, seconds in _seconds_by_seed(entry).items()
        if theirs.get(seed) is not None
    ]
    return sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)


def _seconds_by_seed(entry: dict[str, Any]) -> dict[int, Any]:
    values = entry["seconds_to_target"]["charged"]["values"]
    return dict(zip(entry["seed_numbers"], values, strict=True))


def _against_full(entry: dict[str, Any], comparison: dict[str, Any], charged: float) -> str:
    """The honest footnote: uniform with the holdout data added to its own."""
    full = _baseline(comparison, "uniform-full")
    if full is None:
        return ""
    mine, theirs = entry["best_accuracy"]["mean"], full["best_accuracy"]["mean"]
    text = (
        f" Uniform on all the data, holdout included, gets to {_percent(theirs)} at best, "
        f"{entry['method']} to {_percent(mine)}"
    )
    full_seconds = full["speedup_over_uniform"]["seconds_charged"]
    if full_seconds is not None:
        faster = charged / full_seconds
        text += f"; to the target {entry['method']} needs {_times(faster, 'seconds', 'that')}"
    return text + "."


def _budget(entry: dict[str, Any], comparison: dict[str, Any]) -> dict[str, Any]:
    known = [_baseline(comparison, arm) for arm in BASELINES]
    same = entry.get("different", {})
    rivals = [line for line in known if line is not None and line.get("different", {}) == same]
    name = entry["method"]
    if not rivals:
        return {"paid": None, "sentence": f"{name}: no uniform run to compare with."}
    rival = max(rivals, key=lambda r: r["final_accuracy"]["mean"])
    mine, theirs = entry["final_accuracy"], rival["final_accuracy"]
    difference, noise = _paired_difference(entry, rival)
    seconds = comparison["budget_seconds"]
    facts = (
        f"with {_seconds(seconds)} seconds for everything, {name} ended at {_pm(mine)} and "
        f"{rival['method']} at {_pm(theirs)}"
    )
    if noise is None:
        return {"paid": None, "sentence": f"{name}: one seed does not tell; {facts}."}
    if abs(difference) <= 2 * noise:
        return {"paid": None, "sentence": f"{name}: a tie within the seeds' spread; {facts}."}
    paid = difference > 0
    return {
        "paid": paid,
        "sentence": f"{name} {'paid' if paid else 'did not pay'}: {facts}.",
    }


def _paired_difference(entry: dict[str, Any], rival: dict[str, Any]) -> tuple[float, float | None]:
    """Mean difference over the seeds that both have, and its standard error.

    Paired, because a seed's runs share weights and pools; None where fewer than two pairs tell.
    """
    theirs = dict(zip(rival["seed_numbers"], rival["final_accuracy"]["values"], strict=True))
    mine = zip(entry["seed_numbers"], entry["final_accuracy"]["values"], strict=True)
    differences = [value - theirs[seed] for seed, value in mine if seed in theirs]
    count = len(differences)
    if count < 2:
        return 0.0, None
    mean = sum(differences) / count
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    return mean, math.sqrt(variance / count)


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _pm(spread: dict[str, Any]) -> str:
    deviation = spread["std"]
    extra = (
        "" if deviation is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * deviation:.1f}"
    )
    return f"{100 * spread['mean']:.1f}{extra}\N{NO-BREAK SPACE}%"


def _times(ratio: float | None, what: str, than: str | None = None) -> str:
    """How many times fewer or more of something, in words where it is neither."""
    if ratio is None:
        return f"an unknown number of {what}"
    times = f"{max(ratio, 1 / ratio):.1f}"
    if times == "1.0":
        return f"about as many {what}" + (f" as {than}" if than else "")
    return f"{times}× {'fewer' if ratio > 1 else 'more'} {what}" + (f" than {than}" if than else "")
