"""Score tables: one Parquet file with an id, some columns of scores, and where they came from.

A table too large for memory is mapped from disk instead, see :mod:`goldiprox.records.mapped`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.guarded.json_files import misfit
from goldiprox.records.ledger import LEDGER
from goldiprox.schema import TableError, are_sparse, id_list

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["IRREDUCIBLE_LOSS", "PROBE", "Lookup", "ScoreTable", "Table"]

IRREDUCIBLE_LOSS = "irreducible_loss"

PROBE = "probe.parquet"
"""In a run's folder: losses of a part of the training set after each epoch."""

FORMAT = 2
READ = (1, 2)
"""Formats that are read. The first, of version 0.1.0, has no digests."""

Lookup = Callable[[Tensor], Tensor]
"""From int64 ids to float32 values on the ids' device, NaN where there is none; O(1) an id."""


class Table(ABC):
    """Scores by id with their provenance, in memory (:class:`ScoreTable`) or mapped from disk.

    Attributes:
        provenance: data fingerprint, label digest, configuration, weights digest, seeds, costs.
        path: the file it was read from, for messages.
        verified: whether it was compared with digests; files of version 0.1.0 have none.
    """

    provenance: Mapping[str, Any]
    path: Path | None
    verified: bool

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Its columns of scores."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def column_for(self, column: str, ids: Tensor, remedy: str) -> Tensor:
        """One column's values for some ids, in their order: float32, same shape as ``ids``.

        Raises:
            TableError: if the column or an id is missing, or a value is not finite.
        """

    @abstractmethod
    def lookup(self, column: str) -> Lookup:
        """A function for looking values up again and again.

        Raises:
            TableError: if there is no such column.
        """

    @property
    def _name(self) -> str:
        return f"score table {self.path}" if self.path else "the score table"

    def _require_column(self, column: str) -> None:
        if column not in self.names:
            raise TableError(
                f"{self._name} has no column {column}; it has: {', '.join(self.names) or 'none'}"
            )

    def require(self, remedy: str, **expected: str) -> None:
        """Refuse the table unless its provenance says what is expected.

        Args:
            remedy: what to do, for the message.
            **expected: provenance key to value, e.g. ``fingerprint=...``.

        Raises:
            TableError: naming the first key that differs and both values.
        """
        for key, value in expected.items():
            found = self.provenance.get(key)
            if found != value:
                what = _MEANING.get(key, key)
                raise TableError(
                    f"{self._name} belongs to other {what}: {_short(found)} there, "
                    f"{_short(value)} here; {remedy}"
                )


@dataclass(frozen=True, kw_only=True)
class ScoreTable(Table):
    """Scores of N examples, addressed by id.

    Attributes:
        ids_N: int64, all different; made of any sequence, array or tensor of whole numbers.
        columns: name to float32 array of shape [N]; likewise made of numbers.
        provenance: data fingerprint, label digest, configuration, weights digest, seeds, costs.
        path: the file it was read from, for messages.
        verified: whether it was compared with digests; files of version 0.1.0 have none.

    Raises:
        TableError: if ids are of another type, negative (unless they are hashes) or not all
            different, or if a column is
            of another length or type.
    """

    ids_N: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[np.float32]]
    provenance: Mapping[str, Any]
    path: Path | None = None
    verified: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids_N", _ids(self.ids_N, self._name))
        columns = {name: _scores(self.columns[name], name, self._name) for name in self.columns}
        object.__setattr__(self, "columns", columns)
        if self.ids_N.ndim != 1 or any(c.shape != self.ids_N.shape for c in self.columns.values()):
            shapes = {name: column.shape for name, column in self.columns.items()}
            raise TableError(f"{self._name}: columns {shapes} do not match {self.ids_N.shape} ids")
        lowest = int(self.ids_N.min(initial=0))
        if lowest < 0 and not self.is_sparse:
            raise TableError(f"{self._name} has the negative id {lowest}; make it again")
        if self._ascends:  # so written by every command: nothing to sort
            return
        unique, counts = np.unique(self.ids_N, return_counts=True)
        if unique.size != self.ids_N.size:
            repeated = unique[counts > 1]
            raise TableError(
                f"{self._name} has {repeated.size} ids more than once "
                f"(first: {id_list(torch.from_numpy(repeated))}); make it again"
            )

    def __len__(self) -> int:
        return int(self.ids_N.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns of scores."""
        return tuple(self.columns)

    @cached_property
    def _ascends(self) -> bool:
        """Whether the rows stand in the order of their ids, each once."""
        return bool((self.ids_N[1:] > self.ids_N[:-1]).all())

    @cached_property
    def _by_id(self) -> npt.NDArray[np.int64]:
        """Rows in the order of their ids."""
        return np.arange(len(self)) if self._ascends else np.argsort(self.ids_N)

    @property
    def is_sparse(self) -> bool:
        """Whether ids are hashes or the like, for which addresses would be mostly holes."""
        ids_N = self.ids_N
        return are_sparse(int(ids_N.min(initial=0)), int(ids_N.max(initial=-1)), len(ids_N))

    @cached_property
    def _row_of_id(self) -> npt.NDArray[np.int64]:
        """Dense index from id to row, -1 where there is none: O(1) a look-up, no Python loop."""
        row_of_id = np.full(int(self.ids_N.max(initial=-1)) + 1, -1, dtype=np.int64)
        row_of_id[self.ids_N] = np.arange(len(self))
        return row_of_id

    def rows(self, ids: npt.NDArray[np.int64], remedy: str) -> npt.NDArray[np.int64]:
        """Rows of some ids.

        Args:
            ids: int64 ids, any shape.
            remedy: what to do when ids are missing, for the message.

        Raises:
            TableError: if an id is missing, naming how many and the first.
        """
        if ids is self.ids_N or np.array_equal(ids, self.ids_N):
            return np.arange(len(self))
        if self.is_sparse:
            order = self._by_id
            places = np.minimum(np.searchsorted(self.ids_N, ids, sorter=order), len(self) - 1)
            found = np.where(self.ids_N[order[places]] == ids, order[places], -1)
        else:
            size = self._row_of_id.shape[0]
            inside = (ids >= 0) & (ids < size)
            found = np.where(inside, self._row_of_id[np.where(inside, ids, 0)] if size else -1, -1)
        if found.size and found.min() < 0:
            missing = ids[found < 0]
            raise TableError(
                f"{self._name} lacks {missing.size} of {ids.size} ids "
                f"(first: {id_list(torch.from_numpy(missing), 3)}); {remedy}"
            )
        return found

    def column_for(self, column: str, ids: Tensor, remedy: str) -> Tensor:
        """One column's values for some ids, in their order: float32, same shape as ``ids``.

        Raises:
            TableError: if the column or an id is missing, or a value is not finite.
        """
        self._require_column(column)
        values = self.columns[column][self.rows(ids.cpu().numpy(), remedy)]
        if not np.isfinite(values).all():
            bad = ids.cpu()[torch.from_numpy(~np.isfinite(values))]
            raise TableError(
                f"{self._name}: {column} is NaN or infinite for {bad.numel()} ids "
                f"(first: {id_list(bad)}); {remedy}"
            )
        return torch.from_numpy(values)

    def lookup(self, column: str) -> Lookup:
        """Look values up in a copy of the column that follows the ids to their device.

        Dense, an id being an address, unless the ids are sparse: then they are searched for.

        Raises:
            TableError: if there is no such column.
        """
        self._require_column(column)
        if self.is_sparse:
            return _Searched(self.ids_N[self._by_id], self.columns[column][self._by_id])
        # At id + 1; ids below or above the table's land on the NaN at its ends.
        dense = np.full(int(self.ids_N.max(initial=-1)) + 3, np.nan, dtype=np.float32)
        dense[self.ids_N + 1] = self.columns[column]
        held = torch.from_numpy(dense)

        def values_of(ids_B: Tensor) -> Tensor:
            nonlocal held
            if held.device != ids_B.device:
                held = held.to(ids_B.device)  # once, not every step
            if held.device.type == "cpu":
                with suppress(IndexError):  # on the CPU an id out of range is refused
                    return held[1:].index_select(0, ids_B)
            return held.index_select(0, ids_B.clamp(-1, len(held) - 2) + 1)

        return values_of

    def join(self, other: ScoreTable) -> ScoreTable:
        """This table with another one's columns beside its own, for the ids that both have.

        Args:
            other: of the same data. Its labels may differ: a score before noise is worth holding
                against the same score after it.

        Returns:
            A table in this one's order; its provenance is this one's, with the other's under
            ``joined``.

        Raises:
            TableError: if the tables are of different data, share no id, or both have a column.
        """
        ours, theirs = (table.provenance.get("fingerprint") for table in (self, other))
        if ours != theirs and None not in (ours, theirs):
            raise TableError(
                f"{self._name} and {other._name} belong to different data ({_short(ours)} and "
                f"{_short(theirs)}); join tables of one data set"
            )
        clash = [name for name in other.columns if name in self.columns]
        if clash:
            raise TableError(
                f"{self._name} and {other._name} both have a column {clash[0]}; rename one"
            )
        note = [*self.provenance.get("joined", []), dict(other.provenance)]
        if np.array_equal(self.ids_N, other.ids_N):  # as a rule: then nothing is copied
            return ScoreTable(
                ids_N=self.ids_N,
                columns={**self.columns, **other.columns},
                provenance={**self.provenance, "joined": note},
            )
        common_N = np.isin(self.ids_N, other.ids_N)
        if not common_N.any():
            raise TableError(f"{self._name} and {other._name} have no id in common")
        rows = other.rows(self.ids_N[common_N], "")
        columns = {name: values[common_N] for name, values in self.columns.items()}
        columns |= {name: values[rows] for name, values in other.columns.items()}
        return ScoreTable(
            ids_N=self.ids_N[common_N],
            columns=columns,
            provenance={**self.provenance, "joined": note},
        )

    def write(self, path: Path | str, rows_N: npt.NDArray[np.bool_] | None = None) -> None:
        """Write the table, whole or not at all.

        Args:
            path: the file; folders on the way are made.
            rows_N: of a large table only these rows, without a copy of them in memory.

        Raises:
            GoldiproxError: if the file cannot be written.
        """
        import pyarrow as pa

        from goldiprox.records.sealed import write_sealed

        arrays = {"id": pa.array(self.ids_N)}
        arrays |= {name: pa.array(values) for name, values in self.columns.items()}
        note = {"format": FORMAT, "provenance": dict(self.provenance)}
        write_sealed(Path(path), pa.table(arrays), note, rows_N)

    @staticmethod
    def read(path: Path | str) -> ScoreTable:
        """Read a table.

        Args:
            path: the file.

        Raises:
            TableError: if the file is absent, damaged or not a score table.
        """
        from goldiprox.records.sealed import read_sealed

        path = Path(path)
        table, note = read_sealed(
            path,
            f"score table {path}",
            error=TableError,
            remedy="check the path, or make it with goldiprox score, prune or irreducible",
        )
        header = _header(table, note)
        if header is None:
            raise TableError(
                f"{path} is Parquet but not a score table: it lacks whole-number ids, numeric "
                "scores or provenance; make one with: goldiprox irreducible"
            )
        if header.get("format") not in READ:
            raise TableError(
                f"score table {path} has format {header.get('format')}, this version reads "
                f"{FORMAT}; make it again"
            )
        if header["format"] == FORMAT and "content" not in header:
            raise TableError(f"score table {path} is damaged: its digest is gone; make it again")
        names = [name for name in table.column_names if name != "id"]
        return ScoreTable(
            ids_N=table["id"].to_numpy(),
            columns={name: table[name].to_numpy() for name in names},
            provenance=header["provenance"],
            path=path,
            verified=header["format"] == FORMAT,
        )


def _array(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype is torch.bfloat16 else values
    return np.asarray(values)


def _ids(values: Any, where: str) -> npt.NDArray[np.int64]:
    """Ids as int64, whatever holds them.

    Raises:
        TableError: if they are no whole numbers or do not fit.
    """
    try:
        array = _array(values)
        if array.dtype == object and all(type(value) is int for value in array.flat):
            array = np.array(array.tolist(), dtype=np.int64)  # columns of pandas that may lack some
        if not array.size:
            return array.astype(np.int64)
        is_too_large = array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max
    except (ValueError, OverflowError) as error:
        raise TableError(f"{where}: the ids are no array of whole numbers ({error})") from error
    if array.dtype.kind not in "iu" or is_too_large:
        first = array.max() if is_too_large else array.flat[0]
        raise TableError(
            f"{where}: the ids are of type {array.dtype} (such as {first!s:.40}); they must be "
            "whole numbers of 64 bits with sign, the rows of the data set"
        )
    return array.astype(np.int64, copy=False)


def _scores(values: Any, name: str, where: str) -> npt.NDArray[np.float32]:
    """A column as float32, whatever holds it.

    Raises:
        TableError: if it holds no numbers, or numbers too large for float32.
    """
    try:
        array = _array(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"type {array.dtype}")
        with np.errstate(over="ignore"):
            scores: npt.NDArray[np.float32] = array.astype(np.float32, copy=False)
    except (ValueError, TypeError) as error:
        raise TableError(f"{where}: the column {name} holds no numbers ({error})") from error
    if scores is not array and (np.isinf(scores) & np.isfinite(array)).any():
        raise TableError(f"{where}: the column {name} holds numbers too large for 32 bits")
    return scores


class _Searched:
    """Values by id, for ids that are too sparse to be addresses: O(log N) an id."""

    def __init__(self, ids_N: npt.NDArray[np.int64], values_N: npt.NDArray[np.float32]) -> None:
        """Keep both, in the order of the ids."""
        self._ids_N = torch.from_numpy(ids_N)
        self._values_N = torch.from_numpy(values_N)

    def __call__(self, ids_B: Tensor) -> Tensor:
        if self._ids_N.device != ids_B.device:  # once, not every step
            self._ids_N = self._ids_N.to(ids_B.device)
            self._values_N = self._values_N.to(ids_B.device)
        places_B = torch.searchsorted(self._ids_N, ids_B).clamp_(max=len(self._ids_N) - 1)
        values_B = self._values_N[places_B]
        return values_B.masked_fill(self._ids_N[places_B] != ids_B, torch.nan)


MODEL = {"best?": dict, "weights_digest?": str, "validated_on?": int, "evaluations?": int}

PROVENANCE = {
    "kind?": str, "dataset?": str, "config?": dict, "model?": str, "models?": [MODEL],
    "best?": {"accuracy?": float}, "holdout?": dict, "ledger?": LEDGER, "versions?": dict,
    "joined?": [dict], "class_names?": list, "replicas?": ([dict], int), "notes?": dict,
    "scores?": None, "made_by?": str,
}  # fmt: skip
"""What a provenance may hold, and what it must then be; other keys may stand beside."""


def _header(table: pa.Table, note: Any) -> dict[str, Any] | None:
    """The note that a score table carries; None where the file is something else."""
    from pyarrow.types import is_floating, is_integer

    ids = table["id"] if "id" in table.column_names else None
    if ids is None or not is_integer(ids.type) or ids.null_count:
        return None
    if not all(is_integer(field.type) or is_floating(field.type) for field in table.schema):
        return None
    if len(set(table.column_names)) < len(table.column_names):
        return None
    shape = {"format": None, "provenance": PROVENANCE}
    return None if misfit(note, shape) else dict(note)


_MEANING = {"fingerprint": "data", "label_digest": "labels (noise, seed or split differ)"}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."
