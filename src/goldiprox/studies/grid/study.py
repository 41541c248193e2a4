"""Compare methods over models and hyperparameters, all with one irreducible-loss table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from goldiprox.analysis.comparison import Comparison
from goldiprox.config import CompareConfig, IrreducibleConfig, fitted_to
from goldiprox.data.splits import Splits
from goldiprox.precompute.irreducible import require_fitting
from goldiprox.records.files import read_json, write_json
from goldiprox.records.runs import RunFolder
from goldiprox.records.studies import open_study
from goldiprox.records.tables import Table
from goldiprox.schema import GoldiproxError
from goldiprox.studies.base import Study
from goldiprox.studies.grid.analysis import summarise_grid
from goldiprox.studies.grid.page import grid_sentence, grid_table, write_grid_report
from goldiprox.studies.grid.settings import Cell, GridConfig, cells
from goldiprox.training.optimization import resolve_device, resolved
from goldiprox.training.task import Report
from goldiprox.workflows.arms import arms_of, require_possible
from goldiprox.workflows.compare import (
    compare,
    comparison_settings,
    require_target,
)
from goldiprox.workflows.execution import SILENTLY, Execution
from goldiprox.workflows.irreducible import irreducible_for
from goldiprox.workflows.parallel import Tell, cores, run_parallel
from goldiprox.workflows.progress import Progress
from goldiprox.workflows.proxy import require_proxy

__all__ = ["GRID", "compare_grid", "grid_of"]


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What the comparisons of all cells are given."""

    splits: Splits
    out: Path
    irreducible: IrreducibleConfig
    table: Table | None
    execution: Execution


def compare_grid(
    splits: Splits,
    config: CompareConfig,
    grid: GridConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: Table | None = None,
    execution: Execution = SILENTLY,
) -> dict[str, Any]:
    """Run a comparison in every cell; interrupted, the same call goes on where it stopped.

    A cell whose runs cannot be finished (a learning rate at which the loss overflows, say) is
    reported as failed, and the others go on.

    Args:
        splits: the data.
        config: settings that all cells share.
        grid: what varies.
        out: output folder: ``comparison.json``, ``report.html``, ``cells/<cell>/``.
        irreducible: settings of the irreducible-loss model, trained once if a method needs it.
        table: a table to use instead.
        execution: how it is done.

    Returns:
        What ``comparison.json`` holds.

    Raises:
        ConfigError: before anything is trained, if a cell is impossible.
        TableError: likewise, if the table is for other data or labels or lacks ids.
        CheckpointError: if ``out`` holds another comparison.
        GoldiproxError: if a process is killed.
    """
    irreducible = (irreducible or IrreducibleConfig()).beside(config.objective)
    found = cells(config, grid)
    require_target(config)
    arms = arms_of(config)
    shape = splits.train.store.example_shape
    for cell in found:
        settled, _ = fitted_to(resolved(cell.config, shape), len(splits.train))
        for entry in arms:
            planned = settled.run(entry.trained_with, settled.batch[0], 0)
            require_possible(planned, entry.task(splits))
            if entry.proxy is not None:
                require_proxy(entry, planned, splits)
    needs_table = any(entry.method.needs_irreducible_model for entry in arms)
    if table is not None and needs_table:
        require_fitting(table, splits)
    varied = {name: list(values) for name, values in grid.axes}
    settings = comparison_settings(splits, config, irreducible, table)
    opened = open_study(
        out,
        {**settings, "grid": varied},
        splits.describe(),
        what="comparison",
        command=execution.command,
    )
    with opened:
        if table is None and needs_table:
            table = irreducible_for(
                splits,
                irreducible,
                out / "irreducible.parquet",
                RunFolder(out / "irreducible"),
                target_model=_target(found),
                execution=execution,
            )
        shared = _Shared(
            splits=splits,
            out=out,
            irreducible=irreducible,
            table=table,
            execution=replace(execution, processes=_processes(grid, config, found)),
        )
        failed: dict[str, str] = {}
        for number, error in _run_all(shared, found):
            if error is not None:
                failed[found[number].name] = error
        write_json(out / "failed.json", failed)
        return grid_of(out, out)


MANIFEST = {"settings": {"compare": {"methods": [str]}, "grid": {str: list}}, "data": dict}
"""What the manifest of a grid holds, as far as it is read back."""


def grid_of(out: Path, home: Path) -> dict[str, Any]:
    """Summarise the cells of a grid's folder; write ``comparison.json`` and the page.

    Args:
        out: the grid's folder.
        home: folder to write both to.

    Returns:
        What ``comparison.json`` holds.

    Raises:
        CheckpointError: if ``out`` is no grid's folder, or a record is damaged.
    """
    manifest = read_json(out / "manifest.json", MANIFEST)
    settings = manifest["settings"]
    failed: dict[str, str] = {}
    if (out / "failed.json").exists():
        failed = read_json(out / "failed.json")
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings["compare"].items()
    }
    # What a file names is not imported: cells have their names without the user's own methods.
    own = {key for key, value in stored.items() if isinstance(value, str) and ":" in value}
    named = tuple(name for name in stored["methods"] if ":" not in name) or ("uniform",)
    known = {key: value for key, value in stored.items() if key not in own}
    config = CompareConfig(**{**known, "methods": named})
    varied = settings["grid"]
    grid = GridConfig(
        models=tuple(varied.get("model", ())),
        share=tuple(varied.get("share", ())),
        sweep=tuple(
            f"{name}={','.join(map(str, values))}"
            for name, values in varied.items()
            if name not in ("model", "share")
        ),
    )
    summaries = []
    for cell in cells(config, grid):
        file = out / "cells" / cell.name / "comparison.json"
        done = cell.name not in failed and file.exists()
        summaries.append(
            {
                "name": cell.name,
                "title": cell.title,
                "at": cell.at,
                "failed": None if done else failed.get(cell.name, "not finished"),
                "comparison": Comparison.read(file) if done else None,
            }
        )
    comparison = summarise_grid(summaries, grid.axes, settings, manifest["data"])
    write_json(home / "comparison.json", comparison)
    write_grid_report(out, home)
    return comparison


def _shown(comparison: dict[str, Any]) -> list[RenderableType]:
    return [grid_table(comparison), *map(grid_sentence, comparison["grid"]["summary"])]


GRID = Study(key="grid", record="cells", report=grid_of, shown=_shown)


def _processes(grid: GridConfig, config: CompareConfig, found: Sequence[Cell]) -> int:
    if grid.jobs is not None:
        return min(grid.jobs, len(found))
    if resolve_device(config.device).type != "cpu":
        return 1
    return min(cores(), len(found))


def _target(found: Sequence[Cell]) -> str:
    """Which cell's model decides what ``auto`` means: the first that is no MLP, if there is one."""
    models = [cell.config.model for cell in found]
    return next((name for name in models if not name.startswith("mlp")), models[0])


def _run_all(shared: _Shared, found: Sequence[Cell]) -> Iterator[tuple[int, str | None]]:
    """Yields (cell, its error or None) as the cells are done."""
    execution = shared.execution
    progress = execution.progress
    if execution.processes == 1:
        for number, cell in enumerate(found):
            title = f"cell {number + 1}/{len(found)}: {cell.title}"
            yield number, _compare_cell(shared, cell, _Prefixed(progress, title))
        return
    report = progress.stage(f"{len(found)} cells in {execution.processes} processes")
    elsewhere = replace(shared, execution=execution.watched_by(Progress()))
    done = 0
    jobs = run_parallel(
        _job, elsewhere, found, execution.processes, lambda text: report(done, len(found), text)
    )
    for number, error in jobs:
        done += 1
        report(done, len(found), "")
        progress.note(f"{done}/{len(found)} done: {found[number].title}{' (failed)' * bool(error)}")
        yield number, error


def _compare_cell(shared: _Shared, cell: Cell, progress: Progress) -> str | None:
    """Run a cell's comparison; what went wrong, or None."""
    try:
        compare(
            shared.splits,
            cell.config,
            shared.out / "cells" / cell.name,
            irreducible=shared.irreducible,
            table=shared.table,
            execution=shared.execution.watched_by(progress),
        )
    except GoldiproxError as error:
        return str(error)
    return None


def _job(shared: _Shared, cell: Cell, tell: Tell) -> str | None:
    return _compare_cell(shared, cell, _Telling(tell, cell.title))


@dataclass
class _Prefixed(Progress):
    """Says which cell a stage belongs to."""

    progress: Progress
    prefix: str

    def stage(self, name: str) -> Report:
        return self.progress.stage(f"{self.prefix} {name}")


@dataclass
class _Telling(Progress):
    """Sends what is going on to the parent process."""

    tell: Tell
    title: str

    def stage(self, name: str) -> Report:
        self.tell(f"{self.title}: {name}")
        return lambda *told: self.tell(f"{self.title}: {name} {told[2]}")
