"""Figures of a dynamics study: velocity along the order, barriers against spawn epoch and time."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from goldiprox.report import formats
from goldiprox.report.canvas import HAIRLINE, NICE, QUIET, canvas, put_legend, slug, to_svg

__all__ = ["barrier_figure", "barrier_over_time_figure", "velocity_figure"]

Summary = dict[str, Any]

SET_LOOKS = {
    "lowest": ("#0072b2", "v", "lowest scores"),
    "random": ("#868c94", "o", "random"),
    "highest": ("#c8500a", "^", "highest scores"),
}
MARKERS = "osD^vPX<>ph"


def epoch_colors(epochs: list[int]) -> dict[int, str]:
    """Dark to light along the training, all of them dark enough on white."""
    scale = mpl.colormaps["viridis"]
    last = max(1, len(epochs) - 1)
    return {epoch: to_hex(scale(0.85 * number / last)) for number, epoch in enumerate(epochs)}


def velocity_figure(summary: Summary, arm: Summary, name: str) -> str:
    """Kernel velocity of the windows along the order, a line for each epoch.

    Args:
        summary: what ``dynamics.json`` holds.
        arm: one of its arms.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element. Where labels are wrong, grey bars show their share in each window.
    """
    colors = epoch_colors(summary["velocity_epochs"])
    middle = summary["window"] / 2
    at = [100 * (w["start"] + middle) / summary["examples"] for w in arm["windows"]]
    with canvas(3.5) as figure:
        axes = figure.add_subplot()
        handles: list[Line2D | Patch] = []
        for number, row in enumerate(arm["velocity"]):
            color, marker = colors[row["epoch"]], MARKERS[number % len(MARKERS)]
            means = [window["mean"] for window in row["windows"]]
            (line,) = axes.plot(at, means, color=color, marker=marker, markersize=3.8)
            line.set(linewidth=1.5, markeredgewidth=0, label=f"epoch {row['epoch']}")
            line.set_gid(f"line-epoch-{row['epoch']}")
            _band(axes, at, row["windows"], color, floor=0.5)
            handles.append(line)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"place in ascending order of {arm['score']}, % of the examples")
        axes.set_ylabel("kernel velocity, 1/epoch")
        if arm["share_corrupted"]:
            handles.append(_wrong_labels(axes, at, arm))
        put_legend(figure, handles)
        ends = ", ".join(
            f"epoch {row['epoch']}: {row['windows'][0]['mean']:.3g} on the lowest, "
            f"{row['windows'][-1]['mean']:.3g} on the highest scores"
            for row in arm["velocity"]
        )
        return to_svg(figure, name, "Kernel velocity against the order of scores", f"{ends}.")


def _wrong_labels(axes: Axes, at: list[float], arm: Summary) -> Patch:
    """The share of wrong labels in each window, on an axis of its own behind the lines."""
    behind = axes.twinx()
    shares = [100 * window["share_corrupted"] for window in arm["windows"]]
    width = 0.6 * 100 / max(1, len(at))
    behind.bar(at, shares, width, color=HAIRLINE, zorder=0)
    behind.set_ylim(0, 100)
    behind.set_ylabel("wrong labels, % of window", color=QUIET)
    behind.spines["right"].set_visible(True)
    behind.grid(visible=False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    return Patch(color=HAIRLINE, label="wrong labels")


def barrier_figure(summary: Summary, name: str) -> str:
    """Error barrier at the end of training against the spawn epoch, a line for each set."""
    ends = [row for row in summary["barrier"] if row["epoch"] == summary["epochs"]]
    at = [float(row["spawned"]) for row in ends]
    with canvas(3.5) as figure:
        axes = figure.add_subplot()
        handles = []
        for set_name, (color, marker, label) in SET_LOOKS.items():
            spreads = [row["sets"][set_name] for row in ends]
            handles.append(_points_line(axes, at, spreads, color, marker, label, set_name))
        _finish(axes, "epoch after which the child was spawned", "barrier, points of error")
        put_legend(figure, handles)
        text = "; ".join(
            f"{label} " + ", ".join(f"{100 * row['sets'][key]['mean']:.1f}" for row in ends)
            for key, (_, _, label) in SET_LOOKS.items()
        )
        spawned = ", ".join(formats.tick(epoch) for epoch in at)
        description = f"Points of training error at spawn epochs {spawned}: {text}."
        return to_svg(figure, name, "Error barrier against the spawn epoch", description)


def barrier_over_time_figure(summary: Summary, set_name: str, name: str) -> str:
    """Error barrier of one set against the epoch at which it is measured, a line for each spawn."""
    colors = epoch_colors(summary["spawn_epochs"])
    highest = max(row["sets"][key]["mean"] for row in summary["barrier"] for key in SET_LOOKS)
    with canvas(3.5) as figure:
        axes = figure.add_subplot()
        handles = []
        for number, spawned in enumerate(summary["spawn_epochs"]):
            rows = [row for row in summary["barrier"] if row["spawned"] == spawned]
            # When it is spawned the child is the parent: no barrier.
            at = [float(spawned), *(float(row["epoch"]) for row in rows)]
            spreads = [{"mean": 0.0, "std": None}, *(row["sets"][set_name] for row in rows)]
            look = colors[spawned], MARKERS[number % len(MARKERS)]
            label = f"from epoch {spawned}"
            handles.append(_points_line(axes, at, spreads, *look, label, f"spawn-{spawned}"))
        _finish(axes, "epoch", "barrier, points of error")
        axes.set_ylim(top=max(1.0, 110 * highest))  # the same for all sets, to be compared by eye
        put_legend(figure, handles)
        title = f"Error barrier over time, {SET_LOOKS[set_name][2]}"
        last = [row for row in summary["barrier"] if row["epoch"] == summary["epochs"]]
        description = "At the end: " + ", ".join(
            f"spawned after epoch {row['spawned']} {100 * row['sets'][set_name]['mean']:.1f}"
            for row in last
        )
        return to_svg(figure, name, title, f"{description} points.")


def _points_line(
    axes: Axes,
    at: list[float],
    spreads: list[Summary],
    color: str,
    marker: str,
    label: str,
    gid: str,
) -> Line2D:
    """Shares of 1 as points, with a band of one standard deviation."""
    scaled = [
        {"mean": 100 * s["mean"], "std": None if s["std"] is None else 100 * s["std"]}
        for s in spreads
    ]
    (line,) = axes.plot(at, [s["mean"] for s in scaled], color=color, marker=marker)
    line.set(linewidth=1.6, markersize=4.2, markeredgewidth=0, label=label)
    line.set(clip_on=False)  # zero lies on the frame
    line.set_gid(f"line-{slug(gid)}")
    _band(axes, at, scaled, color, floor=0.0)
    return line


def _band(axes: Axes, at: list[float], spreads: list[Summary], color: str, *, floor: float) -> None:
    """One standard deviation to both sides, not below a share of the mean (for log axes)."""
    known = [spread["std"] or 0.0 for spread in spreads]
    if not any(known):
        return
    low = [max(s["mean"] - d, floor * s["mean"]) for s, d in zip(spreads, known, strict=True)]
    high = [s["mean"] + d for s, d in zip(spreads, known, strict=True)]
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE, integer=True))
