"""Tables that users bring: CSV, as spreadsheets write it too, and Parquet."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from goldiprox.schema import TableError

__all__ = ["PlainTable", "read_plain"]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16's mark does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CSV = (".csv", ".tsv")
LOOKED_AT = 1 << 12  # bytes of a file that may tell its encoding


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

    A CSV file may be separated by commas, semicolons, tabs or bars; which of them is told by its
    first line, the one that names the columns. Numbers may have decimal commas, and a file that
    begins with a mark may be in UTF-16 or UTF-32.

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
        if path.suffix.lower() in CSV:
            table, form = _read_csv(path, [*flags])
        elif path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
        else:
            raise TableError(f"{path}: its name must end in {', '.join(CSV)} or .parquet")
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist") from error
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise TableError(f"{path} is damaged or no such file: {first}") from error
    return PlainTable(
        columns={name: _column(table, name, path, flag) for name, flag in flags.items()}, form=form
    )


def _read_csv(path: Path, names: Sequence[str]) -> tuple[pa.Table, str]:
    encoding = _encoding(path)
    separator = _separator(path, encoding, names)

    def read(decimal_point: str) -> pa.Table:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(encoding=encoding.replace("-sig", "")),
            parse_options=pa_csv.ParseOptions(delimiter=separator),
            convert_options=pa_csv.ConvertOptions(decimal_point=decimal_point),
        )
        return table.rename_columns([name.strip() for name in table.column_names])

    try:
        table = read(".")
        form = [] if separator == "," else [f"separated by {SEPARATORS[separator]}"]
        form += [encoding.upper()] if encoding in ("utf-16", "utf-32") else []
        if any(_is_text(table, name) for name in names):
            with_commas = read(",")
            if sum(_is_text(with_commas, n) for n in names) < sum(
                _is_text(table, n) for n in names
            ):
                table = with_commas
                form.append("with decimal commas")
    except UnicodeError as error:
        raise _other_encoding(path, encoding) from error
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise TableError(
            f"{path} cannot be read as a table separated by {SEPARATORS[separator]}: {first}; "
            "where numbers have decimal commas, separate columns by semicolons"
        ) from error
    return table, ", ".join(form)


def _encoding(path: Path) -> str:
    with path.open("rb") as handle:
        head = handle.read(LOOKED_AT)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise _other_encoding(path, "utf-8")
    return "utf-8"


def _separator(path: Path, encoding: str, names: Sequence[str]) -> str:
    """The one with which the first line names the columns; the one that cuts it most often else."""
    try:
        with path.open(encoding=encoding, newline="") as handle:
            first = handle.readline()
    except UnicodeError as error:
        raise _other_encoding(path, encoding) from error
    best, most = ",", (0, 0)
    for separator in SEPARATORS:
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        cut = (sum(name in cells for name in names), len(cells))
        if cut > most:
            best, most = separator, cut
    return best


def _other_encoding(path: Path, encoding: str) -> TableError:
    return TableError(
        f"{path} is not a text in {encoding.replace('-sig', '').upper()}; save it with the "
        "encoding UTF-8"
    )


def _is_text(table: pa.Table, name: str) -> bool:
    indices = table.schema.get_all_field_indices(name)
    return any(pa.types.is_string(table.schema.field(index).type) for index in indices)


def _column(table: pa.Table, name: str, path: Path, flag: str) -> pa.ChunkedArray:
    count = table.column_names.count(name)
    if count > 1:
        raise TableError(
            f"{path} has {count} columns {name}; keep one of them, or rename the other"
        )
    if not count:
        raise TableError(
            f"{path} has no column {name}; it has: {', '.join(table.column_names) or 'none'}; "
            f"name one with {flag}"
        )
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise TableError(f"{path}: {name} is empty in {column.null_count} rows; fill them")
    return column
