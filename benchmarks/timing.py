"""Interleaved timing: every kind of work takes its turn, round after round, in one process.

Machines are noisy, and noise comes in stretches; what is compared must be measured side by side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one turn."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{1e3 * self.median:9.3f} ms  [{1e3 * self.low:.3f}, {1e3 * self.high:.3f}]"


@dataclass(frozen=True)
class Ratio:
    """Ratio of two kinds of work, taken round by round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f}  [{self.low:.3f}, {self.high:.3f}]"


def interleaved(
    kinds: Mapping[str, Callable[[], object]], *, rounds: int, repeats: int = 1, warm_up: int = 3
) -> dict[str, list[float]]:
    """Time some kinds of work in turns.

    Args:
        kinds: name to a function that does the work once.
        rounds: how many turns each kind takes.
        repeats: how often the work is done in one turn, for work too short to time alone.
        warm_up: turns that do not count.

    Returns:
        Seconds of a single piece of work, by name, one entry a round.
    """
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(warm_up + rounds):
        for name, work in kinds.items():
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            seconds = (time.perf_counter() - started) / repeats
            if turn >= warm_up:
                taken[name].append(seconds)
    return taken


def timing(values: list[float]) -> Timing:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return Timing(middle, low, high)


def ratio(above: list[float], below: list[float]) -> Ratio:
    """Median and quartiles of the rounds' ratios."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(above, below, strict=True)], n=4
    )
    return Ratio(middle, low, high)
