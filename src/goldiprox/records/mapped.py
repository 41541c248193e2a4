"""Score tables of any size, addressed by id where they lie on disk: opened, not read.

An Arrow IPC file, uncompressed, whose row number is the id: the operating system maps it into
memory and fetches the pages that are looked at; every process of a machine shares them. A table of
10^8 rows opens as fast as one of ten: the digests in it are of blocks, and a block is compared with
its own when it is first looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.guarded.errors import reading, require_file
from goldiprox.guarded.json_files import misfit
from goldiprox.guarded.parquet import note_of
from goldiprox.records.files import whole_file
from goldiprox.records.sealed import METADATA_KEY, note_is_whole, sealed_note
from goldiprox.records.tables import PROVENANCE, Lookup, ScoreTable, Table
from goldiprox.schema import TableError, id_list

__all__ = ["MappedTable", "open_table", "write_mapped"]

KIND = "mapped-table"
FORMAT = 2
READ = (1, 2)
"""Formats that are read. The first, of version 0.1.0, has no digests of blocks."""

BLOCK = 1 << 18
"""Values in a block, a megabyte: few digests, and a block is read in a millisecond."""

MAGIC = b"ARROW1"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MappedTable(Table):
    """A table on disk that is looked into, not read.

    Attributes:
        values: column name to float32 values at their ids, NaN where there is none; read-only
            views of the mapped file.
        rows: how many ids have a value.
        provenance: data fingerprint, label digest, configuration, weights digest, seeds, costs.
        digests: by column; of format 2, those of its blocks, one after the other.
        path: the file.
        verified: whether blocks are compared with their digests.
    """

    values: Mapping[str, Floats]
    rows: int
    provenance: Mapping[str, Any]
    digests: Mapping[str, str]
    path: Path | None
    verified: bool = True

    def __post_init__(self) -> None:
        # By column, which blocks were compared already.
        object.__setattr__(
            self,
            "_seen",
            {name: np.zeros(_blocks(v.size), bool) for name, v in self.values.items()},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file for itself; nothing of it is copied."""
        return MappedTable.open, (self.path,)

    @staticmethod
    def open(path: Path | str) -> MappedTable:
        """Map a table; only its footer is read.

        Args:
            path: the file.

        Raises:
            TableError: if the file is absent, cut off, or not a mapped table.
        """
        path = Path(path)
        what = f"score table {path}"
        remedy = "make it again from its Parquet form with: goldiprox table convert"
        with reading(what, error=TableError, remedy=remedy, damaged="is cut off or damaged"):
            require_file(path)
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                schema = reader.schema
                batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
            header = note_of(schema, METADATA_KEY)
            if not _is_header(header, schema) or batch is None:
                raise TableError(
                    f"{path} is Arrow but not a mapped score table; make one with: goldiprox table "
                    "convert"
                )
            if header["format"] not in READ:
                raise TableError(
                    f"score table {path} has format {header['format']}, this version reads "
                    f"{FORMAT}; make it again"
                )
            _require_whole(header, batch)
            values = {name: batch.column(name).to_numpy() for name in schema.names}
        return MappedTable(
            values=values,
            rows=header["rows"],
            provenance=header["provenance"],
            digests=header["digests"],
            path=path,
            verified=header["format"] == FORMAT,
        )

    def __len__(self) -> int:
        return self.rows

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns of scores."""
        return tuple(self.values)

    def column_for(self, column: str, ids: Tensor, remedy: str) -> Tensor:
        """One column's values for some ids, in their order: float32, same shape as ``ids``.

        Raises:
            TableError: if the column or an id is missing, or a value is not finite.
        """
        values = self.lookup(column)(ids.cpu())
        if not bool(values.isfinite().all()):
            bad = ids.cpu()[~values.isfinite()]
            raise TableError(
                f"{self._name} lacks {bad.numel()} of {ids.numel()} ids, or has no finite "
                f"{column} for them (first: {id_list(bad, 3)}); {remedy}"
            )
        return values

    def lookup(self, column: str) -> Lookup:
        """Look values up in the mapped file, on the host; only the values go to the ids' device.

        Raises:
            TableError: if there is no such column.
        """
        self._require_column(column)
        held = self.values[column]

        def values_of(ids_B: Tensor) -> Tensor:
            ids = ids_B.cpu().numpy()
            if not ids.size:
                return torch.empty(ids.shape, device=ids_B.device)
            if not held.size:
                return torch.full(ids.shape, torch.nan, device=ids_B.device)
            self._require_blocks(column, ids)
            found = held.take(ids, mode="clip")
            if ids.min() < 0 or ids.max() >= held.size:
                found[(ids < 0) | (ids >= held.size)] = np.nan
            return torch.from_numpy(found).to(ids_B.device)

        return values_of

    def require_intact(self) -> None:
        """Read the whole file and compare it with the digests in it.

        Mapped pages carry no checksums: looking at few of them must not cost reading them all.

        Raises:
            TableError: naming the first column whose bytes are not the written ones.
        """
        for name, values in self.values.items():
            if self.verified:
                self._compare(name, np.arange(_blocks(values.size)))
            elif hashlib.sha256(values.data.cast("B")).hexdigest() != self.digests.get(name):
                raise self._damaged(name)

    def _require_blocks(self, column: str, ids: npt.NDArray[np.int64]) -> None:
        """Compare the blocks that some ids lie in, those that were not looked at before."""
        if not self.verified:
            return
        seen: npt.NDArray[np.bool_] = self._seen[column]  # type: ignore[attr-defined]
        blocks = (ids // BLOCK).clip(0, len(seen) - 1)
        if not seen[blocks].all():
            self._compare(column, np.unique(blocks[~seen[blocks]]))

    def _compare(self, column: str, blocks: npt.NDArray[np.int64]) -> None:
        seen: npt.NDArray[np.bool_] = self._seen[column]  # type: ignore[attr-defined]
        values, known = self.values[column], self.digests[column]
        for block in blocks.tolist():
            found = _digest(values[block * BLOCK : (block + 1) * BLOCK])
            if found != known[block * DIGITS : (block + 1) * DIGITS]:
                raise self._damaged(
                    f"{column} for the ids {block * BLOCK} to "
                    f"{min((block + 1) * BLOCK, values.size) - 1}"
                )
        seen[blocks] = True

    def _damaged(self, what: str) -> TableError:
        return TableError(
            f"{self._name} is damaged: the bytes of {what} are not the ones written; make "
            "it again from its Parquet form with: goldiprox table convert"
        )

    def in_memory(self) -> ScoreTable:
        """The same table as rows, read whole: to be written as Parquet."""
        present = np.zeros(max((v.size for v in self.values.values()), default=0), dtype=bool)
        for values in self.values.values():
            present |= ~np.isnan(values)
        ids = np.flatnonzero(present)
        return ScoreTable(
            ids_N=ids,
            columns={name: values[ids] for name, values in self.values.items()},
            provenance=self.provenance,
        )


def write_mapped(table: ScoreTable, path: Path | str) -> None:
    """Write a table in the mapped form, whole or not at all.

    Args:
        table: its ids must be dense enough: row numbers of a data set, not hashes.
        path: the file.

    Raises:
        TableError: if its ids are too sparse to be addresses, naming the highest.
        GoldiproxError: if the file cannot be written.
    """
    size = int(table.ids_N.max(initial=-1)) + 1
    if table.is_sparse:
        raise TableError(
            f"a table of {len(table):,} rows whose ids reach {size - 1:,} would map to "
            f"{4 * size * len(table.columns) / 1e9:.3g} GB of holes; keep it as Parquet"
        )
    dense = {name: _dense(table.ids_N, values, size) for name, values in table.columns.items()}
    header = {
        "kind": KIND,
        "format": FORMAT,
        "rows": len(table),
        "digests": {name: _digests(values) for name, values in dense.items()},
        "provenance": dict(table.provenance),
    }
    schema = pa.schema(
        [pa.field(name, pa.float32(), nullable=False) for name in dense],
        metadata={METADATA_KEY: sealed_note(header)},
    )
    batch = pa.record_batch([pa.array(values) for values in dense.values()], schema=schema)
    with (
        whole_file(Path(path)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch)


def open_table(path: Path | str) -> Table:
    """Open a score table of either form; what the file holds decides, not its name.

    Args:
        path: the file.

    Raises:
        TableError: if it is absent, damaged or no score table.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            mapped = handle.read(len(MAGIC)) == MAGIC
    except OSError:
        mapped = False  # the reader of the usual form says what is wrong
    return MappedTable.open(path) if mapped else ScoreTable.read(path)


def _dense(ids_N: npt.NDArray[np.int64], values_N: Floats, size: int) -> Floats:
    dense = np.full(size, np.nan, dtype=np.float32)
    dense[ids_N] = values_N
    return dense


DIGITS = 32
"""Hexadecimal digits of a block's digest: 128 bits of its SHA-256."""


def _digest(values: Floats) -> str:
    return hashlib.sha256(values.data.cast("B")).hexdigest()[:DIGITS]


def _digests(values: Floats) -> str:
    blocks = (values[block * BLOCK : (block + 1) * BLOCK] for block in range(_blocks(values.size)))
    return "".join(_digest(block) for block in blocks)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _is_header(header: Any, schema: pa.Schema) -> bool:
    """Whether a note is that of a mapped table."""
    shape = {"kind": str, "format": None, "rows": int, "digests": {str: str},
             "provenance": PROVENANCE}  # fmt: skip
    if misfit(header, shape) or header["kind"] != KIND:
        return False
    names = set(schema.names)
    return len(names) == len(schema) and all(t == pa.float32() for t in schema.types)


def _require_whole(header: dict[str, Any], batch: pa.RecordBatch) -> None:
    """Raise ValueError where note and columns do not go together."""
    if not 0 <= header["rows"] <= batch.num_rows:
        raise ValueError(f"{header['rows']} rows in {batch.num_rows}")
    if any(column.null_count or column.offset for column in batch.columns):
        raise ValueError("a column has nulls")
    batch.validate()
    if header["format"] == FORMAT:
        length = DIGITS * _blocks(batch.num_rows)
        digests = [header["digests"].get(name, "") for name in batch.schema.names]
        if not note_is_whole(header) or any(len(text) != length for text in digests):
            raise ValueError("its note is not what was written: its digest does not match")
