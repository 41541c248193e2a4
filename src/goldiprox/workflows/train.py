"""Train one model with one method."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from goldiprox.config import IrreducibleConfig, TrainConfig, config_hash
from goldiprox.data.splits import Splits
from goldiprox.models.registry import factory_name
from goldiprox.models.vision import Factory
from goldiprox.precompute.irreducible import irreducible_cost, require_fitting
from goldiprox.records.ledger import RUN_PHASES, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable
from goldiprox.selection.methods import method
from goldiprox.training.loop import CheckpointEvery, train
from goldiprox.training.optimization import resolved
from goldiprox.workflows.arms import Arm, require_possible
from goldiprox.workflows.irreducible import irreducible_for
from goldiprox.workflows.progress import Progress

__all__ = ["train_one"]


def train_one(
    splits: Splits,
    config: TrainConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: ScoreTable | None = None,
    factory: Factory | None = None,
    progress: Progress | None = None,
    checkpoint: CheckpointEvery | None = None,
) -> dict[str, Any]:
    """Train into a run folder; an unfinished run there goes on, a finished one is left alone.

    Args:
        splits: the data.
        config: settings.
        out: the run's folder.
        irreducible: settings of the irreducible-loss model, made if the method needs it.
        table: a table to use instead.
        factory: the model's factory, if not looked up by name.
        progress: told what is going on.
        checkpoint: how often an unfinished run is saved.

    Returns:
        What to tell the user: accuracies and costs.

    Raises:
        ConfigError: if settings do not fit the data.
        TableError: if the table is for other data or labels or lacks ids.
        CheckpointError: if ``out`` holds another run, or a damaged checkpoint.
    """
    if factory is not None:
        config = replace(config, model=factory_name(factory))
    config = resolved(config)
    progress = progress or Progress()
    entry = Arm(name=config.method, method=method(config.method))
    require_possible(config, entry.task(splits), factory)
    folder = RunFolder(out)
    folder.require_same(train=asdict(config), data=_data(splits))
    if entry.method.needs_irreducible and table is None:
        table = irreducible_for(
            splits,
            irreducible or IrreducibleConfig(),
            out / "irreducible.parquet",
            RunFolder(out / "irreducible"),
            target_model=config.model,
            progress=progress,
            checkpoint=checkpoint,
        )
    if not entry.method.needs_irreducible:
        table = None
    if table is not None:
        require_fitting(table, splits)
    manifest = run_manifest(splits, entry, config, table)
    if folder.finished:
        folder.open(manifest)  # refuses another run's folder
    else:
        train(
            config,
            entry.task(splits),
            folder=folder,
            manifest=manifest,
            irreducible=table,
            factory=factory,
            checkpoint=checkpoint,
            report=progress.stage(f"{config.method}, seed {config.seed}"),
        )
    result = folder.result()
    paid = Ledger.from_json(folder.ledger()).total(RUN_PHASES)
    told = {
        "final accuracy": f"{result['final_accuracy']:.1%}",
        "best accuracy": f"{result['best_accuracy']:.1%}",
        "steps": f"{result['steps']:,} ({result['examples']:,} examples)",
        "cost": f"{paid.seconds:.1f} s, {paid.flops:.3g} FLOPs",
    }
    if table is not None:
        before = irreducible_cost(table).total()
        told["irreducible losses"] = f"{before.seconds:.1f} s, {before.flops:.3g} FLOPs"
    return told


def _data(splits: Splits) -> dict[str, Any]:
    """The data's settings, but where the files lie: that does not change what they are."""
    return {key: value for key, value in asdict(splits.config).items() if key != "data_dir"}


def run_manifest(
    splits: Splits,
    entry: Arm,
    config: TrainConfig,
    table: ScoreTable | None,
    *,
    protocol: str = "paper",
    reference: dict[str, float] | None = None,
) -> dict[str, Any]:
    """What identifies a run, and what reading it back needs."""
    body = {
        "arm": entry.name,
        "data": _data(splits),
        "train": asdict(config),
        "irreducible": None if table is None else table.provenance.get("config_hash"),
    }
    return {
        "arm": entry.name,
        "protocol": protocol,
        "config": body,
        "config_hash": config_hash(body),
        "data": splits.describe(),
        "irreducible": None if table is None else dict(table.provenance),
        "reference": reference,
    }
