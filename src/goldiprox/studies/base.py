"""What all studies share: how the commands know them, their page's frame, how claims are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from goldiprox.records.files import read_json, whole_file
from goldiprox.records.studies import MANIFEST
from goldiprox.report.html import flat_settings, page_environment

__all__ = ["Judged", "Study", "write_page"]

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, as ``goldiprox report`` knows it.

    Attributes:
        key: of its settings in a manifest; a folder that has them is its.
        record: what its folder holds once there is something to report.
        report: called with its folder and the one that gets the page; writes the page and returns
            what was found.
        shown: what the terminal shows of that.
    """

    key: str
    record: str
    report: Callable[[Path, Path], Found]
    shown: Callable[[Found], Iterable[RenderableType]]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a study words what it says to claims.

    Attributes:
        key: of a reading's judgement: true, false, or None where the seeds do not tell.
        true: the word for a claim that holds.
        false: the word for one that does not.
        between: what stands between a claim and its sentence on the terminal.
    """

    key: str
    true: str
    false: str
    between: str

    def badge(self, reading: Found) -> tuple[str, str, str]:
        """Style, mark and word."""
        judgement = reading[self.key]
        if judgement is None:
            return "undecided", "?", "undecided"
        return ("paid", "✓", self.true) if judgement else ("unpaid", "✗", self.false)

    def badged(self, readings: Sequence[Found]) -> list[Found]:
        """For the page."""
        return [{**reading, "badge": self.badge(reading)} for reading in readings]

    def lines(self, readings: Sequence[Found]) -> list[str]:
        """For the terminal, one line each."""
        return [
            f"{self.badge(reading)[1]} {reading['claim']}{self.between}{reading['sentence']}"
            for reading in readings
        ]


def write_page(out: Path, home: Path, template: Path, **values: Any) -> None:
    """Write ``report.html`` of a study.

    Args:
        out: the study's folder, with its ``manifest.json``.
        home: folder to write the page to.
        template: the study's own; its folder may hold others that it includes.
        **values: what it needs, beside ``settings`` and ``command``.

    Raises:
        CheckpointError: if the manifest is absent or damaged.
        GoldiproxError: if the page cannot be written.
    """
    manifest = read_json(out / MANIFEST)
    text = (
        page_environment(template.parent)
        .get_template(template.name)
        .render(
            settings=flat_settings(manifest["settings"]), command=manifest.get("command"), **values
        )
    )
    with whole_file(home / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
