"""Reader of labelled images in Parquet, in the column layout of the public hub's data sets."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from goldiprox.data.gather import Gathered
from goldiprox.data.labels import RawLabels
from goldiprox.data.messages import first_line
from goldiprox.data.notes import Note
from goldiprox.data.settings import Reading
from goldiprox.data.targets import TargetKind, Targets, are_lists, names_in, read_targets
from goldiprox.data.text_columns import as_text, is_bytes, is_text, text_column
from goldiprox.guarded.errors import listed, reading, require_file
from goldiprox.guarded.parquet import require_modest
from goldiprox.schema import DataError

__all__ = [
    "ParquetImages",
    "ParquetTexts",
    "column_types",
    "find_shards",
    "first_values",
    "holds_texts",
    "read_groups",
    "read_images",
    "read_texts",
]

IMAGE_COLUMNS = ("img", "image")
TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SUBFOLDERS = ("", "plain_text", "data", "default")
"""Where the hub's data sets and its converted copies put their files."""
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetImages:
    """What was read: the training files' rows first, then the test files' rows.

    Attributes:
        images_NCHW: uint8; 1 channel if all images are greyscale, else 3.
        labels: of all rows.
        train_count: how many rows came from the training files.
        notes: what was done to the images.
    """

    images_NCHW: Tensor
    labels: Targets
    train_count: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetTexts:
    """What was read of texts: the training files' rows first, then the test files' rows.

    Attributes:
        texts: an Arrow column of strings.
        labels: of all rows.
        train_count: how many rows came from the training files.
    """

    texts: pa.ChunkedArray
    labels: Targets
    train_count: int


def find_shards(
    folder: Path, tests: Sequence[str] = ("test", "validation")
) -> tuple[list[Path], list[Path]]:
    """Find a data set's training and test files in a folder.

    Takes ``train*.parquet`` (or a folder ``train``) and ``test*.parquet``; where there is no test
    file, ``validation*.parquet`` is the test set. A folder with a single file of any name is a
    training set without a test set. Looks in the folder itself and in those the hub uses.

    Args:
        folder: an existing folder.
        tests: what test files may be called, the first that is there; GLUE's test files have no
            labels.

    Returns:
        Training files and test files, each sorted by name; both empty if nothing was found.

    Raises:
        DataError: if files named ``...-00000-of-00004`` are not all there, or the files' names
            do not say which are for training.
    """
    for place in (folder / sub for sub in SUBFOLDERS):
        files = sorted(place.glob("*.parquet"))
        if not files and not (place / "train").is_dir():
            continue
        train = _split_files(place, "train")
        test = next((found for name in tests if (found := _split_files(place, name))), [])
        if not train and len(files) == 1 and not test:
            return files, []
        if not train:
            raise DataError(
                f"{place}: which Parquet files are for training? found "
                f"{', '.join(file.name for file in files[:5])}; name them train*.parquet and "
                "test*.parquet"
            )
        return train, test
    return [], []


def column_types(path: Path) -> dict[str, pa.DataType]:
    """The type of each column of a file.

    Raises:
        DataError: if it is no readable Parquet file.
    """
    return {field.name: field.type for field in _open(path).schema_arrow}


def first_values(path: Path, columns: Sequence[str], count: int) -> list[list[Any]]:
    """The first values of some columns of a file.

    Raises:
        DataError: if it is damaged.
    """
    file = _open(path)
    try:
        batch = next(file.iter_batches(batch_size=count, columns=[*columns]), None)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    if batch is None or not columns:
        return []
    try:
        return [batch[name].to_pylist() for name in columns]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is damaged: a text in it is not UTF-8; get the file again"
        ) from error


def holds_texts(path: Path, reading: Reading) -> bool:
    """Whether a file's input column holds texts; bytes are looked at unless their name tells."""
    file = _open(path)
    for name in _named(reading.input_column, (*IMAGE_COLUMNS, *TEXT_COLUMNS)):
        if name in file.schema_arrow.names:
            kind = file.schema_arrow.field(name).type
            if name in IMAGE_COLUMNS and reading.input_column is None and is_text(kind):
                # Paths or the like beside texts; alone they are named as what they are.
                return any(text in file.schema_arrow.names for text in TEXT_COLUMNS)
            if name in IMAGE_COLUMNS or not is_bytes(kind):
                return is_text(kind)
            return name in TEXT_COLUMNS or all(
                as_text(value) is not None for (value,) in first_values(path, [name], 1)
            )
    return False


def read_texts(
    train: Sequence[Path],
    test: Sequence[Path],
    reading: Reading,
    class_names: Sequence[str] | None = None,
) -> ParquetTexts:
    """Read texts and labels.

    Args:
        train: Parquet files of the training set, at least one.
        test: Parquet files of the test set.
        reading: names columns, where the user does.
        class_names: of the classes, where they do not come from the files.

    Returns:
        Texts and labels.

    Raises:
        DataError: if a column is missing or of another type, or a text or label is null or none.
    """
    paths = [*train, *test]
    files = [(path, _open(path)) for path in paths]
    chunks: list[Any] = []
    counts = []
    for path, file in files:
        name = _column(path, file, _named(reading.input_column, TEXT_COLUMNS), "text")
        texts = text_column(_read_column(path, file, name), f"{path}: column {name}")
        chunks += texts.chunks
        counts.append(len(texts))
    if not sum(counts):
        raise DataError(f"{paths[0]}: no rows")
    return ParquetTexts(
        texts=pa.chunked_array(chunks, pa.large_string()),
        labels=_read_labels(files, len(train), reading, class_names),
        train_count=sum(counts[: len(train)]),
    )


def read_groups(
    train: Sequence[Path], test: Sequence[Path], column: str | None
) -> list[Any] | None:
    """The group of each row of these files, one file after the other; None without a column.

    Where no test file has the column, there are groups of the training rows alone.

    Raises:
        DataError: if a training file, or one of several test files, has no such column.
    """
    if column is None:
        return None
    found: list[Any] = []
    known = [path for path in test if column in _open(path).schema_arrow.names]
    for path in [*train, *(test if known else ())]:
        file = _open(path)
        found += _read_column(path, file, _column(path, file, [column], "group")).to_pylist()
    return found


def _named(name: str | None, known: Sequence[str]) -> Sequence[str]:
    return known if name is None else [name]


def _read_column(path: Path, file: Any, column: str) -> Any:
    try:
        return file.read(columns=[column]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged ({first_line(error)}); get the file again")


def read_images(
    train: Sequence[Path],
    test: Sequence[Path],
    reading: Reading | None = None,
    class_names: Sequence[str] | None = None,
    targets: TargetKind | None = None,
) -> ParquetImages:
    """Decode all images into one array that is reserved beforehand.

    Streams record batches, so memory peaks at the array plus a few megabytes.

    Args:
        train: Parquet files of the training set, at least one.
        test: Parquet files of the test set.
        reading: names columns, where the user does, and says how images are resized.
        class_names: of the classes, where they do not come from the files.
        targets: what the labels are read as; lists are label sets and anything else classes unless
            given.

    Returns:
        Images and labels.

    Raises:
        DataError: if a column is missing or of another type, a label is null or none, an image
            cannot be decoded or has another size than the first, or files disagree on class
            names; the message names file and row.
    """
    paths = [*train, *test]
    reading = reading or Reading()
    files = [(path, _open(path)) for path in paths]
    counts = [file.metadata.num_rows for _, file in files]
    if not sum(counts):
        raise DataError(f"{paths[0]}: no rows")
    labels = _read_labels(files, len(train), reading, class_names, targets)
    starts = [0, *itertools.accumulate(counts)]

    def where(row: int) -> str:
        number = bisect.bisect_right(starts, row) - 1
        return f"{paths[number]}: row {row - starts[number]}"

    images = Gathered(sum(counts), reading, where)
    row = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for path, file in files:
            column = _column(path, file, _named(reading.input_column, IMAGE_COLUMNS), "image")
            for encoded in _encoded_batches(path, file, column):
                images.add(row, _present(encoded, row, where), pool)
                row += len(encoded)
    return ParquetImages(
        images_NCHW=images.images(),
        labels=labels,
        train_count=sum(counts[: len(train)]),
        notes=images.notes(),
    )


def _split_files(place: Path, split: str) -> list[Path]:
    inside = sorted((place / split).glob("*.parquet"))
    files = inside or sorted(place.glob(f"{split}*.parquet"))
    totals = {
        int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))
    }
    if totals and (len(totals) > 1 or len(files) != max(totals)):
        raise DataError(
            f"{place}: {len(files)} {split} files found, {max(totals)} expected "
            f"(by the name of {files[0].name}); get the missing ones"
        )
    return files


def _open(path: Path) -> Any:
    what, damaged = f"{path}:", "not a readable Parquet file"
    with reading(what, error=DataError, damaged=damaged):
        require_file(path)
        # A small buffer instead of whole column chunks: files may hold one huge row group.
        file = pq.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
        require_modest(file, path, what, error=DataError)
        return file


def _column(path: Path, file: Any, known: Sequence[str], what: str) -> str:
    present = file.schema_arrow.names
    for name in known:
        if name in present:
            return name
    flag = "--input-column" if what in ("image", "text") else f"--{what}-column"
    found = [name for name in TEXT_COLUMNS if what == "image" and name in present]
    other = "".join(f" ({n} holds {file.schema_arrow.field(n).type}, no texts)" for n in found)
    raise DataError(
        f"{path}: no {what} column{other}: looked for {', '.join(known)}; name it with {flag}: "
        f"there are {listed(present)}"
    )


def _class_names(path: Path, file: Any, known: Sequence[str]) -> tuple[str, ...] | None:
    return names_in(file.schema_arrow.metadata, _column(path, file, known, "label"))


def _read_labels(
    files: Sequence[tuple[Path, Any]],
    train_files: int,
    reading: Reading,
    class_names: Sequence[str] | None,
    targets: TargetKind | None = None,
) -> Targets:
    """The labels of all files, by the names in their metadata unless others are given."""
    known = _named(reading.label_column, LABEL_COLUMNS)
    if class_names is None:
        names = {_class_names(path, file, known) for path, file in files}
        if len(names) > 1:
            raise DataError(f"{files[0][0].parent}: the files disagree on the names of the classes")
        class_names = names.pop()
    parts = []
    for path, file in files:
        values = _read_column(path, file, _column(path, file, known, "label"))
        parts.append(RawLabels(values=values, where=str(path)))
    if targets is None:
        targets = "label sets" if are_lists(parts[0].values) else "classes"
    return read_targets(parts, train_files, targets, class_names)


def _encoded_batches(path: Path, file: Any, column: str) -> Any:
    """Yield lists of encoded images, a few megabytes at a time."""
    kind = file.schema_arrow.field(column).type
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (nested or is_bytes(kind)):
        raise DataError(
            f"{path}: column {column} holds {kind}; encoded images expected, as binary or as "
            "struct<bytes, path>"
        )
    # A leaf column's path, so that the struct's paths are not read at all.
    leaf = f"{column}.bytes" if nested else column
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    rows = max(1, min(1024, BATCH_BYTES * metadata.num_rows // max(1, size)))
    try:
        for batch in file.iter_batches(batch_size=rows, columns=[leaf], use_threads=False):
            values = batch.column(0)
            yield [
                value["bytes"] if isinstance(value, dict) else value for value in values.to_pylist()
            ]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); get the file again") from error


def _present(
    encoded: Sequence[bytes | None], start: int, where: Callable[[int], str]
) -> Sequence[bytes]:
    for row, one in enumerate(encoded, start):
        if one is None:
            raise DataError(f"{where(row)} has no image bytes; embed the images in the file")
    return encoded  # type: ignore[return-value]
