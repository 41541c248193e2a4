"""Score tables of any size, addressed by id where they lie on disk: opened, not read.

An Arrow IPC file, uncompressed, whose row number is the id: the operating system maps it into
memory and fetches the pages that are looked at; every process of a machine shares them. A table of
10^8 rows opens as fast as one of ten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.records.files import whole_file
from goldiprox.records.tables import METADATA_KEY, Lookup, ScoreTable, Table
from goldiprox.schema import TableError, id_list

__all__ = ["MappedTable", "open_table", "write_mapped"]

KIND = "mapped-table"
FORMAT = 1
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
        digests: SHA-256 of each column's bytes, as written.
        path: the file.
    """

    values: Mapping[str, Floats]
    rows: int
    provenance: Mapping[str, Any]
    digests: Mapping[str, str]
    path: Path | None

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
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                schema = reader.schema
                batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        except FileNotFoundError as error:
            raise TableError(f"score table {path} does not exist") from error
        except (pa.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise TableError(
                f"score table {path} is cut off or damaged: {first}; make it again from its "
                "Parquet form with: goldiprox table convert"
            ) from error
        header = _header(schema)
        if header is None or batch is None:
            raise TableError(
                f"{path} is Arrow but not a mapped score table; make one with: goldiprox table "
                "convert"
            )
        if header["format"] != FORMAT:
            raise TableError(
                f"score table {path} has format {header['format']}, this version reads {FORMAT}; "
                "make it again"
            )
        return MappedTable(
            values={name: batch.column(name).to_numpy() for name in schema.names},
            rows=header["rows"],
            provenance=header["provenance"],
            digests=header["digests"],
            path=path,
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
            if _digest(values) != self.digests.get(name):
                raise TableError(
                    f"{self._name} is damaged: the bytes of {name} are not the ones written; make "
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
        "digests": {name: _digest(values) for name, values in dense.items()},
        "provenance": dict(table.provenance),
    }
    schema = pa.schema(
        [pa.field(name, pa.float32(), nullable=False) for name in dense],
        metadata={METADATA_KEY: json.dumps(header)},
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


def _digest(values: Floats) -> str:
    return hashlib.sha256(values.data.cast("B")).hexdigest()


def _header(schema: pa.Schema) -> dict[str, Any] | None:
    """The note that a mapped table carries; None where the file is something else."""
    try:
        header = json.loads((schema.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        return None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        return None
    whole = {"format", "rows", "digests", "provenance"} <= header.keys()
    return header if whole and all(t == pa.float32() for t in schema.types) else None
