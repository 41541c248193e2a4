"""One self-contained page from what a pruning study wrote."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from goldiprox.records.examples import read_examples
from goldiprox.records.files import read_json
from goldiprox.report import formats
from goldiprox.report.pictures import picture
from goldiprox.studies.base import Judged, Study, write_page
from goldiprox.studies.pruning.figures import (
    detection_figure,
    histogram_figure,
    pruning_figure,
    window_figure,
)

__all__ = ["PRUNING", "diet_table", "write_diet_report"]

READINGS = Judged(key="holds", true="holds", false="does not", between=": ")


def write_diet_report(out: Path, home: Path) -> dict[str, Any]:
    """Write ``report.html`` of a pruning study.

    Args:
        out: holds ``diet.json``, ``manifest.json`` and ``examples.parquet``.
        home: folder to write the page to.

    Returns:
        What ``diet.json`` holds.

    Raises:
        CheckpointError: if a record is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    diet: dict[str, Any] = read_json(out / "diet.json")
    noise = diet["noise"]
    write_page(
        out,
        home,
        Path(__file__).with_name("pruning.html"),
        diet=diet,
        readings=READINGS.badged(diet["readings"]),
        columns=[_whole(share) for share in _shares(diet)],
        arms=_arms(diet),
        pruning=pruning_figure(diet, "pruning"),
        windows=window_figure(diet, "windows"),
        histogram=None if noise is None else histogram_figure(diet, "histogram"),
        detection=None if noise is None else detection_figure(diet, "detection"),
        classes=_classes(read_examples(out / "examples.parquet")),
        spread=formats.accuracy_spread,
        accuracy=formats.accuracy,
        correlation=_correlation,
        whole=_whole,
    )
    return diet


def _shares(diet: dict[str, Any]) -> list[float]:
    found = {r["share"] for r in diet["curves"] if r["offset"] is None and r["arm"] != "full"}
    return sorted(found, reverse=True)


def _arms(diet: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table: one an arm, a cell a share, the best of each share marked."""
    rows = [r for r in diet["curves"] if r["offset"] is None and r["arm"] != "full"]
    best = {
        share: max(r["accuracy"]["mean"] for r in rows if r["share"] == share)
        for share in _shares(diet)
    }
    found = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = {row["share"]: row for row in rows if row["arm"] == arm}
        found.append(
            {
                "arm": arm,
                "cells": [
                    {"row": cells.get(s), "best": s in cells and cells[s]["accuracy"]["mean"] == b}
                    for s, b in best.items()
                ],
            }
        )
    return found


def _classes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Galleries by class, with pictures as data URIs."""
    found = []
    for name, members in groupby(rows, key=lambda row: row["class"]):
        shown = [{**row, "image": picture(row["png"]) if row["png"] else None} for row in members]
        groups = [
            (group, [row for row in shown if row["group"] == group])
            for group in ("lowest", "highest")
        ]
        found.append({"name": name, "groups": groups})
    return found


def _whole(share: float) -> str:
    return f"{round(100 * share, 1):g}\N{NO-BREAK SPACE}%"


def _correlation(value: float | None) -> str:
    if value is None:
        return formats.DASH
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # no minus before 0.00


def diet_table(diet: dict[str, Any]) -> Table:
    """The study on the terminal: accuracy by arm and share.

    Args:
        diet: what ``diet.json`` holds.
    """
    (full,) = [row for row in diet["curves"] if row["arm"] == "full"]
    model = formats.model_name(diet["model"]["name"])
    title = (
        f"{diet['dataset']}, {model}, {diet['seeds']} seeds; all the data: "
        f"{formats.accuracy_spread(full['accuracy'])} %"
    )
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("test accuracy, %", overflow="fold")
    for share in _shares(diet):
        table.add_column(f"keep {_whole(share)}", justify="right", no_wrap=True)
    for entry in _arms(diet):
        cells = [
            formats.DASH
            if cell["row"] is None
            else formats.accuracy_spread(cell["row"]["accuracy"])
            for cell in entry["cells"]
        ]
        table.add_row(entry["arm"], *cells)
    return table


def _shown(diet: dict[str, Any]) -> list[RenderableType]:
    return [diet_table(diet), *READINGS.lines(diet["readings"])]


PRUNING = Study(key="diet", record="diet.json", report=write_diet_report, shown=_shown)
