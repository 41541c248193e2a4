"""Ids for data sets of the user's own loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from goldiprox.batch import ID, IdKey
from goldiprox.schema import ConfigError, DataError, are_sparse, id_list

__all__ = ["WithIds", "carried_ids", "with_ids"]

STREAM = (
    "read as a stream, whose examples have no place to be numbered by; put an id of its own into "
    'each item (such as goldiprox.content_id of its raw bytes) as its first element, or under "id"'
)


class WithIds(TorchDataset[Any]):
    """A map-style data set whose items carry their id; made by :func:`with_ids`."""

    def __init__(self, dataset: Any, ids_N: Tensor, key: str) -> None:
        """Keep the parts; :func:`with_ids` checks them."""
        self.dataset = dataset
        self.ids_N = ids_N
        # Another key than the usual one must be recognised in batches, where "id" may be a column.
        self.key = key if key == ID else IdKey(key)

    def __len__(self) -> int:
        return len(self.ids_N)

    def __getitem__(self, position: Any) -> Any:
        """One item; or several, for a data set that makes whole batches of positions itself."""
        ids = self.ids_N[position]
        return self._attach(ids if ids.dim() else int(ids), self.dataset[position])

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Items of one batch; torch's loader calls this, and the base may be faster at it."""
        many = getattr(self.dataset, "__getitems__", None)
        items = many(positions) if many else [self.dataset[position] for position in positions]
        ids = self.ids_N[positions].tolist()
        return [self._attach(id_, item) for id_, item in zip(ids, items, strict=True)]

    def _attach(self, id_: int | Tensor, item: Any) -> Any:
        if isinstance(item, tuple | list):
            return (id_, *item)
        if isinstance(item, Mapping):
            if self.key in item:
                raise DataError(
                    f"items already have a field {self.key!r}: rename it, or give with_ids "
                    "another key"
                )
            return {self.key: id_, **item}
        return (id_, item)


def with_ids(dataset: Any, ids: Sequence[int] | Tensor | None = None, *, key: str = ID) -> WithIds:
    """Let every item of a map-style data set carry its id, from the data set to the log.

    A tuple or list becomes ``(id, *item)``, a mapping ``{"id": id, **item}``, anything else
    ``(id, item)``.

    A subset keeps the ids of the data set that it is a part of: ``torch.utils.data.Subset``,
    ``random_split``, and what ``shuffle``, ``filter`` and ``train_test_split`` of Hugging Face's
    ``datasets`` give. (Their ``select`` of consecutive rows and their ``map`` make data sets of
    their own, which are numbered from 0: wrap before them, or give ids.) A subset or
    ``ConcatDataset`` of data sets that carry ids keeps these.

    Args:
        dataset: anything with ``len`` and indexing by int; works under a DataLoader with workers.
        ids: one distinct integer of 64 bits per item, at least 0 unless they are hashes (see
            :func:`goldiprox.content_id`); None numbers the items 0, 1, 2, ..., those of a subset
            by their places in the whole.
        key: the field that holds the id in a mapping, for items that have a field ``id`` already.
            Batches are recognised by it if their collate function keeps the items' own keys, as
            torch's and transformers' do.

    Returns:
        The wrapped data set.

    Raises:
        ConfigError: if the data set is a stream or has no length, or ids are not one distinct
            integer per item, or out of range; if parts of a ``ConcatDataset`` share ids.
    """
    if isinstance(dataset, Mapping) or hasattr(dataset, "iloc"):
        way = "one of its values" if isinstance(dataset, Mapping) else 'its to_dict("records")'
        raise ConfigError(
            f"a {type(dataset).__name__} is not indexed by the numbers of its items: wrap {way}"
        )
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ConfigError(f"{type(dataset).__name__} is {STREAM}")
    try:
        count = len(dataset)
    except TypeError as error:
        raise ConfigError(
            f"{type(dataset).__name__} has no length: only map-style data sets can be given ids"
        ) from error
    if carried_ids(dataset) is not None:
        if ids is not None:
            raise ConfigError(
                "the items of this data set carry ids already: give ids where it was wrapped first"
            )
        return _unwrapped(dataset)
    if ids is None:
        return WithIds(dataset, _places(dataset, count), key)
    ids_N = _integers(ids)
    if len(ids_N) != count:
        raise ConfigError(f"{len(ids_N)} ids for {count} items: give one per item")
    distinct = len(torch.unique(ids_N))
    if distinct != count:
        raise ConfigError(
            f"only {distinct} of {count} ids are distinct: give each item its own, or leave out "
            "the copies"
        )
    low, high = (int(ids_N.min()), int(ids_N.max())) if count else (0, 0)
    if low < 0 and not are_sparse(low, high, count):
        raise ConfigError(
            f"ids go from {low} to {high}; they must be at least 0, unless they are hashes: number "
            "the items"
        )
    return WithIds(dataset, ids_N, key)


def carried_ids(dataset: Any) -> Tensor | None:
    """The ids that a data set's items carry: ids_N in its order, None if they carry none.

    Sees through subsets and joined data sets.

    Raises:
        ConfigError: if joined data sets share ids, or only some of them carry any.
    """
    if isinstance(dataset, WithIds):
        return dataset.ids_N
    indices_N = _indices(dataset)
    if indices_N is not None:
        ids_N = carried_ids(dataset.dataset) if hasattr(dataset, "dataset") else None
        return None if ids_N is None else ids_N[indices_N]
    if not isinstance(dataset, ConcatDataset):
        return None
    parts = [carried_ids(part) for part in dataset.datasets]
    wrapped = [part for part in parts if part is not None]
    if not wrapped:
        return None
    if len(wrapped) < len(parts):
        raise ConfigError(
            f"{len(wrapped)} of {len(parts)} joined data sets carry ids: join them first, then "
            "wrap the whole with goldiprox.with_ids(ConcatDataset([...]))"
        )
    _refuse_shared(wrapped)
    return torch.cat(wrapped)


def _refuse_shared(parts: Sequence[Tensor]) -> None:
    """Refuse joined data sets of which two have an id in common."""
    ids, counts = torch.cat([torch.unique(part) for part in parts]).unique(return_counts=True)
    shared = ids[counts > 1]
    if shared.numel():
        raise ConfigError(
            f"joined data sets share {shared.numel()} ids (first: {id_list(shared, 3)}), as each "
            "was numbered by itself: join them first, then wrap the whole with "
            "goldiprox.with_ids(ConcatDataset([...])), or give each part ids of its own"
        )


def _unwrapped(dataset: Any) -> WithIds:
    """A data set whose parts carry ids as one that carries them itself."""
    if isinstance(dataset, WithIds):
        return dataset
    ids_N = carried_ids(dataset)
    assert ids_N is not None
    return _Carrying(dataset, ids_N, ID)


class _Carrying(WithIds):
    """Items that carry their ids already."""

    def _attach(self, id_: int | Tensor, item: Any) -> Any:  # noqa: ARG002
        return item


def _places(dataset: Any, count: int) -> Tensor:
    """Where each item stands in the data set that it is a part of: ids_N.

    Raises:
        ConfigError: if subsets of several data sets are joined.
    """
    indices_N = _indices(dataset)
    if indices_N is not None:
        base = getattr(dataset, "dataset", None)
        # Subsets of subsets; Hugging Face's data sets keep places in the whole themselves.
        return indices_N if base is None else _places(base, len(base))[indices_N]
    inner = [
        value
        for value in getattr(dataset, "__dict__", {}).values()
        if _indices(value) is not None and len(value) == count
    ]
    if len(inner) == 1:  # a data set of the user's own that transforms a subset's items
        return _places(inner[0], count)
    if isinstance(dataset, ConcatDataset):
        roots = {id(root) for part in dataset.datasets if (root := _root(part)) is not part}
        if len(roots) == 1 and all(_root(part) is not part for part in dataset.datasets):
            return torch.cat([_places(part, _count(part)) for part in dataset.datasets])
        if roots:
            raise ConfigError(
                "a part of the joined data sets is a subset, whose items have other places here "
                "than in the whole: say which ids are meant with ids=, such as "
                f"ids=range({count}) if no table of the whole is to be used"
            )
    return torch.arange(count)


def _count(dataset: Any) -> int:
    return len(dataset)


def _root(dataset: Any) -> Any:
    """The data set that a subset is a part of; itself if it is none."""
    while _indices(dataset) is not None and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def _indices(dataset: Any) -> Tensor | None:
    """The places of a subset's items in its base: int64, None if it is no subset."""
    if type(dataset).__module__.partition(".")[0] == "datasets":
        table = getattr(dataset, "_indices", None)  # of select, shuffle, filter, train_test_split
        return None if table is None else torch.from_numpy(table.column(0).to_numpy().astype("i8"))
    if not hasattr(dataset, "dataset"):
        return None
    indices = getattr(dataset, "indices", None)
    if indices is None or len(indices) != len(dataset):
        return None
    indices_N = torch.as_tensor(indices, dtype=torch.int64)
    return torch.where(indices_N < 0, indices_N + len(dataset.dataset), indices_N)


def _integers(ids: Any) -> Tensor:
    """Ids as int64.

    Raises:
        ConfigError: if they are anything else.
    """
    ids_N = ids.cpu() if isinstance(ids, Tensor) else None
    if ids_N is None:
        if isinstance(ids, Iterable) and not hasattr(ids, "__len__"):
            ids = list(ids)
        try:
            array = np.asarray(ids)
        except (TypeError, ValueError) as error:  # such as lists of several lengths
            raise ConfigError(f"ids must be a sequence of integers: {error}") from error
        if array.dtype.kind in "SUO":
            others = [i for i in ids if not isinstance(i, int) or not -(2**63) <= i < 2**63]
            if others:
                raise ConfigError(
                    f"ids must be a sequence of integers of 64 bits, and {others[0]!r} is none: "
                    "leave ids out to number the items, or give goldiprox.content_id of each name "
                    "or content"
                )
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu" and array.size:
            raise ConfigError(f"ids must be a sequence of integers, not {array.dtype}")
        if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63:
            raise ConfigError(
                f"ids go up to {int(array.max())}; they must be below 2**63: use the same 64 bits "
                "as signed integers"
            )
        ids_N = torch.from_numpy(array.astype(np.int64))
    if ids_N.is_floating_point() or ids_N.dtype == torch.bool or ids_N.ndim != 1:
        raise ConfigError(
            f"ids must be a sequence of integers, not {ids_N.dtype} of shape {tuple(ids_N.shape)}"
        )
    return ids_N.to(torch.int64)
