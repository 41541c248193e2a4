"""One reader of CSV files, as spreadsheets and other programs write them."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from goldiprox.schema import DataError

__all__ = ["CSV_SUFFIXES", "read_csv"]

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


def read_csv(path: Path, names: Sequence[str] = ()) -> tuple[pa.Table, str]:
    """Read a CSV file.

    It may be separated by commas, semicolons, tabs or bars; which of them is told by its first
    line, the one that names the columns. Numbers may have decimal commas, values may hold line
    breaks, a file that begins with a mark may be in UTF-16 or UTF-32, and one whose name ends in
    ``.gz`` or ``.bz2`` is unpacked.

    Args:
        path: the file.
        names: columns that are expected, as a hint which separator it is and which columns should
            be numbers; any may be unless some are named.

    Returns:
        The columns, an empty field being null; and how the file was read where it is no plain CSV,
        for records, else an empty text.

    Raises:
        DataError: if it is in another encoding or no table.
        OSError: if it cannot be read.
    """
    encoding = _encoding(path)
    separator = _separator(path, encoding, names)

    def read(decimal_point: str) -> pa.Table:
        with pa.input_stream(str(path)) as stream:
            table = pa_csv.read_csv(
                stream,
                read_options=pa_csv.ReadOptions(
                    encoding=encoding.replace("-sig", ""), block_size=BLOCK
                ),
                parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    decimal_point=decimal_point, strings_can_be_null=True
                ),
            )
        return table.rename_columns([name.strip() for name in table.column_names])

    try:
        table = read(".")
        form = [] if separator == "," else [f"separated by {SEPARATORS[separator]}"]
        form += [encoding.upper()] if encoding in ("utf-16", "utf-32") else []
        if (names or separator != ",") and _texts(table, names):
            with_commas = read(",")
            if _texts(with_commas, names) < _texts(table, names):
                table = with_commas
                form.append("with decimal commas")
    except UnicodeError as error:
        raise _other_encoding(path, encoding) from error
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as a table separated by {SEPARATORS[separator]}: {first}; "
            "where numbers have decimal commas, separate columns by semicolons"
        ) from error
    return table, ", ".join(form)


def _encoding(path: Path) -> str:
    with pa.input_stream(str(path)) as stream:
        head = bytes(stream.read(LOOKED_AT))
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise _other_encoding(path, "utf-8")
    return "utf-8"


def _separator(path: Path, encoding: str, names: Sequence[str]) -> str:
    """The one with which the first line names the columns; the one that cuts it most often else."""
    try:
        with pa.input_stream(str(path)) as stream:
            head = codecs.getincrementaldecoder(encoding)().decode(bytes(stream.read(1 << 16)))
    except UnicodeError as error:
        raise _other_encoding(path, encoding) from error
    first = head.split("\n", 1)[0].rstrip("\r")
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
