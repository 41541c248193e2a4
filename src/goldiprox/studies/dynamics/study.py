"""Watch how networks move while they learn: kernel velocity and error barriers along a score.

Parents are trained first, one for each seed, with the labels as published and, where label noise
was asked for, with noisy ones. Their kept weights serve everything else: EL2N, kernel velocities,
children that start where a parent was. Each piece is a file of its own, so an interrupted study
goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goldiprox.data.splits import Examples, Splits
from goldiprox.evidence.flops import parameter_count
from goldiprox.evidence.forward import ScoringPass
from goldiprox.precompute.data_diet import snapshot
from goldiprox.precompute.diet_scores import SCORES
from goldiprox.records.circumstances import versions
from goldiprox.records.files import read_rows, write_json, write_rows
from goldiprox.records.runs import RunFolder
from goldiprox.records.studies import open_study
from goldiprox.records.tables import ScoreTable, Table
from goldiprox.schema import ConfigError
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.ranking import ranked, tie_key
from goldiprox.studies.dynamics.analysis import summarise_dynamics
from goldiprox.studies.dynamics.measures import (
    error_barrier,
    errors_between,
    example_sets,
    kernel_velocities,
    window_starts,
)
from goldiprox.studies.dynamics.page import write_dynamics_report
from goldiprox.studies.dynamics.settings import DynamicsConfig
from goldiprox.studies.runs import train_once
from goldiprox.training.build import build
from goldiprox.training.feed import Feeder
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import Task
from goldiprox.training.trajectory import KeepWeights, load_start, weights_at
from goldiprox.workflows.arms import require_possible
from goldiprox.workflows.execution import SILENTLY, Execution

__all__ = ["dynamics"]

EL2N = "el2n"
REMEDY = "make one for this data, or leave out --scores to have el2n computed on the way"

EVALUATION_BATCH = 500
STATISTICS_BATCHES, STATISTICS_BATCH = 10, 250
"""Training examples on which BatchNorm's statistics are estimated anew."""


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """One set of labels.

    Attributes:
        name: ``clean`` or ``noisy``.
        splits: the data.
        examples: what is trained on and scored, with these labels: everything that is not test.
    """

    name: str
    splits: Splits
    examples: Examples

    @property
    def task(self) -> Task:
        """For the training loop."""
        return Task(
            train=self.examples,
            evaluation=self.splits.test,
            preprocess=self.splits.preprocess,
            num_classes=self.splits.num_classes,
        )


@dataclass(frozen=True, kw_only=True)
class _Study:
    config: DynamicsConfig
    out: Path
    arms: list[_Arm]
    execution: Execution

    def parent(self, arm: _Arm, seed: int) -> RunFolder:
        return RunFolder(self.out / "runs" / f"{arm.name}-{seed}")

    def child(self, seed: int, spawned: int) -> RunFolder:
        return RunFolder(self.out / "runs" / f"child-{seed}-spawned-{spawned}")

    def blank(self) -> tuple[nn.Module, Feeder]:
        """A model to load weights into, in evaluation mode, and what feeds it."""
        task = self.arms[0].task
        model, feeder = build(
            self.config.model,
            task.train,
            task.preprocess,
            task.num_classes,
            seed=0,
            device=resolve_device(self.config.device),
        )
        return model.eval(), feeder


def dynamics(
    splits: Splits,
    config: DynamicsConfig,
    out: Path,
    *,
    scores: Table | None = None,
    execution: Execution = SILENTLY,
) -> dict[str, Any]:
    """Study training dynamics; interrupted, the same call goes on where it stopped.

    Args:
        splits: the data. Where it has label noise, everything about velocity is done twice: with
            the published labels and with the noisy ones.
        config: settings.
        out: output folder: ``dynamics.json``, ``report.html``, ``runs/``.
        scores: a table to order the examples by, for the labels that it was made with.
        execution: how it is done.

    Returns:
        What ``dynamics.json`` holds.

    Raises:
        ConfigError: before anything is trained, if settings do not fit together or the data.
        TableError: likewise, if the table is for other data or labels, or lacks ids or the column.
        CheckpointError: if ``out`` holds another study.
    """
    config = config.sized(len(splits.full))
    study = _Study(
        config=config,
        out=out,
        arms=_arms(splits),
        execution=execution,
    )
    count = len(splits.full)
    require_possible(config.training(0), study.arms[0].task)
    starts = window_starts(count, config.window, config.windows)
    assert config.set_size is not None
    example_sets(torch.arange(count), config.set_size, torch.Generator())
    if scores is None and config.by != EL2N:
        raise ConfigError(
            f"--by {config.by} is a column of a score table; name the table with --scores, or "
            f"leave --by out to order by {EL2N}"
        )
    given: dict[str, Table] = {} if scores is None else _given_scores(study, scores)
    with open_study(
        out, _settings(study, splits, scores), splits.describe(), command=execution.command
    ):
        return _measure(study, given, starts)


def _measure(study: _Study, given: dict[str, Table], starts: list[int]) -> dict[str, Any]:
    """Make what is missing in a study's folder."""
    config, out = study.config, study.out
    for arm in study.arms:
        for seed in range(config.seeds):
            _train_parent(study, arm, seed)
    tables: dict[str, Table] = {
        arm.name: given.get(arm.name) or _own_scores(study, arm) for arm in study.arms
    }
    orders = {
        arm.name: _order(tables[arm.name], arm.examples, _column(config, arm, given))
        for arm in study.arms
    }
    for arm in study.arms:
        for seed in range(config.seeds):
            _measure_velocity(study, arm, seed, orders[arm.name], starts)
    for seed in range(config.seeds):
        for spawned in config.spawn_epochs:
            _train_child(study, seed, spawned)
            _measure_barrier(study, seed, spawned, orders["clean"])
    described = _described(study, tables, orders, starts, given)
    summary = summarise_dynamics(out, described)
    write_json(out / "dynamics.json", summary)
    write_dynamics_report(out, out)
    return summary


def _arms(splits: Splits) -> list[_Arm]:
    """Published labels first; noisy ones beside them where there are any."""
    noisy = splits.full
    clean = replace(noisy, targets_N=noisy.true_targets_N)
    arms = [_Arm(name="clean", splits=splits, examples=clean)]
    if bool(noisy.corrupted_N.any()):
        arms.append(_Arm(name="noisy", splits=splits, examples=noisy))
    return arms


def _given_scores(study: _Study, table: Table) -> dict[str, Table]:
    """The table under the name of the arm whose labels it was made with."""
    first = study.arms[0]
    table.require(REMEDY, fingerprint=first.splits.dataset.fingerprint)
    table.column_for(study.config.by, first.examples.ids_N, REMEDY)
    digest = table.provenance.get("label_digest")
    for arm in study.arms:
        if arm.examples.label_digest() == digest:
            return {arm.name: table}
    table.require(REMEDY, label_digest=study.arms[-1].examples.label_digest())
    raise AssertionError("a digest that fits no arm cannot fit the last")


def _column(config: DynamicsConfig, arm: _Arm, given: dict[str, Table]) -> str:
    return config.by if arm.name in given else EL2N


def _settings(study: _Study, splits: Splits, scores: Table | None) -> dict[str, Any]:
    """Everything that decides the outcome; where files lie does not."""
    keys = ("fingerprint", "label_digest", "config_hash")
    return {
        "data": splits.identity(),
        "fingerprint": splits.dataset.fingerprint,
        "dynamics": asdict(study.config),
        "scores": None if scores is None else {k: scores.provenance.get(k) for k in keys},
    }


def _train_parent(study: _Study, arm: _Arm, seed: int) -> None:
    config, folder = study.config, study.parent(arm, seed)
    velocity = config.velocity_epochs
    kept = {config.scored_at, *velocity, *(t + 1 for t in velocity), config.epochs}
    starts = config.spawn_epochs if arm.name == "clean" else []
    hook = KeepWeights(folder, kept, starts)
    _run(study, arm, seed, folder, hook, f"{_labels(arm)}, seed {seed}", spawned=None)


def _train_child(study: _Study, seed: int, spawned: int) -> None:
    folder = study.child(seed, spawned)
    hook = KeepWeights(folder, study.config.barrier_epochs(spawned))
    title = f"child of seed {seed}, spawned after epoch {spawned}"
    _run(study, study.arms[0], seed, folder, hook, title, spawned=spawned)


def _run(
    study: _Study,
    arm: _Arm,
    seed: int,
    folder: RunFolder,
    hook: KeepWeights,
    title: str,
    *,
    spawned: int | None,
) -> None:
    config = study.config.training(seed)
    start = None
    if spawned is not None:
        # A seed of its own, so that order, augmentation and dropout differ from the parent's.
        config = replace(config, seed=derive_seed(seed, "child", spawned))
        if not folder.finished:
            start = load_start(study.parent(arm, seed), spawned)
    train_once(
        config,
        arm.task,
        folder,
        {
            "data": arm.splits.identity(),
            "labels": arm.examples.label_digest(),
            "parent": seed,
            "spawned": spawned,
        },
        execution=study.execution,
        title=title,
        notes={"data": arm.splits.describe()},
        hooks=(hook,),
        start=start,
    )


def _own_scores(study: _Study, arm: _Arm) -> ScoreTable:
    """EL2N of every example, mean over the parents at the scoring epoch."""
    path = study.out / f"scores-{arm.name}.parquet"
    if path.exists():
        return ScoreTable.read(path)
    report = study.execution.stage(f"{EL2N}, {_labels(arm)}")
    model, feeder = study.blank()
    scoring = ScoringPass(model, batchnorm="running")
    found = []
    for seed in range(study.config.seeds):
        model.load_state_dict(weights_at(study.parent(arm, seed), study.config.scored_at))
        found.append(snapshot(scoring, feeder, arm.examples, [SCORES[EL2N]])[EL2N].double())
        report(seed + 1, study.config.seeds, f"seed {seed}")
    table = ScoreTable(
        ids_N=arm.examples.ids_N.numpy(),
        columns={EL2N: torch.stack(found).mean(0).float().numpy()},
        provenance={
            "kind": "data-diet",
            "dataset": arm.splits.dataset.name,
            "fingerprint": arm.splits.dataset.fingerprint,
            "label_digest": arm.examples.label_digest(),
            "model": study.config.model,
            "epoch": study.config.scored_at,
            "replicas": study.config.seeds,
            "versions": versions(),
        },
    )
    table.write(path)
    return table


def _order(table: Table, examples: Examples, column: str) -> Tensor:
    """Positions in ascending order of the score."""
    scores_N = table.column_for(column, examples.ids_N, REMEDY)
    return ranked(-scores_N, examples.ids_N, tie_key(stream(0, "dynamics", column)))


def _measure_velocity(
    study: _Study, arm: _Arm, seed: int, order_N: Tensor, starts: list[int]
) -> None:
    """Velocities of all windows of one parent; a window is the unit of resuming."""
    path = study.out / "velocity" / f"{arm.name}-{seed}.json"
    rows: list[dict[str, Any]] = read_rows(path) if path.exists() else []
    done = {row["start"] for row in rows}
    if done.issuperset(starts):
        return
    report = study.execution.stage(f"kernel velocity, {_labels(arm)}, seed {seed}")
    model, feeder = study.blank()
    folder = study.parent(arm, seed)
    epochs = study.config.velocity_epochs
    for number, start in enumerate(starts):
        if start in done:
            continue
        _, inputs, _ = feeder(arm.examples, order_N[start : start + study.config.window])
        velocities = kernel_velocities(
            model, inputs, lambda epoch: weights_at(folder, epoch), epochs
        )
        values = []
        for epoch, value in velocities:
            values.append(value)
            at = number * len(epochs) + len(values)
            report(at, len(starts) * len(epochs), f"window {number + 1}, epoch {epoch}")
        rows.append({"start": start, "velocity": values})
        write_rows(path, rows)


def _measure_barrier(study: _Study, seed: int, spawned: int, order_N: Tensor) -> None:
    """Errors between one parent and one child, at every epoch at which they are compared."""
    path = study.out / "barrier" / f"{seed}-spawned-{spawned}.json"
    if path.exists():
        read_rows(path)
        return
    config, arm = study.config, study.arms[0]
    report = study.execution.stage(f"error barrier, seed {seed}, spawned after epoch {spawned}")
    model, feeder = study.blank()
    assert config.set_size is not None
    chosen = example_sets(order_N, config.set_size, stream(seed, "dynamics", "random set"))
    sets = {
        name: _Batches(feeder, arm.examples, positions, EVALUATION_BATCH)
        for name, positions in chosen.items()
    }
    some = torch.randperm(len(arm.examples), generator=stream(seed, "dynamics", "statistics"))
    some = some[: STATISTICS_BATCHES * STATISTICS_BATCH]
    statistics = _Batches(feeder, arm.examples, some, STATISTICS_BATCH)
    parent, child = study.parent(arm, seed), study.child(seed, spawned)
    epochs = config.barrier_epochs(spawned)
    rows = []
    for number, epoch in enumerate(epochs, start=1):
        errors = errors_between(
            model,
            weights_at(parent, epoch),
            weights_at(child, epoch),
            config.alphas,
            sets,
            statistics,
        )
        rows.append(
            {
                "epoch": epoch,
                "sets": {
                    name: {"errors": found, "barrier": error_barrier(config.alphas, found)}
                    for name, found in errors.items()
                },
            }
        )
        report(number, len(epochs), f"epoch {epoch}")
    write_rows(path, rows)


@dataclass(frozen=True)
class _Batches:
    """Un-augmented batches of some examples, again at each call."""

    feeder: Feeder
    examples: Examples
    positions: Tensor
    size: int

    def __call__(self) -> Iterable[tuple[Any, Tensor]]:
        for some in self.positions.split(self.size):
            _, inputs, targets_B = self.feeder(self.examples, some)
            yield inputs, targets_B


def _described(
    study: _Study,
    tables: dict[str, Table],
    orders: dict[str, Tensor],
    starts: list[int],
    given: dict[str, Table],
) -> dict[str, Any]:
    """What the summary says beside what was measured."""
    config, size = study.config, study.config.window
    model, feeder = study.blank()
    arms = []
    for arm in study.arms:
        column = _column(config, arm, given)
        order_N, examples = orders[arm.name], arm.examples
        scores = tables[arm.name].column_for(column, examples.ids_N[order_N], REMEDY).numpy()
        wrong = examples.corrupted_N[order_N].double().numpy()
        arms.append(
            {
                "name": arm.name,
                "share_corrupted": float(wrong.mean()),
                "score": column,
                "score_from": "table" if arm.name in given else "own runs",
                "windows": [
                    {
                        "start": start,
                        "score_mean": float(np.mean(scores[start : start + size], dtype=float)),
                        "share_corrupted": float(wrong[start : start + size].mean()),
                    }
                    for start in starts
                ],
            }
        )
    return {
        "dataset": study.arms[0].splits.dataset.name,
        "examples": len(study.arms[0].examples),
        "model": {
            "name": config.model,
            "parameters": parameter_count(model),
            "device": str(feeder.device),
        },
        "seeds": config.seeds,
        "epochs": config.epochs,
        "score_epoch": config.scored_at,
        "window": size,
        "set_size": config.set_size,
        "alphas": config.alphas,
        "velocity_epochs": config.velocity_epochs,
        "spawn_epochs": config.spawn_epochs,
        "arms": arms,
        "versions": versions(),
    }


def _labels(arm: _Arm) -> str:
    return "published labels" if arm.name == "clean" else "noisy labels"
