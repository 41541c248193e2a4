"""Replicas of a score table, trained one after another or in several processes side by side.

On a CPU a small network does not fill many threads: two processes with one thread each get further
than one process with two (``benchmarks/replicas.py`` measures it).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from goldiprox.data.splits import Splits
from goldiprox.models.vision import Factory
from goldiprox.precompute.data_diet import ScoreConfig, replica_identity, score_replica
from goldiprox.records.runs import RunFolder, first_difference
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import CheckpointError, ConfigError
from goldiprox.training.loop import CheckpointEvery, Report
from goldiprox.training.optimization import resolve_device
from goldiprox.workflows.progress import Progress

__all__ = ["replica_tables"]

Update = tuple[int, int, int]
"""(replica, steps done, steps in all), as a worker tells of its progress."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a worker process needs to train any replica."""

    splits: Splits
    config: ScoreConfig
    folder: Path
    factory: Factory | None
    checkpoint: CheckpointEvery | None


def replica_tables(
    splits: Splits,
    config: ScoreConfig,
    folder: Path,
    *,
    factory: Factory | None = None,
    checkpoint: CheckpointEvery | None = None,
    workers: int | None = None,
    progress: Progress,
    title: str = "replica",
) -> list[ScoreTable]:
    """Train what replicas are missing, and read all of them.

    Args:
        splits: the data.
        config: settings; asked for more replicas than before, those that are there are kept.
        folder: holds ``replica-<n>.parquet`` and the run folders ``replica-<n>/``.
        factory: the model's factory, if not looked up by name.
        checkpoint: how often unfinished runs are saved.
        workers: processes that train side by side; None takes one a thread on a CPU, and this
            process alone on a GPU.
        progress: told what is going on.
        title: what a replica is called in messages.

    Returns:
        One table a replica.

    Raises:
        ConfigError: if several processes are asked for and the model cannot be sent to them.
        CheckpointError: if the folder holds replicas of other settings.
    """
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
    work = _Work(
        splits=splits, config=config, folder=folder, factory=factory, checkpoint=checkpoint
    )
    count = min(_default_workers(config) if workers is None else workers, len(missing))
    if count > 1:
        _side_by_side(work, missing, count, progress, title)
    else:
        for replica in missing:
            _train(work, replica, progress.stage(f"{title} {replica + 1}/{config.replicas}"))
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
        factory=work.factory,
        checkpoint=work.checkpoint,
        report=report,
    )
    table.write(path)


def _side_by_side(
    work: _Work, replicas: list[int], workers: int, progress: Progress, title: str
) -> None:
    """Train replicas in processes of their own, and add up their progress."""
    try:
        # Pickled here and not by the pool: torch would put the data into shared memory, of which
        # containers have little.
        packed = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the data or the model cannot be sent to other processes ({error}); "
            "train the replicas in this one with --workers 1"
        ) from error
    # Spawned, not forked: a forked child of a process whose threads have computed may hang.
    context = multiprocessing.get_context("spawn")
    updates: Any = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    told = progress.stage(f"{len(replicas)} {title}s, {workers} at a time")
    done: dict[int, tuple[int, int]] = {}
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(packed, threads, updates)
    )
    try:
        futures = [pool.submit(_job, replica) for replica in replicas]
        pending: set[Future[None]] = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            _show(updates, done, len(replicas), told)
            for future in finished:
                future.result()
    except BaseException:
        # Interrupted or failed: the others' checkpoints are on disk, so nothing is waited for.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        updates.close()


def _show(updates: Any, done: dict[int, tuple[int, int]], count: int, told: Report) -> None:
    while True:
        try:
            replica, step, total = updates.get_nowait()
        except queue.Empty:
            break
        done[replica] = (step, total)
    if done:
        total = max(total for _, total in done.values())
        steps = sum(step for step, _ in done.values())
        finished = sum(step == total for step, total in done.values())
        told(steps, total * count, f"{finished}/{count} done")


_work: _Work | None = None
_updates: Any = None


def _begin(packed: bytes, threads: int, updates: Any) -> None:
    """Set a worker process up."""
    global _work, _updates  # a process pool has no other place for what its jobs share
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _work, _updates = pickle.loads(packed), updates


def _end_with_parent() -> None:
    """Killed outright, a parent must not leave workers that go on writing into its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _job(replica: int) -> None:
    assert _work is not None
    _train(_work, replica, lambda done, total, _: _updates.put((replica, done, total)))
