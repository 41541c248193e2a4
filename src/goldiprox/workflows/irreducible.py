"""Make an irreducible-loss table, or find the one an interrupted job made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from goldiprox.config import IrreducibleConfig
from goldiprox.data.preprocess import ImagePreprocessor
from goldiprox.data.splits import Splits
from goldiprox.guarded.tensors import read_tensors
from goldiprox.precompute.irreducible import (
    irreducible_cost,
    irreducible_settings,
    irreducible_table,
    require_fitting,
)
from goldiprox.records.circumstances import as_json, first_difference
from goldiprox.records.files import sha256_of
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable, Table
from goldiprox.schema import ConfigError, TableError
from goldiprox.selection.methods import Method
from goldiprox.training.build import build
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import Report
from goldiprox.workflows.execution import SILENTLY, Execution

__all__ = ["companion_of", "irreducible_for", "make_irreducible", "run_of", "take_irreducible"]


def run_of(out: Path) -> Path:
    """Where the run of the model that makes a table is kept: beside the table."""
    return out.with_name(out.name + ".run")


def make_irreducible(
    splits: Splits,
    config: IrreducibleConfig,
    out: Path,
    *,
    target_model: str = "mlp",
    execution: Execution = SILENTLY,
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
        RunFolder(run_of(out)),
        target_model=target_model,
        execution=execution,
    )
    told = {"model": table.provenance["model"]}
    for model in table.provenance["models"]:
        best, name = model["best"], f"{model['name']}: " if model["name"] else ""
        told[f"{name}trained on"] = (
            f"{model['trained_on']:,} examples, {model['epochs_trained']:g} epochs"
        )
        told[f"{name}best checkpoint"] = (
            f"epoch {best['epoch']:g}: held-out loss {best['loss']:.4f}"
            + (f" nats, accuracy {best['accuracy']:.1%}" if "accuracy" in best else "")
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


IN_NATS = ("classification", "multilabel", "language-model")


def _scored(table: ScoreTable) -> dict[str, Any]:
    losses = table.columns[IRREDUCIBLE_LOSS]
    cost = irreducible_cost(table).total()
    unit = " nats" if table.provenance.get("objective", "classification") in IN_NATS else ""
    return {
        "scored": f"{len(table):,} examples, mean {losses.mean():.4f}{unit}",
        "cost": f"{cost.seconds:.1f} s, {cost.flops:.3g} FLOPs",
    }


def irreducible_for(
    splits: Splits,
    config: IrreducibleConfig,
    path: Path,
    folder: RunFolder,
    *,
    target_model: str,
    execution: Execution = SILENTLY,
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
        return execution.stage(f"irreducible-loss model{f', {name}' if name else ''}")

    table = irreducible_table(
        splits,
        config,
        target_model=target_model,
        folder=folder,
        checkpoint=execution.checkpoint,
        report=stage,
    )
    table.write(path)
    return replace(table, path=path)


def companion_of(
    entry: Method, table: Table | None, splits: Splits, named: str | None = None
) -> nn.Module | None:
    """The irreducible-loss model itself, for a method that goes on training it; else None.

    Its weights lie beside its table, where the command that made both has put them.

    Args:
        entry: the method.
        table: irreducible losses.
        splits: the data.
        named: the model as the user names it, which may be imported; a table's own name may not.

    Raises:
        ConfigError: if the data are no images.
        TableError: if the table was not made by one model, or that model's weights are not there.
    """
    if table is None or entry.companion is None or not entry.companion.pretrained:
        return None
    if not isinstance(splits.preprocess, ImagePreprocessor):
        raise ConfigError(f'method "{entry.name}" is for images: texts are cut up by each model')
    models = table.provenance.get("models") or []
    if len(models) != 1:
        raise TableError(
            f'method "{entry.name}" goes on training the irreducible-loss model, and this table '
            f"was made by {len(models) or 'none'} that is known; make it with one model, on a "
            "holdout set of its own"
        )
    path = table.path
    assert path is not None
    homes = [path.with_name(path.name + ".run"), path.with_suffix("")]
    home = next((h for h in homes if (h / "model.safetensors").exists()), None)
    if home is None:
        raise TableError(
            f'method "{entry.name}" goes on training the irreducible-loss model, and its weights '
            f"are not beside {path} (looked for {homes[0]}); leave --irreducible out to train one"
        )
    if sha256_of(home / "model.safetensors") != models[0].get("weights_digest"):
        raise TableError(
            f"the weights in {home} are not those that made {path}; delete both to start over"
        )
    name = table.provenance["model"]
    if name == named:
        name = named
    model, _ = build(
        name,
        splits.train,
        splits.preprocess,
        splits.num_classes,
        seed=0,
        device=resolve_device("cpu"),
    )
    weights = read_tensors(home / "model.safetensors", str(home / "model.safetensors"))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TableError(f"the weights in {home} do not fit {name}, which {path} names") from error
    return model


def _require_same(table: ScoreTable, wanted: dict[str, Any], path: Path) -> None:
    """Or another model's losses would be handed out under this one's name."""
    found, wanted = as_json(table.provenance.get("config")), as_json(wanted)
    if found != wanted:
        raise TableError(
            f"score table {path} was made with other settings "
            f"({first_difference(found, wanted)}); choose another --out, or delete it"
        )
