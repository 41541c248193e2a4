"""Reference seconds: what a step of each kind costs on this machine, measured just before use.

All kinds are measured in one run, taking turns, and the median is kept, so that a busy machine
does not decide which method wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

__all__ = ["reference_seconds"]

ROUNDS = 25
WARM_UP = 3


def reference_seconds(
    kinds: Mapping[str, Callable[[], object]],
    device: torch.device,
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, float]:
    """Time some kinds of work against each other.

    Args:
        kinds: name to a function that does the work once.
        device: where it runs; on CUDA each turn waits for the device.
        report: told of (rounds done, rounds in all).

    Returns:
        Median seconds of one turn, by name.
    """

    def turn(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(WARM_UP + ROUNDS):
        for name, work in kinds.items():
            # Two turns, of which the second counts: the first one refills the caches.
            turn(work)
            seconds = turn(work)
            if round_number >= WARM_UP:
                taken[name].append(seconds)
        report(round_number + 1, WARM_UP + ROUNDS)
    return {name: median(values) for name, values in taken.items()}
