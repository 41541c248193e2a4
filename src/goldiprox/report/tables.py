"""From a comparison to the rows of a report's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from goldiprox.analysis.comparison import Comparison, MethodResult
from goldiprox.analysis.quantities import SHARES
from goldiprox.objectives import Metric
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
    "other_table",
    "proxy_table",
    "seed_table",
]

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
    """A column of costs to the target, with the speedup that belongs to it."""

    key: str
    heading: str
    unit: str = ""
    write: Callable[[float | None], str]


COSTS = (
    _Cost(key="epochs", heading="epochs", write=formats.count),
    _Cost(key="steps", heading="steps", write=formats.count),
    _Cost(key="seconds_charged", heading="seconds", unit="charged", write=formats.seconds),
    _Cost(key="seconds_amortised", heading="seconds", unit="amortised", write=formats.seconds),
    _Cost(key="flops_charged", heading="FLOPs", unit="charged", write=formats.flops),
    _Cost(key="flops_amortised", heading="FLOPs", unit="amortised", write=formats.flops),
)


def method_table(comparison: Comparison) -> tuple[list[Column], list[Row]]:
    """The table of methods.

    Costs to the target are where the mean of the seeds' metric reaches it, because that is what
    the speedups below them are computed from; :func:`seed_table` has every seed by itself.

    Args:
        comparison: the comparison.

    Returns:
        Columns, and a row per method.
    """
    budget, metric = comparison.protocol == "budget", comparison.metric
    columns = _ends(metric, f"test {metric.heading}", budget)
    others = comparison.other_metrics()
    if len(others) == 1:  # several have a table of their own, see other_table
        columns += _ends(others[0], others[0].heading, budget)
    if comparison.target is not None:
        group = f"to the target of {formats.metric_value(comparison.target, metric)}"
        columns = [*columns, Column(key="reached", heading="seeds", unit="reached", group=group)]
        columns += [
            Column(key=c.key, heading=c.heading, unit=c.unit, group=group)
            for c in COSTS
            if counted(comparison) or not c.key.startswith("flops")
        ]
    columns += _chosen_columns(comparison)
    rows = []
    for entry in comparison.methods:
        cells = {cell.key: cell for cell in _cells(entry, metric, others[:1])}
        detail = f"batch {entry.batch:,}" if budget else ""
        rows.append(Row(name=entry.method, cells=[cells[c.key] for c in columns], detail=detail))
    return columns, rows


def other_table(comparison: Comparison) -> tuple[list[Column], list[Row]] | None:
    """Further metrics of the methods, where there are several."""
    others = comparison.other_metrics()
    if len(others) < 2:
        return None
    budget = comparison.protocol == "budget"
    columns = [column for one in others for column in _ends(one, one.heading, budget)]
    rows = []
    for entry in comparison.methods:
        cells = {cell.key: cell for one in others for cell in _metric_cells(entry, one, one.name)}
        rows.append(Row(name=entry.method, cells=[cells[column.key] for column in columns]))
    return columns, rows


def _ends(metric: Metric, group: str, budget: bool) -> list[Column]:
    """Two columns of a metric, what counts first."""
    columns = [
        Column(key=f"{end}_{metric.name}", heading=end, group=group) for end in ("best", "final")
    ]
    return columns[::-1] if budget else columns


def _chosen_columns(comparison: Comparison) -> list[Column]:
    """What is known of the examples that were chosen."""
    group = "of what was chosen, %"
    columns = []
    if has_noise(comparison):
        wrong = wrong_words(comparison)
        columns.append(Column(key="corrupted", heading=wrong.head, unit=wrong.unit, group=group))
    columns += [
        Column(key=mark, heading=heading, group=group)
        for mark, heading in known_marks(comparison).items()
    ]
    if knows_correct(comparison):
        columns.append(
            Column(key="already_correct", heading="already", unit="correct", group=group)
        )
    if any(entry.selected_share.get("redundant") is not None for entry in comparison.methods):
        columns.append(Column(key="redundant", heading="redundant", group=group))
    return columns


def _cells(entry: MethodResult, metric: Metric, others: Sequence[Metric]) -> list[Cell]:
    steps = entry.to_target.get("steps")
    reached = 0 if steps is None else steps.reached
    cells = _metric_cells(entry, metric, None)
    cells += [cell for other in others for cell in _metric_cells(entry, other, other.name)]
    cells.append(Cell(key="reached", text=f"{reached}/{entry.seeds}", value=reached))
    for cost in COSTS:
        value = entry.to_target[cost.key].mean_curve
        ratio = entry.speedups.get(cost.key)
        cells.append(
            Cell(
                key=cost.key,
                text=cost.write(value),
                value=value,
                note="" if ratio is None or entry.method == "uniform" else formats.speedup(ratio),
                note_key=f"speedup_{cost.key}",
                note_value=ratio,
            )
        )
    for key in (*SHARES, "redundant"):
        share = entry.selected_share.get(key)
        cells.append(Cell(key=key, text=formats.accuracy(share), value=share))
    return cells


def _metric_cells(entry: MethodResult, metric: Metric, key: str | None) -> list[Cell]:
    ends = entry.metric(key)
    return [
        Cell(
            key=f"{name}_{metric.name}",
            text=formats.metric_spread(spread, metric),
            value=spread.mean,
        )
        for name, spread in (("best", ends.best), ("final", ends.final))
    ]


@dataclass(frozen=True)
class Words:
    """What an example whose label is not the published one is called.

    Attributes:
        head: first line of a column's heading.
        unit: its second line.
        short: on the terminal.
        chosen: of such examples, after "was chosen that is".
        title: of a figure.
    """

    head: str
    unit: str
    short: str
    chosen: str
    title: str


WRONG = Words("wrong", "label", "wrong\nlabels %", "wrongly labelled", "Wrong labels")
EXCHANGED = Words("false", "target", "false\n%", "with a false target", "False targets")


def wrong_words(comparison: Comparison) -> Words:
    """Classes are labelled wrongly; numbers and label sets are exchanged for others'."""
    return EXCHANGED if comparison.data.get("targets", "classes") != "classes" else WRONG


def has_noise(comparison: Comparison) -> bool:
    """Whether any label of the data, or anything chosen, is known to be wrong."""
    shares = [entry.selected_share.get("corrupted") for entry in comparison.methods]
    return None not in shares and bool(comparison.share_corrupted or any(shares))


def knows_correct(comparison: Comparison) -> bool:
    """Whether it is known of every method which chosen examples were right already."""
    return all(e.selected_share.get("already_correct") is not None for e in comparison.methods)


def counted(comparison: Comparison) -> bool:
    """Whether floating-point operations were counted at all."""
    return any(point.costs["flops"] for entry in comparison.methods for point in entry.curve)


def known_marks(comparison: Comparison) -> dict[str, str]:
    """What else is known of the examples chosen: by mark, its name for readers."""
    names = {"low_relevance": "low relevance", "ambiguous": "ambiguous"}
    return {
        mark: name
        for mark, name in names.items()
        if all(entry.selected_share.get(mark) is not None for entry in comparison.methods)
    }


def seed_table(comparison: Comparison) -> tuple[list[Column], list[Row]]:
    """Every run of every method: its metric, and costs at its own first reaching of the target."""
    metric = comparison.metric
    columns = [
        Column(key=f"{end}_{metric.name}", heading=end, unit=metric.sign)
        for end in ("best", "final")
    ]
    costs = COSTS if comparison.target is not None else ()
    columns += [Column(key=c.key, heading=c.heading, unit=c.unit) for c in costs]
    rows = []
    for entry in comparison.methods:
        for run in range(entry.seeds):
            ends = [entry.best.values[run], entry.final.values[run]]
            cells = [
                Cell(key=column.key, text=metric.number(value), value=value)
                for column, value in zip(columns[:2], ends, strict=True)
            ]
            for cost in costs:
                at = entry.to_target[cost.key].values[run]
                cells.append(Cell(key=cost.key, text=cost.write(at), value=at))
            rows.append(Row(name=entry.method, detail=f"run {run + 1}", cells=cells))
    return columns, rows


def batch_table(comparison: Comparison) -> tuple[list[Column], list[Row]] | None:
    """The final metric by batch size, where several were tried; the chosen one is marked."""
    tried = sorted({batch for entry in comparison.methods for batch in entry.final_by_batch})
    if not tried:
        return None
    columns = [Column(key=f"batch-{b}", heading=f"{b:,}", group="batch") for b in tried]
    rows = []
    for entry in comparison.methods:
        cells = []
        for batch in tried:
            spread = entry.final_by_batch.get(batch)
            if spread is None:
                cells.append(Cell(key=f"batch-{batch}", text=formats.DASH))
                continue
            note = "chosen" if batch == entry.batch else ""
            text = formats.metric_spread(spread, comparison.metric)
            cells.append(Cell(key=f"batch-{batch}", text=text, value=spread.mean, note=note))
        rows.append(Row(name=entry.method, cells=cells))
    return columns, rows


COMPARED = {
    "replayed": "the target that replays it",
    "direct": "the target that chooses for itself",
}


def proxy_table(comparison: Comparison, most: int = 8) -> tuple[list[Column], list[Row]] | None:
    """Rank correlation of the proxy's and the target's reducible losses along training.

    Args:
        comparison: the comparison.
        most: so many epochs at most, evenly chosen, the first and the last among them.

    Returns:
        Columns (epochs) and rows; None where no proxy was compared.
    """
    found: dict[str, Any] = (comparison.proxy or {}).get("rank_correlations") or {}
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


def ledger_table(entry: MethodResult) -> list[Row]:
    """One method's costs by phase, what is charged added up in bold."""
    phases = entry.ledger.to_json()["phases"]
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
    """Operations that are missing in the FLOPs of some method."""
    return sorted({name for entry in comparison.methods for name in entry.ledger.uncounted})


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
