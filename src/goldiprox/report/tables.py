"""From a comparison to the rows of a report's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from goldiprox.records.ledger import CHARGED_PHASES
from goldiprox.report import formats

__all__ = [
    "Cell",
    "Column",
    "Row",
    "batch_table",
    "ledger_table",
    "left_out_operations",
    "method_table",
    "proxy_table",
    "seed_table",
]

Comparison = dict[str, Any]
Entry = dict[str, Any]

PHASE_NAMES = {
    "irreducible-training": "irreducible-loss model: training",
    "irreducible-scoring": "irreducible-loss model: scoring the data",
    "proxy": "proxy: its whole run",
    "loading": "loading",
    "scoring": "scoring pools and choosing",
    "training": "training",
    "evaluation": "evaluation (not charged)",
    "records": "records (not charged)",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: a key for tests and styles, its heading, a second line for the unit."""

    key: str
    heading: str
    unit: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number on the page; ``value`` is the number itself, ``note`` a small line below it."""

    key: str
    text: str
    value: float | None = None
    note: str = ""
    note_key: str = ""
    note_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row under a heading."""

    name: str
    cells: list[Cell]
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """A column of costs to the target with the speedup that belongs to it."""

    key: str
    heading: str
    unit: str
    path: tuple[str, ...]
    write: Callable[[float | None], str]
    speedup: str = ""

    def find(self, entry: Entry) -> Entry:
        """The statistics of this cost in a method's entry."""
        for key in self.path:
            entry = entry[key]
        return entry


COSTS = (
    _Cost(
        key="epochs",
        heading="epochs",
        unit="",
        path=("epochs_to_target",),
        write=formats.count,
    ),
    _Cost(
        key="steps",
        heading="steps",
        unit="",
        path=("steps_to_target",),
        write=formats.count,
        speedup="steps",
    ),
    _Cost(
        key="seconds_charged",
        heading="seconds",
        unit="charged",
        path=("seconds_to_target", "charged"),
        write=formats.seconds,
        speedup="seconds_charged",
    ),
    _Cost(
        key="seconds_amortised",
        heading="seconds",
        unit="amortised",
        path=("seconds_to_target", "amortised"),
        write=formats.seconds,
        speedup="seconds_amortised",
    ),
    _Cost(
        key="flops_charged",
        heading="FLOPs",
        unit="charged",
        path=("flops_to_target", "charged"),
        write=formats.flops,
        speedup="flops_charged",
    ),
    _Cost(
        key="flops_amortised",
        heading="FLOPs",
        unit="amortised",
        path=("flops_to_target", "amortised"),
        write=formats.flops,
        speedup="flops_amortised",
    ),
)


def method_table(comparison: Comparison) -> tuple[list[Column], list[Row]]:
    """The table of methods.

    Costs to the target are where the mean accuracy of the seeds reaches it, because that is what
    the speedups below them are computed from; :func:`seed_table` has every seed by itself.

    Args:
        comparison: what ``comparison.json`` holds.

    Returns:
        Columns, and a row per method.
    """
    budget = comparison["protocol"] == "budget"
    methods = comparison["methods"]
    noisy = has_noise(comparison)
    judged = any(entry["selected_share"].get("redundant") is not None for entry in methods)
    accuracies = [
        Column(key="best_accuracy", heading="best", group="test accuracy, %"),
        Column(key="final_accuracy", heading="final", group="test accuracy, %"),
    ]
    correlations = [
        Column(key="best_matthews", heading="best", group="Matthews correlation, %"),
        Column(key="final_matthews", heading="final", group="Matthews correlation, %"),
    ]
    if budget:
        accuracies.reverse()
        correlations.reverse()
    columns = accuracies
    if all(entry.get("final_matthews") for entry in methods):
        columns = [*columns, *correlations]
    if comparison["target_accuracy"] is not None:
        group = f"to the target of {formats.share(comparison['target_accuracy'])}"
        columns = [*columns, Column(key="reached", heading="seeds", unit="reached", group=group)]
        columns += [Column(key=c.key, heading=c.heading, unit=c.unit, group=group) for c in COSTS]
    chosen = "of what was chosen, %"
    if noisy:
        columns.append(Column(key="corrupted", heading="wrong", unit="label", group=chosen))
    columns += [
        Column(key=mark, heading=heading, group=chosen)
        for mark, heading in known_marks(comparison).items()
    ]
    columns.append(Column(key="already_correct", heading="already", unit="correct", group=chosen))
    if judged:
        columns.append(Column(key="redundant", heading="redundant", group=chosen))
    rows = []
    for entry in methods:
        cells = {cell.key: cell for cell in _cells(entry)}
        detail = f"batch {entry['batch']:,}" if budget else ""
        rows.append(Row(name=entry["method"], cells=[cells[c.key] for c in columns], detail=detail))
    return columns, rows


def _cells(entry: Entry) -> list[Cell]:
    reached = entry["steps_to_target"]["reached"]
    cells = [_accuracy("best_accuracy", entry), _accuracy("final_accuracy", entry)]
    if entry.get("final_matthews"):
        cells += [_accuracy("best_matthews", entry), _accuracy("final_matthews", entry)]
    cells.append(Cell(key="reached", text=f"{reached}/{entry['seeds']}", value=reached))
    for cost in COSTS:
        value = cost.find(entry)["mean_curve"]
        ratio = (entry.get("speedup_over_uniform") or {}).get(cost.speedup)
        cells.append(
            Cell(
                key=cost.key,
                text=cost.write(value),
                value=value,
                note=""
                if ratio is None or entry["method"] == "uniform"
                else formats.speedup(ratio),
                note_key=f"speedup_{cost.speedup}",
                note_value=ratio,
            )
        )
    for key in ("corrupted", "low_relevance", "ambiguous", "already_correct", "redundant"):
        value = entry["selected_share"].get(key)
        cells.append(Cell(key=key, text=formats.accuracy(value), value=value))
    return cells


def _accuracy(key: str, entry: Entry) -> Cell:
    return Cell(key=key, text=formats.accuracy_spread(entry[key]), value=entry[key]["mean"])


def has_noise(comparison: Comparison) -> bool:
    """Whether any label of the data, or anything chosen, is known to be wrong."""
    shares = [entry["selected_share"]["corrupted"] for entry in comparison["methods"]]
    return bool(comparison["share_corrupted_in_data"] or any(shares))


def known_marks(comparison: Comparison) -> dict[str, str]:
    """What else is known of the examples chosen: by mark, its name for readers."""
    names = {"low_relevance": "low relevance", "ambiguous": "ambiguous"}
    return {
        mark: name
        for mark, name in names.items()
        if all(e["selected_share"].get(mark) is not None for e in comparison["methods"])
    }


def seed_table(comparison: Comparison) -> tuple[list[Column], list[Row]]:
    """Every run of every method: accuracies, and costs at its own first reaching of the target."""
    columns = [
        Column(key="best_accuracy", heading="best", unit="%"),
        Column(key="final_accuracy", heading="final", unit="%"),
    ]
    costs = COSTS if comparison["target_accuracy"] is not None else ()
    columns += [Column(key=c.key, heading=c.heading, unit=c.unit) for c in costs]
    rows = []
    for entry in comparison["methods"]:
        for seed in range(entry["seeds"]):
            cells = [
                Cell(key=c.key, text=formats.accuracy(value), value=value)
                for c in columns[:2]
                for value in [entry[c.key]["values"][seed]]
            ]
            for cost in costs:
                at = cost.find(entry)["values"][seed]
                cells.append(Cell(key=cost.key, text=cost.write(at), value=at))
            rows.append(Row(name=entry["method"], detail=f"run {seed + 1}", cells=cells))
    return columns, rows


def batch_table(comparison: Comparison) -> tuple[list[Column], list[Row]] | None:
    """Final accuracy by batch size, where several were tried; the chosen one is marked."""
    tried = {int(b) for e in comparison["methods"] for b in e.get("final_accuracy_by_batch", {})}
    if not tried:
        return None
    columns = [Column(key=f"batch-{b}", heading=f"{b:,}", group="batch") for b in sorted(tried)]
    rows = []
    for entry in comparison["methods"]:
        by_batch = entry.get("final_accuracy_by_batch", {})
        cells = []
        for batch in sorted(tried):
            spread = by_batch.get(str(batch))
            if spread is None:
                cells.append(Cell(key=f"batch-{batch}", text=formats.DASH))
                continue
            note = "chosen" if batch == entry["batch"] else ""
            text = formats.accuracy_spread(spread)
            cells.append(Cell(key=f"batch-{batch}", text=text, value=spread["mean"], note=note))
        rows.append(Row(name=entry["method"], cells=cells))
    return columns, rows


COMPARED = {
    "replayed": "the target that replays it",
    "direct": "the target that chooses for itself",
}


def proxy_table(comparison: Comparison, most: int = 8) -> tuple[list[Column], list[Row]] | None:
    """Rank correlation of the proxy's and the target's reducible losses along training.

    Args:
        comparison: what ``comparison.json`` holds.
        most: so many epochs at most, evenly chosen, the first and the last among them.

    Returns:
        Columns (epochs) and rows; None where no proxy was compared.
    """
    found = (comparison.get("proxy") or {}).get("rank_correlations") or {}
    epochs = sorted({point["epoch"] for points in found.values() for point in points})
    if not epochs:
        return None
    if len(epochs) > most:
        epochs = [epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most)]
    columns = [Column(key=f"epoch-{e}", heading=f"{e:,}", group="epoch") for e in epochs]
    rows = []
    for name, points in found.items():
        by_epoch = {point["epoch"]: point for point in points}
        cells = []
        for epoch in epochs:
            point = by_epoch.get(epoch) or {"mean": None, "std": None}
            text = formats.DASH if point["mean"] is None else f"{point['mean']:.2f}"
            if point["std"] is not None:
                text += f" ± {point['std']:.2f}"
            cells.append(Cell(key=f"epoch-{epoch}", text=text, value=point["mean"]))
        rows.append(Row(name=COMPARED[name], cells=cells))
    return columns, rows


def ledger_table(entry: Entry) -> list[Row]:
    """One method's costs by phase, what is charged added up in bold."""
    phases = entry["ledger"]["phases"]
    charged = [phases[phase] for phase in CHARGED_PHASES if phase in phases]
    total = {key: sum(cost[key] for cost in charged) for key in ("flops", "seconds")}
    rows = [
        Row(name=PHASE_NAMES.get(phase, phase), cells=_cost_cells(cost))
        for phase, cost in phases.items()
    ]
    cells = [Cell(key="examples", text=""), Cell(key="steps", text=""), *_cost_cells(total)[2:]]
    position = len(charged)
    return [*rows[:position], Row(name="charged", cells=cells, strong=True), *rows[position:]]


def left_out_operations(comparison: Comparison) -> list[str]:
    """Operations that are missing in the FLOPs of some method; old files do not tell."""
    ledgers = (entry["ledger"] for entry in comparison["methods"])
    return sorted({name for one in ledgers for name in one.get("uncounted_operations", ())})


def _cost_cells(cost: dict[str, float]) -> list[Cell]:
    writers: dict[str, Callable[[float | None], str]] = {
        "examples": formats.count,
        "steps": formats.count,
        "flops": formats.flops,
        "seconds": formats.seconds,
    }
    return [
        Cell(key=key, text=write(cost[key]) if cost[key] else formats.DASH, value=cost[key])
        if key in cost
        else Cell(key=key, text="")
        for key, write in writers.items()
    ]
