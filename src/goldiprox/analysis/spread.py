"""Mean and spread over seeds, as all records state them; and differences between paired seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["paired", "spread"]


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
