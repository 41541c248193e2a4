"""Replicas of a score table, trained one after another or in several processes side by side.

On a CPU a small network does not fill many threads: two processes with one thread each get further
than one process with two (``benchmarks/replicas.py`` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from goldiprox.data.splits import Splits
from goldiprox.precompute.data_diet import ScoreConfig, replica_identity, score_replica
from goldiprox.records.circumstances import first_difference
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import CheckpointError, ConfigError
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import CheckpointEvery, Report
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.parallel import Tell, run_parallel

__all__ = ["replica_tables"]

Update = tuple[int, int, int]
"""(replica, steps done, steps in all), as a worker tells of its progress."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a worker process needs to train any replica."""

    splits: Splits
    config: ScoreConfig
    folder: Path
    checkpoint: CheckpointEvery | None


def replica_tables(
    splits: Splits,
    config: ScoreConfig,
    folder: Path,
    execution: Execution,
) -> list[ScoreTable]:
    """Train what replicas are missing, and read all of them.

    Args:
        splits: the data.
        config: settings; asked for more replicas than before, those that are there are kept.
        folder: holds ``replica-<n>.parquet`` and the run folders ``replica-<n>/``.
        execution: how it is done; unless it says how many workers, one a thread on a CPU, and this
            process alone on a GPU.

    Returns:
        One table a replica.

    Raises:
        ConfigError: if workers is below 1, or the model cannot be sent to several processes.
        CheckpointError: if the folder holds replicas of other settings.
    """
    workers = execution.workers
    if workers is not None and workers < 1:
        raise ConfigError(f"--jobs is {workers}; it must be at least 1")
    missing = []
    for replica in range(config.replicas):
        wanted = replica_identity(splits, config, replica)
        path = _path(folder, replica)
        if path.exists():
            found = ScoreTable.read(path).provenance.get("config", {})
            if found != wanted:
                raise CheckpointError(
                    f"{path} is a replica of other settings ({first_difference(found, wanted)}); "
                    f"choose another --out, or delete {folder}"
                )
        else:
            RunFolder(folder / path.stem).require_same(**wanted)
            missing.append(replica)
    work = _Work(splits=splits, config=config, folder=folder, checkpoint=execution.checkpoint)
    count = min(_default_workers(config) if workers is None else workers, config.replicas)
    if count > 1 and missing:
        _side_by_side(work, missing, count, execution)
    else:
        for replica in missing:
            _train(work, replica, execution.stage(f"replica {replica + 1}/{config.replicas}"))
    return [ScoreTable.read(_path(folder, replica)) for replica in range(config.replicas)]


def _path(folder: Path, replica: int) -> Path:
    return folder / f"replica-{replica}.parquet"


def _default_workers(config: ScoreConfig) -> int:
    on_cpu = resolve_device(config.device).type == "cpu"
    return torch.get_num_threads() if on_cpu else 1


def _train(work: _Work, replica: int, report: Report | None) -> None:
    path = _path(work.folder, replica)
    table = score_replica(
        work.splits,
        work.config,
        replica,
        RunFolder(work.folder / path.stem),
        checkpoint=work.checkpoint,
        report=report,
    )
    table.write(path)


def _side_by_side(work: _Work, replicas: list[int], workers: int, execution: Execution) -> None:
    """Train replicas in processes of their own, and add up their progress."""
    at_once = min(workers, len(replicas))
    told = execution.stage(f"{len(replicas)} replicas, {at_once} at a time")
    done: dict[int, tuple[int, int]] = {}

    def tell(update: Update) -> None:
        replica, step, steps = update
        done[replica] = (step, steps)
        finished = sum(step == steps for step, steps in done.values())
        trained = sum(step for step, _ in done.values())
        told(trained, steps * len(replicas), f"{finished}/{len(replicas)} done")

    jobs = run_parallel(
        _job,
        work,
        replicas,
        at_once,
        tell,
        # However few are still missing: other threads add up in another order, and a command that
        # was interrupted must end with the same scores.
        threads=max(1, torch.get_num_threads() // workers),
    )
    for _ in jobs:
        pass


def _job(work: _Work, replica: int, tell: Tell) -> None:
    _train(work, replica, lambda done, total, _: tell((replica, done, total)))
