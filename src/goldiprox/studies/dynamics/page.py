"""One self-contained page from what a dynamics study wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.records.files import read_json
from goldiprox.records.studies import MANIFEST
from goldiprox.studies.base import Judged, Study, write_page
from goldiprox.studies.dynamics.figures import (
    SET_LOOKS,
    barrier_figure,
    barrier_over_time_figure,
    velocity_figure,
)

__all__ = ["DYNAMICS", "write_dynamics_report"]

READINGS = Judged(key="seen", true="seen", false="not seen", between=". ")


def write_dynamics_report(out: Path, home: Path) -> dict[str, Any]:
    """Write ``report.html`` of a dynamics study.

    Args:
        out: holds ``dynamics.json`` and ``manifest.json``.
        home: folder to write the page to.

    Returns:
        What ``dynamics.json`` holds.

    Raises:
        CheckpointError: if a record is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    summary: dict[str, Any] = read_json(out / "dynamics.json")
    write_page(
        out,
        home,
        Path(__file__).with_name("dynamics.html"),
        summary=summary,
        seen=sum(bool(reading["seen"]) for reading in summary["readings"]),
        undecided=sum(reading["seen"] is None for reading in summary["readings"]),
        readings=READINGS.badged(summary["readings"]),
        velocity=[
            (arm, velocity_figure(summary, arm, f"velocity-{arm['name']}"))
            for arm in summary["arms"]
        ],
        barrier=barrier_figure(summary, "barrier"),
        over_time=[
            (label, barrier_over_time_figure(summary, name, f"barrier-{name}"))
            for name, (_, _, label) in SET_LOOKS.items()
        ],
        data=read_json(out / MANIFEST)["data"],
    )
    return summary


def _shown(summary: dict[str, Any]) -> list[str]:
    return READINGS.lines(summary["readings"])


DYNAMICS = Study(key="dynamics", record="dynamics.json", report=write_dynamics_report, shown=_shown)
