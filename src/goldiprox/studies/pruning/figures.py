"""Figures of a pruning study."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from goldiprox.report import formats
from goldiprox.report.canvas import INK, QUIET, canvas, put_legend, slug, to_svg

__all__ = ["detection_figure", "histogram_figure", "pruning_figure", "window_figure"]

Diet = dict[str, Any]
Look = tuple[str, str, Any]
"""Colour, marker, dashes."""

KNOWN: dict[str, Look] = {
    "random": ("#868c94", "o", "-"),
    "short-uniform": ("#3d4248", "s", (0, (5, 2))),
    "input_norm": ("#a79f86", "X", (0, (2, 1))),
    "el2n": ("#c8500a", "D", "-"),
}
OTHERS: tuple[Look, ...] = (
    ("#0072b2", "^", "-"),
    ("#009e73", "v", (0, (7, 2, 1, 2))),
    ("#a8428a", "P", "-"),
    ("#b88700", "<", (0, (4, 1))),
    ("#5b3fa8", ">", (0, (2, 1))),
    ("#7a5230", "p", "-"),
    ("#1d6b58", "h", (0, (6, 1, 1, 1))),
    ("#3a9bd1", "*", "-"),
    ("#94404c", "d", (0, (1, 1))),
    ("#5f7d1f", "8", (0, (3, 1, 1, 1))),
    ("#c06bb0", "H", (0, (8, 2))),
)
"""From Okabe and Ito's palette, which is safe for the colour-blind."""

CLEAN, WRONG = "#2f6f9f", "#c8500a"


def looks(names: list[str]) -> dict[str, Look]:
    """One look for each arm or score; unknown ones get one by their order."""
    spare = [name for name in names if name not in KNOWN]
    return {n: KNOWN[n] if n in KNOWN else OTHERS[spare.index(n) % len(OTHERS)] for n in names}


def pruning_figure(diet: Diet, name: str) -> str:
    """Test accuracy against the share of the data kept, a line for each score.

    Args:
        diet: what ``diet.json`` holds.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element.
    """
    rows = [row for row in diet["curves"] if row["offset"] is None]
    (full,) = [row for row in rows if row["arm"] == "full"]
    arms = list(dict.fromkeys(row["arm"] for row in rows if row["arm"] != "full"))
    styles = looks(arms)
    told = []
    with canvas() as figure:
        axes = figure.add_subplot()
        for arm in arms:
            points = sorted((r["share"], r["accuracy"]) for r in rows if r["arm"] == arm)
            _curve(axes, arm, styles[arm], [p[0] for p in points], [p[1] for p in points])
            told.append(f"{arm} {formats.accuracy_spread(points[0][1])} % at the lowest share")
        _full_line(axes, full["accuracy"])
        axes.set_xlabel("share of the data kept, %")
        axes.set_ylabel("test accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        put_legend(figure, [_handle(arm, styles[arm]) for arm in arms])
        return to_svg(figure, name, "Test accuracy against the share kept", "; ".join(told) + ".")


def window_figure(diet: Diet, name: str) -> str | None:
    """Test accuracy against where a window of fixed size begins in the ascending order.

    Args:
        diet: what ``diet.json`` holds.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element, or None where there are no windows.
    """
    windows = sorted(
        (row["offset"], row["accuracy"]) for row in diet["curves"] if row["offset"] is not None
    )
    if not windows:
        return None
    (full,) = [row for row in diet["curves"] if row["arm"] == "full"]
    by = diet["window_by"]
    style = looks([by])[by]
    with canvas() as figure:
        axes = figure.add_subplot()
        _curve(axes, by, style, [w[0] for w in windows], [w[1] for w in windows])
        _full_line(axes, full["accuracy"])
        axes.set_xlabel(f"share of the data with a lower {by} than the window, %")
        axes.set_ylabel("test accuracy, %")
        told = ", ".join(
            f"from {formats.accuracy(at)} %: {formats.accuracy_spread(accuracy)} %"
            for at, accuracy in windows
        )
        return to_svg(figure, name, "Test accuracy of windows", told + ".")


def histogram_figure(diet: Diet, name: str) -> str:
    """Where rightly and wrongly labelled examples lie, before and after the noise.

    Args:
        diet: what ``diet.json`` holds, with noise.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element.
    """
    histogram, by = diet["noise"]["histogram"], diet["noise"]["by"]
    edges, shares = np.array(histogram["edges"]), histogram["shares"]
    with canvas() as figure:
        axes = figure.add_subplot()
        handles: list[Line2D | Patch] = []
        for group, color in (("clean", CLEAN), ("corrupted", WRONG)):
            label = "right" if group == "clean" else "wrong"
            axes.stairs(100 * np.array(shares[group]), edges, color=color, fill=True, alpha=0.35)
            handles.append(Patch(color=color, alpha=0.35, label=label))
            if f"{group} before" in shares:
                before = 100 * np.array(shares[f"{group} before"])
                axes.stairs(before, edges, color=color, linewidth=1.3)
                handles.append(Line2D([], [], color=color, label=f"{label}, before"))
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set_xlabel(by)
        axes.set_ylabel("% of the group, in each bin")
        put_legend(figure, handles)
        means = {
            group: float((np.array(values) * (edges[1:] + edges[:-1]) / 2).sum())
            for group, values in shares.items()
        }
        told = ", ".join(f"{group} {mean:.3g}" for group, mean in means.items())
        return to_svg(figure, name, f"{by} of right and wrong labels", f"Mean {by}: {told}.")


def detection_figure(diet: Diet, name: str) -> str:
    """Precision against recall of finding wrong labels, a line for each score.

    Args:
        diet: what ``diet.json`` holds, with noise.
        name: prefix of the element ids, unique on the page.

    Returns:
        An ``<svg>`` element.
    """
    entries = diet["noise"]["detection"]
    styles = looks([entry["score"] for entry in entries])
    with canvas(3.8) as figure:
        axes = figure.add_subplot()
        for entry in entries:
            color, _, line = styles[entry["score"]]
            (drawn,) = axes.plot(
                [100 * point["recall"] for point in entry["curve"]],
                [100 * point["precision"] for point in entry["curve"]],
                color=color,
                linestyle=line,
                linewidth=1.6,
            )
            drawn.set_gid(f"line-detection-{slug(entry['score'])}")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 101)
        axes.set_xlabel("recall, % of the wrong labels")
        axes.set_ylabel("precision, %")
        put_legend(
            figure,
            [Line2D([], [], color=styles[n][0], linestyle=styles[n][2], label=n) for n in styles],
        )
        told = ", ".join(f"{entry['score']} {entry['auc']:.3f}" for entry in entries)
        return to_svg(figure, name, "Finding wrong labels", f"Area under the ROC curve: {told}.")


def _curve(
    axes: Axes, arm: str, look: Look, at: list[float], accuracy: list[dict[str, Any]]
) -> None:
    color, marker, line = look
    mean = [100 * value["mean"] for value in accuracy]
    deviation = [100 * (value["std"] or 0.0) for value in accuracy]
    places = [100 * value for value in at]
    drawn = axes.errorbar(
        places, mean, yerr=deviation, color=color, linestyle=line, marker=marker,
        markersize=4.6, linewidth=1.6, capsize=2.5, elinewidth=0.8,
    )  # fmt: skip
    drawn[0].set_gid(f"line-{slug(arm)}")


def _full_line(axes: Axes, accuracy: dict[str, Any]) -> None:
    value = 100 * accuracy["mean"]
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=":", zorder=1)
    text = f"all the\ndata\n{value:.1f} %"
    axes.text(1.015, value, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def _handle(arm: str, look: Look) -> Line2D:
    color, marker, line = look
    style: Any = {"color": color or QUIET, "linestyle": line, "marker": marker}
    return Line2D([], [], markersize=4.6, label=arm, **style)
