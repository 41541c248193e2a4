"""The command that makes reports again, and what a comparison shows on the terminal."""

from __future__ import annotations

from pathlib import Path

import tyro

from goldiprox.analysis.comparison import Comparison
from goldiprox.commands.shared import console, wrote
from goldiprox.commands.studies import report_study
from goldiprox.report.terminal import terminal_table, verdict_lines
from goldiprox.workflows.report import report_runs, require_folders

__all__ = ["print_comparison", "report"]


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    allow_different_data: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a report from run folders again, or from what compare, dynamics or diet wrote.

    Args:
        runs: Run folders, or one output folder of compare, dynamics or diet.
        out: Where to write comparison.json and report.html; the study's own folder by default.
        allow_different_data: Show runs of different data, labels or evaluation side by side: each
            line names the difference, and nothing is said of who paid.
        overwrite: Replace files in --out that no report has written.
    """
    require_folders(runs)
    if len(runs) == 1 and report_study(runs[0], out, overwrite):
        return
    comparison, page = report_runs(
        runs, out, allow_different_data=allow_different_data, overwrite=overwrite
    )
    print_comparison(comparison)
    wrote(page)


def print_comparison(comparison: Comparison) -> None:
    """Show a comparison's table and what follows from it."""
    terminal = console()
    terminal.print(terminal_table(comparison))
    for line in verdict_lines(comparison):
        terminal.print(line, highlight=False)
