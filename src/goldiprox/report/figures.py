"""Figures of a comparison, as SVG to be put inside a page.

Nothing here touches pyplot: every figure is an object of its own, drawn without a display. The
same comparison gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from goldiprox.analysis.comparison import Comparison
from goldiprox.objectives import Metric
from goldiprox.records.ledger import CHARGED_PHASES
from goldiprox.report import formats
from goldiprox.report.canvas import INK, NICE, QUIET, canvas, put_legend, slug, to_svg

__all__ = [
    "MethodStyle",
    "chosen_figure",
    "cost_figure",
    "method_styles",
    "quality_figure",
]


@dataclass(frozen=True)
class MethodStyle:
    """How a method looks in every figure: colour, marker and dashes all tell it apart."""

    color: str
    marker: str
    line: Literal["-"] | tuple[float, tuple[float, ...]] = "-"
    width: float = 1.6


KNOWN = {
    "uniform": MethodStyle("#868c94", "o"),
    "uniform-full": MethodStyle("#3d4248", "s", (0, (5, 2))),
    "rho-loss": MethodStyle("#c8500a", "D", "-", 2.2),
    "loss": MethodStyle("#0072b2", "^"),
    "goldiprox": MethodStyle("#d4a100", "H", "-", 2.2),
    "irreducible": MethodStyle("#009e73", "v", (0, (7, 2, 1, 2))),
}
"""Greys for the two baselines, the accent for RHO-LOSS; from Okabe and Ito's palette, which is
safe for the colour-blind."""

OTHERS = (
    MethodStyle("#a8428a", "P"),
    MethodStyle("#3a9bd1", "X", (0, (4, 1))),
    MethodStyle("#b88700", "<"),
    MethodStyle("#5b3fa8", ">", (0, (2, 1))),
    MethodStyle("#7a5230", "p"),
    MethodStyle("#1d6b58", "h", (0, (6, 1, 1, 1, 1, 1))),
)

PHASE_LOOKS: dict[str, tuple[str, str]] = {
    "irreducible-training": ("#6d4a8f", "irreducible-loss model"),
    "irreducible-scoring": ("#b59ccb", "its scoring pass"),
    "proxy": ("#8a9a2b", "the proxy's run"),
    "loading": ("#c9ccd1", "loading"),
    "scoring": ("#e2a13c", "scoring, choosing"),
    "training": ("#2f6f9f", "training"),
}


def method_styles(names: Sequence[str]) -> dict[str, MethodStyle]:
    """One look per method; methods unknown here get one by their order."""
    spare = [name for name in names if name not in KNOWN]
    return {
        name: KNOWN[name] if name in KNOWN else OTHERS[spare.index(name) % len(OTHERS)]
        for name in names
    }


def quality_figure(
    comparison: Comparison,
    name: str,
    x: str,
    label: str,
    tick: Callable[[float], str],
    other: Metric | None = None,
) -> str:
    """The comparison's metric (or another one) against a cost, one line per method.

    Args:
        comparison: the comparison.
        name: prefix of the element ids, unique on the page.
        x: cost of a curve's points; where it differs from the same cost without ``_charged``,
            the latter (the irreducible-loss model for free) is drawn thin and dashed.
        label: of the x axis.
        tick: writes a number on the x axis.
        other: of the comparison's other metrics; without one comes the target.

    Returns:
        An ``<svg>`` element.
    """
    amortised_x = x.removesuffix("_charged")
    any_amortised = False
    metric, key = other or comparison.metric, other.name if other else None
    scale = 100 if metric.unit == "share" else 1
    with canvas() as figure:
        axes = figure.add_subplot()
        styles = method_styles([entry.method for entry in comparison.methods])
        means = {
            entry.method: [scale * point.metric(key).mean for point in entry.curve]
            for entry in comparison.methods
        }
        for entry in comparison.methods:
            style, mean = styles[entry.method], means[entry.method]
            at = [point.costs[x] for point in entry.curve]
            _line(axes, entry.method, style, at, mean)
            deviations = [point.metric(key).std for point in entry.curve]
            known = [scale * deviation for deviation in deviations if deviation is not None]
            if known and len(known) == len(deviations):
                low = [m - d for m, d in zip(mean, known, strict=True)]
                high = [m + d for m, d in zip(mean, known, strict=True)]
                if metric.unit == "share":
                    high = [min(top, 100.0) for top in high]
                axes.fill_between(at, low, high, color=style.color, alpha=0.16, linewidth=0)
            free = [point.costs[amortised_x] for point in entry.curve]
            if free != at:
                any_amortised = True
                (thin,) = axes.plot(
                    free, mean, color=style.color, linewidth=0.9, linestyle=(0, (2, 2))
                )
                thin.set_gid(f"amortised-{slug(entry.method)}")
        if metric.unit != "share":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.tick(value)))
        _frame(axes, [values for values in means.values() if values], metric)
        target = comparison.target
        if target is not None and other is None and _within_reach(axes, scale * target):
            _reference(axes, scale * target, f"target\n{formats.metric_value(target, metric)}")
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.set_ylabel(f"test {metric.heading}" if other is None else metric.heading)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE, integer=x in ("step", "epoch")))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        extra = []
        if any_amortised:
            dashes = {"color": QUIET, "linewidth": 0.9, "linestyle": (0, (2, 2))}
            extra.append(Line2D([], [], label="amortised", **dashes))  # type: ignore[arg-type]
        _legend(figure, comparison, extra)
        drawn = metric.title if other else f"test {metric.title}"
        title = f"{formats.capitalised(drawn)} against {label}"
        return to_svg(figure, name, title, _best_text(comparison, metric, key))


def _frame(axes: Axes, curves: Sequence[Sequence[float]], metric: Metric) -> None:
    """Limits of the y axis: a wild method, or its band, must not flatten every other curve."""
    if not curves:
        return
    means = [value for curve in curves for value in curve]
    low, high = min(means), max(means)
    if metric.unit == "share":
        axes.set_ylim(bottom=low - 0.06 * (high - low) - 0.5)
        return
    # Nothing bounds such a metric: what is far worse than most curves ever are leaves the frame.
    worst = max if not metric.higher_is_better else min
    usual = sorted(worst(curve) for curve in curves)[len(curves) // 2]
    best = low if not metric.higher_is_better else high
    edge = best + 1.5 * (usual - best)
    low, high = (low, min(high, edge)) if not metric.higher_is_better else (max(low, edge), high)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _within_reach(axes: Axes, value: float) -> bool:
    """Make room for a value that lies not too far beyond the y axis; whether it fits then.

    What lies further away would flatten the curves, and its name would take all of the figure.
    """
    low, high = axes.get_ylim()
    span = high - low
    if not low - span <= value <= high + span:
        return False
    if not low <= value <= high:
        axes.set_ylim(min(low, value - 0.05 * span), max(high, value + 0.05 * span))
    return True


def chosen_figure(comparison: Comparison, name: str, field: str, label: str) -> str:
    """What was chosen over time, one line per method.

    Args:
        comparison: the comparison.
        name: prefix of the element ids, unique on the page.
        field: ``already_correct`` or a mark, such as ``corrupted``, of a curve's points.
        label: of the y axis, without the unit.

    Returns:
        An ``<svg>`` element.
    """
    with canvas() as figure:
        axes = figure.add_subplot()
        styles = method_styles([entry.method for entry in comparison.methods])
        for entry in comparison.methods:
            at = [point.costs["epoch"] for point in entry.curve]
            values = [100 * point.shares[field] for point in entry.curve]
            line = _line(axes, entry.method, styles[entry.method], at, values)
            line.set_clip_on(False)  # shares of 0 and 100 % lie on the frame
        own_share = (
            comparison.share_corrupted
            if field == "corrupted"
            else comparison.shares_marked.get(field)
        )
        if own_share is not None:
            own = 100 * own_share
            _reference(axes, own, f"in the\ndata\n{own:.1f} %")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if field == "already_correct":
            axes.set_ylim(top=100)
        axes.set_xlabel("epochs")
        axes.set_ylabel(f"{label}, % of chosen")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE, integer=True))
        _legend(figure, comparison, [])
        shares = [
            f"{entry.method} {formats.share(entry.selected_share[field])}"
            for entry in comparison.methods
        ]
        description = "Over the whole run: " + ", ".join(shares) + "."
        return to_svg(figure, name, f"{label} among the chosen, against epochs", description)


def cost_figure(comparison: Comparison, name: str) -> str:
    """Where a run's wall seconds went, a bar per method, a piece per phase.

    Args:
        comparison: the comparison.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element.
    """
    methods = comparison.methods
    totals = []
    with canvas(1.35 + 0.36 * len(methods)) as figure:
        axes = figure.add_subplot()
        for row, entry in enumerate(methods):
            phases = entry.ledger.phases
            left = 0.0
            for phase in CHARGED_PHASES:
                width = phases[phase].seconds if phase in phases else 0.0
                color = PHASE_LOOKS[phase][0]
                axes.barh(row, width, 0.62, left, color=color, edgecolor="white", linewidth=0.6)
                left += width
            free = sum(cost.seconds for p, cost in phases.items() if p not in CHARGED_PHASES)
            axes.barh(
                row, free, 0.62, left, color="white", edgecolor=QUIET, hatch="/////", linewidth=0.5
            )
            axes.annotate(
                formats.seconds(left),
                (left + free, row),
                (4, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
            totals.append(f"{entry.method} {formats.seconds(left)} s")
        axes.set_yticks(range(len(methods)), [entry.method for entry in methods])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel("wall seconds of a run (number: charged in all)")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.tick(value)))
        used = {phase for entry in methods for phase in entry.ledger.phases}
        handles = [
            Patch(color=color, label=text)
            for phase, (color, text) in PHASE_LOOKS.items()
            if phase in used
        ]
        free_look = {"facecolor": "white", "edgecolor": QUIET, "hatch": "/////", "linewidth": 0.5}
        handles.append(Patch(label="not charged", **free_look))  # type: ignore[arg-type]
        put_legend(figure, handles, handlelength=1.3)
        description = "Charged per run: " + ", ".join(totals) + "."
        return to_svg(figure, name, "Wall seconds by phase and method", description)


def _line(
    axes: Axes, method: str, style: MethodStyle, at: list[float], values: list[float]
) -> Line2D:
    (line,) = axes.plot(
        at,
        values,
        color=style.color,
        linestyle=style.line,
        linewidth=style.width,
        marker=style.marker,
        markersize=4.2,
        markeredgewidth=0,
        markevery=max(1, len(at) // 12),
        zorder=3 if method == "rho-loss" else 2,
    )
    line.set_gid(f"line-{slug(method)}")
    return line


def _reference(axes: Axes, value: float, text: str) -> None:
    """A dotted line, named outside the axes, where no curve runs through the name."""
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=":", zorder=1)
    axes.text(1.015, value, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def _legend(figure: Figure, comparison: Comparison, extra: list[Line2D]) -> None:
    handles = []
    styles = method_styles([entry.method for entry in comparison.methods])
    for method, style in styles.items():
        handle = Line2D([], [], color=style.color, linestyle=style.line, linewidth=style.width)
        handle.set(marker=style.marker, markersize=4.2, markeredgewidth=0, label=method)
        handles.append(handle)
    put_legend(figure, handles + extra)


def _best_text(comparison: Comparison, metric: Metric, key: str | None) -> str:
    best = [
        f"{entry.method} {formats.metric_spread(entry.metric(key).best, metric)} {metric.sign}"
        for entry in comparison.methods
    ]
    return f"Best {metric.title}: " + ", ".join(map(str.rstrip, best)) + "."
