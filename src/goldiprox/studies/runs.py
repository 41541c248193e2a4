"""The runs of a study: each trained once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goldiprox.config import TrainConfig, config_hash, settings_of
from goldiprox.records.circumstances import as_json
from goldiprox.records.runs import RunFolder
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.task import Task
from goldiprox.training.trajectory import Start
from goldiprox.workflows.execution import Execution

__all__ = ["train_once"]


def train_once(
    config: TrainConfig,
    task: Task,
    folder: RunFolder,
    identity: Mapping[str, Any],
    *,
    execution: Execution,
    title: str,
    notes: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    start: Start | None = None,
) -> None:
    """Train into a folder; go on with what is unfinished there, verify what is finished.

    Args:
        config: settings.
        task: what is trained on.
        folder: of the run.
        identity: what decides the outcome, beside ``config``.
        execution: how it is done.
        title: of its stage.
        notes: for the manifest: what decides nothing.
        hooks: called along the run.
        start: where it begins, if not with fresh weights.

    Raises:
        CheckpointError: if another run is there, or a file of this one is lost or damaged.
    """
    body = as_json({"train": settings_of(config), **identity})
    manifest = {**(notes or {}), "config": body, "config_hash": config_hash(body)}
    if folder.finished:
        folder.use_again(manifest, exact=execution.exact)
        return
    train(
        config,
        task,
        folder=folder,
        manifest=manifest,
        hooks=hooks,
        start=start,
        checkpoint=execution.checkpoint,
        report=execution.stage(title),
    )
