"""Parquet files of ours: a note in the metadata says what the file is, with a digest.

Page checksums find flipped bits in the pages, but not in the headers and the footer around them;
the digest is of the values themselves, as they are handed out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
        digest.update(f"{field.name}\0{_kind(field.type)}\0{len(column)}\0".encode())
        if _is_flat(column):
            for chunk in column.chunks:
                digest.update(np.ascontiguousarray(chunk.to_numpy()).view(np.uint8).data)
        else:
            for part in _buffers(pa.concat_arrays(column.chunks) if column.num_chunks else None):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
    return digest.hexdigest()


def write_sealed(path: Path, table: pa.Table, note: Mapping[str, Any]) -> None:
    """Write a Parquet file with its note, whole or not at all.

    Raises:
        GoldiproxError: if it cannot be written.
    """
    note = {**note, "content": content_digest(table)}
    table = table.replace_schema_metadata({METADATA_KEY: sealed_note(note)})
    with whole_file(path) as temporary:
        # Checksums say which page is damaged; without the digest they would miss its header.
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


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
