"""Parquet files of ours: a note in the metadata says what the file is, with a digest.

Page checksums find flipped bits in the pages, but not in the headers and the footer around them;
the digest is of the values themselves, as they are handed out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq

from goldiprox.guarded.json_files import canonical_digest
from goldiprox.guarded.parquet import note_of, read_parquet
from goldiprox.records.files import whole_file
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = [
    "METADATA_KEY",
    "content_digest",
    "note_is_whole",
    "read_sealed",
    "sealed_note",
    "write_sealed",
]

METADATA_KEY = b"goldiprox"
DIGEST = "sha256"

PART = 1 << 19
"""Rows that are taken out of a large table at a time."""

Mask = npt.NDArray[np.bool_]


def sealed_note(note: Mapping[str, Any]) -> bytes:
    """A note with its own digest in it, as it stands in a schema's metadata."""
    return json.dumps({**note, DIGEST: canonical_digest(note)}, allow_nan=False).encode()


def note_is_whole(note: dict[str, Any]) -> bool | None:
    """Whether a note is as it was written; None where it has no digest, as those of 0.1.0."""
    if DIGEST not in note:
        return None
    rest = {key: value for key, value in note.items() if key != DIGEST}
    return bool(note[DIGEST] == canonical_digest(rest))


def content_digest(table: pa.Table) -> str:
    """SHA-256 of a table's names, types and values, however they are cut into chunks."""
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        digest.update(_heading(field, len(column)))
        if _is_flat(column):
            for chunk in column.chunks:
                digest.update(_bytes(chunk))
        else:
            for part in _buffers(pa.concat_arrays(column.chunks) if column.num_chunks else None):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
    return digest.hexdigest()


def write_sealed(
    path: Path, table: pa.Table, note: Mapping[str, Any], rows_N: Mask | None = None
) -> None:
    """Write a Parquet file with its note, whole or not at all.

    Args:
        path: the file.
        table: its columns.
        note: its note, without digests.
        rows_N: bool; only these rows of a table of numbers, without a copy of all of them.

    Raises:
        GoldiproxError: if it cannot be written.
    """
    content = content_digest(table) if rows_N is None else _digest_of_rows(table, rows_N)
    table = table.replace_schema_metadata({METADATA_KEY: sealed_note({**note, "content": content})})
    # Checksums say which page is damaged; without the digest they would miss its header.
    options = {"compression": "zstd", "write_page_checksum": True}
    with whole_file(path) as temporary:
        if rows_N is None:
            pq.write_table(table, temporary, **options)
            return
        with pq.ParquetWriter(temporary, table.schema, **options) as writer:
            for part in _rows(table, rows_N):
                writer.write_table(part)


def read_sealed(
    path: Path, what: str, *, error: type[GoldiproxError] = CheckpointError, remedy: str
) -> tuple[pa.Table, dict[str, Any] | None]:
    """Read a Parquet file of ours and compare it with its digests.

    Args:
        path: the file.
        what: for messages.
        error: raised.
        remedy: what to do if it is damaged.

    Returns:
        The table, and its note; None where it has none.

    Raises:
        GoldiproxError: of the type ``error``, if it is absent or not what was written. A file that
            has no digest, as those of version 0.1.0, is read as it is.
    """
    table = read_parquet(path, what, error=error, remedy=remedy)
    note = note_of(table.schema, METADATA_KEY)
    if not isinstance(note, dict):
        return table, None
    whole = note_is_whole(note)
    if whole is None and "content" not in note:
        return table, note
    if not whole or note.get("content") != content_digest(table):
        raise error(
            f"{what} is damaged (its content is not what was written: its digest does not match); "
            f"{remedy}"
        )
    return table, note


def _rows(table: pa.Table, rows_N: Mask) -> Iterator[pa.Table]:
    for start in range(0, len(table), PART):
        pa.default_memory_pool().release_unused()  # or it keeps what the parts before took
        yield table.slice(start, PART).filter(pa.array(rows_N[start : start + PART]))


def _digest_of_rows(table: pa.Table, rows_N: Mask) -> str:
    """What :func:`content_digest` gives of these rows."""
    digest, count = hashlib.sha256(), int(np.count_nonzero(rows_N))
    for field in table.schema:
        digest.update(_heading(field, count))
        for part in _rows(table.select([field.name]), rows_N):
            digest.update(_bytes(part.column(0)))
    return digest.hexdigest()


def _heading(field: pa.Field, count: int) -> bytes:
    return f"{field.name}\0{_kind(field.type)}\0{count}\0".encode()


def _bytes(column: pa.ChunkedArray | pa.Array) -> memoryview:
    return np.ascontiguousarray(column.to_numpy()).view(np.uint8).data


def _kind(kind: pa.DataType) -> str:
    """A type's name, without the names of items, which Parquet changes."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_kind(kind.value_type)}>"
    return str(kind)


def _is_flat(column: pa.ChunkedArray) -> bool:
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(numeric and not column.null_count)


def _buffers(array: pa.Array | None) -> Iterable[bytes]:
    """What an array holds, without what lies under its nulls."""
    if array is None or not len(array):
        return
    yield array.is_valid().to_numpy(zero_copy_only=False).tobytes()
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _buffers(array.cast(kind.value_type))
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            yield from _buffers(part)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield _numbers(compute.list_value_length(array).fill_null(0).cast(pa.int64()))
        yield from _buffers(array.flatten())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        yield _numbers(array.drop_null())
    elif pa.types.is_null(kind):
        return
    else:
        whole = array.drop_null().cast(pa.large_binary())
        yield _numbers(compute.binary_length(whole))
        yield b"".join(value.as_py() for value in whole)


def _numbers(array: pa.Array) -> bytes:
    return bytes(array.to_numpy(zero_copy_only=False).tobytes())
