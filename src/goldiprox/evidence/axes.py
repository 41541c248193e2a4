"""Which axis holds the examples, where the pools so far leave it open: the model is asked."""

from __future__ import annotations

from collections.abc import Callable

import torch

from goldiprox.batch import Batch, ids_of, take
from goldiprox.entries import Layout
from goldiprox.schema import ConfigError, DataError

__all__ = ["settle_first_axis"]


def settle_first_axis(layout: Layout, batch: Batch, rows_of: Callable[[Batch], int]) -> None:
    """Ask the model whether its examples are on the first axis of tensors that leave it open.

    A pool of 16 with a field of shape [16, 16, 5] may have the time first. Two rows of the first
    axis make two examples only if that axis is theirs.

    Args:
        layout: knows which places are open; they are settled afterwards.
        batch: a pool.
        rows_of: for how many examples the model takes a part of the pool.

    Raises:
        DataError: if the model does not take the two rows for two examples.
    """
    size = int(ids_of(batch).shape[0])
    if not layout.doubtful or size < 2:
        return
    count = min(2, size - 1)
    part = take(batch, torch.arange(count), layout)
    cause = None
    try:
        is_right = rows_of(part) == count
    except (RuntimeError, ValueError, IndexError, ConfigError, DataError) as error:
        is_right, cause = False, error
    if not is_right:
        raise DataError(
            f"the pool has {size} examples, and so has a further axis of {layout.names()}: cut "
            "along its first axis it does not fit the model; the first axis must be that of the "
            "examples (batch_first=True for recurrent layers)"
        ) from cause
    layout.settle()
