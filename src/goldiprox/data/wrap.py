"""Ids for data sets of the user's own loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from goldiprox.schema import ConfigError, DataError

__all__ = ["WithIds", "with_ids"]


class WithIds(TorchDataset[Any]):
    """A map-style data set whose items carry their id; made by :func:`with_ids`."""

    def __init__(self, dataset: Any, ids_N: Tensor, key: str) -> None:
        """Keep the parts; :func:`with_ids` checks them."""
        self.dataset = dataset
        self.ids_N = ids_N
        self.key = key

    def __len__(self) -> int:
        return len(self.ids_N)

    def __getitem__(self, position: int) -> Any:
        return self._attach(position, self.dataset[position])

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Items of one batch; torch's loader calls this, and the base may be faster at it."""
        many = getattr(self.dataset, "__getitems__", None)
        items = many(positions) if many else [self.dataset[position] for position in positions]
        return [self._attach(at, item) for at, item in zip(positions, items, strict=True)]

    def _attach(self, position: int, item: Any) -> Any:
        id_ = int(self.ids_N[position])
        if isinstance(item, tuple):
            return (id_, *item)
        if isinstance(item, Mapping):
            if self.key in item:
                raise DataError(
                    f"items already have a field {self.key!r}: rename it, or give with_ids "
                    "another key"
                )
            return {self.key: id_, **item}
        return (id_, item)


def with_ids(
    dataset: Any, ids: Sequence[int] | Tensor | None = None, *, key: str = "id"
) -> WithIds:
    """Let every item of a map-style data set carry its id, from the data set to the log.

    A tuple becomes ``(id, *item)``, a mapping ``{"id": id, **item}``, anything else
    ``(id, item)``.

    Args:
        dataset: anything with ``len`` and indexing by int; works under a DataLoader with workers.
        ids: one distinct integer per item, at least 0 and below 2**62; None numbers the items 0,
            1, 2, ... Give them for a subset, whose positions are not the ids of the whole.
        key: the field that holds the id in a mapping.

    Returns:
        The wrapped data set.

    Raises:
        ConfigError: if the data set has no length, or ids are not one distinct integer per item,
            or out of range.
    """
    try:
        count = len(dataset)
    except TypeError as error:
        raise ConfigError(
            f"{type(dataset).__name__} has no length: only map-style data sets can be given ids"
        ) from error
    ids_N = torch.arange(count) if ids is None else torch.as_tensor(ids)
    if ids_N.is_floating_point() or ids_N.dtype == torch.bool or ids_N.ndim != 1:
        raise ConfigError(f"ids must be a sequence of integers, not {ids_N.dtype}")
    if len(ids_N) != count:
        raise ConfigError(f"{len(ids_N)} ids for {count} items: give one per item")
    distinct = len(torch.unique(ids_N))
    if distinct != count:
        raise ConfigError(f"only {distinct} of {count} ids are distinct")
    ids_N = ids_N.to(torch.int64)
    if count and not 0 <= int(ids_N.min()) <= int(ids_N.max()) < 2**62:
        raise ConfigError(
            f"ids go from {int(ids_N.min())} to {int(ids_N.max())}; they must be at least 0 and "
            "below 2**62: number the items"
        )
    return WithIds(dataset, ids_N, key)
