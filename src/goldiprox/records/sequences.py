"""Sequences on disk: which examples each step of a run trained on, to be replayed by another.

One Parquet file, one row a step. It is written and read a row group at a time, so that a sequence
of 10^8 picks never sits in memory. The format is described in ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq
from torch import Tensor

from goldiprox.guarded.footer import group_rows
from goldiprox.guarded.json_files import misfit
from goldiprox.guarded.parquet import note_of, open_parquet
from goldiprox.records.files import sha256_of, whole_file
from goldiprox.records.sealed import (
    METADATA_KEY,
    content_digest,
    note_is_whole,
    sealed_note,
)
from goldiprox.schema import SequenceError

__all__ = [
    "SCHEMA",
    "BatchSequence",
    "Part",
    "SequenceStep",
    "cut",
    "join",
    "pool_digest",
    "thin",
    "write_sequence",
]

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("pool", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.int64()), nullable=False),
        pa.field("positions", pa.list_(pa.int32()), nullable=False),
        pa.field("weights", pa.list_(pa.float32())),
    ]
)
"""``step`` and ``epoch`` are those of the recorded run; ``pool`` is :func:`pool_digest`;
``positions`` are the places of ``ids`` in the pool; ``weights`` is null where all are one."""

GROUPS_KEY = b"goldiprox.groups"
"""Digests of the row groups: known only when the last one is written."""

KIND = "sequence"
FORMAT = 2
READ = (1, 2)
"""Formats that are read. The first, of version 0.1.0, has no digests."""

GROUP_PICKS = 1 << 20
"""Chosen examples in a row group: what a reader or writer holds in memory, about 16 MB."""

REMEDY = "record it again with: goldiprox train ... --record FILE"


def pool_digest(ids_B: Tensor) -> str:
    """Identify a pool: 16 hex digits of the SHA-256 of its int64 ids, in their order.

    The order counts because augmentation is drawn by place in the pool.
    """
    return hashlib.sha256(ids_B.cpu().numpy().astype("<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows that come from one recorded run.

    Attributes:
        rows: how many.
        provenance: the run: data, labels, method, model, seed, pool, batch, configuration, FLOPs.
    """

    rows: int
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SequenceStep:
    """One step of a sequence.

    Attributes:
        step: its number in the recorded run.
        epoch: likewise.
        pool: digest of the pool it was chosen from.
        ids_k: int64 ids to train on, in this order.
        positions_k: int32, their places in the pool.
        weights_k: float32 weights in the mean loss; None for all one.
    """

    step: int
    epoch: int
    pool: str
    ids_k: npt.NDArray[np.int64]
    positions_k: npt.NDArray[np.int32]
    weights_k: npt.NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class BatchSequence:
    """A sequence file, opened: its footer is read, its steps are streamed.

    Example::

        for step in BatchSequence.open("sequence.parquet").steps():
            train_on(step.ids_k, step.weights_k)

    Attributes:
        path: the file.
        parts: the runs it comes from, in the order of the rows.
        history: what was done to it since it was recorded, oldest first.
        digests: of its row groups; None of a file of version 0.1.0, which has none.
    """

    path: Path
    parts: tuple[Part, ...]
    history: tuple[dict[str, Any], ...]
    digests: tuple[str, ...] | None = None

    @staticmethod
    def open(path: Path | str) -> BatchSequence:
        """Read what a sequence is, and nothing of its steps.

        Raises:
            SequenceError: if the file is absent, cut off, damaged or not a sequence.
        """
        path = Path(path)
        with _opened(path, "is damaged, cut off or not Parquet") as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            groups = (file.metadata.metadata or {}).get(GROUPS_KEY, b"").decode("ascii")
            counts = group_rows(path)
        header = _header(schema)
        if header is None:
            raise SequenceError(f"{path} is Parquet but not a sequence; {REMEDY}")
        if header["format"] not in READ:
            raise SequenceError(
                f"sequence {path} has format {header['format']}, this version reads {FORMAT}; "
                f"{REMEDY}"
            )
        digests = None
        if header["format"] == FORMAT or groups:
            digests = tuple(groups.split())
            if not note_is_whole(header) or len(digests) != len(counts):
                raise SequenceError(
                    f"sequence {path} is damaged (its digests do not match what it says of "
                    f"itself); {REMEDY}"
                )
        parts = tuple(
            Part(rows=part["rows"], provenance=part["provenance"]) for part in header["parts"]
        )
        if sum(part.rows for part in parts) != rows:
            raise SequenceError(
                f"sequence {path} holds {rows} steps but says it holds "
                f"{sum(part.rows for part in parts)}; {REMEDY}"
            )
        return BatchSequence(
            path=path, parts=parts, history=tuple(header["history"]), digests=digests
        )

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def provenance(self) -> dict[str, Any]:
        """Of the first part; data and labels are the same for all (see :func:`join`)."""
        return self.parts[0].provenance

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.path)

    def require_intact(self) -> None:
        """Read all of it and compare it with its digests.

        Raises:
            SequenceError: if it is damaged, naming the rows.
        """
        for _ in self.tables():
            pass

    def part_of(self, row: int) -> Part:
        """The run that a row comes from."""
        for part in self.parts:
            if row < part.rows:
                return part
            row -= part.rows
        raise IndexError(row)

    def require(self, remedy: str, **expected: Any) -> None:
        """Refuse the sequence unless all its parts were recorded on what is expected.

        Args:
            remedy: what to do, for the message.
            **expected: provenance key to value, e.g. ``fingerprint=...``.

        Raises:
            SequenceError: naming the first key that differs and both values.
        """
        for key, value in expected.items():
            for part in self.parts:
                found = part.provenance.get(key)
                if found != value:
                    raise SequenceError(
                        f"sequence {self.path} was recorded on other {_MEANING.get(key, key)}: "
                        f"{_short(found)} there, {_short(value)} here; {remedy}"
                    )

    def tables(self, start: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """Row groups, checked: (number of the first row, rows), from the group of row ``start`` on.

        Raises:
            SequenceError: if a row group is damaged or its lists do not match, naming the rows.
        """
        with _opened(self.path, "is damaged"):
            counts = group_rows(self.path)
        first = 0
        for number, rows in enumerate(counts):
            if first + rows > start:  # opened anew for each: what its taker raises is not its fault
                yield first, self._group(number, first, rows)
            first += rows

    def _group(self, number: int, first: int, rows: int) -> pa.Table:
        where = f"is damaged between its steps {first} and {first + rows - 1}"
        with _opened(self.path, where) as file:
            table = file.read_row_group(number, SCHEMA.names).combine_chunks()
            if table.column_names != SCHEMA.names:
                raise ValueError("a column is gone")
            table.validate()
            if self.digests is not None and _digest(table) != self.digests[number]:
                raise ValueError("its digest does not match")
            _require_whole(table, self.path, first)
            return table

    def steps(self, start: int = 0) -> Iterator[SequenceStep]:
        """Steps in their order, from row ``start`` on; one row group is in memory at a time.

        Raises:
            SequenceError: if the file is damaged, naming the rows.
        """
        for first, table in self.tables(start):
            yield from _steps(table, max(0, start - first))


def write_sequence(
    path: Path,
    tables: Iterable[pa.Table],
    parts: Iterable[Part],
    history: Iterable[dict[str, Any]] = (),
) -> None:
    """Write a sequence, whole or not at all, in row groups of a size of its own.

    The same rows give the same bytes, however the tables they come in are cut.

    Args:
        path: the file.
        tables: rows with the columns of :data:`SCHEMA`; taken one after the other.
        parts: the runs that the rows come from.
        history: what was done to them since.

    Raises:
        SequenceError: if the parts do not add up to the rows.
        GoldiproxError: if the file cannot be written.
    """
    parts = tuple(parts)
    header = {
        "kind": KIND,
        "format": FORMAT,
        "parts": [{"rows": part.rows, "provenance": part.provenance} for part in parts],
        "history": list(history),
    }
    schema = SCHEMA.with_metadata({METADATA_KEY: sealed_note(header)})
    batch = max((int(part.provenance.get("batch", 1)) for part in parts), default=1)
    size = max(1, GROUP_PICKS // batch)
    written, digests = 0, []
    with whole_file(path) as temporary:
        settings = {"compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(temporary, schema, **settings) as writer:
            for group in _regrouped(tables, size):
                rows = group.cast(schema)
                writer.write_table(rows, row_group_size=size)
                written += group.num_rows
                digests.append(_digest(rows))
            writer.add_key_value_metadata({GROUPS_KEY: " ".join(digests)})
        if written != sum(part.rows for part in parts):
            raise SequenceError(
                f"{written} steps for {path}, not the {sum(part.rows for part in parts)} that the "
                f"run had; {REMEDY}"
            )


def cut(source: BatchSequence, out: Path, start: int, stop: int | None = None) -> None:
    """Write the steps from row ``start`` up to (not including) row ``stop``.

    Raises:
        SequenceError: if that is none of its steps.
    """
    stop = len(source) if stop is None else stop
    if not 0 <= start < stop <= len(source):
        raise SequenceError(
            f"sequence {source.path} has steps 0 to {len(source) - 1}: cannot cut from {start} up "
            f"to {stop}"
        )

    def rows() -> Iterator[pa.Table]:
        for first, table in source.tables(start):
            if first >= stop:
                return
            begin = max(0, start - first)
            yield table.slice(begin, stop - first - begin)

    parts, at = [], 0
    for part in source.parts:
        kept = min(stop, at + part.rows) - max(start, at)
        if kept > 0:
            parts.append(Part(rows=kept, provenance=part.provenance))
        at += part.rows
    note = {"operation": "cut", "start": start, "stop": stop}
    write_sequence(out, rows(), parts, (*source.history, note))


def thin(source: BatchSequence, out: Path, every: int) -> None:
    """Write every n-th step, beginning with the first.

    Raises:
        SequenceError: if ``every`` is not positive.
    """
    if every < 1:
        raise SequenceError(f"cannot take every {every}-th step of {source.path}; give 1 or more")

    def rows() -> Iterator[pa.Table]:
        for first, table in source.tables():
            yield table.take(np.arange(-first % every, table.num_rows, every))

    parts, at = [], 0
    for part in source.parts:
        kept = -(-(at + part.rows) // every) + (-at // every)  # multiples of n in [at, at + rows)
        if kept:
            parts.append(Part(rows=kept, provenance=part.provenance))
        at += part.rows
    write_sequence(out, rows(), parts, (*source.history, {"operation": "thin", "every": every}))


def join(sources: Iterable[BatchSequence], out: Path) -> None:
    """Write sequences one after the other.

    Raises:
        SequenceError: if they were recorded on different data or labels.
    """
    sources = tuple(sources)
    if not sources:
        raise SequenceError("name at least one sequence to join")
    one = sources[0].provenance
    for source in sources:
        source.require(
            "only sequences of the same data and labels can be joined",
            **{key: one.get(key) for key in ("fingerprint", "label_digest")},
        )
    note = {
        "operation": "join",
        "of": [{"steps": len(s), "history": list(s.history)} for s in sources],
    }
    write_sequence(
        out,
        (table for source in sources for _, table in source.tables()),
        (part for source in sources for part in source.parts),
        (note,),
    )


def _regrouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ``size`` rows (the last may be shorter)."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table.replace_schema_metadata(None))
        rows += table.num_rows
        while rows >= size:
            whole = pa.concat_tables(held)
            yield whole.slice(0, size).combine_chunks()
            rows -= size
            held = [whole.slice(size)]
    if rows:
        yield pa.concat_tables(held).combine_chunks()


def _steps(table: pa.Table, start: int) -> Iterator[SequenceStep]:
    """Rows as arrays that share the table's memory: no Python object for each pick."""
    number, epoch = table["step"].to_numpy(), table["epoch"].to_numpy()
    pool = table["pool"].to_pylist()
    ids, positions = _flat(table, "ids"), _flat(table, "positions")
    weights = _flat(table, "weights")
    weighted = table["weights"].is_valid().to_numpy()
    for row in range(start, table.num_rows):
        yield SequenceStep(
            step=int(number[row]),
            epoch=int(epoch[row]),
            pool=pool[row],
            ids_k=_row(ids, row),
            positions_k=_row(positions, row),
            weights_k=_row(weights, row) if weighted[row] else None,
        )


_Lists = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]


def _flat(table: pa.Table, name: str) -> _Lists:
    """A list column as (offsets, values)."""
    column = table[name].combine_chunks()
    return column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)


def _row(lists: _Lists, row: int) -> npt.NDArray[Any]:
    offsets, values = lists
    return values[offsets[row] : offsets[row + 1]]


def _require_whole(table: pa.Table, path: Path, first: int) -> None:
    """Every row must have as many positions, and weights where it has any, as ids."""
    ids, positions, weights = (
        np.asarray(compute.list_value_length(table[name]).fill_null(-1))
        for name in ("ids", "positions", "weights")
    )
    bad = (ids < 1) | (positions != ids) | ((weights != ids) & (weights != -1))
    if bad.any():
        raise SequenceError(
            f"sequence {path} is damaged: its step {first + int(bad.argmax())} has "
            f"{ids[bad][0]} ids, {positions[bad][0]} positions, {weights[bad][0]} weights; {REMEDY}"
        )


def _opened(path: Path, damaged: str) -> AbstractContextManager[pq.ParquetFile]:
    """Open it under the guard; whatever is raised inside is one line that names it."""
    return open_parquet(
        path, f"sequence {path}", error=SequenceError, remedy=REMEDY, damaged=damaged
    )


def _digest(table: pa.Table) -> str:
    return content_digest(table)[:32]


HEADER = {
    "kind": str, "format": None, "history": [{"operation": str, "start?": int, "stop?": int,
                                              "every?": int, "of?": list}],
    "parts": [{"rows": int, "provenance": {
        "dataset?": str, "examples?": int, "method?": str, "model?": str, "seed?": int,
        "pool?": int, "batch?": int, "epochs?": int, "steps?": int, "flops?": float,
        "irreducible?": dict, "config?": dict, "versions?": dict, "num_classes?": int}}],
}  # fmt: skip
"""What a sequence says of itself; other keys may stand beside."""


def _header(schema: pa.Schema) -> dict[str, Any] | None:
    """The note that a sequence carries; None where the file is something else."""
    header = note_of(schema, METADATA_KEY)
    if misfit(header, HEADER) or header["kind"] != KIND or not header["parts"]:
        return None
    same = [(f.name, f.type) for f in schema] == [(f.name, f.type) for f in SCHEMA]
    counted = all(part["rows"] >= 0 for part in header["parts"])
    return dict(header) if same and counted else None


_MEANING = {
    "fingerprint": "data",
    "label_digest": "labels or another split (noise, seed or holdout differ)",
    "num_classes": "classes",
}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."
