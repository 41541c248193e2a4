"""One reader of CSV files, as spreadsheets and other programs write them."""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from goldiprox.schema import DataError

__all__ = ["CSV_SUFFIXES", "read_csv", "texts_of"]

CSV_SUFFIXES = (".csv", ".tsv")

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16's mark does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LOOKED_AT = 1 << 12  # bytes of a file that may tell its encoding
BLOCK = 1 << 24  # bytes parsed at a time: one row has to fit


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a CSV file is written.

    Attributes:
        path: the file.
        encoding: as Python calls it.
        separator: of the columns.
        skipped: lines before the one that names the columns.
    """

    path: Path
    encoding: str
    separator: str
    skipped: int

    def read(self, **options: Any) -> pa.Table:
        """The columns, named as they are written there, with these options of conversion."""
        with pa.input_stream(str(self.path)) as stream:
            return pa_csv.read_csv(
                stream,
                read_options=pa_csv.ReadOptions(
                    encoding=self.encoding.replace("-sig", ""),
                    block_size=BLOCK,
                    skip_rows=self.skipped,
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self.separator, newlines_in_values=True
                ),
                convert_options=pa_csv.ConvertOptions(strings_can_be_null=True, **options),
            )


def read_csv(path: Path, names: Sequence[str] = ()) -> tuple[pa.Table, str]:
    """Read a CSV file.

    It may be separated by commas, semicolons, tabs or bars; which of them is told by its first
    line, the one that names the columns (Excel's ``sep=;`` may stand before it). Numbers may have
    decimal commas, values may hold line breaks, a file that begins with a mark may be in UTF-16 or
    UTF-32, and one whose name ends in ``.gz`` or ``.bz2`` is unpacked.

    Args:
        path: the file.
        names: columns that are expected, as a hint which separator it is and which columns should
            be numbers; any may be unless some are named.

    Returns:
        The columns, an empty field being null, as are NA and the like unless they stand in quotes
        in a column of texts; and how the file was read where it is no plain CSV, for records, else
        an empty text.

    Raises:
        DataError: if it is in another encoding, has quotes that do not pair, or is no table.
        OSError: if it cannot be read.
    """
    file = _form(path, names)
    try:
        _require_pairs_of_quotes(file)
        table = file.read()
        form = [] if file.separator == "," else [f"separated by {SEPARATORS[file.separator]}"]
        form += [file.encoding.upper()] if file.encoding in ("utf-16", "utf-32") else []
        if (names or file.separator != ",") and _texts(table, names):
            with_commas = file.read(decimal_point=",")
            if _texts(with_commas, names) < _texts(table, names):
                table = with_commas
                form.append("with decimal commas")
        if any(pa.types.is_binary(field.type) for field in table.schema):
            raise _other_encoding(path, file.encoding)
        table = _with_quoted(file, table)
    except UnicodeError as error:
        raise _other_encoding(path, file.encoding) from error
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        remedy = "the first line has to name the columns"
        if file.separator == "," and "Expected" in first:
            remedy = "where numbers have decimal commas, separate columns by semicolons"
        raise DataError(
            f"{path} cannot be read as a table separated by {SEPARATORS[file.separator]}: {first}; "
            f"{remedy}"
        ) from error
    return table.rename_columns([name.strip() for name in table.column_names]), ", ".join(form)


def texts_of(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a CSV file as they are written, whatever they hold: 007 is not 7.

    Args:
        path: a file that :func:`read_csv` has read.
        columns: their names.

    Returns:
        Texts.
    """
    file = _form(path, columns)
    written = [name for name in file.read().column_names if name.strip() in columns]
    table = file.read(include_columns=written, column_types=dict.fromkeys(written, pa.string()))
    return table.rename_columns([name.strip() for name in written]).select(columns)


def _with_quoted(file: _Form, table: pa.Table) -> pa.Table:
    """The table with what was taken for null but stands in quotes, in columns of texts.

    There ``"NA"`` is a name and ``""`` an empty text; in columns of numbers both are missing.
    """
    names = table.column_names
    gaps = [
        field.name
        for field in table.schema
        if pa.types.is_string(field.type)
        and names.count(field.name) == 1
        and table[field.name].null_count
    ]
    if gaps:
        kinds = dict.fromkeys(gaps, pa.string())
        again = file.read(
            include_columns=gaps, column_types=kinds, quoted_strings_can_be_null=False
        )
        for name in gaps:
            table = table.set_column(names.index(name), name, again[name])
    return table


def _require_pairs_of_quotes(file: _Form) -> None:
    """Refuse quotes that Arrow would make something of: rows that end elsewhere, or texts cut.

    Raises:
        DataError: naming the line.
    """
    mark = b'"'  # one of the bytes of a quote in every encoding that is read
    with pa.input_stream(str(file.path)) as stream:
        if not any(mark in block for block in iter(lambda: bytes(stream.read(BLOCK)), b"")):
            return
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with pa.input_stream(str(file.path)) as stream:
            lines = io.TextIOWrapper(stream, file.encoding, newline="")
            reader = csv.reader(lines, delimiter=file.separator, strict=True)
            start = 1
            try:
                for _ in reader:
                    start = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{file.path}: the quotes of the row that begins in line {start} do not pair; "
                    "write a quote inside of a value twice and the value in quotes, or save the "
                    "table as JSON lines"
                ) from error
    finally:
        csv.field_size_limit(limit)


def _form(path: Path, names: Sequence[str]) -> _Form:
    """How a file is written, by its beginning."""
    encoding = _encoding(path)
    try:
        with pa.input_stream(str(path)) as stream:
            head = codecs.getincrementaldecoder(encoding)().decode(bytes(stream.read(1 << 16)))
    except UnicodeError as error:
        raise _other_encoding(path, encoding) from error
    first = (head.splitlines() or [""])[0]
    told = first.strip().strip('"').lower()
    if told.startswith("sep=") and told[4:] in SEPARATORS:  # Excel's own way to tell
        return _Form(path=path, encoding=encoding, separator=told[4:], skipped=1)
    return _Form(path=path, encoding=encoding, separator=_separator(first, names), skipped=0)


def _encoding(path: Path) -> str:
    with pa.input_stream(str(path)) as stream:
        head = bytes(stream.read(LOOKED_AT))
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise _other_encoding(path, "utf-8")
    return "utf-8"


def _separator(first: str, names: Sequence[str]) -> str:
    """The one with which the first line names the columns; the one that cuts it most often else."""
    best, most = ",", (0, 0)
    for separator in SEPARATORS:
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        cut = (sum(name in cells for name in names), len(cells))
        if cut > most:
            best, most = separator, cut
    return best


def _other_encoding(path: Path, encoding: str) -> DataError:
    return DataError(
        f"{path} is not a text in {encoding.replace('-sig', '').upper()}; save it with the "
        "encoding UTF-8"
    )


def _texts(table: pa.Table, names: Sequence[str]) -> int:
    """How many columns hold texts, of those named or of all."""
    kinds = {field.type for field in table.schema if pa.types.is_string(field.type)}
    return sum(f.type in kinds for f in table.schema if not names or f.name in names)
