"""What ``comparison.json`` holds, as frozen values that read and write themselves.

A comparison is by one metric, its headline, which has a name and a direction. Keys that name it,
such as ``final_accuracy``, stand beside those that do not (``final``), so that what reads files of
version 0.1.0 reads these too; files of that version, which knew accuracies alone, are read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from goldiprox.analysis.quantities import (
    CurvePoint,
    Ends,
    EqualCost,
    Facts,
    GroupResult,
    Interval,
    Spread,
    ToTarget,
    required,
)
from goldiprox.objectives import ACCURACY, MATTHEWS, Metric
from goldiprox.records.files import read_json, write_json
from goldiprox.records.ledger import Ledger
from goldiprox.schema import CheckpointError

__all__ = ["Comparison", "MethodResult", "Verdict"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a method paid (None: it cannot be told), and the sentence that says so."""

    method: str
    paid: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One line of a comparison.

    Attributes:
        method: the line's name: the method, and what tells it from other lines of that method.
        arm: the method alone.
        model: what was trained; None in files of before 0.2.0.
        different: how its data differ from those of other lines.
        seeds: how many runs.
        seed_numbers: their seeds.
        batch: examples trained on per step.
        pool: candidates per step.
        steps: of a run.
        final: the comparison's metric at the end.
        best: and at its best.
        others: further metrics that were measured, by name.
        to_target: what reaching the target cost, by ``COSTS``.
        speedups: how many times less than uniform, by cost; None if never.
        speedups_between: lowest and highest speedup that the evaluations allow.
        at_equal_cost: against uniform; None where there is none.
        selected_share: of what was chosen, by ``SHARES`` and ``redundant``; None where unknown.
        groups: None where no group column was named.
        ledger: mean over seeds, the irreducible-loss model and a proxy included.
        curve: one point an evaluation.
        final_by_batch: where several batch sizes were tried.
    """

    method: str
    arm: str
    model: str | None
    different: Mapping[str, str]
    seeds: int
    seed_numbers: tuple[int, ...]
    batch: int
    pool: int
    steps: int
    final: Spread
    best: Spread
    others: Mapping[str, Ends]
    to_target: Mapping[str, ToTarget]
    speedups: Mapping[str, float | None]
    speedups_between: Mapping[str, Interval | None] | None
    at_equal_cost: EqualCost | None
    selected_share: Mapping[str, float | None]
    groups: tuple[GroupResult, ...] | None
    ledger: Ledger
    curve: tuple[CurvePoint, ...]
    final_by_batch: Mapping[int, Spread]

    def metric(self, name: str | None) -> Ends:
        """A metric by name; the comparison's own for None."""
        return Ends(final=self.final, best=self.best) if name is None else self.others[name]

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """As a JSON value."""
        plain = ("method", "arm", "model", "seeds", "batch", "pool", "steps")
        ends: dict[str, Ends | None] = {
            metric.name: self.metric(None),
            **({MATTHEWS.name: None} if metric == ACCURACY else {}),  # as before 0.2.0
            **self.others,
        }
        by_batch = {str(batch): s.to_json() for batch, s in self.final_by_batch.items()}
        between = self.speedups_between
        costs = {cost: self.to_target[cost].to_json() for cost in self.to_target}
        return {
            **{name: getattr(self, name) for name in plain},
            "different": dict(self.different),
            "seed_numbers": list(self.seed_numbers),
            "final": self.final.to_json(),
            "best": self.best.to_json(),
            **{
                f"{end}_{name}": None if found is None else getattr(found, end).to_json()
                for name, found in ends.items()
                for end in ("final", "best")
            },
            "epochs_to_target": costs.get("epochs"),
            "steps_to_target": costs.get("steps"),
            **{
                f"{kind}_to_target": {
                    how: costs[f"{kind}_{how}"]
                    for how in ("charged", "amortised")
                    if f"{kind}_{how}" in costs
                }
                for kind in ("seconds", "flops")
            },
            "speedup_over_uniform": dict(self.speedups),
            "speedup_between": None
            if between is None
            else {cost: None if pair is None else list(pair) for cost, pair in between.items()},
            "at_equal_cost": None
            if self.at_equal_cost is None
            else self.at_equal_cost.to_json(metric),
            "selected_share": dict(self.selected_share),
            "groups": None if self.groups is None else [group.to_json() for group in self.groups],
            "ledger": self.ledger.to_json(),
            "curve": [point.to_json(metric) for point in self.curve],
            **(
                {"final_by_batch": by_batch, f"final_{metric.name}_by_batch": by_batch}
                if by_batch
                else {}
            ),
        }

    @staticmethod
    def from_json(found: Facts, metric: Metric) -> MethodResult:
        """The inverse of :meth:`to_json`."""
        plain = {name: found[name] for name in ("method", "seeds", "batch", "pool", "steps")}
        own, others = _ends(found, metric)
        by_batch = found.get("final_by_batch", found.get(f"final_{metric.name}_by_batch", {}))
        groups, between = found.get("groups"), found.get("speedup_between")
        same = found.get("at_equal_cost")
        return MethodResult(
            **plain,
            arm=found.get("arm", found["method"]),
            model=found.get("model"),
            different=found.get("different", {}),
            seed_numbers=tuple(found.get("seed_numbers", range(found["seeds"]))),
            final=own.final,
            best=own.best,
            others=others,
            to_target={
                cost: ToTarget.from_json(value)
                for cost, value in _costs(found).items()
                if value is not None
            },
            speedups=found["speedup_over_uniform"],
            speedups_between=None
            if between is None
            else {cost: None if pair is None else tuple(pair) for cost, pair in between.items()},
            at_equal_cost=None if same is None else EqualCost.from_json(same, metric),
            selected_share=found["selected_share"],
            groups=None if groups is None else tuple(map(GroupResult.from_json, groups)),
            ledger=Ledger.from_json(found["ledger"]),
            curve=tuple(CurvePoint.from_json(point, metric) for point in found["curve"]),
            final_by_batch={int(b): Spread.from_json(value) for b, value in by_batch.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods side by side; what ``comparison.json`` holds, see ``docs/formats.md``.

    Attributes:
        dataset: its name.
        protocol: ``paper`` (equal epochs) or ``budget`` (equal seconds).
        budget_seconds: reference seconds of every run; None under the paper protocol.
        metric: what the comparison is by.
        metrics: descriptions of all metrics that the runs' objective reports, this one included.
        target: of the metric, to be reached; None where there is no uniform to set it.
        target_given: whether the user named it.
        settings: of the comparison; empty for run folders put together.
        data: the runs' description of their data.
        model: of the first run: name, parameters, device.
        models: names of all.
        versions: of the first run.
        processes: how many comparisons ran at a time.
        share_corrupted: of the training set; None where nothing is known of it.
        shares_marked: of the training set, by mark.
        weakest_final: the worst final mean of the metric.
        irreducible: the irreducible-loss model; None if none was needed.
        proxy: None if there was none.
        methods: one entry a line, baselines first.
        verdicts: one for each method that is judged.
    """

    dataset: str
    protocol: str
    budget_seconds: float | None
    metric: Metric
    metrics: tuple[Metric, ...]
    target: float | None
    target_given: bool
    settings: Facts
    data: Facts
    model: Facts
    models: tuple[str, ...]
    versions: Facts
    processes: int
    share_corrupted: float | None
    shares_marked: Mapping[str, float]
    weakest_final: float
    irreducible: Facts | None
    proxy: Facts | None
    methods: tuple[MethodResult, ...]
    verdicts: tuple[Verdict, ...] = ()

    def other_metrics(self) -> list[Metric]:
        """Metrics beside the headline that every method was measured by; the loss apart."""
        return [
            metric
            for metric in self.metrics
            if metric.name not in (self.metric.name, "loss")
            and all(metric.name in entry.others for entry in self.methods)
        ]

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        metric = self.metric
        plain = (
            *("dataset", "protocol", "budget_seconds", "target", "target_given", "settings"),
            *("data", "model", "versions", "processes", "weakest_final", "irreducible", "proxy"),
        )
        return {
            **{name: getattr(self, name) for name in plain},
            "metric": asdict(metric),
            "metrics": [asdict(one) for one in self.metrics],
            f"target_{metric.name}": self.target,
            f"weakest_final_{metric.name}": self.weakest_final,
            "models": list(self.models),
            "share_corrupted_in_data": self.share_corrupted,
            "share_marked_in_data": dict(self.shares_marked),
            "methods": [entry.to_json(metric) for entry in self.methods],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    @staticmethod
    def from_json(found: Facts) -> Comparison:
        """The inverse of :meth:`to_json`; takes what version 0.1.0 wrote, too.

        Raises:
            CheckpointError: if it is of another shape.
        """
        try:
            return _comparison(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"a comparison is damaged: it {what}; make it again with: goldiprox report"
            ) from error

    def write(self, path: Path) -> None:
        """Write ``comparison.json``."""
        write_json(path, self.to_json())

    @staticmethod
    def read(path: Path) -> Comparison:
        """Read it back.

        Raises:
            CheckpointError: if the file is absent, damaged, or no comparison.
        """
        return Comparison.from_json(read_json(path, {"methods": list, "dataset": str}))


def _comparison(found: Facts) -> Comparison:
    metric = Metric(**found["metric"]) if found.get("metric") else ACCURACY
    described = found.get("metrics")
    plain = ("dataset", "protocol", "settings", "data", "model", "versions")
    return Comparison(
        **{name: found[name] for name in plain},
        budget_seconds=found.get("budget_seconds"),
        metric=metric,
        metrics=(ACCURACY, MATTHEWS)
        if described is None
        else tuple(Metric(**one) for one in described),
        target=found.get("target", found.get(f"target_{metric.name}")),
        target_given=found.get("target_given", False),
        models=tuple(found.get("models") or [found["model"]["name"]]),
        processes=found.get("processes", 1),
        share_corrupted=found.get("share_corrupted_in_data"),
        shares_marked=found.get("share_marked_in_data", {}),
        weakest_final=found.get("weakest_final", found.get(f"weakest_final_{metric.name}")),
        irreducible=found.get("irreducible"),
        proxy=found.get("proxy"),
        methods=tuple(MethodResult.from_json(entry, metric) for entry in found["methods"]),
        verdicts=tuple(Verdict(**verdict) for verdict in found.get("verdicts", ())),
    )


def _ends(found: Facts, metric: Metric) -> tuple[Ends, dict[str, Ends]]:
    """The comparison's metric at the ends of a method's runs, and the others by name."""
    names = {
        name.removeprefix("final_"): None
        for name in found
        if name.startswith("final_") and not name.endswith("_by_batch")
    }
    ends = {
        name: Ends(
            final=Spread.from_json(found[f"final_{name}"]),
            best=Spread.from_json(found[f"best_{name}"]),
        )
        for name in names
        if found[f"final_{name}"] is not None
    }
    own = ends.pop(metric.name, None)
    return required(own, f"final_{metric.name}"), ends


def _costs(found: Facts) -> dict[str, Any]:
    """What reaching the target cost, by cost, as the file has it."""
    return {
        "epochs": found.get("epochs_to_target"),
        "steps": found.get("steps_to_target"),
        **{
            f"{kind}_{how}": found.get(f"{kind}_to_target", {}).get(how)
            for kind in ("seconds", "flops")
            for how in ("charged", "amortised")
        },
    }
