"""Mean and spread over seeds, as all records state them; and differences between paired seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["above", "jointly", "paired", "spread"]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """``mean``, ``std`` (of the sample; None for fewer than two values) and the ``values``."""
    count = len(values)
    mean = sum(values) / count if count else None
    std = None
    if mean is not None and count > 1:
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return {"mean": mean, "std": std, "values": list(values)}


def paired(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean difference of runs paired by seed, its standard error, and what it tells.

    Args:
        mine: one value a seed.
        theirs: of the same seeds.

    Returns:
        ``difference``; ``error``, None for fewer than two pairs; ``better``: True or False where
        the difference is more than two standard errors, None where the seeds do not tell.
    """
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    found = spread(differences)
    if found["std"] is None:
        return {"difference": found["mean"], "error": None, "better": None}
    error = found["std"] / math.sqrt(len(differences))
    better = None if abs(found["mean"]) <= 2 * error else found["mean"] > 0
    return {"difference": found["mean"], "error": error, "better": better}


def above(values: Sequence[float], limit: float) -> bool | None:
    """Whether a mean over seeds lies above a limit: by the rule of :func:`paired`."""
    better: bool | None = paired(values, [limit] * len(values))["better"]
    return better


def jointly(verdicts: Sequence[bool | None]) -> bool | None:
    """A claim with several parts: false if one of them is, true if all are, else undecided."""
    if any(verdict is False for verdict in verdicts):
        return False
    return True if all(verdicts) else None
