"""The command that makes tables of irreducible losses."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import Data, Keeping, Shown, fitting, splits_of, told, wrote
from goldiprox.config import IrreducibleConfig
from goldiprox.errors import ConfigError
from goldiprox.precompute.given import table_from_model, table_from_values
from goldiprox.records.owner import writing
from goldiprox.records.tables import IRREDUCIBLE_LOSS
from goldiprox.workflows.irreducible import make_irreducible, run_of, take_irreducible
from goldiprox.workflows.outputs import require_writable

__all__ = ["irreducible"]


def irreducible(
    data: Flat[Data],
    settings: Flat[IrreducibleConfig],
    keeping: Flat[Keeping],
    out: Path,
    target_model: str = "mlp",
    weights: str | None = None,
    values: Path | None = None,
    id_column: str = "id",
    value_column: str = IRREDUCIBLE_LOSS,
) -> None:
    """Train the irreducible-loss model on the holdout set and score every training example.

    With --weights or --values nothing is trained: the losses come from a model or a file of yours.

    Args:
        out: The table to write, such as il.parquet; its run is kept beside it in il.parquet.run.
        target_model: The model that the table is for; decides what --model auto means.
        weights: Score with --model and these weights of your own (safetensors, or a state dict
            written by torch.save); the word factory where the factory returns a trained model.
        values: Take the losses from this CSV or Parquet file.
        id_column: Its column of ids: rows of the data set.
        value_column: Its column of losses, in nats.
    """
    if weights is not None and values is not None:
        raise ConfigError("--weights and --values exclude each other: say where losses come from")
    require_writable(out)
    splits = splits_of(data, settings.objective)
    settings = fitting(settings, splits)
    if weights is not None or values is not None:
        if values is not None:
            table = table_from_values(
                splits, values, id_column=id_column, value_column=value_column
            )
        else:
            table = table_from_model(
                splits,
                settings.resolved_model(target_model, splits.train.store.example_shape),
                None if weights == "factory" else Path(str(weights)),
                device=settings.device,
                seed=settings.seed,
                tokenizer=settings.tokenizer,
                max_length=settings.max_length,
                objective=settings.objective,
            )
        told(take_irreducible(table, splits, out))
        wrote(out)
        return
    with writing(run_of(out)), Shown() as shown:
        result = make_irreducible(
            splits,
            settings,
            out,
            target_model=target_model,
            execution=keeping.execution(shown),
        )
    told(result)
    wrote(out)
