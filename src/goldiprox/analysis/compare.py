"""From run folders to a comparison: who reached the target, when, at what cost, and did it pay.

Reads records alone; nothing here knows a model or a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from goldiprox.analysis.comparable import lines_of
from goldiprox.analysis.comparison import Comparison, MethodResult
from goldiprox.analysis.crossings import COUNTED, at_equal_cost, between, ratio_between
from goldiprox.analysis.groups import describe_groups
from goldiprox.analysis.proxies import describe_proxy
from goldiprox.analysis.quantities import (
    COSTS,
    POINT_COSTS,
    SHARES,
    CurvePoint,
    Ends,
    Interval,
    Spread,
    ToTarget,
    deviation,
)
from goldiprox.analysis.runs import Floats, RunRecord, read_run, require_one_metric
from goldiprox.analysis.verdict import BASELINES, verdicts
from goldiprox.objectives import Metric
from goldiprox.records.ledger import Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.schema import ConfigError

__all__ = ["summarise"]

LINES = {
    "epochs": "epoch",
    "steps": "step",
    "seconds_charged": "seconds_charged",
    "seconds_amortised": "seconds",
    "flops_charged": "flops_charged",
    "flops_amortised": "flops",
}
"""Of each cost to the target, the line of a run's curves that has it."""


def summarise(
    folders: Sequence[RunFolder],
    settings: Mapping[str, Any],
    *,
    target: float | None = None,
    allow_different_data: bool = False,
) -> Comparison:
    """Compare finished runs.

    Args:
        folders: runs of any methods and seeds on the same data.
        settings: recorded as they are.
        target: of the runs' headline metric, to be reached; unless given, the best of uniform's
            mean curve.
        allow_different_data: put runs of different data side by side, without a verdict on them.

    Returns:
        The comparison, verdicts included.

    Raises:
        ConfigError: if the runs are of different data or judged by different metrics, one is named
            twice, or there are none.
    """
    if not folders:
        raise ConfigError("no finished runs to compare")
    lines = lines_of(
        [(folder.path, folder.manifest()) for folder in folders],
        allow_different_data=allow_different_data,
    )
    runs = [read_run(folder, line) for folder, line in zip(folders, lines, strict=True)]
    metric = require_one_metric(runs)
    given = target is not None
    groups = _best_batches(runs, metric)
    # Several lines of uniform (of two models, say) are no one baseline: none is taken for it.
    baselines = [group for group in groups.values() if group[0].arm == "uniform"]
    uniform = baselines[0] if len(baselines) == 1 else None
    if target is None and uniform is not None:
        target = metric.best(_mean_curve(uniform, "value").tolist())
    first = runs[0].manifest
    weakest = _worst(metric, [float(_mean_curve(group, "value")[-1]) for group in groups.values()])
    methods = [_describe(name, group, runs, target, weakest) for name, group in groups.items()]
    reference = None
    if uniform is not None:
        reference = next(m for m in methods if m.method == uniform[0].line.name)
    comparison = Comparison(
        dataset=first["data"]["dataset"],
        protocol=first.get("protocol", "paper"),
        budget_seconds=_budget_seconds(runs),
        metric=metric,
        metrics=runs[0].metrics,
        target=target,
        target_given=given,
        settings=settings,
        data=first["data"],
        model=first["model"],
        models=tuple(sorted({run.manifest["model"]["name"] for run in runs})),
        versions=first["versions"],
        processes=max(run.manifest.get("processes", 1) for run in runs),
        share_corrupted=_noise_in_data(first["data"]),
        shares_marked=_marks_in_data(first["data"]),
        weakest_final=weakest,
        irreducible=_describe_irreducible(runs),
        proxy=describe_proxy(runs, groups),
        methods=tuple(_against(entry, reference, metric) for entry in methods),
    )
    return replace(comparison, verdicts=verdicts(comparison))


def _best_batches(runs: list[RunRecord], metric: Metric) -> dict[str, list[RunRecord]]:
    """Runs by line, baselines first; of several batch sizes the one that ended best; by seed."""
    groups: dict[str, list[RunRecord]] = {}
    arms = {run.line.name: run.arm for run in runs}
    for name in sorted(arms, key=lambda n: (*BASELINES, arms[n]).index(arms[n])):
        by_batch: dict[int, list[RunRecord]] = {}
        for run in runs:
            if run.line.name == name:
                by_batch.setdefault(run.batch, []).append(run)
        best = max(by_batch.values(), key=lambda group: metric.gain(_final(group).mean, 0.0))
        groups[name] = sorted(best, key=lambda run: run.seed)
    return groups


def _final(group: Sequence[RunRecord]) -> Spread:
    return Spread.of([run.curves.value[-1] for run in group])


def _worst(metric: Metric, values: list[float]) -> float:
    return min(values) if metric.higher_is_better else max(values)


def _describe(
    name: str, group: list[RunRecord], runs: list[RunRecord], target: float | None, weakest: float
) -> MethodResult:
    """A line by itself; what it is against uniform is filled in by :func:`_against`."""
    metric = group[0].metric
    batches = sorted({run.batch for run in runs if run.line.name == name})
    ends = _ends(group, metric, "value")
    described = {one.name: one for one in group[0].metrics}
    shared = [n for n in group[0].curves.others if all(n in run.curves.others for run in group)]
    return MethodResult(
        method=name,
        arm=group[0].arm,
        model=group[0].manifest["model"]["name"],
        different=group[0].line.different,
        seeds=len(group),
        seed_numbers=tuple(run.seed for run in group),
        batch=group[0].batch,
        pool=group[0].pool,
        steps=int(group[0].curves.step[-1]),
        final=ends.final,
        best=ends.best,
        others={other: _ends(group, described[other], other) for other in shared},
        to_target={cost: _to_target(group, target, LINES[cost]) for cost in COSTS},
        speedups={},
        speedups_between=None,
        at_equal_cost=None,
        selected_share=_selected_share(group, weakest),
        groups=describe_groups([run.groups for run in group]),
        ledger=_mean_ledger(group),
        curve=_curve(group, shared),
        final_by_batch={
            batch: _final([run for run in runs if run.line.name == name and run.batch == batch])
            for batch in (batches if len(batches) > 1 else ())
        },
    )


def _against(entry: MethodResult, uniform: MethodResult | None, metric: Metric) -> MethodResult:
    """A line with its speedups over uniform, where both are of the same data."""
    if uniform is not None and entry.different != uniform.different:
        uniform = None
    return replace(
        entry,
        speedups={cost: _speedup(entry, uniform, cost) for cost in COSTS if cost != "epochs"},
        speedups_between={cost: _speedup_between(entry, uniform, cost) for cost in COUNTED},
        at_equal_cost=None if uniform is None else at_equal_cost(entry, uniform, metric),
    )


def _ends(group: list[RunRecord], metric: Metric, line: str) -> Ends:
    lines = [run.curves.line(line) for run in group]
    return Ends(
        final=Spread.of([values[-1] for values in lines]),
        best=Spread.of([metric.best(values.tolist()) for values in lines]),
    )


def _mean_curve(group: list[RunRecord], line: str) -> Floats:
    """Mean over seeds, evaluation by evaluation (runs of an arm are evaluated at equal steps)."""
    length = min(len(run.curves.step) for run in group)
    rows = [run.curves.line(line)[:length] for run in group]
    mean: Floats = np.mean(rows, axis=0)
    return mean


def _first_at(metric: Metric, values: Floats, target: float | None) -> int | None:
    """Index of the first evaluation that reaches the target."""
    if target is None:
        return None
    reached = np.flatnonzero(metric.reaches(values, target))
    return int(reached[0]) if reached.size else None


def _to_target(group: list[RunRecord], target: float | None, line: str) -> ToTarget:
    """A cost to the target, seed by seed and of the mean curve."""
    metric = group[0].metric
    values: list[float | None] = []
    before: list[float | None] = []
    for run in group:
        costs = run.curves.line(line)
        at, start = _first_at(metric, run.curves.value, target), _start(run, line)
        values.append(None if at is None else float(costs[at]))
        before.append(None if at is None else float(costs[at - 1]) if at else start)
    reached = [v for v in values if v is not None]
    at = _first_at(metric, _mean_curve(group, "value"), target)
    mean_curve = mean_before = None
    if at is not None:
        costs = _mean_curve(group, line)
        mean_curve = float(costs[at])
        start = float(np.mean([_start(run, line) for run in group]))
        mean_before = float(costs[at - 1]) if at else start
    return ToTarget(
        mean=float(np.mean(reached)) if reached else None,
        std=deviation(reached),
        reached=len(reached),
        values=tuple(values),
        values_before=tuple(before),
        mean_curve=mean_curve,
        mean_curve_before=mean_before,
    )


def _start(run: RunRecord, line: str) -> float:
    """A cost before the first step."""
    paid = {
        "seconds_charged": run.irreducible_seconds,
        "flops_charged": run.irreducible.total().flops,
    }
    return float(paid.get(line, 0.0))


def _speedup(entry: MethodResult, uniform: MethodResult | None, cost: str) -> float | None:
    """How many times less than uniform the mean curve needs to the target; None if never."""
    if uniform is None:
        return None
    mine, theirs = entry.to_target[cost].mean_curve, uniform.to_target[cost].mean_curve
    return theirs / mine if mine and theirs else None


def _speedup_between(
    entry: MethodResult, uniform: MethodResult | None, cost: str
) -> Interval | None:
    """Lowest and highest speedup that the evaluations allow; None if never."""
    mine = between(entry, cost)
    theirs = None if uniform is None else between(uniform, cost)
    return ratio_between(mine, theirs) if mine and theirs else None


def _selected_share(group: list[RunRecord], weakest: float) -> dict[str, float | None]:
    """What was chosen, as shares; None where nothing is known of it.

    ``redundant`` is the share already classified correctly, averaged only over the time in which
    the metric was worse than the weakest method's final one, so that better methods are not blamed
    for being better (Mindermann et al. 2022, section 4.3).
    """
    chosen = sum(run.chosen for run in group)
    known = [name for name in SHARES if all(name in run.counts for run in group)]
    early: list[float] = []
    if "already_correct" in known:
        for run in group:
            below = ~run.metric.reaches(run.curves.value, weakest)
            early += run.curves.shares["already_correct"][below].tolist()
    return {
        **{
            name: sum(run.counts[name] for run in group) / chosen if name in known else None
            for name in SHARES
        },
        "redundant": float(np.mean(early)) if early else None,
    }


def _curve(group: list[RunRecord], others: Sequence[str]) -> tuple[CurvePoint, ...]:
    """The mean curve, with the spread of the metrics."""
    known = [name for name in SHARES if all(name in run.curves.shares for run in group)]
    lines = {name: _mean_curve(group, name) for name in (*POINT_COSTS, *known)}
    loss = _mean_curve(group, "loss")
    return tuple(
        CurvePoint(
            costs={name: float(lines[name][i]) for name in POINT_COSTS},
            loss=float(loss[i]) if np.isfinite(loss[i]) else None,
            shares={name: float(lines[name][i]) for name in known},
            value=Spread.of([run.curves.value[i] for run in group]),
            others={
                name: Spread.of([run.curves.others[name][i] for run in group]) for name in others
            },
        )
        for i in range(len(loss))
    )


def _mean_ledger(group: list[RunRecord]) -> Ledger:
    """Mean over seeds, the irreducible-loss model and the proxy included."""
    total = Ledger()
    for run in group:
        total = total.merged(run.ledger).merged(run.irreducible).merged(run.proxy)
    for cost in total.phases.values():
        cost.examples = round(cost.examples / len(group))
        cost.steps = round(cost.steps / len(group))
        cost.flops /= len(group)
        cost.seconds /= len(group)
    return total


def _describe_irreducible(runs: list[RunRecord]) -> dict[str, Any] | None:
    """The irreducible-loss model that the runs share."""
    run = next((r for r in runs if r.manifest.get("irreducible")), None)
    if run is None:
        return None
    provenance = run.manifest["irreducible"]
    keys = ("model", "made_by", "models", "best", "config_hash")
    known = {key: provenance.get(key) for key in keys}
    if not (known["made_by"] or provenance.get("ledger")):
        known["made_by"] = "a table that does not say what it cost"
    return {**known, "seconds": run.irreducible_seconds, "flops": run.irreducible.total().flops}


def _budget_seconds(runs: list[RunRecord]) -> float | None:
    """Reference seconds that every run of a budget had, its irreducible-loss model included."""
    if runs[0].manifest.get("reference") is None:
        return None
    return max(float(run.curves.seconds_charged[-1]) for run in runs)


def _noise_in_data(data: Mapping[str, Any]) -> float | None:
    """What share of the training set's labels are wrong; None where nobody said."""
    if "label_noise" not in data:
        return None
    wrong: float = data["label_noise"]["wrong"]["train"]
    size: float = data["sizes"]["train"]
    return wrong / size


def _marks_in_data(data: Mapping[str, Any]) -> dict[str, float]:
    """What share of the training set is marked, by mark: what uniform would choose."""
    size: float = data["sizes"]["train"]
    return {mark: parts["train"] / size for mark, parts in data.get("marked", {}).items()}
