"""The command that compares methods."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.report import print_comparison
from goldiprox.commands.shared import Data, Keeping, LogTo, Shown, fitting, splits_of, wrote
from goldiprox.commands.studies import show
from goldiprox.config import CompareConfig, IrreducibleConfig
from goldiprox.errors import ConfigError
from goldiprox.records.mapped import open_table
from goldiprox.studies.grid.settings import GridConfig
from goldiprox.studies.grid.study import GRID, compare_grid
from goldiprox.workflows.compare import compare as compare_methods
from goldiprox.workflows.outputs import require_writable

__all__ = ["compare"]


@dataclass(frozen=True, kw_only=True)
class _Grid(GridConfig):
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Hyperparameters to vary, as NAME=VALUE,VALUE,...; names: lr, batch, weight-decay. Give it
    once for each, or several in one: lr=1e-4,1e-3,batch=16,32."""


def compare(
    data: Flat[Data],
    settings: Flat[CompareConfig],
    keeping: Flat[Keeping],
    il: IrreducibleConfig,
    varied: Flat[_Grid],
    out: Path,
    irreducible: Path | None = None,
    log: LogTo | None = None,
) -> None:
    """Train each method on the same pools and report who gets there first, and what it cost.

    With --models, --sweep or --share: in every combination of them, all with one
    irreducible-loss table. Interrupted, the same command goes on where it stopped.

    Args:
        out: Output folder: comparison.json, report.html, runs/ (cells/ where something varies).
        il: The irreducible-loss model, made where a method needs it.
        irreducible: Irreducible-loss table to use instead of making one.
        log: Experiment tracker to send the evaluations of each run to.
    """
    require_writable(out, folder=True)
    splits = splits_of(data, settings.objective)
    settings = fitting(settings, splits)
    grid_config = GridConfig(**asdict(varied))
    if grid_config.jobs is not None and not grid_config.axes:
        raise ConfigError(
            "--jobs has no effect: it runs the combinations of --models, --sweep and --share side "
            "by side; leave it out"
        )
    table = None if irreducible is None else open_table(irreducible)
    given: dict[str, Any] = {"irreducible": il, "table": table}
    with Shown() as shown:
        given["execution"] = keeping.execution(shown, tracker=log)
        if grid_config.axes:
            found = compare_grid(splits, settings, grid_config, out, **given)
        else:
            comparison = compare_methods(splits, settings, out, **given)
    if grid_config.axes:
        show(GRID, found, out)
        return
    print_comparison(comparison)
    wrote(out / "report.html")
