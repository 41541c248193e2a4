"""The end of ``compare`` on the terminal: a short table and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldiprox.analysis.comparison import Comparison
from goldiprox.objectives import ACCURACY, Metric
from goldiprox.report import formats
from goldiprox.report.tables import (
    counted,
    has_noise,
    known_marks,
    left_out_operations,
    wrong_words,
)

__all__ = ["terminal_table", "verdict_lines"]

CHOSEN = {"corrupted": "wrong", "low_relevance": "low", "ambiguous": "ambig."}
"""Short names of what chosen examples may be: labelled wrongly, of low relevance, ambiguous."""

MARKS = {True: "✓", False: "✗", None: "?"}


def terminal_table(comparison: Comparison) -> Table:
    """Who got how far, and what the target cost; the page has the rest.

    Args:
        comparison: the comparison.

    Returns:
        A table that fits into 100 columns.
    """
    if comparison.protocol == "budget":
        return _budget_table(comparison)
    target, metric = comparison.target, comparison.metric
    setting = "" if target is None else f", target {metric.number(target)} {metric.sign}".rstrip()
    title = f"{comparison.dataset}, {_models(comparison)}{setting}"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    headings = [
        *(_heading(end, metric) for end in ("best", "final")),
        "seeds\nthere",
        "steps to\ntarget",
        "speedup\nsteps",
        "speedup\nseconds*",
    ]
    flops = counted(comparison)
    if flops:
        headings.append("FLOPs to\ntarget*")
    # Of real data nobody knows how many labels are wrong: no column, rather than one of zeros.
    marks = ["corrupted"] if has_noise(comparison) else []
    marks += known_marks(comparison)
    if marks:  # several shares stand in one column: the table must fit
        headings.append(_chosen_heading(marks, comparison))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in comparison.methods:
        steps = entry.to_target["steps"]
        table.add_row(
            Text(entry.method),
            formats.metric_spread(entry.best, metric),
            formats.metric_spread(entry.final, metric),
            f"{steps.reached}/{entry.seeds}",
            formats.count(steps.mean_curve),
            formats.speedup(entry.speedups["steps"]),
            formats.speedup(entry.speedups["seconds_charged"]),
            *([formats.flops(entry.to_target["flops_charged"].mean_curve)] if flops else []),
            *([_chosen(entry.selected_share, marks)] if marks else []),
        )
    table.caption = "* irreducible-loss model, scoring and proxy charged; speedups are over uniform"
    if left_out := left_out_operations(comparison):
        table.caption += f"; missing in the FLOPs: {', '.join(left_out)}"
    return table


def _heading(end: str, metric: Metric) -> str:
    """``best acc`` and so on, as narrow as the metric's name allows."""
    if metric == ACCURACY:
        return f"{end} acc\n%"
    return "\n".join((end, *metric.heading.rsplit(", ", 1)))


def _models(comparison: Comparison) -> str:
    return ", ".join(map(formats.model_name, comparison.models))


def _chosen_heading(marks: list[str], comparison: Comparison) -> str:
    if marks == ["corrupted"]:
        return wrong_words(comparison).short
    return "/\n".join(CHOSEN[mark] for mark in marks) + " %"


def _chosen(shares: Mapping[str, float | None], marks: list[str]) -> str:
    if len(marks) == 1:
        return formats.accuracy(shares[marks[0]])
    return "/".join(f"{100 * (shares[mark] or 0):.0f}" for mark in marks)


def _budget_table(comparison: Comparison) -> Table:
    """Equal seconds: there is no target, the final value of the metric is what counts."""
    title = f"{comparison.dataset}, {_models(comparison)}, equal seconds"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    noisy, metric = has_noise(comparison), comparison.metric
    headings = [*(_heading(end, metric) for end in ("final", "best")), "batch", "steps"]
    for heading in [*headings, wrong_words(comparison).short] if noisy else headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in comparison.methods:
        table.add_row(
            Text(entry.method),
            formats.metric_spread(entry.final, metric),
            formats.metric_spread(entry.best, metric),
            str(entry.batch),
            formats.count(entry.steps),
            *([formats.accuracy(entry.selected_share["corrupted"])] if noisy else []),
        )
    table.caption = "batch: the one of each method's list that ended best"
    return table


def verdict_lines(comparison: Comparison) -> list[str]:
    """The verdicts, each with a mark in front: paid, did not, undecided."""
    return [f"{MARKS[verdict.paid]} {verdict.sentence}" for verdict in comparison.verdicts]
