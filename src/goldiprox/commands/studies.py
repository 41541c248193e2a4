"""What the commands of all studies show, and how their pages are made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.commands.shared import console, wrote
from goldiprox.studies.base import Study
from goldiprox.studies.registry import study_of
from goldiprox.workflows.report import require_page

__all__ = ["report_study", "show"]


def show(study: Study, found: dict[str, Any], home: Path) -> None:
    """Show what a study found, and say where its page is."""
    terminal = console()
    for part in study.shown(found):
        terminal.print(part, highlight=False)
    wrote(home / "report.html")


def report_study(out: Path, home: Path | None, overwrite: bool) -> bool:
    """Make a study's page again, in ``home`` if given; False where ``out`` is no study's."""
    study = study_of(out)
    if study is None:
        return False
    home = home or out
    require_page(out, home, overwrite=overwrite)
    show(study, study.report(out, home), home)
    return True
