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
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import TableError
from goldiprox.training.loop import CheckpointEvery
from goldiprox.workflows.progress import Progress

__all__ = ["irreducible_for", "make_irreducible"]


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
    best = table.provenance["best"]
    cost = irreducible_cost(table).total()
    return {
        "model": table.provenance["model"],
        "trained on": f"{table.provenance['holdout']['examples']:,} holdout examples, "
        f"{table.provenance['epochs_trained']:g} epochs",
        "best checkpoint": f"epoch {best['epoch']:g}: held-out loss {best['loss']:.4f} nats, "
        f"accuracy {best['accuracy']:.1%}",
        "scored": f"{len(table):,} examples",
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
        wanted = irreducible_settings(splits, config, target_model)
        found = table.provenance.get("config")
        if found != wanted:  # or another model's losses would be handed out under this one's name
            raise TableError(
                f"score table {path} was made with other settings "
                f"({first_difference(found, wanted)}); choose another --out, or delete it"
            )
        return table
    table = irreducible_table(
        splits,
        config,
        target_model=target_model,
        folder=folder,
        checkpoint=checkpoint,
        report=progress.stage("irreducible-loss model"),
    )
    table.write(path)
    return table
