"""Finished runs, read back from their folders: curves, costs, what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldiprox.analysis.comparable import Line
from goldiprox.config import POOL_RATIO
from goldiprox.objectives import ACCURACY, MATTHEWS, Metric
from goldiprox.records.groups import GroupCounts
from goldiprox.records.ledger import Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import MARKS, read_steps
from goldiprox.records.tables import PROBE
from goldiprox.schema import CheckpointError, ConfigError

__all__ = ["Curves", "Floats", "RunRecord", "read_run", "require_one_metric"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One run along its evaluations; every array has one entry an evaluation.

    Attributes:
        step: training steps done.
        epoch: passes over the pools done.
        value: the run's headline metric on the test set.
        others: further metrics by name, where every evaluation has them.
        loss: on the test set; NaN where it was not measured.
        seconds: wall seconds of loading, scoring and training (reference seconds under the budget
            protocol), without the irreducible-loss model and the proxy.
        flops: floating-point operations of the same.
        seconds_charged: the same with all of the irreducible-loss model, and with as many steps of
            the proxy as the run had done.
        flops_charged: likewise.
        shares: by mark (wrong label, low relevance, ...), its share among what was chosen since the
            evaluation before; ``already_correct`` among them: what was classified correctly before
            the step that trained on it. What nothing is known of is left out.
    """

    step: Floats
    epoch: Floats
    value: Floats
    others: Mapping[str, Floats]
    loss: Floats
    seconds: Floats
    flops: Floats
    seconds_charged: Floats
    flops_charged: Floats
    shares: Mapping[str, Floats]

    def line(self, name: str) -> Floats:
        """One of the arrays, by the name of an attribute, a share or another metric."""
        for named in (self.shares, self.others):
            if name in named:
                return named[name]
        found: Floats = getattr(self, name)
        return found


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run, read back from its folder.

    Attributes:
        arm: the method.
        line: where it belongs in the comparison.
        seed: of the run.
        batch: examples trained on per step.
        pool: candidates per step.
        manifest: of the run.
        metric: its headline.
        metrics: descriptions of all that its objective reports.
        curves: along its evaluations.
        ledger: costs of the run.
        irreducible: costs of its irreducible-loss model.
        irreducible_seconds: the same in seconds, reference seconds under the budget protocol.
        proxy: costs of its proxy.
        probe: where losses along the run lie, if they were kept.
        chosen: picks over the whole run.
        counts: of these, by share's name, how many are marked so, or were already correct.
        groups: counts by group; None where no group column was named.
    """

    arm: str
    line: Line
    seed: int
    batch: int
    pool: int
    manifest: dict[str, Any]
    metric: Metric
    metrics: tuple[Metric, ...]
    curves: Curves
    ledger: Ledger
    irreducible: Ledger
    irreducible_seconds: float
    proxy: Ledger
    probe: Path
    chosen: int
    counts: Mapping[str, int]
    groups: GroupCounts | None


def read_run(folder: RunFolder, line: Line) -> RunRecord:
    """Read a finished run, of the laboratory or of a :class:`goldiprox.Recorder`.

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
    metric, metrics = _metrics(folder.result())
    irreducible = Ledger.from_json((manifest.get("irreducible") or {}).get("ledger") or {})
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
    counts = {
        name: steps[name].to_numpy()
        for name in (*MARKS, "already_correct")
        if not steps[name].null_count
    }
    value = _measured(evaluations, metric.name)
    if value is None:
        raise CheckpointError(
            f"{folder.path / 'evaluations.json'} lacks {metric.name}, by which the run is judged; "
            "an objective must measure its headline at every evaluation"
        )
    others = {
        one.name: found
        for one in metrics
        if one.name not in (metric.name, "loss")
        and (found := _measured(evaluations, one.name)) is not None
    }
    return RunRecord(
        arm=line.arm,
        line=line,
        seed=train["seed"],
        batch=train["batch"],
        pool=train["pool"] or POOL_RATIO * train["batch"],
        manifest=manifest,
        metric=metric,
        metrics=metrics,
        curves=Curves(
            step=ends.astype(np.float64),
            epoch=np.array([e["epoch"] for e in evaluations]),
            value=value,
            others=others,
            loss=np.array([e["loss"] for e in evaluations], dtype=np.float64),
            seconds=seconds,
            flops=flops,
            seconds_charged=seconds + irreducible_seconds + chosen_for["seconds"],
            flops_charged=flops + irreducible.total().flops + chosen_for["flops"],
            shares={name: _share_between(count, chosen, ends) for name, count in counts.items()},
        ),
        ledger=Ledger.from_json(folder.ledger()),
        irreducible=irreducible,
        irreducible_seconds=irreducible_seconds,
        proxy=Ledger.from_json(proxy.get("ledger", {})),
        probe=folder.path / PROBE,
        chosen=int(chosen.sum()),
        counts={name: int(count.sum()) for name, count in counts.items()},
        groups=GroupCounts.read(folder.path),
    )


def require_one_metric(runs: Sequence[RunRecord]) -> Metric:
    """What the runs are compared by.

    Raises:
        ConfigError: if they are not all judged by the same metric.
    """
    first = runs[0]
    for run in runs:
        if run.metric != first.metric:
            one, other = first.probe.parent, run.probe.parent
            raise ConfigError(
                f"these runs are judged by different metrics: {first.metric.title} in {one} and "
                f"{run.metric.title} in {other}, so their results do not compare; leave one out"
            )
    return first.metric


def _metrics(result: Mapping[str, Any]) -> tuple[Metric, tuple[Metric, ...]]:
    """A run's headline, and all that its objective reports; version 0.1.0 knew accuracy alone."""
    if "metric" not in result:
        return ACCURACY, (ACCURACY, MATTHEWS)
    headline = Metric(**result["metric"])
    return headline, tuple(Metric(**one) for one in result.get("metrics", [result["metric"]]))


def _measured(evaluations: Sequence[Mapping[str, Any]], name: str) -> Floats | None:
    """A metric along the run; None unless every evaluation has it."""
    values = [e[name] if name in e else e.get("metrics", {}).get(name) for e in evaluations]
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


def _share_between(
    counts: npt.NDArray[Any], chosen: npt.NDArray[Any], ends: npt.NDArray[Any]
) -> Floats:
    """Share of counted among chosen in the steps between consecutive evaluations."""
    edges = np.concatenate([[0], ends])
    part: Floats = np.diff(np.concatenate([[0], np.cumsum(counts)])[edges]).astype(np.float64)
    whole = np.diff(np.concatenate([[0], np.cumsum(chosen)])[edges])
    share: Floats = part / np.maximum(whole, 1)
    return share
