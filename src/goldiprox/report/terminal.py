"""The end of ``compare`` on the terminal: a short table and the verdicts."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldiprox.report import formats
from goldiprox.report.tables import has_noise, known_marks, left_out_operations

__all__ = ["terminal_table", "verdict_lines"]

CHOSEN = {"corrupted": "wrong", "low_relevance": "low", "ambiguous": "ambig."}
"""Short names of what chosen examples may be: labelled wrongly, of low relevance, ambiguous."""

MARKS = {True: "✓", False: "✗", None: "?"}


def terminal_table(comparison: dict[str, Any]) -> Table:
    """Who got how far, and what the target cost; the page has the rest.

    Args:
        comparison: what ``comparison.json`` holds.

    Returns:
        A table that fits into 100 columns.
    """
    if comparison["protocol"] == "budget":
        return _budget_table(comparison)
    target = comparison["target_accuracy"]
    setting = "" if target is None else f", target {100 * target:.1f} %"
    title = f"{comparison['dataset']}, {_models(comparison)}{setting}"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    headings = [
        "best acc\n%",
        "final acc\n%",
        "seeds\nthere",
        "steps to\ntarget",
        "speedup\nsteps",
        "speedup\nseconds*",
        "FLOPs to\ntarget*",
    ]
    # Of real data nobody knows how many labels are wrong: no column, rather than one of zeros.
    marks = ["corrupted"] if has_noise(comparison) else []
    marks += known_marks(comparison)
    if marks:  # several shares stand in one column: the table must fit
        headings.append(_chosen_heading(marks))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in comparison["methods"]:
        speedup = entry["speedup_over_uniform"]
        steps = entry["steps_to_target"]
        table.add_row(
            Text(entry["method"]),
            formats.accuracy_spread(entry["best_accuracy"]),
            formats.accuracy_spread(entry["final_accuracy"]),
            f"{steps['reached']}/{entry['seeds']}",
            formats.count(steps["mean_curve"]),
            formats.speedup(speedup["steps"]),
            formats.speedup(speedup["seconds_charged"]),
            formats.flops(entry["flops_to_target"]["charged"]["mean_curve"]),
            *([_chosen(entry["selected_share"], marks)] if marks else []),
        )
    table.caption = "* irreducible-loss model, scoring and proxy charged; speedups are over uniform"
    if left_out := left_out_operations(comparison):
        table.caption += f"; missing in the FLOPs: {', '.join(left_out)}"
    return table


def _models(comparison: dict[str, Any]) -> str:
    names = comparison.get("models") or [comparison["model"]["name"]]
    return ", ".join(map(formats.model_name, names))


def _chosen_heading(marks: list[str]) -> str:
    if marks == ["corrupted"]:
        return "wrong\nlabels %"
    return "/\n".join(CHOSEN[mark] for mark in marks) + " %"


def _chosen(shares: dict[str, float], marks: list[str]) -> str:
    if len(marks) == 1:
        return formats.accuracy(shares[marks[0]])
    return "/".join(f"{100 * shares[mark]:.0f}" for mark in marks)


def _budget_table(comparison: dict[str, Any]) -> Table:
    """Equal seconds: there is no target, the final accuracy is what counts."""
    title = f"{comparison['dataset']}, {_models(comparison)}, equal seconds"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    noisy = has_noise(comparison)
    headings = ["final acc\n%", "best acc\n%", "batch", "steps"]
    for heading in [*headings, "wrong\nlabels %"] if noisy else headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in comparison["methods"]:
        table.add_row(
            Text(entry["method"]),
            formats.accuracy_spread(entry["final_accuracy"]),
            formats.accuracy_spread(entry["best_accuracy"]),
            str(entry["batch"]),
            formats.count(entry["steps"]),
            *([formats.accuracy(entry["selected_share"]["corrupted"])] if noisy else []),
        )
    table.caption = "batch: the one of each method's list that ended best"
    return table


def verdict_lines(comparison: dict[str, Any]) -> list[str]:
    """The verdicts, each with a mark in front: paid, did not, undecided."""
    return [f"{MARKS[verdict['paid']]} {verdict['sentence']}" for verdict in comparison["verdicts"]]
