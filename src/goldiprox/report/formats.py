"""Numbers as a reader wants them, with no more digits than the measurement carries; and names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from goldiprox.analysis.quantities import Spread
from goldiprox.objectives import ACCURACY, Metric

__all__ = [
    "DASH",
    "accuracy",
    "accuracy_spread",
    "capitalised",
    "count",
    "flops",
    "flops_tick",
    "memory",
    "metric_spread",
    "metric_value",
    "model_name",
    "seconds",
    "setting",
    "share",
    "speedup",
    "tick",
]

DASH = "–"
"""Stands where there is no number; the page says why."""

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def accuracy(value: float | None) -> str:
    """A share of 1 in percent, without the sign: ``81.5``."""
    return DASH if value is None else f"{100 * value:.1f}"


def accuracy_spread(spread: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds in percent: ``81.5 ± 0.4``; one seed has none."""
    mean = spread.get("mean")
    return DASH if mean is None else ACCURACY.number_spread(mean, spread.get("std"))


def metric_spread(spread: Spread, metric: Metric = ACCURACY) -> str:
    """The same of any metric, without its sign."""
    return metric.number_spread(spread.mean, spread.std)


def metric_value(value: float, metric: Metric) -> str:
    """A value of a metric with its sign: ``85.0 %``, ``57.31``."""
    return f"{metric.number(value)}\u00a0{metric.sign}" if metric.sign else metric.number(value)


def share(value: float | None) -> str:
    """A share of 1 in percent, with the sign: ``9.2 %``; small ones keep a digit that counts."""
    if value is None:
        return DASH
    if 0 < value < 0.0005:
        return "< 0.1\u00a0%"
    return f"{100 * value:.1f}\u00a0%"


def count(value: float | None) -> str:
    """A whole number, thousands apart: ``1,128``; a mean over seeds may keep one digit."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """Seconds, two to three digits: ``0.41``, ``8.8``, ``1,234``."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if value < 0.01:
        return "< 0.01"
    # Compared after rounding: 9.96 is "10.0", not "9.96" with one digit more than 10.1.
    if round(value, 2) < 1:
        return f"{value:.2f}"
    return f"{value:.1f}" if round(value, 1) < 100 else f"{value:,.0f}"


def flops(value: float | None) -> str:
    """Floating-point operations, three digits: ``12.0 T`` for 1.2e13."""
    if value is None:
        return DASH
    for scale, prefix in _PREFIXES:
        scaled = value / scale
        if float(f"{scaled:.3g}") >= 1:
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:,.{digits}f} {prefix}"
    return f"{value:.0f}"


def speedup(ratio: float | None) -> str:
    """A ratio with the times sign: ``4.9×``, ``0.29×``."""
    if ratio is None:
        return DASH
    digits = 2 if ratio < 0.995 else 1 if ratio < 99.5 else 0
    return f"{ratio:,.{digits}f}×"


def memory(value: float) -> str:
    """Bytes: ``976 MB``, ``1.2 GB``; zero was not measured."""
    if not value:
        return DASH
    return f"{value / 1e9:.1f} GB" if value >= 999.5e6 else f"{value / 1e6:.0f} MB"


def model_name(model: str) -> str:
    """A model's name for a title; of the path of a folder the last two parts."""
    parts = PurePath(model).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else model


def capitalised(text: str) -> str:
    """With a capital at its beginning, the rest as it is: ``RMSE``, ``Test accuracy``."""
    return text[:1].upper() + text[1:]


def tick(value: float) -> str:
    """A number beside an axis: as short as it is: ``0.5``, ``8``, ``12,000``."""
    return f"{value:,.10g}"


def flops_tick(value: float) -> str:
    """Floating-point operations beside an axis: ``80 G``."""
    for scale, prefix in _PREFIXES:
        if value >= scale:
            return f"{value / scale:.10g} {prefix}"
    return tick(value)


def setting(value: float) -> str:
    """A share that somebody chose, in percent: ``10 %``, ``2.5 %``."""
    return f"{100 * value:.4g}\u00a0%"
