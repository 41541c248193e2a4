"""One reader of files that hold a table: CSV, TSV, JSON lines and Parquet, as Arrow columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from goldiprox.csv_files import CSV_SUFFIXES, MARKS, read_csv
from goldiprox.data.messages import first_line
from goldiprox.data.notes import Note, note_of
from goldiprox.guarded.parquet import read_parquet
from goldiprox.schema import DataError

__all__ = [
    "TABLE_SUFFIXES",
    "find_table_files",
    "is_csv",
    "is_table_file",
    "other_tables",
    "read_table",
    "require_known_kind",
    "require_same_columns",
]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES)
"""Files of these kinds are read here; of Parquet, those that hold neither images nor texts."""

TESTS = ("test", "validation", "valid", "val", "dev")
"""What a test file may be called, the first that is there."""

BLOCK = 1 << 24
"""Bytes that are parsed at a time; one row has to fit."""

SHOWN = 5


def is_table_file(path: Path) -> bool:
    """Whether a path's name says that it holds a table as text (compressed or not)."""
    return _suffix(path) in TABLE_SUFFIXES


def is_csv(path: Path) -> bool:
    """Whether a path's name says that it holds CSV (or TSV), compressed or not."""
    return _suffix(path) in CSV_SUFFIXES


def require_known_kind(path: Path) -> None:
    """Refuse a file that is neither a table as text nor Parquet.

    Raises:
        DataError: naming the kinds that are read.
    """
    if is_table_file(path) or path.suffix.lower() in (".parquet", ""):
        return
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return
    except OSError:
        return  # whoever reads it says why it cannot be read
    raise DataError(
        f"{path}: a file of another kind; tables end in {', '.join(TABLE_SUFFIXES)} (also with .gz "
        "or .bz2) or .parquet: save it as one of these"
    )


def find_table_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Training and test files of a folder: ``train*.csv`` and ``test*.csv``, or the one file there.

    Args:
        folder: an existing folder.

    Returns:
        Training files and test files, each sorted by name; both empty if there are no tables.

    Raises:
        DataError: if the files' names do not say which are for training, or they are of two kinds.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and is_table_file(file))
    if not files:
        return [], []
    kinds = Counter(_suffix(file) for file in files)
    if len(kinds) > 1:
        raise DataError(
            f"{folder}: files of several kinds ({', '.join(sorted(kinds))}); keep one kind there, "
            "or name the file itself"
        )
    train = [file for file in files if file.name.lower().startswith("train")]
    test: list[Path] = []
    for name in TESTS:
        test = test or [file for file in files if file.name.lower().startswith(name)]
    if not train and not test and len(files) == 1:
        return files, []
    if not train:
        raise DataError(
            f"{folder}: which files are for training? found "
            f"{', '.join(file.name for file in files[:SHOWN])}; name them train*{files[0].suffix} "
            f"and test*{files[0].suffix}"
        )
    return train, test


def other_tables(folder: Path, used: Sequence[Path]) -> tuple[Note, ...]:
    """A note of the tables that lie in a folder, or beside those that are read, and are not."""
    places = {folder, *(path.parent for path in used)}
    files = {file for place in places for file in place.iterdir() if file.is_file()}
    return note_of(
        "left out: tables that are neither training nor test set",
        sorted(
            str(file.relative_to(folder))
            for file in files - {*used}
            if _suffix(file) in (*TABLE_SUFFIXES, ".parquet")
        ),
    )


def read_table(path: Path) -> tuple[pa.Table, tuple[Note, ...]]:
    """Read a whole file.

    Args:
        path: a CSV, TSV, JSON lines or Parquet file (compressed as .gz or .bz2 or not); JSON may
            also hold one list of objects.

    Returns:
        Its columns, named as in the file; and a note of how it was read where it is no plain CSV.

    Raises:
        DataError: if it is absent, no such file, in another encoding than UTF-8, or has two columns
            of one name or no rows.
    """
    notes: tuple[Note, ...] = ()
    try:
        if path.suffix.lower() == ".parquet":
            table = read_parquet(path, str(path), error=DataError)
        elif is_csv(path):
            table, form = read_csv(path)
            notes = note_of("read as a table", [f"{path.name}: {form}"] if form else [])
        else:
            table = _read_json(path)
        table.validate(full=True)  # texts that are not UTF-8 would end in an error far from here
        names = table.column_names
    except UnicodeError as error:
        raise DataError(
            f"{path} is not a text in UTF-8; save it with the encoding UTF-8"
        ) from error
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise DataError(
            f"{path}: damaged or no table ({first_line(error)}); write all values of a column as "
            "one kind, or get the file again"
        ) from error
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(
            f"{path} has {doubled[0]!r} as the name of several columns; rename or remove all but "
            "one"
        )
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    return table, notes


def _suffix(path: Path) -> str:
    """The suffix that says what a file holds, that of a compression taken off."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_json(path: Path) -> pa.Table:
    with pa.input_stream(str(path)) as stream:
        start = bytes(stream.read(4096))
    if any(start.startswith(mark) for mark, name in MARKS.items() if name != "utf-8-sig"):
        raise UnicodeError("another encoding")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return _from_list(path)
    with pa.input_stream(str(path)) as stream:
        table = pyarrow.json.read_json(
            stream, read_options=pyarrow.json.ReadOptions(block_size=BLOCK)
        )
    try:
        table.validate(full=True)  # texts are taken as they are
    except pa.ArrowInvalid as error:
        raise UnicodeError("another encoding") from error
    return table


def _from_list(path: Path) -> pa.Table:
    """A file that holds one JSON list of objects."""
    with pa.input_stream(str(path)) as stream:
        text = bytes(stream.read()).decode("utf-8-sig")
    try:
        rows: Any = json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged or no JSON ({first_line(error)})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: a list of objects expected, one an example, or one object a line")
    names = dict.fromkeys(name for row in rows for name in row)  # of all rows, not the first alone
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has one name twice among {', '.join(n for n, _ in pairs)}")
    return found


def require_same_columns(paths: Sequence[Path], tables: Sequence[pa.Table]) -> None:
    """Refuse files that do not all have the first one's columns.

    Raises:
        DataError: naming the file and the columns.
    """
    first = set(tables[0].column_names)
    for path, table in zip(paths[1:], tables[1:], strict=True):
        missing = sorted(first - set(table.column_names))
        if missing:
            raise DataError(
                f"{path} has no column {', '.join(missing[:SHOWN])}, which {paths[0]} has; give "
                "all files the same columns"
            )
