"""One self-contained page from what a dynamics study wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.records.files import read_json, whole_file
from goldiprox.report.html import flat_settings, page_environment
from goldiprox.studies.dynamics.figures import (
    SET_LOOKS,
    barrier_figure,
    barrier_over_time_figure,
    velocity_figure,
)

__all__ = ["reading_lines", "write_dynamics_report"]

BADGES = {True: ("paid", "✓", "seen"), False: ("unpaid", "✗", "not seen")}
UNDECIDED = ("undecided", "?", "undecided")


def write_dynamics_report(out: Path, home: Path | None = None) -> Path:
    """Write ``report.html`` of a dynamics study.

    Args:
        out: holds ``dynamics.json`` and ``manifest.json``.
        home: folder to write the page to; ``out`` unless given.

    Returns:
        The page's path.

    Raises:
        CheckpointError: if a record is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    summary: dict[str, Any] = read_json(out / "dynamics.json")
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    text = (
        page_environment(Path(__file__).parent)
        .get_template("dynamics.html")
        .render(
            summary=summary,
            seen=sum(bool(reading["seen"]) for reading in summary["readings"]),
            undecided=sum(reading["seen"] is None for reading in summary["readings"]),
            readings=[
                {**reading, "badge": BADGES.get(reading["seen"], UNDECIDED)}
                for reading in summary["readings"]
            ],
            velocity=[
                (arm, velocity_figure(summary, arm, f"velocity-{arm['name']}"))
                for arm in summary["arms"]
            ],
            barrier=barrier_figure(summary, "barrier"),
            over_time=[
                (label, barrier_over_time_figure(summary, name, f"barrier-{name}"))
                for name, (_, _, label) in SET_LOOKS.items()
            ],
            settings=flat_settings(manifest["settings"]),
            data=manifest["data"],
            command=manifest["command"],
        )
    )
    page = (home or out) / "report.html"
    with whole_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def reading_lines(summary: dict[str, Any]) -> list[str]:
    """The readings for a terminal, one line each."""
    return [
        f"{BADGES.get(reading['seen'], UNDECIDED)[1]} {reading['claim']}. {reading['sentence']}"
        for reading in summary["readings"]
    ]
