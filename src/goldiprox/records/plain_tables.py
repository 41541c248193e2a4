"""Tables that users bring: CSV, as spreadsheets write it too, and Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goldiprox.csv_files import CSV_SUFFIXES, read_csv
from goldiprox.guarded.errors import listed
from goldiprox.schema import DataError, TableError

__all__ = ["PlainTable", "read_plain"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainTable:
    """Columns of a file.

    Attributes:
        columns: those asked for, by name; none has an empty row.
        form: how the file was read where it is no plain CSV, for records; else empty.
    """

    columns: dict[str, pa.ChunkedArray]
    form: str


def read_plain(path: Path, flags: dict[str, str]) -> PlainTable:
    """Read some columns of a CSV or Parquet file.

    Args:
        path: a file whose name ends in ``.csv``, ``.tsv`` or ``.parquet``.
        flags: the columns' names, each with the option that names another one, for messages.

    Returns:
        The columns, numbers where they are numbers.

    Raises:
        TableError: if the file is absent, damaged or in another encoding, or if a column is
            absent, comes twice or has empty rows.
    """
    form = ""
    try:
        if path.is_dir():  # pyarrow would read every file in it as one table
            raise IsADirectoryError(f"{path} is a folder")
        if path.suffix.lower() in CSV_SUFFIXES:
            table, form = read_csv(path, [*flags])
        elif path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
        else:
            raise TableError(f"{path}: its name must end in {', '.join(CSV_SUFFIXES)} or .parquet")
    except DataError as error:
        raise TableError(str(error)) from error
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist") from error
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise TableError(f"{path} is damaged or no such file: {first}") from error
    return PlainTable(
        columns={name: _column(table, name, path, flag) for name, flag in flags.items()}, form=form
    )


def _column(table: pa.Table, name: str, path: Path, flag: str) -> pa.ChunkedArray:
    count = table.column_names.count(name)
    if count > 1:
        raise TableError(
            f"{path} has {count} columns {name}; keep one of them, or rename the other"
        )
    if not count:
        raise TableError(
            f"{path} has no column {name}; it has: {listed(table.column_names)}; "
            f"name one with {flag}"
        )
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise TableError(f"{path}: {name} is empty in {column.null_count} rows; fill them")
    return column
