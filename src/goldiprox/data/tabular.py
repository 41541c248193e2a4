"""Rows of a table as inputs: numeric columns standardised, categories one-hot, by scikit-learn.

What is measured (means, deviations, medians, categories) is measured on the training rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from goldiprox.data.items import ItemPreprocessor
from goldiprox.data.notes import EXAMPLES, Note
from goldiprox.data.number_texts import numbers_of_texts
from goldiprox.data.store import png_of_lines
from goldiprox.data.text_columns import is_text
from goldiprox.schema import DataError

__all__ = ["FeatureStore", "TabularPreprocessor", "feature_columns", "is_number", "read_features"]

MOST_CATEGORIES = 50
"""A column of texts with more different values than this holds no categories."""

RARE = 1e-12
"""Deviation below which a column counts as constant, relative to its largest value."""

ID_NAMES = ("id", "idx", "index", "uid", "row_id", "unnamed: 0", "")
"""Columns of these names number the rows, if their values are all different whole numbers."""

INDEX_NAME = re.compile(r"__index_level_\d+__")
"""How pandas calls an index without a name when it writes Parquet."""

MISSING = "(missing)"


class FeatureStore:
    """Rows of features held in memory, with the columns that they were made of.

    Attributes:
        features_ND: float32.
        columns: of the table, for galleries.
    """

    def __init__(self, features_ND: Tensor, columns: pa.Table | None = None) -> None:
        """Take both as they are, without a copy."""
        self.features_ND = features_ND
        self.columns = columns

    def __len__(self) -> int:
        return int(self.features_ND.shape[0])

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The number of features."""
        return (int(self.features_ND.shape[1]),)

    def fetch(self, rows_B: Tensor) -> Tensor:
        """Copy the features of these rows.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            float32 features, BD.
        """
        return self.features_ND.index_select(0, rows_B)

    def describe_row(self, row: int) -> str:
        """The columns of a row as ``name: value`` pairs, one a line."""
        if self.columns is None:
            return "\n".join(f"{value:.3g}" for value in self.features_ND[row].tolist())
        values = self.columns.slice(row, 1).to_pylist()[0]
        return "\n".join(f"{name}: {_shown(value)}" for name, value in values.items())

    def thumbnail(self, row: int) -> bytes:
        """The first columns of a row, drawn, as the bytes of a PNG file."""
        return png_of_lines(self.describe_row(row).split("\n"))


@dataclass(frozen=True, kw_only=True)
class TabularPreprocessor(ItemPreprocessor):
    """Hands features on: a table is standardised once, when it is read.

    Attributes:
        names: of the features.
    """

    names: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The names of the features."""
        return {"kind": "table", "features": list(self.names)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A table made into features.

    Attributes:
        store: holds them.
        preprocess: hands them on.
        notes: what was left out, filled in or made several columns of.
    """

    store: FeatureStore
    preprocess: TabularPreprocessor
    notes: tuple[Note, ...]


def feature_columns(
    table: pa.Table, given: Sequence[str], other: Sequence[str], where: str
) -> tuple[list[str], tuple[Note, ...]]:
    """Which columns of a table are features.

    Args:
        table: all rows.
        given: the names that the user gave; empty takes every column that is none of ``other``.
        other: names of the label and group columns.
        where: the file, for messages.

    Returns:
        The names, and notes of columns that were left out.

    Raises:
        DataError: if a named column is absent or a label, or nothing is left.
    """
    present = table.column_names
    for name in given:
        if name not in present:
            raise DataError(f"{where} has no column {name!r}; it has {', '.join(present)}")
        if name in other:
            raise DataError(
                f"{where}: column {name!r} is the label or the group; a feature column that holds "
                "the answer would teach nothing: leave it out of --feature-columns"
            )
    if given:
        return list(given), ()
    names: list[str] = []
    numbering: list[str] = []
    for name in present:
        if name in other:
            continue
        is_number_of_row = INDEX_NAME.fullmatch(name) or _numbers_rows(table, name)
        (numbering if is_number_of_row else names).append(name)
    if not names:
        raise DataError(
            f"{where}: no feature column: there are {', '.join(present)}; name them with "
            "--feature-columns, or the column of texts or images with --input-column"
        )
    notes = tuple(Note("left out: column that numbers the rows", 1, (n,)) for n in numbering)
    return names, notes


def read_features(
    table: pa.Table, names: Sequence[str], train_rows: Tensor, where: str
) -> Features:
    """Standardise numeric columns and make categories one-hot.

    A missing number becomes the column's median and one more column says where that was; a missing
    category is a category of its own. A category that no training row has is none.

    Args:
        table: all rows.
        names: of the feature columns.
        train_rows: int64 rows on which everything is measured.
        where: the file, for messages.

    Raises:
        DataError: if a column holds texts, dates or lists, or numbers that are written for readers
            (``1,234``), or nothing is left of the columns.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    train = train_rows.numpy()
    numeric: dict[str, Any] = {}
    categories: dict[str, Any] = {}
    constant, missing = [], []
    for name in names:
        values = numbers_of_texts(_plain(table[name]), f"{where}: column {name!r}")
        kind = values.type
        unknown = len(values) - int(pc.sum(pc.is_valid(values)).as_py())
        if pa.types.is_floating(kind):
            unknown += int(pc.sum(pc.is_nan(values)).as_py() or 0)
        if unknown == len(values):
            constant.append(name)
            continue
        if unknown:
            missing.append(f"{name} ({unknown:,})")
        if is_number(kind):
            numbers = _floats(values)
            if not np.isfinite(numbers[~np.isnan(numbers)]).all():
                row = int(np.flatnonzero(np.isinf(numbers))[0])
                raise DataError(
                    f"{where}: column {name!r} is infinite in row {row}; give a finite number, or "
                    "leave it empty where it is not known"
                )
            if _is_constant(numbers[train]):
                constant.append(name)
            else:
                numeric[name] = numbers
        elif is_text(kind):
            texts = np.array(
                [v if v and v.strip() else MISSING for v in values.to_pylist()], dtype=object
            )
            found = len(set(texts[train]))
            if found > MOST_CATEGORIES:
                raise DataError(
                    f"{where}: column {name!r} holds {found:,} different texts, too many for "
                    "categories; name it with --input-column if it is the input, or choose other "
                    "--feature-columns"
                )
            if found < 2:
                constant.append(name)
            else:
                categories[name] = texts
        else:
            raise DataError(
                f"{where}: column {name!r} holds {kind}; numbers or categories expected: write it "
                "as numbers, or choose other --feature-columns"
            )
    if not numeric and not categories:
        raise DataError(
            f"{where}: every feature column is constant or empty; nothing to learn from"
        )
    parts, readable = [], []
    if numeric:
        values_ND = np.column_stack(list(numeric.values()))
        fill = SimpleImputer(strategy="median", add_indicator=True).fit(values_ND[train])
        scale = StandardScaler().fit(fill.transform(values_ND[train]))
        parts.append(scale.transform(fill.transform(values_ND)))
        readable += [
            *numeric,
            *(f"{list(numeric)[at]} missing" for at in fill.indicator_.features_),
        ]
    if categories:
        texts_ND = np.column_stack(list(categories.values()))
        hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(texts_ND[train])
        parts.append(hot.transform(texts_ND))
        for name, known in zip(categories, hot.categories_, strict=True):
            readable += [f"{name}={category}" for category in known]
    features_ND = torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
    return Features(
        store=FeatureStore(features_ND, table.select([*numeric, *categories])),
        preprocess=TabularPreprocessor(names=tuple(readable)),
        notes=_notes(constant, missing, categories, train),
    )


def contents_of(table: pa.Table) -> Iterator[bytes]:
    """What identifies the columns of a table, whatever library reads or writes them."""
    for name in table.column_names:
        values = _plain(table[name])
        yield name.encode()
        if is_number(values.type):
            yield _floats(values).tobytes()
        else:
            for value in values.to_pylist():
                yield repr(value).encode()


def _notes(
    constant: list[str], missing: list[str], categories: dict[str, Any], train: Any
) -> tuple[Note, ...]:
    notes: list[Note] = []
    if categories:
        shown = [f"{name} ({len(set(texts[train])):,})" for name, texts in categories.items()]
        what = "columns of texts, read as categories (so many)"
        notes.append(Note(what, len(categories), tuple(shown[:EXAMPLES])))
    if constant:
        what = "left out: columns that are constant or empty in training"
        notes.append(Note(what, len(constant), tuple(constant[:EXAMPLES])))
    if missing:
        what = (
            "columns with missing values, filled with the training median (categories: their own)"
        )
        notes.append(Note(what, len(missing), tuple(missing[:EXAMPLES])))
    for name, texts in categories.items():
        unknown = sorted(set(texts) - set(texts[train]))
        if unknown:
            what = f"categories of column {name} that no training row has, read as none"
            notes.append(Note(what, len(unknown), tuple(map(str, unknown[:EXAMPLES]))))
    return tuple(notes)


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of numbers or truth values."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def _floats(values: pa.ChunkedArray) -> Any:
    """Numbers and truth values as float64, NaN where there is none."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return values.cast(pa.float64(), safe=False).to_numpy()  # the nearest, where large


def _is_constant(values: Any) -> bool:
    known = values[~np.isnan(values)]
    if not len(known):
        return True
    spread = float(known.max() - known.min())
    return spread <= RARE * max(abs(float(known.max())), abs(float(known.min())), 1e-300) and (
        len(known) == len(values)
    )


def _numbers_rows(table: pa.Table, name: str) -> bool:
    """Whether a column is only the rows' own numbers."""
    values = table[name]
    return (
        name.strip().lower() in ID_NAMES
        and pa.types.is_integer(values.type)
        and not values.null_count
        and len(pc.unique(values)) == len(values)
    )


def _shown(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
