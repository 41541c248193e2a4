"""Make an irreducible-loss table, or find the one an interrupted job made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.config import IrreducibleConfig
from goldiprox.data.splits import Splits
from goldiprox.precompute.irreducible import (
    irreducible_cost,
    irreducible_settings,
    irreducible_table,
    require_fitting,
)
from goldiprox.records.runs import RunFolder, first_difference
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import TableError
from goldiprox.training.loop import CheckpointEvery, Report
from goldiprox.workflows.progress import Progress

__all__ = ["irreducible_for", "make_irreducible", "take_irreducible"]


def make_irreducible(
    splits: Splits,
    config: IrreducibleConfig,
    out: Path,
    *,
    target_model: str = "mlp",
    progress: Progress | None = None,
    checkpoint: CheckpointEvery | None = None,
) -> dict[str, Any]:
    """Make a table and write it to ``out``; the model's own run is kept in ``<out>.run``.

    Returns:
        What to tell the user: model, epochs, held-out loss and accuracy, costs.

    Raises:
        CheckpointError: if ``<out>.run`` holds a run of another configuration.
        TableError: if ``out`` exists and is not a table that this command would make.
    """
    table = irreducible_for(
        splits,
        config,
        out,
        RunFolder(out.with_name(out.name + ".run")),
        target_model=target_model,
        progress=progress or Progress(),
        checkpoint=checkpoint,
    )
    told = {"model": table.provenance["model"]}
    for model in table.provenance["models"]:
        best, name = model["best"], f"{model['name']}: " if model["name"] else ""
        told[f"{name}trained on"] = (
            f"{model['trained_on']:,} examples, {model['epochs_trained']:g} epochs"
        )
        told[f"{name}best checkpoint"] = (
            f"epoch {best['epoch']:g}: held-out loss {best['loss']:.4f} nats, "
            f"accuracy {best['accuracy']:.1%}"
        )
    return {**told, **_scored(table)}


def take_irreducible(table: ScoreTable, splits: Splits, out: Path) -> dict[str, Any]:
    """Write a table that was not trained here, and refuse to write over another one.

    Args:
        table: from :mod:`goldiprox.precompute.given`.
        splits: the data it must fit.
        out: where to write it.

    Returns:
        What to tell the user.

    Raises:
        TableError: if it does not fit, or ``out`` holds something else.
    """
    require_fitting(table, splits)
    if out.exists():
        _require_same(ScoreTable.read(out), table.provenance["config"], out)
    table.write(out)
    return {"made by": table.provenance["made_by"], **_scored(table)}


def _scored(table: ScoreTable) -> dict[str, Any]:
    losses = table.columns[IRREDUCIBLE_LOSS]
    cost = irreducible_cost(table).total()
    return {
        "scored": f"{len(table):,} examples, mean {losses.mean():.4f} nats",
        "cost": f"{cost.seconds:.1f} s, {cost.flops:.3g} FLOPs",
    }


def irreducible_for(
    splits: Splits,
    config: IrreducibleConfig,
    path: Path,
    folder: RunFolder,
    *,
    target_model: str,
    progress: Progress,
    checkpoint: CheckpointEvery | None = None,
) -> ScoreTable:
    """Read the table at ``path`` if it is there and fits, else make it.

    Raises:
        TableError: if a table is there that is for other data or labels, or of other settings.
    """
    if path.exists():
        table = ScoreTable.read(path)
        require_fitting(table, splits)
        _require_same(table, irreducible_settings(splits, config, target_model), path)
        return table

    def stage(name: str) -> Report:
        return progress.stage(f"irreducible-loss model{f', {name}' if name else ''}")

    table = irreducible_table(
        splits,
        config,
        target_model=target_model,
        folder=folder,
        checkpoint=checkpoint,
        report=stage,
    )
    table.write(path)
    return table


def _require_same(table: ScoreTable, wanted: dict[str, Any], path: Path) -> None:
    """Or another model's losses would be handed out under this one's name."""
    found = table.provenance.get("config")
    if found != wanted:
        raise TableError(
            f"score table {path} was made with other settings "
            f"({first_difference(found, wanted)}); choose another --out, or delete it"
        )
