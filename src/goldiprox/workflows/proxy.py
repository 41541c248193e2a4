"""The GoldiProx arm of a comparison: a cheap proxy chooses and records, the target replays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from goldiprox.batch import model_output
from goldiprox.config import TrainConfig
from goldiprox.data.splits import Splits
from goldiprox.evidence.mode import scoring_mode
from goldiprox.objectives import objective as objective_named
from goldiprox.records.ledger import PROXY_PHASE, RUN_PHASES, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.tables import Table
from goldiprox.schema import ConfigError
from goldiprox.training.build import build_for
from goldiprox.training.checks import require_batches_that_normalise, require_fitting_output
from goldiprox.training.loop import train
from goldiprox.training.probe import LossProbe
from goldiprox.workflows.arms import Arm, require_possible
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.sequences import Recording
from goldiprox.workflows.train import run_manifest

__all__ = ["Recorded", "proxy_config", "record_with_proxy", "require_proxy"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a proxy recorded, and what that cost.

    Attributes:
        sequence: for the target.
        note: for the target's manifest: model, method, ledger, costs along the run, folder.
    """

    sequence: BatchSequence
    note: dict[str, Any]


def proxy_config(arm: Arm, config: TrainConfig) -> TrainConfig:
    """Settings of the proxy's run: the target's, but for model and method."""
    assert arm.proxy is not None
    return replace(config, model=arm.proxy, method=arm.method.name)


def require_proxy(arm: Arm, config: TrainConfig, splits: Splits) -> None:
    """Find out before anything is trained that a proxy cannot choose for this data.

    Raises:
        ConfigError: if it is unknown, cannot be built, or has another number of classes.
    """
    settings = proxy_config(arm, config)
    task = arm.task(splits)
    require_possible(settings, task)
    model, feeder = build_for(settings, task)
    few = feeder(task.train, torch.arange(2))
    with torch.no_grad(), scoring_mode(model, "running"):
        logits = model_output(model, few)
    if logits.dim() != 2 or logits.shape[1] != task.num_classes:
        raise ConfigError(
            f"--proxy {arm.proxy} gives {tuple(logits.shape[1:])} outputs an example, and "
            f"{splits.dataset.name} has {task.num_classes} classes; give a model with as many"
        )
    require_batches_that_normalise(model, feeder, task, settings)
    objective = task.objective or objective_named(settings.objective)
    require_fitting_output(model, few, task, objective)


def record_with_proxy(
    splits: Splits,
    arm: Arm,
    config: TrainConfig,
    table: Table,
    folder: RunFolder,
    *,
    execution: Execution,
    title: str,
) -> Recorded:
    """Train the proxy, or find it trained, and hand over the sequence it chose.

    Args:
        splits: the data.
        arm: says which proxy, and how it chooses.
        config: the target's run; the proxy's has the same seed, pools, steps and schedule.
        table: irreducible losses.
        folder: the proxy's run; the sequence is kept in it.
        execution: how it is done.
        title: of its stage.

    Raises:
        CheckpointError: if the folder holds another run.
        SequenceError: if the sequence of a finished run is gone or damaged.
    """
    settings = proxy_config(arm, config)
    chooser = Arm(name=arm.method.name, method=arm.method)
    manifest = run_manifest(splits, chooser, settings, table, recorded=True)
    recording = Recording(folder.path / "sequence.parquet", folder, manifest)
    if folder.finished:
        folder.use_again(manifest, exact=execution.exact)
    else:
        train(
            settings,
            chooser.task(splits),
            folder=folder,
            manifest=manifest,
            irreducible=table,
            hooks=(recording.hook(), LossProbe(folder.path, splits.train, table)),
            checkpoint=execution.checkpoint,
            report=execution.stage(title),
        )
    recording.write(splits, settings, table)
    spent = Ledger.from_json(folder.ledger())
    paid = Ledger({PROXY_PHASE: spent.total(RUN_PHASES)}, spent.peak_memory_bytes)
    curve = [
        {key: evaluation[key] for key in ("step", "seconds", "flops")}
        for evaluation in folder.evaluations()
    ]
    return Recorded(
        sequence=BatchSequence.open(recording.out),
        note={
            "model": arm.proxy,
            "method": arm.method.name,
            "ledger": paid.to_json(),
            "curve": curve,
            "run": str(Path("..", "..", *folder.path.parts[-2:])),
        },
    )
