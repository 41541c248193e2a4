"""Data sets in tables: features, texts or images by path, with classes, numbers or label sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from goldiprox.csv_files import texts_of
from goldiprox.data.files import Checked
from goldiprox.data.image_files import files_dataset
from goldiprox.data.image_names import LOOKED_AT, are_image_names, image_names
from goldiprox.data.labels import RawLabels
from goldiprox.data.notes import Note, note_of
from goldiprox.data.parquet import (
    IMAGE_COLUMNS,
    column_types,
    find_shards,
    first_values,
    holds_texts,
)
from goldiprox.data.parquet import TEXT_COLUMNS as PARQUET_TEXTS
from goldiprox.data.settings import Reading
from goldiprox.data.sources import test_rows_of
from goldiprox.data.store import Dataset, TextStore, make_dataset
from goldiprox.data.table_files import is_csv, read_table, require_same_columns
from goldiprox.data.tabular import contents_of, feature_columns, is_number, read_features
from goldiprox.data.targets import TargetKind, Targets, are_lists, names_in, read_targets
from goldiprox.data.text_columns import is_bytes, is_text, text_column
from goldiprox.guarded.errors import listed
from goldiprox.schema import DataError

__all__ = ["from_table_files", "parquet_tables"]

LABEL_COLUMNS = ("label", "labels", "target", "targets", "class", "fine_label", "y")
TEXT_COLUMNS = ("text", "sentence", "content", "review", "document")
"""What a column of texts may be called, in a table."""
PATH_COLUMNS = ("image", "img", "path", "file_name", "filename", "file", "image_path")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """All rows of some files, the training files' first."""

    table: pa.Table
    metadata: list[Any]
    paths: list[Path]
    counts: list[int]
    train_parts: int
    notes: tuple[Note, ...]

    @property
    def where(self) -> str:
        return str(self.paths[0])

    @property
    def train_count(self) -> int:
        return sum(self.counts[: self.train_parts])

    def parts(self, column: str) -> list[RawLabels]:
        """One column, file by file."""
        starts = [sum(self.counts[:at]) for at in range(len(self.counts))]
        return [
            RawLabels(values=self.table[column].slice(start, count), where=str(path))
            for path, start, count in zip(self.paths, starts, self.counts, strict=True)
        ]


def from_table_files(
    name: str,
    train: Sequence[Path],
    test: Sequence[Path],
    reading: Reading,
    targets: TargetKind | None = None,
    checked: Checked | None = None,
) -> Dataset:
    """Make a data set of files that hold a table.

    The input is the column that is named; else a column of texts or of names of image files that
    is called so; else all columns that are neither label nor group, as features.

    Args:
        name: what to call it.
        train: files of the training set, at least one.
        test: files of the test set; without one a fifth of the rows (of every class) is taken.
        reading: names columns, where the user does.
        targets: what the labels are; lists of labels are taken for label sets, everything else for
            classes unless given.
        checked: told how many images, of how many, have been looked at.

    Returns:
        The data set; its ids number the rows, those of the training files first.

    Raises:
        DataError: naming file, column and row, if something is absent, of another type than
            expected, or different in the test file.
    """
    read = _read(train, test)
    labels = _label_columns(read, reading)
    other = [*labels, *([reading.group_column] if reading.group_column else [])]
    if targets != "numbers":
        read = _as_written(read, other)
    known = _targets(read, labels, targets)
    if read.train_count == len(known.values_N):
        chosen = test_rows_of(known)
    else:
        chosen = torch.arange(read.train_count, len(known.values_N))
    common: dict[str, Any] = {
        "class_names": known.names,
        "groups": _groups(read, reading),
        "targets": known.kind,
    }
    notes = (*read.notes, *known.notes)
    column = _input_column(read, reading, other)
    if column is None:
        names, left_out = feature_columns(read.table, reading.feature_columns, other, read.where)
        train_rows = _others(chosen, len(known.values_N))
        features = read_features(read.table, names, train_rows, read.where)
        return make_dataset(
            name, features.store, known.values_N, chosen,
            source=read.where, preprocess=features.preprocess,
            contents=contents_of(read.table.select(names)),
            notes=(*notes, *left_out, *features.notes), **common,
        )  # fmt: skip
    if _holds_paths(read, column):
        root = read.paths[0].parent
        names = image_names(read.table[column].to_pylist(), read.paths, column)
        twice = [name for name, count in Counter(names).items() if count > 1]
        notes += note_of("images that several rows name, each an example", twice)
        return files_dataset(
            name, root, names, known.values_N, chosen, known.names, reading,
            notes=notes, groups=common["groups"], targets=known.kind, checked=checked,
        )  # fmt: skip
    where = f"{read.where}: column {column}"
    if not (is_text(read.table[column].type) or is_bytes(read.table[column].type)):
        raise DataError(
            f"{where} holds {read.table[column].type}; texts or names of image files expected "
            "(numeric columns are named with --feature-columns)"
        )
    return make_dataset(
        name, TextStore(text_column(read.table[column], where)), known.values_N, chosen,
        source=read.where, notes=notes, **common,
    )  # fmt: skip


def parquet_tables(
    path: Path, reading: Reading, targets: TargetKind | None
) -> tuple[list[Path], list[Path]]:
    """Training and test files of a path that holds Parquet, if they are to be read as a table.

    That is where feature columns are named, where there is neither a column of images nor one of
    texts, and where texts have numbers or label sets to predict.

    Args:
        path: a file or folder.
        reading: names columns, where the user does.
        targets: what the labels are read as, where it was said.

    Returns:
        The files, see :func:`goldiprox.data.parquet.find_shards`; none if they are no table.
    """
    train, test = find_shards(path) if path.is_dir() else ([path], [])
    if not train or not path.exists():
        return [], []
    if reading.feature_columns:
        return train, test
    present = column_types(train[0])
    if _may_name_images(train[0], present, reading):
        return train, test
    named = [reading.input_column] if reading.input_column else [*IMAGE_COLUMNS, *TEXT_COLUMNS]
    inputs = [name for name in named if name in present]
    if not inputs:
        known = {reading.label_column, reading.group_column, *LABEL_COLUMNS}
        numeric = any(is_number(kind) for name, kind in present.items() if name not in known)
        return ([], []) if reading.input_column or not numeric else (train, test)
    column = inputs[0]
    is_table = targets not in (None, "classes") and holds_texts(train[0], reading)
    if reading.input_column is None and column not in (*IMAGE_COLUMNS, *PARQUET_TEXTS):
        is_table = is_text(present[column]) or is_bytes(present[column])
    return (train, test) if is_table else ([], [])


def _may_name_images(path: Path, present: dict[str, pa.DataType], reading: Reading) -> bool:
    """Whether the input column, or one that may be it, begins with names of image files."""
    if reading.input_column is not None:
        candidates = [reading.input_column]
    elif any(name in present and not is_text(present[name]) for name in IMAGE_COLUMNS):
        return False
    else:
        texts = [name for name in TEXT_COLUMNS if name in present]
        known = {reading.label_column, reading.group_column, *LABEL_COLUMNS}
        candidates = texts or [name for name in present if name not in known]
    candidates = [name for name in candidates if name in present and is_text(present[name])]
    return any(map(are_image_names, first_values(path, candidates, LOOKED_AT)))


def _others(rows: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[rows] = False
    return left.nonzero().flatten()


def _read(train: Sequence[Path], test: Sequence[Path]) -> _Read:
    paths = [*train, *test]
    pairs = [read_table(path) for path in paths]
    tables = [table for table, _ in pairs]
    require_same_columns(paths, tables)
    columns = tables[0].column_names
    try:
        table = pa.concat_tables(
            [table.select(columns) for table in tables], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise DataError(
            f"{paths[0].parent}: {_first_difference(paths, tables)}; give all files the same types"
        ) from error
    return _Read(
        table=table,
        metadata=[table.schema.metadata for table in tables],
        paths=paths,
        counts=[len(table) for table in tables],
        train_parts=len(train),
        notes=tuple(chain.from_iterable(notes for _, notes in pairs)),
    )


def _first_difference(paths: Sequence[Path], tables: Sequence[pa.Table]) -> str:
    for path, table in zip(paths[1:], tables[1:], strict=True):
        for name in tables[0].column_names:
            one, other = tables[0].schema.field(name).type, table.schema.field(name).type
            if one != other:
                return f"column {name!r} holds {one} in {paths[0].name} and {other} in {path.name}"
    return "the files' columns differ"


def _label_columns(read: _Read, reading: Reading) -> list[str]:
    """The label's column; of several numbers, all of theirs."""
    present = read.table.column_names
    if reading.label_column is None:
        for column in LABEL_COLUMNS:
            if column in present:
                return [column]
        raise DataError(
            f"{read.where}: no label column: looked for {', '.join(LABEL_COLUMNS)}; name it with "
            f"--label-column: there are {listed(present)}"
        )
    if reading.label_column in present:
        return [reading.label_column]
    several = [name.strip() for name in reading.label_column.split(",")]
    for column in several:
        if column not in present:
            raise DataError(
                f"{read.where} has no label column {column!r}; there are {', '.join(present)}"
            )
    return several


def _targets(read: _Read, columns: list[str], kind: TargetKind | None) -> Targets:
    if len(columns) > 1:
        if kind in (None, "classes"):
            raise DataError(
                f"{read.where}: {len(columns)} label columns; choose --objective regression "
                "(several numbers) or --objective multilabel (0 and 1 in each)"
            )
        parts = [
            RawLabels(values=[list(row) for row in zip(*lists, strict=True)], where=str(path))
            for path, lists in (
                (parts[0].where, [part.values.to_pylist() for part in parts])
                for parts in zip(*(read.parts(column) for column in columns), strict=True)
            )
        ]
        if kind == "label sets":
            _require_bits(read, columns)
        found = read_targets(parts, read.train_parts, kind, columns)
        return replace(found, names=tuple(columns))
    parts = read.parts(columns[0])
    guessed = are_lists(read.table[columns[0]])
    if kind is None:
        kind = "label sets" if guessed else "classes"
    names = columns if kind == "numbers" else _hub_names(read, columns[0])
    return read_targets(parts, read.train_parts, kind, names)


def _hub_names(read: _Read, column: str) -> tuple[str, ...] | None:
    """The names of the classes, where the files' metadata has them."""
    names = {names_in(metadata, column) for metadata in read.metadata}
    if len(names) > 1:
        raise DataError(f"{read.paths[0].parent}: the files disagree on the names of the classes")
    return names.pop()


def _require_bits(read: _Read, columns: Sequence[str]) -> None:
    """Columns that each say whether an example has one label hold 0 and 1, or truth values."""
    for column in columns:
        for part in read.parts(column):
            values: Any = part.values
            for row, value in enumerate(values.to_pylist()):
                if value is None or isinstance(value, str) or value not in (0, 1):
                    raise DataError(
                        f"{part.where}: row {row} has {value!r} in the label column {column!r}; 0 "
                        "or 1 expected in each of several, or name one column of lists"
                    )


def _as_written(read: _Read, columns: Sequence[str]) -> _Read:
    """The same with names in these columns that only look like numbers in CSV: 007."""
    table = read.table
    for column in columns:
        if column not in table.column_names or not all(map(is_csv, read.paths)):
            continue
        if not pa.types.is_integer(table[column].type):
            continue
        chunks = [chunk for path in read.paths for chunk in texts_of(path, [column])[column].chunks]
        texts = pc.utf8_trim_whitespace(pa.chunked_array(chunks, pa.string()))
        if pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d")).as_py():
            table = table.set_column(table.column_names.index(column), column, texts)
    return replace(read, table=table)


def _groups(read: _Read, reading: Reading) -> list[Any] | None:
    if reading.group_column is None:
        return None
    if reading.group_column not in read.table.column_names:
        raise DataError(
            f"{read.where} has no group column {reading.group_column!r}; there are "
            f"{listed(read.table.column_names)}"
        )
    found: list[Any] = read.table[reading.group_column].to_pylist()
    return found


def _input_column(read: _Read, reading: Reading, other: Sequence[str]) -> str | None:
    """The column of texts or of names of image files; None where all columns are features."""
    present: list[str] = read.table.column_names
    if reading.input_column is not None:
        if reading.feature_columns:
            raise DataError("--input-column and --feature-columns exclude each other: give one")
        if reading.input_column not in present:
            raise DataError(
                f"{read.where} has no column {reading.input_column!r}; there are "
                f"{', '.join(present)}"
            )
        return reading.input_column
    if reading.feature_columns:
        return None
    candidates = [name for name in present if name not in other]
    paths = [column for column in candidates if _holds_paths(read, column)]
    paths = [column for column in paths if column.lower() in PATH_COLUMNS] or paths
    if len(paths) > 1:
        raise DataError(
            f"{read.where}: columns {', '.join(paths)} all name image files; name one of them with "
            "--input-column"
        )
    if paths:
        return paths[0]
    texts = [name for name in candidates if name.lower() in TEXT_COLUMNS]
    texts = [n for n in texts if is_text(read.table[n].type) or is_bytes(read.table[n].type)]
    if len(texts) > 1:
        raise DataError(
            f"{read.where}: columns {', '.join(texts)} may all be the input; name one with "
            "--input-column"
        )
    return texts[0] if texts else None


def _holds_paths(read: _Read, column: str) -> bool:
    """Whether the first values of a column are names of image files."""
    values = read.table[column]
    return is_text(values.type) and are_image_names(values.slice(0, LOOKED_AT).to_pylist())
