"""What a comparison over models and hyperparameters shows on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.commands.shared import console, wrote
from goldiprox.studies.grid.page import grid_sentence, grid_table
from goldiprox.studies.grid.study import grid_of
from goldiprox.workflows.report import require_page

__all__ = ["report_grid", "show_grid"]


def report_grid(out: Path, home: Path | None, overwrite: bool) -> bool:
    """Make a grid's page again, in ``home`` if given; False where ``out`` is none."""
    if not (out / "cells").is_dir():
        return False
    require_page(out, home or out, overwrite=overwrite)
    show_grid(grid_of(out, home))
    wrote((home or out) / "report.html")
    return True


def show_grid(comparison: dict[str, Any]) -> None:
    """A table of the cells, and a sentence for each method."""
    terminal = console()
    terminal.print(grid_table(comparison))
    for summary in comparison["grid"]["summary"]:
        terminal.print(grid_sentence(summary), highlight=False)
