"""Train one model with one method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldiprox.config import IrreducibleConfig, TrainConfig, config_hash, fitted_to, settings_of
from goldiprox.data.splits import Splits
from goldiprox.objectives import ACCURACY, Metric
from goldiprox.precompute.irreducible import irreducible_cost, require_fitting
from goldiprox.records.ledger import RUN_PHASES, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.tables import Table
from goldiprox.schema import ConfigError
from goldiprox.selection.methods import method
from goldiprox.training.loop import train
from goldiprox.training.optimization import resolved
from goldiprox.training.sequence import replay, replay_config
from goldiprox.workflows.arms import UNIFORM_FULL, Arm, core_set_of, require_possible
from goldiprox.workflows.execution import SILENTLY, Execution
from goldiprox.workflows.irreducible import companion_of, irreducible_for
from goldiprox.workflows.sequences import Recording, require_replayable

__all__ = ["REPLAY", "train_one"]

REPLAY = "replay"
"""What a run is called that replays a sequence."""


def train_one(
    splits: Splits,
    config: TrainConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: Table | None = None,
    record: Path | None = None,
    replayed: Path | None = None,
    full: bool = False,
    execution: Execution = SILENTLY,
) -> dict[str, Any]:
    """Train into a run folder; an unfinished run there goes on, a finished one is left alone.

    Args:
        splits: the data.
        config: settings.
        out: the run's folder.
        irreducible: settings of the irreducible-loss model, made if the method needs it.
        table: a table to use instead.
        record: where to write the sequence of batches that the run chose.
        replayed: a recorded sequence to train on; nothing is scored then.
        full: train on the holdout part too, for a method that needs no irreducible losses.
        execution: how it is done.

    Returns:
        What to tell the user: accuracies and costs.

    Raises:
        ConfigError: if settings do not fit the data.
        TableError: if the table is for other data or labels or lacks ids.
        SequenceError: if the sequence is damaged or of other data, or ``record`` is another run's.
        CheckpointError: if ``out`` holds another run, or a damaged checkpoint.
    """
    sequence = None
    if replayed is not None:
        if record is not None:
            raise ConfigError(
                f"--record {record} and --replay {replayed} exclude each other: the sequence of a "
                "replay is the one that it replays"
            )
        sequence = BatchSequence.open(replayed)
        require_replayable(sequence, splits)
        config = replay_config(config, sequence)
    if record is not None and record.exists():
        BatchSequence.open(record)  # what is no sequence is refused before anything is trained
    config = resolved(config, splits.train.store.example_shape)
    if sequence is None:
        config, changed = fitted_to(config, len(splits.full if full else splits.train))
        if changed is not None:
            execution.progress.said(changed)
    name = config.method if sequence is None else REPLAY
    entry = Arm(name=UNIFORM_FULL if full else name, method=method(config.method), full=full)
    require_possible(config, entry.task(splits))
    folder = RunFolder(out)
    folder.require_same(train=settings_of(config), data=splits.identity())
    if entry.method.needs_irreducible_model and table is None:
        table = irreducible_for(
            splits,
            (irreducible or IrreducibleConfig()).beside(config.objective),
            out / "irreducible.parquet",
            RunFolder(out / "irreducible"),
            target_model=config.model,
            execution=execution,
        )
    if not entry.method.needs_irreducible_model:
        table = None
    if table is not None:
        require_fitting(table, splits)
    manifest = run_manifest(
        splits, entry, config, table, sequence=sequence, recorded=record is not None
    )
    recording = None if record is None else Recording(record, folder, manifest)
    if folder.finished:
        folder.use_again(manifest, exact=execution.exact)
    else:
        core_set = core_set_of(entry.method) if sequence is None else None
        hooks = (*(() if core_set is None else (core_set,)), *execution.hooks(out, config))
        plan = None if core_set is None else core_set.plan
        train(
            config,
            entry.task(splits),
            folder=folder,
            manifest=manifest,
            irreducible=table,
            companion=companion_of(
                entry.method, table, splits, None if irreducible is None else irreducible.model
            ),
            hooks=hooks if recording is None else (*hooks, recording.hook()),
            plan=plan if sequence is None else replay(sequence),
            checkpoint=execution.checkpoint,
            report=execution.stage(f"{name}, seed {config.seed}"),
        )
    if recording is not None:
        recording.write(splits, config, table)
    result = folder.result()
    ledger = Ledger.from_json(folder.ledger())
    paid, left_out = ledger.total(RUN_PHASES), ledger.uncounted
    told = {
        **_outcome(result),
        "steps": f"{result['steps']:,} ({result['examples']:,} examples)",
        "cost": f"{paid.seconds:.1f} s, {paid.flops:.3g} FLOPs",
    }
    if left_out:
        told["not counted"] = f"{', '.join(left_out)}: missing in the FLOPs"
    if full:
        told["trained on"] = (
            f"all {len(splits.full):,} examples, holdout part included; none chosen"
        )
    if sequence is not None:
        known = sequence.provenance
        told["replayed"] = (
            f"{result['steps']:,} of {len(sequence):,} steps recorded by {known['model']} with "
            f"{known['method']} for {known['flops']:.3g} FLOPs"
        )
    if table is not None:
        before = irreducible_cost(table).total()
        told["irreducible losses"] = f"{before.seconds:.1f} s, {before.flops:.3g} FLOPs"
    return told


def _outcome(result: dict[str, Any]) -> dict[str, str]:
    """The final and the best value of the run's headline metric."""
    if "metric" not in result:  # finished by version 0.1.0
        metric = ACCURACY
        result = {**result, "final": result["final_accuracy"], "best": result["best_accuracy"]}
    else:
        metric = Metric(**result["metric"])
    return {f"{end} {metric.title}": metric.written(result[end]) for end in ("final", "best")}


def run_manifest(
    splits: Splits,
    entry: Arm,
    config: TrainConfig,
    table: Table | None,
    *,
    protocol: str = "paper",
    reference: dict[str, float] | None = None,
    sequence: BatchSequence | None = None,
    recorded: bool = False,
    proxy: dict[str, Any] | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """What identifies a run, and what reading it back needs."""
    body = {
        "arm": entry.name,
        "data": splits.identity(),
        "train": settings_of(config),
        "irreducible": None if table is None else table.provenance.get("config_hash"),
    }
    if sequence is not None:
        body["sequence"] = sequence.digest()
    if recorded:  # a checkpoint without its recording is of no use to it
        body["recorded"] = True
    return {
        "arm": entry.name,
        "protocol": protocol,
        "config": body,
        "config_hash": config_hash(body),
        "data": splits.describe(),
        "irreducible": None if table is None else dict(table.provenance),
        "reference": reference,
        "proxy": proxy,
        "sequence": None if sequence is None else [part.provenance for part in sequence.parts],
        "processes": processes,
    }
