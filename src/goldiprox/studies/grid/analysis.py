"""From the comparisons of a grid's cells to one answer: where is a method faster, and by how much.

Reads records alone; each cell is judged against uniform's best in that cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.quantities import Facts
from goldiprox.analysis.verdict import BASELINES
from goldiprox.objectives import ACCURACY, Metric

__all__ = ["COSTS", "by_name", "summarise_grid"]

COSTS = ("steps", "seconds_charged", "seconds_amortised", "flops_charged", "flops_amortised")
"""Speedups over uniform, as in a comparison's ``speedup_over_uniform``."""


def summarise_grid(
    cells: Sequence[dict[str, Any]],
    axes: Sequence[tuple[str, tuple[Any, ...]]],
    settings: dict[str, Any],
    data: dict[str, Any],
) -> dict[str, Any]:
    """Put the comparisons of all cells together.

    Args:
        cells: ``name``, ``title``, ``at`` (value on each axis), ``comparison`` (a
            :class:`Comparison`, None if there is none) and ``failed`` (why, else None).
        axes: what varies, with its values.
        settings: recorded as they are.
        data: the data's description.

    Returns:
        What the grid's ``comparison.json`` holds; see ``docs/formats.md``.
    """
    done: list[Comparison] = [c["comparison"] for c in cells if c["comparison"] is not None]
    names = [entry.method for found in done[:1] for entry in found.methods]
    judged = [name for name in names if name not in BASELINES]
    described = [_describe(cell) for cell in cells]
    irreducible = next((found.irreducible for found in done if found.irreducible), None)
    metric = done[0].metric if done else ACCURACY
    return {
        "dataset": data["dataset"],
        "protocol": "paper",
        "settings": settings,
        "data": data,
        "metric": asdict(metric),
        "versions": done[0].versions if done else {},
        "processes": max((found.processes for found in done), default=1),
        "irreducible": irreducible,
        "grid": {
            "axes": [{"name": name, "values": list(values)} for name, values in axes],
            "seeds": settings["compare"]["seeds"],
            "cells": described,
            "summary": [_summary(name, described, irreducible or {}, metric) for name in judged],
        },
    }


def _describe(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell: what a reader of the grid wants of its comparison."""
    found: Comparison | None = cell["comparison"]
    body = {key: cell[key] for key in ("name", "title", "at", "failed")}
    if found is None:
        return {**body, "target": None, "model": None, "methods": []}
    metric = found.metric
    keys = (
        *("method", "seeds", "batch", "pool", "steps", "best", "final"),
        *(f"best_{metric.name}", f"final_{metric.name}"),
        *("steps_to_target", "seconds_to_target", "flops_to_target", "speedup_over_uniform"),
        "selected_share",
    )
    return {
        **body,
        "target": found.target,
        f"target_{metric.name}": found.target,
        "model": found.model,
        "methods": [
            {
                **{key: written[key] for key in keys},
                "curve": [
                    {"step": point.costs["step"], "value": point.value.mean}
                    for point in entry.curve
                ],
            }
            for entry in found.methods
            for written in [entry.to_json(metric)]
        ],
    }


def _summary(
    name: str, cells: Sequence[dict[str, Any]], irreducible: Facts, metric: Metric
) -> dict[str, Any]:
    """One method over all cells."""
    run = [(cell, by_name(cell)) for cell in cells if name in by_name(cell)]
    speedups = [entries[name]["speedup_over_uniform"] for _, entries in run]
    by_cost = {}
    for cost in COSTS:
        known = [s[cost] for s in speedups if s[cost] is not None]
        by_cost[cost] = {
            "faster": sum(value > 1 for value in known),
            "median": median(known) if known else None,
            "geometric_mean": math.exp(sum(map(math.log, known)) / len(known)) if known else None,
            "lowest": min(known, default=None),
            "highest": max(known, default=None),
        }
    return {
        "method": name,
        "cells": len(run),
        "reached": sum(s["steps"] is not None for s in speedups),
        "better": sum(
            metric.gain(entries[name]["best"]["mean"], entries["uniform"]["best"]["mean"]) > 0
            for _, entries in run
            if "uniform" in entries
        ),
        "speedup": by_cost,
        "one_table": _one_table(name, run, irreducible),
    }


def by_name(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's methods by name."""
    return {entry["method"]: entry for entry in cell["methods"]}


def _one_table(
    name: str,
    run: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    irreducible: Facts,
) -> dict[str, float | None]:
    """All cells together, the table paid for once: uniform's cost to its bests over the method's.

    Over the cells in which the method reaches the target. A method's cost is added up over cells
    and seeds, a proxy's run for each of them included; the table's own cost comes once.
    """
    found: dict[str, float | None] = {}
    for kind in ("seconds", "flops"):
        uniform = method = table = 0.0
        for _, entries in run:
            if "uniform" not in entries:
                continue
            mine = entries[name][f"{kind}_to_target"]
            theirs = entries["uniform"][f"{kind}_to_target"]["amortised"]["mean_curve"]
            amortised = mine["amortised"]["mean_curve"]
            if amortised is None or theirs is None:
                continue
            seeds = entries[name]["seeds"]
            before = mine["charged"]["mean_curve"] - amortised
            table = min(before, irreducible.get(kind, 0.0))
            uniform += seeds * theirs
            method += seeds * (amortised + before - table)
        found[kind] = uniform / (method + table) if method else None
    return found
