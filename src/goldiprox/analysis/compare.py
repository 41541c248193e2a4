"""From run folders to a comparison: who reached the target, when, at what cost, and did it pay.

Reads records alone; nothing here knows a model or a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldiprox.analysis.comparable import Line, lines_of
from goldiprox.analysis.correlate import reducible_correlations
from goldiprox.analysis.crossings import at_equal_cost, between, ratio_between
from goldiprox.analysis.groups import describe_groups
from goldiprox.analysis.verdict import BASELINES, verdicts
from goldiprox.records.groups import GroupCounts
from goldiprox.records.ledger import Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import MARKS, read_steps
from goldiprox.records.tables import PROBE, ScoreTable
from goldiprox.schema import CheckpointError, ConfigError

__all__ = ["Curves", "RunRecord", "read_run", "summarise"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One run along its evaluations; every array has one entry an evaluation.

    Attributes:
        step: training steps done.
        epoch: passes over the pools done.
        accuracy: on the test set.
        loss: on the test set, nats.
        matthews: Matthews correlation on the test set; None unless there are two classes.
        seconds: wall seconds of loading, scoring and training (reference seconds under the budget
            protocol), without the irreducible-loss model and the proxy.
        flops: floating-point operations of the same.
        seconds_charged: the same with all of the irreducible-loss model, and with as many steps of
            the proxy as the run had done.
        flops_charged: likewise.
        marked: by mark (wrong label, low relevance, ...), its share among what was chosen since the
            evaluation before; marks of which nothing is known are left out.
        already_correct: share of what was chosen since then that was classified correctly before
            the step that trained on it.
    """

    step: Floats
    epoch: Floats
    accuracy: Floats
    loss: Floats
    seconds: Floats
    flops: Floats
    seconds_charged: Floats
    flops_charged: Floats
    marked: dict[str, Floats]
    already_correct: Floats
    matthews: Floats | None = None

    def line(self, name: str) -> Floats:
        """One of the arrays, by the name of an attribute or a mark."""
        found: Floats = self.marked[name] if name in self.marked else getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run, read back from its folder."""

    arm: str
    line: Line
    seed: int
    batch: int
    pool: int
    manifest: dict[str, Any]
    curves: Curves
    ledger: Ledger
    irreducible: Ledger
    irreducible_seconds: float
    proxy: Ledger
    probe: Path
    chosen: int
    marked: dict[str, int]
    already_correct: int
    groups: GroupCounts | None


def read_run(folder: RunFolder, line: Line) -> RunRecord:
    """Read a finished run.

    Args:
        folder: its folder.
        line: where it belongs in the comparison.

    Raises:
        CheckpointError: if a record is absent or damaged.
    """
    manifest = folder.manifest()
    evaluations = folder.evaluations()
    steps = read_steps(folder.path)
    train = manifest["config"]["train"]
    irreducible = Ledger.from_json((manifest.get("irreducible") or {}).get("ledger", {}))
    seconds = np.array([e["seconds"] for e in evaluations])
    irreducible_seconds = irreducible.total().seconds
    reference = manifest.get("reference")
    if reference is not None:
        seconds = np.array([e["step"] * reference["step_seconds"] for e in evaluations])
        irreducible_seconds = reference["irreducible_seconds"]
    flops = np.array([e["flops"] for e in evaluations])
    ends = np.array([e["step"] for e in evaluations])
    proxy = manifest.get("proxy") or {}
    chosen_for = _paid_along(proxy.get("curve", []), ends)
    if reference is not None:
        chosen_for["seconds"] = ends * reference.get("proxy_step_seconds", 0.0)
    chosen = steps["ids"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    marked = {mark: steps[mark] for mark in MARKS if not steps[mark].null_count}
    correct = steps["already_correct"].to_numpy()
    return RunRecord(
        arm=line.arm,
        line=line,
        seed=train["seed"],
        batch=train["batch"],
        pool=train["pool"] or 10 * train["batch"],
        manifest=manifest,
        curves=Curves(
            step=ends.astype(np.float64),
            epoch=np.array([e["epoch"] for e in evaluations]),
            accuracy=np.array([e["accuracy"] for e in evaluations]),
            loss=np.array([e["loss"] for e in evaluations]),
            seconds=seconds,
            flops=flops,
            seconds_charged=seconds + irreducible_seconds + chosen_for["seconds"],
            flops_charged=flops + irreducible.total().flops + chosen_for["flops"],
            marked={
                mark: _share_between(counts.to_numpy(), chosen, ends)
                for mark, counts in marked.items()
            },
            already_correct=_share_between(correct, chosen, ends),
            matthews=_matthews(evaluations),
        ),
        ledger=Ledger.from_json(folder.ledger()),
        irreducible=irreducible,
        irreducible_seconds=irreducible_seconds,
        proxy=Ledger.from_json(proxy.get("ledger", {})),
        probe=folder.path / PROBE,
        chosen=int(chosen.sum()),
        marked={mark: int(counts.to_numpy().sum()) for mark, counts in marked.items()},
        already_correct=int(correct.sum()),
        groups=GroupCounts.read(folder.path),
    )


def _matthews(evaluations: list[dict[str, Any]]) -> Floats | None:
    values = [e.get("matthews") for e in evaluations]  # runs of before it was measured lack it
    return None if None in values else np.array(values, dtype=np.float64)


def _paid_along(curve: list[dict[str, float]], ends: npt.NDArray[Any]) -> dict[str, Floats]:
    """What a proxy had cost after as many steps as the target has done, at each evaluation.

    It could run just ahead of the target: a step of the one needs a step of the other, no more.
    """
    steps = [0.0, *(point["step"] for point in curve)]
    return {
        key: np.interp(ends, steps, [0.0, *(point[key] for point in curve)])
        for key in ("seconds", "flops")
    }


def summarise(
    folders: Sequence[RunFolder],
    settings: dict[str, Any],
    *,
    target: float | None = None,
    allow_different_data: bool = False,
) -> dict[str, Any]:
    """Compare finished runs.

    Args:
        folders: runs of any methods and seeds on the same data.
        settings: recorded as they are.
        target: accuracy to be reached; unless given, the best of uniform's mean curve.
        allow_different_data: put runs of different data side by side, without a verdict on them.

    Returns:
        What ``comparison.json`` holds; see ``docs/formats.md``.

    Raises:
        ConfigError: if the runs are of different data, one is named twice, or there are none.
    """
    if not folders:
        raise ConfigError("no finished runs to compare")
    lines = lines_of(
        [(folder.path, folder.manifest()) for folder in folders],
        allow_different_data=allow_different_data,
    )
    runs = [read_run(folder, line) for folder, line in zip(folders, lines, strict=True)]
    given = target is not None
    groups = _best_batches(runs)
    # Several lines of uniform (of two models, say) are no one baseline: none is taken for it.
    baselines = [group for group in groups.values() if group[0].arm == "uniform"]
    uniform = baselines[0] if len(baselines) == 1 else None
    if target is None and uniform is not None:
        target = float(_mean_curve(uniform, "accuracy").max())
    first = runs[0].manifest
    weakest = min(float(_mean_curve(group, "accuracy")[-1]) for group in groups.values())
    methods = [_describe(name, group, runs, target, weakest) for name, group in groups.items()]
    reference = None
    if uniform is not None:
        reference = next(m for m in methods if m["method"] == uniform[0].line.name)
    for entry in methods:
        comparable = reference is not None and entry["different"] == reference["different"]
        against = reference if comparable else None
        entry["speedup_over_uniform"] = _speedup(entry, against)
        entry["speedup_between"] = _speedup_between(entry, against)
        entry["at_equal_cost"] = None if against is None else at_equal_cost(entry, against)
    comparison: dict[str, Any] = {
        "dataset": first["data"]["dataset"],
        "protocol": first.get("protocol", "paper"),
        "budget_seconds": _budget_seconds(runs),
        "target_accuracy": target,
        "target_given": given,
        "settings": settings,
        "data": first["data"],
        "model": first["model"],
        "models": sorted({run.manifest["model"]["name"] for run in runs}),
        "versions": first["versions"],
        "processes": max(run.manifest.get("processes", 1) for run in runs),
        "share_corrupted_in_data": _noise_in_data(first["data"]),
        "share_marked_in_data": _marks_in_data(first["data"]),
        "weakest_final_accuracy": weakest,
        "irreducible": _describe_irreducible(runs),
        "proxy": _describe_proxy(runs, groups),
        "methods": methods,
    }
    comparison["verdicts"] = verdicts(comparison)
    return comparison


def _best_batches(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by line, baselines first; of several batch sizes the one that ended best; by seed."""
    groups: dict[str, list[RunRecord]] = {}
    arms = {run.line.name: run.arm for run in runs}
    for name in sorted(arms, key=lambda n: (*BASELINES, arms[n]).index(arms[n])):
        by_batch: dict[int, list[RunRecord]] = {}
        for run in runs:
            if run.line.name == name:
                by_batch.setdefault(run.batch, []).append(run)
        best = max(by_batch.values(), key=_final_accuracy)
        groups[name] = sorted(best, key=lambda run: run.seed)
    return groups


def _final_accuracy(group: list[RunRecord]) -> float:
    return float(np.mean([run.curves.accuracy[-1] for run in group]))


def _describe(
    name: str, group: list[RunRecord], runs: list[RunRecord], target: float | None, weakest: float
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "method": name,
        "arm": group[0].arm,
        "model": group[0].manifest["model"]["name"],
        "different": group[0].line.different,
        "seeds": len(group),
        "seed_numbers": [run.seed for run in group],
        "batch": group[0].batch,
        "pool": group[0].pool,
        "steps": int(group[0].curves.step[-1]),
        "final_accuracy": _spread([run.curves.accuracy[-1] for run in group]),
        "best_accuracy": _spread([run.curves.accuracy.max() for run in group]),
        **_matthews_spreads(group),
        "epochs_to_target": _to_target(group, target, "epoch"),
        "steps_to_target": _to_target(group, target, "step"),
        "seconds_to_target": _charged_and_amortised(group, target, "seconds"),
        "flops_to_target": _charged_and_amortised(group, target, "flops"),
        "selected_share": _selected_share(group, weakest),
        "groups": describe_groups([run.groups for run in group]),
        "ledger": _mean_ledger(group).to_json(),
        "curve": _curve(group),
    }
    batches = sorted({run.batch for run in runs if run.line.name == name})
    if len(batches) > 1:
        entry["final_accuracy_by_batch"] = {
            str(b): _spread(
                [
                    run.curves.accuracy[-1]
                    for run in runs
                    if run.line.name == name and run.batch == b
                ]
            )
            for b in batches
        }
    return entry


def _matthews_spreads(group: list[RunRecord]) -> dict[str, Any]:
    curves = [run.curves.matthews for run in group if run.curves.matthews is not None]
    if len(curves) < len(group):
        return {"final_matthews": None, "best_matthews": None}
    return {
        "final_matthews": _spread([curve[-1] for curve in curves]),
        "best_matthews": _spread([curve.max() for curve in curves]),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one seed) and the values, seed by seed."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": [float(v) for v in values]}


def _mean_curve(group: list[RunRecord], field: str) -> Floats:
    """Mean over seeds, evaluation by evaluation (runs of an arm are evaluated at equal steps)."""
    length = min(len(run.curves.step) for run in group)
    rows = [run.curves.line(field)[:length] for run in group]
    mean: Floats = np.mean(rows, axis=0)
    return mean


def _first_at(accuracy: Floats, target: float | None) -> int | None:
    """Index of the first evaluation that reaches the target."""
    if target is None:
        return None
    reached = np.flatnonzero(accuracy >= target)
    return int(reached[0]) if reached.size else None


def _to_target(group: list[RunRecord], target: float | None, field: str) -> dict[str, Any]:
    """Cost at the first evaluation that reaches the target.

    ``mean`` and ``std`` are over the seeds that reached it, ``values`` holds null for those that
    did not; ``mean_curve`` is where the seeds' mean accuracy reaches it, which every speedup is
    computed from. The target was reached somewhere between that evaluation and the one before,
    whose costs are ``values_before`` and ``mean_curve_before``.
    """
    values: list[float | None] = []
    before: list[float | None] = []
    for run in group:
        costs = getattr(run.curves, field)
        at, start = _first_at(run.curves.accuracy, target), _start(run, field)
        values.append(None if at is None else float(costs[at]))
        before.append(None if at is None else float(costs[at - 1]) if at else start)
    reached = [v for v in values if v is not None]
    at = _first_at(_mean_curve(group, "accuracy"), target)
    mean_curve = mean_before = None
    if at is not None:
        costs = _mean_curve(group, field)
        mean_curve = float(costs[at])
        start = float(np.mean([_start(run, field) for run in group]))
        mean_before = float(costs[at - 1]) if at else start
    return {
        "mean": float(np.mean(reached)) if reached else None,
        "std": float(np.std(reached, ddof=1)) if len(reached) > 1 else None,
        "reached": len(reached),
        "values": values,
        "values_before": before,
        "mean_curve": mean_curve,
        "mean_curve_before": mean_before,
    }


def _start(run: RunRecord, field: str) -> float:
    """A cost before the first step."""
    paid = {
        "seconds_charged": run.irreducible_seconds,
        "flops_charged": run.irreducible.total().flops,
    }
    return float(paid.get(field, 0.0))


def _charged_and_amortised(
    group: list[RunRecord], target: float | None, field: str
) -> dict[str, Any]:
    return {
        "charged": _to_target(group, target, f"{field}_charged"),
        "amortised": _to_target(group, target, field),
    }


def _speedup(entry: dict[str, Any], uniform: dict[str, Any] | None) -> dict[str, float | None]:
    """How many times less than uniform the mean curve needs to the target; null if never."""

    def ratio(pick: Callable[[dict[str, Any]], dict[str, Any]]) -> float | None:
        if uniform is None:
            return None
        mine, theirs = pick(entry)["mean_curve"], pick(uniform)["mean_curve"]
        return theirs / mine if mine and theirs else None

    return {
        "steps": ratio(lambda e: e["steps_to_target"]),
        "seconds_charged": ratio(lambda e: e["seconds_to_target"]["charged"]),
        "seconds_amortised": ratio(lambda e: e["seconds_to_target"]["amortised"]),
        "flops_charged": ratio(lambda e: e["flops_to_target"]["charged"]),
        "flops_amortised": ratio(lambda e: e["flops_to_target"]["amortised"]),
    }


def _speedup_between(entry: dict[str, Any], uniform: dict[str, Any] | None) -> dict[str, Any]:
    """Lowest and highest speedup that the evaluations allow; null if never, or not bounded."""
    found: dict[str, Any] = {}
    for cost in ("steps", "seconds_charged", "flops_charged"):
        mine = between(entry, cost)
        theirs = None if uniform is None else between(uniform, cost)
        found[cost] = list(ratio_between(mine, theirs)) if mine and theirs else None
    return found


def _selected_share(group: list[RunRecord], weakest: float) -> dict[str, float | None]:
    """What was chosen, as shares.

    ``redundant`` is the share already classified correctly, averaged only over the time in which
    test accuracy was below the weakest method's final one, so that better methods are not blamed
    for being better (Mindermann et al. 2022, section 4.3).
    """
    early = [
        float(value)
        for run in group
        for value in run.curves.already_correct[run.curves.accuracy < weakest]
    ]
    chosen = sum(run.chosen for run in group)
    return {
        **{mark: _marked_share(group, mark) for mark in MARKS},
        "already_correct": sum(run.already_correct for run in group) / chosen,
        "redundant": float(np.mean(early)) if early else None,
    }


def _marked_share(group: list[RunRecord], mark: str) -> float | None:
    """Share of what was chosen that is marked so; None where nothing is known of it."""
    if any(mark not in run.marked for run in group):
        return None
    return sum(run.marked[mark] for run in group) / sum(run.chosen for run in group)


def _curve(group: list[RunRecord]) -> list[dict[str, Any]]:
    """The mean curve, with the spread of the accuracy and, where known, of the correlation."""
    length = min(len(run.curves.step) for run in group)
    spread = {"accuracy": [run.curves.accuracy for run in group]}
    correlations = [run.curves.matthews for run in group if run.curves.matthews is not None]
    if len(correlations) == len(group):
        spread["matthews"] = correlations
    known = [mark for mark in MARKS if all(mark in run.curves.marked for run in group)]
    columns = {
        field: _mean_curve(group, field)
        for field in (
            *("step", "epoch", "seconds", "flops", "seconds_charged", "flops_charged"),
            *("loss", *known, "already_correct"),
        )
    }
    points = []
    for i in range(length):
        point: dict[str, Any] = {name: float(values[i]) for name, values in columns.items()}
        point |= {name: _spread([line[i] for line in lines]) for name, lines in spread.items()}
        points.append(point)
    return points


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
    return {**known, "seconds": run.irreducible_seconds, "flops": run.irreducible.total().flops}


def _describe_proxy(
    runs: list[RunRecord], groups: dict[str, list[RunRecord]]
) -> dict[str, Any] | None:
    """The proxy, what it cost, and how its order of examples compares with the target's.

    Of several batch sizes it is the one that the comparison shows.

    ``replayed`` is the target that trained on its batches, ``direct`` the one that chose for
    itself by the same method; each with the proxy of the same seed and batch.
    """
    replayed = [run for group in groups.values() for run in group if run.manifest.get("proxy")]
    if not replayed:
        return None
    note = replayed[0].manifest["proxy"]
    found: dict[str, Any] = {
        "model": note["model"],
        "method": note["method"],
        "seconds": float(np.mean([run.proxy.total().seconds for run in replayed])),
        "flops": float(np.mean([run.proxy.total().flops for run in replayed])),
        "rank_correlations": {},
    }
    proxies = {(run.seed, run.batch): _probe_of_proxy(run) for run in replayed}
    for name, arm in (("replayed", replayed[0].arm), ("direct", note["method"])):
        pairs = [
            (proxies[run.seed, run.batch], run.probe)
            for run in runs
            if run.arm == arm and (run.seed, run.batch) in proxies
        ]
        if pairs and all(path.exists() for pair in pairs for path in pair):
            one, other = ([ScoreTable.read(p) for p in paths] for paths in zip(*pairs, strict=True))
            found["rank_correlations"][name] = reducible_correlations(one, other)
    return found


def _probe_of_proxy(run: RunRecord) -> Path:
    """Where a proxy's losses lie: what a manifest names must be in the comparison's own folder."""
    folder = run.probe.parent
    named = folder / str(run.manifest["proxy"]["run"])
    home = folder.parent.parent.resolve()
    if home not in named.resolve().parents:
        raise CheckpointError(
            f"{folder / 'manifest.json'} names {named}, which is not in {home}; compare again into "
            "another --out"
        )
    return named / PROBE


def _budget_seconds(runs: list[RunRecord]) -> float | None:
    """Reference seconds that every run of a budget had, its irreducible-loss model included."""
    if runs[0].manifest.get("reference") is None:
        return None
    return max(float(run.curves.seconds_charged[-1]) for run in runs)


def _noise_in_data(data: dict[str, Any]) -> float:
    wrong: float = data["label_noise"]["wrong"]["train"]
    size: float = data["sizes"]["train"]
    return wrong / size


def _marks_in_data(data: dict[str, Any]) -> dict[str, float]:
    """What share of the training set is marked, by mark: what uniform would choose."""
    size: float = data["sizes"]["train"]
    return {mark: parts["train"] / size for mark, parts in data.get("marked", {}).items()}


def _share_between(
    counts: npt.NDArray[Any], chosen: npt.NDArray[Any], ends: npt.NDArray[Any]
) -> Floats:
    """Share of counted among chosen in the steps between consecutive evaluations."""
    edges = np.concatenate([[0], ends])
    part: Floats = np.diff(np.concatenate([[0], np.cumsum(counts)])[edges]).astype(np.float64)
    whole = np.diff(np.concatenate([[0], np.cumsum(chosen)])[edges])
    share: Floats = part / np.maximum(whole, 1)
    return share
