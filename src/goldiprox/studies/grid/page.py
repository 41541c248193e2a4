"""The page of a grid: in which cells a method is faster than uniform, and by how much."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldiprox.analysis.quantities import Spread
from goldiprox.objectives import Metric
from goldiprox.records.files import read_json
from goldiprox.report import formats
from goldiprox.studies.base import write_page
from goldiprox.studies.grid.analysis import COSTS, by_name

__all__ = ["grid_sentence", "grid_table", "write_grid_report"]

Grid = dict[str, Any]

WORDS = {
    "steps": "steps",
    "seconds_charged": "seconds, everything charged",
    "seconds_amortised": "seconds, irreducible-loss model free of charge",
    "flops_charged": "FLOPs, everything charged",
    "flops_amortised": "FLOPs, irreducible-loss model free of charge",
}
WIDTH, HEIGHT = 132, 54
"""Of a cell's curves, in pixels of the drawing."""

FULL = 4.0
"""A speedup (or slow-down) of this many times has the full colour."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """One cell of a panel."""

    title: str
    link: str
    kind: str
    strength: int
    head: str
    unit: str
    lines: list[str]
    curves: Markup


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A table of cells: rows and columns are the last two axes."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Box]]]


def write_grid_report(out: Path, home: Path) -> None:
    """Write ``report.html`` of a grid.

    Args:
        out: the grid's folder, holds ``manifest.json``.
        home: folder that holds ``comparison.json`` and gets the page.

    Raises:
        CheckpointError: if a record is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    found: Grid = read_json(home / "comparison.json")
    grid = found["grid"]
    judged = [summary["method"] for summary in grid["summary"]]
    metric = _metric(found)
    write_page(
        out,
        home,
        Path(__file__).with_name("grid.html"),
        found=found,
        grid=grid,
        data=found["data"],
        noise=found["data"]["label_noise"],
        axes=grid["axes"],
        failed=[cell for cell in grid["cells"] if cell["failed"] is not None],
        answers=[(_answer(s), grid_sentence(s)) for s in grid["summary"]],
        summaries=[(s["method"], _summary_rows(s)) for s in grid["summary"]],
        panels=[(name, _panels(grid, name, metric)) for name in judged],
        metric=metric,
        rows=_rows(grid, metric),
    )


def _metric(found: Grid) -> Metric:
    return Metric(**found["metric"])


def _spread(entry: dict[str, Any], end: str, metric: Metric) -> str:
    return formats.metric_spread(Spread.from_json(entry[end]), metric)


def _answer(summary: dict[str, Any]) -> str:
    """The shortest answer that is true."""
    faster = {cost: summary["speedup"][cost]["faster"] for cost in COSTS}
    return (
        f"{summary['method']} is faster in {faster['steps']} of {summary['cells']} cells in steps, "
        f"in {faster['seconds_charged']} in seconds with everything charged."
    )


def grid_sentence(summary: dict[str, Any]) -> str:
    """What a method did over the whole grid, in a sentence or two."""
    name, count, speedup = summary["method"], summary["cells"], summary["speedup"]
    if not count:
        return f"{name}: no cell was finished."
    faster = {cost: speedup[cost]["faster"] for cost in COSTS}
    text = (
        f"{name} reaches uniform's best in {summary['reached']} of {count} cells, in "
        f"fewer steps in {faster['steps']}"
    )
    if speedup["steps"]["median"] is not None:
        text += f" (median {formats.speedup(speedup['steps']['median'])})"
    text += (
        f"; in fewer seconds in {faster['seconds_charged']} with everything charged, in "
        f"{faster['seconds_amortised']} with the irreducible-loss model free of charge; in fewer "
        f"FLOPs in {faster['flops_charged']} and {faster['flops_amortised']}."
    )
    shared = summary["one_table"]
    if shared["flops"] is not None:
        text += (
            " Over all the cells it reaches, with one irreducible-loss table for all of them paid "
            f"once, it takes {_against(shared['seconds'])} seconds and "
            f"{_against(shared['flops'])} FLOPs."
        )
    return text


def _against(ratio: float) -> str:
    return f"{ratio:.2g}× fewer" if ratio >= 1 else f"{1 / ratio:.2g}× more"


def grid_table(found: Grid) -> Table:
    """The end of a grid on the terminal: a row per cell and judged method."""
    grid = found["grid"]
    metric = _metric(found)
    title = f"{found['dataset']}: speedups over uniform to its best {metric.title} in each cell"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("cell", overflow="fold")
    table.add_column("method", overflow="fold")
    for heading in (
        *(f"uniform\nbest {metric.sign}", f"best\n{metric.sign}", "steps"),
        *("seconds\ncharged", "FLOPs\ncharged", "FLOPs\namortised"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in grid["cells"]:
        entries = by_name(cell)
        if cell["failed"] is not None:
            table.add_row(Text(cell["title"]), Text(f"failed: {cell['failed']}"), *[""] * 6)
        for summary in grid["summary"]:
            entry = entries.get(summary["method"])
            if entry is None:
                continue
            speedup = entry["speedup_over_uniform"]
            uniform = entries.get("uniform")
            table.add_row(
                Text(cell["title"]),
                Text(entry["method"]),
                formats.DASH if uniform is None else _spread(uniform, "best", metric),
                _spread(entry, "best", metric),
                *(
                    formats.speedup(speedup[key])
                    for key in ("steps", "seconds_charged", "flops_charged", "flops_amortised")
                ),
            )
    if found["processes"] > 1:
        table.caption = f"seconds were measured while up to {found['processes']} processes ran"
    return table


def _summary_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for cost in COSTS:
        values = summary["speedup"][cost]
        rows.append(
            {
                "cost": WORDS[cost],
                "faster": f"{values['faster']} of {summary['cells']}",
                **{
                    key: formats.speedup(values[key])
                    for key in ("median", "geometric_mean", "lowest", "highest")
                },
            }
        )
    return rows


def _panels(grid: Grid, name: str, metric: Metric) -> list[Panel]:
    """The cells as tables; a single axis is one row."""
    axes = [(axis["name"], axis["values"]) for axis in grid["axes"]]
    while len(axes) < 2:
        axes.insert(0, ("", [None]))
    *outer, (row_name, row_values), (column_name, column_values) = axes
    by_place = {tuple(cell["at"].values()): cell for cell in grid["cells"]}
    edge = _worst(grid, metric)
    panels = []
    for place in itertools.product(*(values for _, values in outer)):
        rows = []
        for row in row_values:
            at = [*place, row]
            boxes = [
                _box(by_place[tuple(v for v in [*at, column] if v is not None)], name, edge, metric)
                for column in column_values
            ]
            rows.append((_value(row_name, row), boxes))
        outer_names = [axis for axis, _ in outer]
        title = ", ".join(_value(n, v) for n, v in zip(outer_names, place, strict=True))
        columns = [_value(column_name, column) for column in column_values]
        panels.append(Panel(title=title, corner="", columns=columns, rows=rows))
    return panels


def _value(axis: str, value: Any) -> str:
    """A value with its axis: ``lr 0.001``, ``10 % chosen``; a model by its name alone."""
    if value is None:
        return ""
    if axis == "model":
        return str(value)
    return f"{formats.setting(value)} chosen" if axis == "share" else f"{axis} {value:g}"


def _worst(grid: Grid, metric: Metric) -> float:
    """Where all curves' axes begin: a little beyond the worst value at the end of any run."""
    ends: list[float] = [e["curve"][-1]["value"] for cell in grid["cells"] for e in cell["methods"]]
    if not ends:
        return 0.0
    if metric.unit == "share" and metric.higher_is_better:
        return max(0.0, min(ends) - 0.1)
    margin = 0.2 * (max(ends) - min(ends))
    return min(ends) - margin if metric.higher_is_better else max(ends) + margin


def _box(cell: dict[str, Any], name: str, edge: float, metric: Metric) -> Box:
    entries = by_name(cell)
    link = f"cells/{cell['name']}/report.html"
    if name not in entries:
        return Box(title=cell["title"], link="", kind="failed", strength=0, head="failed", unit="",
                   lines=[str(cell["failed"])], curves=Markup())  # fmt: skip
    entry, uniform = entries[name], entries.get("uniform")
    speedup = entry["speedup_over_uniform"]
    steps = speedup["steps"]
    best = f"{metric.number(entry['best']['mean'])} {metric.sign}".rstrip()
    lines = [f"best {best}"]
    if uniform is not None:
        lines = [f"best {metric.number(uniform['best']['mean'])} → {best}"]
    kind, strength, head, unit = "never", 0, "never", "gets to uniform's best"
    if steps is not None:
        kind = "faster" if steps > 1 else "slower" if steps < 1 else "equal"
        strength = round(100 * min(1.0, abs(math.log(steps)) / math.log(FULL)))
        head, unit = formats.speedup(steps), "steps"
        lines += [
            f"{word} {formats.speedup(speedup[f'{cost}_charged'])} "
            f"({formats.speedup(speedup[f'{cost}_amortised'])} amortised)"
            for word, cost in (("seconds", "seconds"), ("FLOPs", "flops"))
        ]
    drawn = [("uniform", uniform), ("method", entry)]
    return Box(
        title=cell["title"],
        link=link,
        kind=kind,
        strength=strength,
        head=head,
        unit=unit,
        lines=lines,
        curves=_curves([(k, e["curve"]) for k, e in drawn if e is not None],
                       cell["target"], edge, metric),
    )  # fmt: skip


def _curves(
    curves: Sequence[tuple[str, list[dict[str, float]]]],
    target: float | None,
    edge: float,
    metric: Metric,
) -> Markup:
    """The metric against steps, small, better above: one line a method, the target dashed."""
    last = max(points[-1]["step"] for _, points in curves)
    gains = [metric.gain(point["value"], edge) for _, points in curves for point in points]
    top = max(*gains, 0.01 if metric.unit == "share" else 1e-9)

    def y(value: float) -> float:
        share = metric.gain(value, edge) / top
        return round(HEIGHT - 2 - (HEIGHT - 4) * max(0.0, share), 1)

    parts = []
    if target is not None:
        parts.append(
            f'<line class="target" x1="0" x2="{WIDTH}" y1="{y(target)}" y2="{y(target)}"/>'
        )
    for kind, points in curves:
        places = " ".join(
            f"{WIDTH * point['step'] / last:.1f},{y(point['value'])}" for point in points
        )
        parts.append(f'<polyline class="{kind}" points="{places}"/>')
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true"'
    return Markup(f'<svg class="spark" {view}>{"".join(parts)}</svg>')  # numbers and our own names


def _rows(grid: Grid, metric: Metric) -> list[dict[str, Any]]:
    """Every method of every cell, for the table that hides nothing."""
    rows = []
    for cell in grid["cells"]:
        for entry in cell["methods"]:
            seconds, flops = entry["seconds_to_target"], entry["flops_to_target"]
            rows.append(
                {
                    "cell": cell["title"],
                    "method": entry["method"],
                    "numbers": [
                        _spread(entry, "best", metric),
                        _spread(entry, "final", metric),
                        f"{entry['steps_to_target']['reached']}/{entry['seeds']}",
                        formats.count(entry["steps_to_target"]["mean_curve"]),
                        formats.seconds(seconds["charged"]["mean_curve"]),
                        formats.seconds(seconds["amortised"]["mean_curve"]),
                        formats.flops(flops["charged"]["mean_curve"]),
                        formats.flops(flops["amortised"]["mean_curve"]),
                        formats.accuracy(entry["selected_share"]["corrupted"]),
                    ],
                }
            )
    return rows
