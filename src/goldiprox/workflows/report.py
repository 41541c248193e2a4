"""Make a report from run folders again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goldiprox.analysis.compare import summarise
from goldiprox.records.files import read_json, write_json
from goldiprox.records.runs import RunFolder
from goldiprox.report.html import write_report
from goldiprox.schema import ConfigError
from goldiprox.workflows.arms import GOLDIPROX
from goldiprox.workflows.grid import grid_of

__all__ = ["report_runs"]


def report_runs(paths: Sequence[Path], out: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Summarise finished runs and write ``comparison.json`` and ``report.html``.

    Args:
        paths: run folders, or the one output folder of a comparison or grid.
        out: where to write; a comparison's own folder unless given.

    Returns:
        The comparison and the page's path.

    Raises:
        ConfigError: if no folder is given, runs are unfinished, or ``out`` is missing.
        CheckpointError: if a folder is no run or its records are damaged.
    """
    settings: dict[str, Any] = {}
    target = None
    folders = [RunFolder(path) for path in paths]
    if len(paths) == 1 and (paths[0] / "cells").is_dir():
        return grid_of(paths[0]), paths[0] / "report.html"
    if len(paths) == 1 and (paths[0] / "runs").is_dir():
        home = paths[0]
        settings = read_json(home / "manifest.json")["settings"]
        if "compare" not in settings:
            raise ConfigError(
                f"{home} holds a study of another kind that is not finished; go on with the "
                "command that began it"
            )
        target = settings["compare"]["target"]
        folders = [RunFolder(p) for p in sorted((home / "runs").iterdir()) if p.is_dir()]
        order = [*settings["compare"]["methods"], GOLDIPROX]
        folders.sort(key=lambda folder: order.index(folder.manifest()["arm"]))
        out = out or home
    if not folders:
        raise ConfigError("name at least one run folder, or the output folder of a comparison")
    if out is None:
        raise ConfigError("several run folders: say where the report goes with --out DIR")
    for folder in folders:
        folder.manifest()
        if not folder.finished:
            raise ConfigError(
                f"run {folder.path} is not finished; go on with the command that began it"
            )
    comparison = summarise(folders, settings, target=target)
    write_json(out / "comparison.json", comparison)
    return comparison, write_report(out)
