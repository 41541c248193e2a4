"""The main job: train every method on the same pools; say who got there first, at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from goldiprox.analysis.compare import summarise
from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.gallery import collect_gallery
from goldiprox.config import CompareConfig, IrreducibleConfig, TrainConfig, fitted_to, settings_of
from goldiprox.data.splits import Splits
from goldiprox.objectives import objective
from goldiprox.precompute.coreset import CoreSet
from goldiprox.precompute.irreducible import parts_of, require_fitting
from goldiprox.records.files import read_json, write_json
from goldiprox.records.ledger import Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.studies import open_study
from goldiprox.records.tables import Table
from goldiprox.report.html import write_report
from goldiprox.schema import ConfigError
from goldiprox.selection.plans import PlanFactory
from goldiprox.training.audit import GroupAudit
from goldiprox.training.evaluate import evaluate
from goldiprox.training.loop import Loop, train
from goldiprox.training.optimization import resolve_device, resolved
from goldiprox.training.probe import LossProbe
from goldiprox.training.sequence import replay
from goldiprox.workflows.arms import Arm, arms_of, core_set_of, goldiprox_arm, require_possible
from goldiprox.workflows.calibrate import reference_seconds
from goldiprox.workflows.execution import SILENTLY, Execution
from goldiprox.workflows.irreducible import companion_of, irreducible_for
from goldiprox.workflows.proxy import Recorded, proxy_config, record_with_proxy, require_proxy
from goldiprox.workflows.train import run_manifest

__all__ = ["compare", "comparison_settings"]

EVALUATIONS_IN_BUDGET = 20

EVALUATION_SHARE = 0.05
"""Of the cost of plain training, what evaluating more often than once an epoch may cost."""

MOST_EVALUATIONS = 20
"""In an epoch."""

PROXIES = "proxies"
"""Folder for the runs of the proxy; they are no line of the comparison."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of a comparison."""

    arm: Arm
    config: TrainConfig
    folder: RunFolder


def compare(
    splits: Splits,
    config: CompareConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: Table | None = None,
    execution: Execution = SILENTLY,
) -> Comparison:
    """Compare methods on one data set; interrupted, the same call goes on where it stopped.

    Args:
        splits: the data.
        config: settings.
        out: output folder: ``comparison.json``, ``report.html``, ``runs/``.
        irreducible: settings of the irreducible-loss model, made if a method needs it.
        table: a table to use instead.
        execution: how it is done.

    Returns:
        The comparison, as ``comparison.json`` holds it.

    Raises:
        ConfigError: before anything is trained, if settings do not fit together or the data.
        TableError: likewise, if the table is for other data or labels or lacks ids.
        CheckpointError: if ``out`` holds another comparison.
    """
    config = resolved(config, splits.train.store.example_shape)
    config, changed = fitted_to(config, len(splits.train))
    if changed is not None:
        execution.progress.said(changed)
    irreducible = (irreducible or IrreducibleConfig()).beside(config.objective)
    arms = arms_of(config)
    require_target(config)
    for entry in arms:
        for batch in config.batch:
            planned = config.run(entry.trained_with, batch, 0)
            require_possible(planned, entry.task(splits))
            if entry.proxy is not None:
                require_proxy(entry, planned, splits)
        if config.protocol == "budget" and entry.method.core_set is not None:
            raise ConfigError(
                f'method "{entry.name}" trains a proxy before its first step, which reference '
                "seconds do not count: compare it under --protocol paper, which charges it"
            )
    if table is not None:  # also where no method needs it: the gallery shows its highest losses
        require_fitting(table, splits)

    settings = comparison_settings(splits, config, irreducible, table)
    with open_study(out, settings, splits.describe(), what="comparison", command=execution.command):
        return _compare(splits, config, arms, irreducible, table, settings, out, execution)


def _compare(
    splits: Splits,
    config: CompareConfig,
    arms: list[Arm],
    irreducible: IrreducibleConfig,
    table: Table | None,
    settings: dict[str, Any],
    out: Path,
    execution: Execution,
) -> Comparison:
    """Make what is missing in a comparison's folder."""
    needs_table = any(entry.method.needs_irreducible_model for entry in arms)
    if table is None and needs_table:
        table = irreducible_for(
            splits,
            irreducible,
            out / "irreducible.parquet",
            RunFolder(out / "irreducible"),
            target_model=config.model,
            execution=execution,
        )
    for entry in arms:
        # Now, not after hours of training.
        companion_of(entry.method, table, splits, irreducible.model)
    costs = None
    if config.protocol == "budget":
        costs = _calibrate(splits, config, arms, irreducible, table, out, execution)
    runs = _plan(splits, config, arms, table, costs, out)
    for number, run in enumerate(runs, start=1):
        if run.folder.finished:
            run.folder.use_again(exact=execution.exact)
            continue
        title = f"{run.arm.name}, seed {run.config.seed}"
        if len(config.batch) > 1:
            title += f", batch {run.config.batch}"
        core_set = core_set_of(run.arm.method)
        recorded = None
        if run.arm.proxy is not None:
            assert table is not None
            recorded = record_with_proxy(
                splits,
                run.arm,
                run.config,
                table,
                RunFolder(out / PROXIES / run.folder.path.name),
                execution=execution,
                title=f"[{number}/{len(runs)}] {run.arm.proxy} for {title}",
            )
        train(
            run.config,
            run.arm.task(splits),
            folder=run.folder,
            manifest=run_manifest(
                splits,
                run.arm,
                run.config,
                table if run.arm.method.needs_irreducible_model else None,
                protocol=config.protocol,
                reference=_reference(run, table, costs),
                processes=execution.processes,
                sequence=None if recorded is None else recorded.sequence,
                proxy=None if recorded is None else recorded.note,
            ),
            irreducible=table,
            companion=companion_of(run.arm.method, table, splits, irreducible.model),
            hooks=(
                *(() if core_set is None else (core_set,)),
                *_probes(run, config, splits, table),
                *_audits(run, splits),
                *execution.hooks(run.folder.path, run.config),
            ),
            plan=_plan_of(core_set, recorded),
            checkpoint=execution.checkpoint,
            report=execution.stage(f"[{number}/{len(runs)}] {title}"),
        )
    comparison = summarise([run.folder for run in runs], settings, target=config.target)
    comparison.write(out / "comparison.json")
    collect_gallery([run.folder for run in runs], splits, table, out / "examples.parquet")
    write_report(out)
    return comparison


def require_target(config: CompareConfig) -> None:
    """Refuse a target that the objective's headline cannot have.

    Raises:
        ConfigError: naming it.
    """
    metric = objective(config.objective).headline
    if config.target is None or metric.unit != "share" or 0 < config.target <= 1:
        return
    raise ConfigError(
        f"--target is {config.target}; it is of the {metric.title}, a share between 0 and 1"
    )


def comparison_settings(
    splits: Splits, config: CompareConfig, irreducible: IrreducibleConfig, table: Table | None
) -> dict[str, Any]:
    """Everything that decides the outcome; where files lie does not."""
    data = splits.identity()
    given = None
    if table is not None:
        keys = ("fingerprint", "label_digest", "config_hash")
        given = {key: table.provenance.get(key) for key in keys}
    return {
        "data": data,
        "fingerprint": splits.dataset.fingerprint,
        "compare": settings_of(config),
        "irreducible": settings_of(irreducible) if table is None else None,
        "irreducible_table": given,
    }


def evaluation_interval(run: TrainConfig, examples: int, evaluated: int) -> int | None:
    """Steps between evaluations where one an epoch would leave a coarse curve for no good reason.

    An example costs a third in evaluation of what it costs in a plain training step. From that: as
    many evaluations as cost at most ``EVALUATION_SHARE`` of plain training.

    Args:
        run: settings of the run.
        examples: of its training set.
        evaluated: of its test set.

    Returns:
        The steps; None where that is not more often than once an epoch.
    """
    per_epoch = run.steps_per_epoch(examples)
    affordable = math.floor(per_epoch * EVALUATION_SHARE * 3 * run.batch / max(1, evaluated))
    parts = min(affordable, MOST_EVALUATIONS)
    return None if parts < 2 else math.ceil(per_epoch / parts)


def _plan(
    splits: Splits,
    config: CompareConfig,
    arms: list[Arm],
    table: Table | None,
    costs: dict[str, float] | None,
    out: Path,
) -> list[_Run]:
    """All runs, seeds outermost, so that what slows the machine down slows every method."""
    runs = []
    for seed in range(config.seeds):
        for entry in arms:
            for batch in config.batch:
                run = config.run(entry.trained_with, batch, seed)
                if config.evaluate_every is None:
                    task = entry.task(splits)
                    every = evaluation_interval(run, len(task.train), len(task.evaluation))
                    run = replace(run, evaluate_every=every)
                name = f"{entry.folder}-{seed}"
                if costs is not None:
                    assert config.seconds is not None
                    before = _paid_before(entry, table, costs)
                    step_seconds = _step_seconds(entry, batch, costs)
                    steps = math.floor((config.seconds - before) / step_seconds)
                    if steps < 1:
                        raise ConfigError(
                            f"--seconds {config.seconds:g} is too little for {entry.name}: its "
                            f"irreducible-loss model takes {before:.3g} reference seconds and one "
                            f"step {step_seconds:.3g}; raise --seconds"
                        )
                    run = replace(
                        run,
                        steps=steps,
                        schedule="one-cycle",
                        evaluate_every=math.ceil(steps / EVALUATIONS_IN_BUDGET),
                    )
                    name = f"{entry.folder}-b{batch}-{seed}"
                runs.append(_Run(arm=entry, config=run, folder=RunFolder(out / "runs" / name)))
    return runs


def _probes(
    run: _Run, config: CompareConfig, splits: Splits, table: Table | None
) -> tuple[LossProbe, ...]:
    """What the proxy is to be held against: the target that replays it, and the one that chooses.

    The latter by the proxy's method; other arms are not looked at.
    """
    if config.proxy is None or table is None or run.arm.full:
        return ()
    compared = run.arm.proxy is not None or run.arm.name == goldiprox_arm(config.proxy).method.name
    return (LossProbe(run.folder.path, splits.train, table),) if compared else ()


def _audits(run: _Run, splits: Splits) -> tuple[GroupAudit, ...]:
    """Counts by group, where a group column was named."""
    if splits.dataset.groups_N is None:
        return ()
    return (GroupAudit(run.folder.path, splits.dataset),)


def _plan_of(core_set: CoreSet | None, recorded: Recorded | None) -> PlanFactory | None:
    """Where a run's draws come from, if not from the method itself."""
    if recorded is not None:
        return replay(recorded.sequence)
    return None if core_set is None else core_set.plan


def _reference(
    run: _Run, table: Table | None, costs: dict[str, float] | None
) -> dict[str, float] | None:
    """Reference seconds of a budget run: what was paid before, and per step."""
    if costs is None:
        return None
    reference = {
        "irreducible_seconds": _paid_before(run.arm, table, costs),
        "step_seconds": costs[_kind(run.arm, run.config.batch)],
    }
    if run.arm.proxy is not None:
        reference["proxy_step_seconds"] = costs[_proxy_kind(run.arm, run.config.batch)]
    return reference


def _kind(entry: Arm, batch: int) -> str:
    return f"{entry.name} step, batch {batch}"


def _proxy_kind(entry: Arm, batch: int) -> str:
    return f"{entry.proxy} choosing for {entry.name}, step, batch {batch}"


def _step_seconds(entry: Arm, batch: int, costs: dict[str, float]) -> float:
    """Reference seconds of a step, the proxy's included: it has to make one for each."""
    own = costs[_kind(entry, batch)]
    return own if entry.proxy is None else own + costs[_proxy_kind(entry, batch)]


IRREDUCIBLE_STEP = "irreducible-loss model, step"
IRREDUCIBLE_PASS = "irreducible-loss model, pass over 1000 examples"


def _paid_before(entry: Arm, table: Table | None, costs: dict[str, float]) -> float:
    """Reference seconds of making the table: its steps, its validations, its scoring pass."""
    if table is None or not entry.method.needs_irreducible_model:
        return 0.0
    ledger = Ledger.from_json(table.provenance.get("ledger", {}))
    if IRREDUCIBLE_STEP not in costs:
        return ledger.total(("irreducible-training", "irreducible-scoring")).seconds
    training = ledger.phases["irreducible-training"]
    models = table.provenance["models"]
    passes = sum(model["validated_on"] * model["evaluations"] for model in models)
    passes += ledger.phases["irreducible-scoring"].examples
    return float(training.steps * costs[IRREDUCIBLE_STEP] + passes / 1000 * costs[IRREDUCIBLE_PASS])


def _calibrate(
    splits: Splits,
    config: CompareConfig,
    arms: list[Arm],
    irreducible: IrreducibleConfig,
    table: Table | None,
    out: Path,
    execution: Execution,
) -> dict[str, float]:
    """Cost of each kind of work; measured once per output folder."""
    path = out / "calibration.json"
    if path.exists():
        costs: dict[str, float] = read_json(path)["seconds"]
        return costs
    kinds: dict[str, Callable[[], object]] = {}
    for entry in arms:
        for batch in config.batch:
            run = config.run(entry.trained_with, batch, 0)
            loop = Loop(
                run,
                entry.task(splits),
                irreducible=table,
                companion=companion_of(entry.method, table, splits, irreducible.model),
            )
            kinds[_kind(entry, batch)] = loop.one_step  # of a replay: uniform's work is the same
            if entry.proxy is not None:
                chooser = Loop(proxy_config(entry, run), entry.task(splits), irreducible=table)
                kinds[_proxy_kind(entry, batch)] = chooser.one_step
    if table is not None and (out / "irreducible").exists():
        first = parts_of(splits)[0].task  # under halves both models are alike
        shape = first.train.store.example_shape
        name = irreducible.resolved_model(config.model, shape)  # not the table's word for it
        settings = irreducible.training(name, len(first.train))
        small = Loop(settings, first)
        kinds[IRREDUCIBLE_STEP] = small.one_step
        some = splits.train.select(torch.arange(min(1000, len(splits.train))))
        kinds[IRREDUCIBLE_PASS] = lambda: evaluate(small.model, some, small.feeder)
    told = execution.stage("calibrating the cost of each kind of step")
    costs = reference_seconds(
        kinds,
        resolve_device(config.device),
        lambda done, total: told(done, total, f"round {done}/{total}"),
    )
    if IRREDUCIBLE_PASS in costs:
        costs[IRREDUCIBLE_PASS] *= 1000 / min(1000, len(splits.train))
    write_json(path, {"seconds": costs, "threads": torch.get_num_threads()})
    return costs
