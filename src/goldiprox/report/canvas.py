"""What all figures share: their look, their legend, and the way into the page.

Nothing here touches pyplot: every figure is an object of its own, drawn without a display. The
same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from goldiprox.report.svg import for_page

__all__ = ["HAIRLINE", "INK", "NICE", "QUIET", "canvas", "put_legend", "slug", "to_svg"]

INK = "#25282d"
QUIET = "#6a7078"
HAIRLINE = "#d9dce0"
WIDTH, HEIGHT = 4.5, 3.3
NICE = [1, 2, 2.5, 5, 10]

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "goldiprox",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
}


@contextmanager
def canvas(height: float = HEIGHT) -> Iterator[Figure]:
    """A figure under this page's settings; matplotlib's own are back in place afterwards."""
    with mpl.rc_context(SETTINGS):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


FITS = 0.97
"""Part of a figure's width that a legend may take: a reader's letters may be wider than ours."""


def put_legend(
    figure: Figure, handles: Sequence[Line2D | Patch], handlelength: float = 2.9
) -> None:
    """A legend above the axes, in as many columns as fit, three at most."""
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=columns,
            handlelength=handlelength,
            columnspacing=1.1,
            borderpad=0.0,
            labelspacing=0.35,
        )
        if columns == 1 or legend.get_window_extent().width <= FITS * figure.bbox.width:
            return
        legend.remove()


def slug(name: str) -> str:
    """A name as part of an element's id."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", name)


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element; see :func:`goldiprox.report.svg.for_page`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return for_page(buffer.getvalue(), name=name, title=title, description=description)
