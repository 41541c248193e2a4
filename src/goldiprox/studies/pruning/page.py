"""One self-contained page from what a pruning study wrote."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldiprox.records.examples import read_examples
from goldiprox.records.files import read_json, whole_file
from goldiprox.report import formats
from goldiprox.report.html import flat_settings, page_environment
from goldiprox.report.pictures import picture
from goldiprox.studies.pruning.figures import (
    detection_figure,
    histogram_figure,
    pruning_figure,
    window_figure,
)

__all__ = ["diet_table", "reading_lines", "write_diet_report"]

BADGES = {True: ("paid", "✓", "holds"), False: ("unpaid", "✗", "does not")}
UNDECIDED = ("undecided", "?", "undecided")
MARKS = {True: "✓", False: "✗", None: "?"}


def write_diet_report(out: Path, home: Path | None = None) -> Path:
    """Write ``report.html`` of a pruning study.

    Args:
        out: holds ``diet.json``, ``manifest.json`` and ``examples.parquet``.
        home: folder to write the page to; ``out`` unless given.

    Returns:
        The page's path.

    Raises:
        CheckpointError: if a record is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    diet: dict[str, Any] = read_json(out / "diet.json")
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    rows = read_examples(out / "examples.parquet")
    noise = diet["noise"]
    text = (
        page_environment(Path(__file__).parent)
        .get_template("pruning.html")
        .render(
            diet=diet,
            readings=[
                {**reading, "badge": BADGES.get(reading["holds"], UNDECIDED)}
                for reading in diet["readings"]
            ],
            columns=[_whole(share) for share in _shares(diet)],
            arms=_arms(diet),
            pruning=pruning_figure(diet, "pruning"),
            windows=window_figure(diet, "windows"),
            histogram=None if noise is None else histogram_figure(diet, "histogram"),
            detection=None if noise is None else detection_figure(diet, "detection"),
            classes=_classes(rows),
            spread=formats.accuracy_spread,
            accuracy=formats.accuracy,
            correlation=_correlation,
            whole=_whole,
            settings=flat_settings(manifest["settings"]),
            command=manifest["command"],
        )
    )
    page = (home or out) / "report.html"
    with whole_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


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


def reading_lines(diet: dict[str, Any]) -> list[str]:
    """What the study says to each claim, with a mark in front: holds, does not, undecided."""
    return [f"{MARKS[r['holds']]} {r['claim']}: {r['sentence']}" for r in diet["readings"]]
