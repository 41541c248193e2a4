"""Did it pay? One plain sentence for each method, from the numbers alone."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["verdicts"]

BASELINES = ("uniform", "uniform-full")

TIE = 1.1
"""Wall seconds within a factor of this are no difference: machines are noisier than that. Nor is a
larger one where the seeds disagree: some of them faster than uniform's, some slower."""


def verdicts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Sentences for a comparison, and whether each method paid.

    Args:
        comparison: as built by :func:`goldiprox.analysis.compare.summarise`.

    Returns:
        For every method that selects: ``method``, ``paid`` (true, false, or null where the seeds
        do not tell) and ``sentence``.
    """
    by_name = {entry["method"]: entry for entry in comparison["methods"]}
    judge = _budget if comparison["protocol"] == "budget" else _paper
    return [
        {"method": name, **judge(entry, by_name, comparison)}
        for name, entry in by_name.items()
        if name not in BASELINES
    ]


def _paper(
    entry: dict[str, Any], by_name: dict[str, Any], comparison: dict[str, Any]
) -> dict[str, Any]:
    name, uniform = entry["method"], by_name.get("uniform")
    target = comparison["target_accuracy"]
    if target is None or uniform is None:
        return {"paid": None, "sentence": f"{name}: no uniform run to compare with."}
    reached, seeds = entry["steps_to_target"]["reached"], entry["seeds"]
    steps = entry["steps_to_target"]["mean_curve"]
    if steps is None:
        # Of the mean curve: the mean of each seed's own best may lie above the target all the same.
        best = max(point["accuracy"]["mean"] for point in entry["curve"])
        some = f"; {reached} of {seeds} seeds do" if reached else ""
        return {
            "paid": False,
            "sentence": (
                f"{name} did not pay: at best {_percent(best)} on average, it does not reach the "
                f"target of {_percent(target)}{some}."
            ),
        }
    speedup = entry["speedup_over_uniform"]
    if speedup["steps"] is None:
        return {
            "paid": None,
            "sentence": (
                f"{name} reached {_percent(target)} after {steps:,.0f} steps; uniform never did."
            ),
        }
    charged = speedup["seconds_charged"]
    paid = None if abs(math.log(charged)) < math.log(TIE) else charged > 1
    word = {True: "paid", False: "did not pay", None: "neither paid nor cost"}[paid]
    faster, slower = _seeds_faster_and_slower(entry, uniform)
    if paid is not None and (slower if paid else faster):
        paid = None
        word = f"neither clearly paid nor cost ({faster} of {faster + slower} seeds are faster)"
    sentence = (
        f"{name} {word}: it reached {_percent(target)} in "
        f"{_times(speedup['steps'], 'steps', 'uniform')}; with everything charged that took "
        f"{_times(charged, 'seconds')} and {_times(speedup['flops_charged'], 'FLOPs')} "
        f"({reached} of {seeds} seeds reached it)."
    )
    return {"paid": paid, "sentence": sentence + _against_full(entry, by_name, charged)}


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


def _against_full(entry: dict[str, Any], by_name: dict[str, Any], charged: float) -> str:
    """The honest footnote: uniform with the holdout data added to its own."""
    full = by_name.get("uniform-full")
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


def _budget(
    entry: dict[str, Any], by_name: dict[str, Any], comparison: dict[str, Any]
) -> dict[str, Any]:
    rivals = [by_name[b] for b in BASELINES if b in by_name]
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
