"""Parquet from anybody: page checksums are verified, and a small file cannot unfold without limit.

A Parquet file of a few kilobytes may declare terabytes: by a compressed run of zeros, by a
dictionary whose one long entry is named by a billion rows, by packed numbers. A file may unfold to
at most :func:`limit_of` its size, which is checked before the memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq

from goldiprox.guarded.errors import listed, reading, require_file
from goldiprox.guarded.footer import Chunk, column_chunks
from goldiprox.guarded.json_files import parse_json
from goldiprox.schema import GoldiproxError, TableError

__all__ = [
    "ALLOWANCE",
    "RATIO",
    "limit_of",
    "note_of",
    "open_parquet",
    "read_parquet",
    "require_modest",
]

ALLOWANCE = 256 << 20
"""Bytes that any file may unfold to."""

RATIO = 100
"""How many times its size a file may unfold to, beyond that. Texts compress to a tenth or so."""

Columns = Sequence[str] | None


def limit_of(size: int) -> int:
    """Bytes that a Parquet file of some size may unfold to in memory."""
    return ALLOWANCE + RATIO * size


@contextmanager
def open_parquet(
    path: Path,
    what: str,
    *,
    columns: Columns = None,
    error: type[GoldiproxError] = TableError,
    remedy: str = "get the file again",
    damaged: str = "is damaged or not Parquet",
    **options: Any,
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that may be damaged or hostile; whatever is raised inside is one line.

    Args:
        path: the file.
        what: for messages: ``score table il.parquet``.
        columns: those that will be read; all unless given.
        error: raised.
        remedy: what to do if it is damaged.
        damaged: what to say then.
        **options: for :class:`pyarrow.parquet.ParquetFile`.

    Raises:
        GoldiproxError: of the type ``error``: it is absent, cannot be read, is damaged, or would
            unfold to more than :func:`limit_of` its size.
    """
    with reading(what, error=error, remedy=remedy, damaged=damaged):
        require_file(path)
        with pq.ParquetFile(path, page_checksum_verification=True, **options) as file:
            require_modest(file, path, what, columns=columns, error=error)
            yield file


def read_parquet(
    path: Path,
    what: str,
    columns: Columns = None,
    *,
    error: type[GoldiproxError] = TableError,
    remedy: str = "get the file again",
) -> pa.Table:
    """Read a whole Parquet file, or some of its columns, under the same guard.

    Raises:
        GoldiproxError: as :func:`open_parquet` does, or a column is absent.
    """
    with open_parquet(path, what, columns=columns, error=error, remedy=remedy) as file:
        names = file.schema_arrow.names
        absent = [name for name in columns or () if name not in names]
        if absent:
            raise error(f"{what} has no column {absent[0]}; it has: {listed(names)}; {remedy}")
        if (
            len(set(names)) == len(names)
            and file.num_row_groups > 1
            and (table := _by_groups(file, columns or names)) is not None
        ):
            return table
        table = file.read(None if columns is None else list(columns))
        table.validate()
        return table


def _by_groups(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table | None:
    """Columns of plain numbers, put together row group by row group; None if they are others.

    The reader of whole files keeps what it unfolds beside the columns, half as much again.
    """
    schema = pa.schema(
        [file.schema_arrow.field(name) for name in columns], file.schema_arrow.metadata
    )
    if not all(pa.types.is_integer(f.type) or pa.types.is_floating(f.type) for f in schema):
        return None
    rows = file.metadata.num_rows
    arrays = []
    for field in schema:
        whole, start = np.empty(rows, field.type.to_pandas_dtype()), 0
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=[field.name], use_threads=False).column(0)
            if column.null_count:
                return None
            for part in column.chunks:
                whole[start : start + len(part)] = part.to_numpy()
                start += len(part)
        if start != rows:
            raise ValueError(f"it holds {start} rows of {field.name} and says {rows}")
        arrays.append(pa.array(whole))
    pa.default_memory_pool().release_unused()
    return pa.table(arrays, schema=schema)


def note_of(schema: pa.Schema, key: bytes) -> Any:
    """The JSON that a schema's metadata holds under a key; None where there is none."""
    try:
        return parse_json((schema.metadata or {})[key])
    except (KeyError, ValueError):
        return None


def require_modest(
    file: pq.ParquetFile,
    path: Path,
    what: str,
    *,
    columns: Columns = None,
    error: type[GoldiproxError] = TableError,
) -> None:
    """Refuse a file that would unfold to more than :func:`limit_of` its size.

    Args:
        file: opened.
        path: of it.
        what: for messages.
        columns: those that will be read; all unless given.
        error: raised.

    Raises:
        GoldiproxError: of the type ``error``, naming both sizes.
    """
    size = path.stat().st_size
    limit = limit_of(size)

    def require(asked: int) -> None:
        if asked > limit:
            raise error(
                f"{what} is {size:,} bytes long and would unfold to {asked / 1e9:,.3g} GB; the "
                f"limit is {limit / 1e9:,.3g} GB ({RATIO} times its size and {ALLOWANCE >> 20} "
                "MB); write it again with smaller values, or in parts"
            )

    chunks = [chunk for chunk in column_chunks(path) if columns is None or chunk.column in columns]
    require(sum(chunk.values * _WIDTH.get(chunk.physical, 4) for chunk in chunks))
    require(sum(chunk.unfolded for chunk in chunks))
    names = _texts(file.schema_arrow, columns)
    if names:
        texts = [chunk for chunk in chunks if chunk.column in names]
        require(_spelt_out(path, texts, names, limit))


_WIDTH = {2: 8, 5: 8, 3: 12}
"""Bytes of a value in memory by the number of its type (INT64, DOUBLE, INT96); of all others 4,
texts having their offsets."""


def _texts(schema: pa.Schema, columns: Columns) -> list[str]:
    """Columns of texts or bytes, which a dictionary can make long."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
             pa.types.is_large_binary)  # fmt: skip

    def plain(kind: pa.DataType) -> pa.DataType:
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    return [
        field.name
        for field in schema
        if (columns is None or field.name in columns)
        and any(is_a(plain(field.type)) for is_a in kinds)
    ]


def _spelt_out(path: Path, chunks: Iterable[Chunk], columns: Sequence[str], limit: int) -> int:
    """Bytes that columns of texts take in memory, at most; counted where a bound is too high."""
    total = 0
    with pq.ParquetFile(
        path, page_checksum_verification=True, read_dictionary=list(columns)
    ) as file:
        for chunk in chunks:
            total += chunk.unfolded
            if not chunk.has_dictionary:
                continue
            # An entry is no longer than the chunk that holds it: small ones are settled here.
            bound = chunk.values * chunk.unfolded
            if total + bound > limit:
                where = {"row_groups": [chunk.group], "columns": [chunk.column]}
                first = next(file.iter_batches(1, **where), None)
                bound = 0 if first is None else chunk.values * _longest(first.column(0))
            if total + bound <= limit:
                total += bound
                continue
            column = file.read_row_group(chunk.group, columns=[chunk.column]).column(0)
            total += sum(_length(part) for part in column.chunks)
    return total


def _longest(values: Any) -> int:
    """Length of the longest entry of a dictionary."""
    if not pa.types.is_dictionary(values.type):
        return 0
    return int(compute.max(compute.binary_length(values.dictionary)).as_py() or 0)


def _length(values: Any) -> int:
    """Bytes of all values, each entry of the dictionary written out where it is named."""
    if not pa.types.is_dictionary(values.type):
        return 0
    lengths = compute.binary_length(values.dictionary).cast(pa.int64())
    return int(compute.sum(lengths.take(values.indices)).as_py() or 0)
