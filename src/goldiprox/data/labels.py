"""One reader of class labels for every source: columns of files, and Python objects."""

from __future__ import annotations

import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from goldiprox.data.notes import EXAMPLES, Note
from goldiprox.schema import DataError

__all__ = [
    "Labels",
    "RawLabels",
    "in_class_order",
    "plain_value",
    "read_labels",
    "require_distinct",
]

NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
LARGEST = 2**63
"""Labels from here on are hashes, not the codes of classes."""
EXACT = 2**53
"""Floats from here on do not tell neighbouring whole numbers apart."""
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
SHOWN = 60

Key = tuple[str, Any]
"""Kind and value of a label; the kind (number, text, truth value) tells True, 1 and "1" apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RawLabels:
    """The labels of one file or split as they were found.

    Attributes:
        values: an Arrow column, or one Python object an example.
        where: the file or data set, for messages.
        unit: what an example is called there, such as ``row``.
    """

    values: Sequence[Any] | pa.ChunkedArray
    where: str
    unit: str = "row"


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels as numbers of classes.

    Attributes:
        labels_N: int64 in 0..C-1, of all parts one after the other.
        class_names: one name a class, in the order of the numbers.
        notes: how labels became classes where they were not 0..C-1 already.
    """

    labels_N: Tensor
    class_names: tuple[str, ...]
    notes: tuple[Note, ...] = ()


class _RefusedError(Exception):
    """Why a label is none; the caller knows where it stands."""


def read_labels(
    parts: Sequence[RawLabels], train_parts: int, class_names: Sequence[str] | None = None
) -> Labels:
    """Turn labels of any kind into numbers of classes, the same for all parts.

    Where names of the classes are known, labels are their numbers or are these names. Where none
    are known, the different labels of the training parts are the classes: texts and truth values
    by name, whole numbers in ascending order whatever they start at and wherever they leave gaps.

    Args:
        parts: the labels of each file or split.
        train_parts: how many of the first parts are the training set.
        class_names: of the classes, where they are known.

    Returns:
        Numbers and names of the classes, and notes of how labels were mapped to them.

    Raises:
        DataError: if a label is missing, negative, no whole number, too large or of another kind
            than the others; if it is no class that is known or that the training set has; or if
            there are not two examples a class. File and row are named.
    """
    numbers: dict[Key, int] = {}
    first: dict[Key, str] = {}  # where each label was met
    coded, are_floats, train_numbers = [], False, 0
    for at, part in enumerate(parts):
        distinct, codes_N = _distinct(part)
        rows = np.zeros(len(distinct), np.int64)
        rows[codes_N[::-1]] = np.arange(len(codes_N))[::-1]  # the last write is the first row
        known = np.empty(len(distinct), np.int64)
        for code, value in enumerate(distinct):
            try:
                key = _key(value)
            except _RefusedError as why:
                raise _refusal(part, codes_N == code, value, str(why)) from None
            known[code] = numbers.setdefault(key, len(numbers))
            first.setdefault(key, f"{part.where}: {part.unit} {rows[code]}")
            are_floats |= isinstance(value, float)
        coded.append(known[codes_N])
        if at + 1 == train_parts:
            train_numbers = len(numbers)
    where = parts[0].where
    train_count = sum(len(codes_N) for codes_N in coded[:train_parts])
    keys = list(numbers)
    _require_one_kind(keys, first)
    _require_classes(where, keys[:train_numbers], train_count)
    if class_names is not None:
        names = tuple(str(name) for name in class_names)
        classes = [_known_class(key, names, first[key]) for key in keys]
        notes: tuple[Note, ...] = ()
    else:
        names, ordered = _own_classes(where, keys[:train_numbers])
        for key in keys[train_numbers:]:
            raise DataError(
                f"{first[key]} has the label {_shown(key[1])}, which no training example has; "
                "give the class training examples or leave these rows out"
            )
        place = {key: number for number, key in enumerate(ordered)}
        classes = [place[key] for key in keys]
        notes = _mapping(ordered, are_floats)
    labels_N = np.array(classes, np.int64)[np.concatenate(coded)]
    return Labels(labels_N=torch.from_numpy(labels_N), class_names=names, notes=notes)


def in_class_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their numbers.

    Args:
        names: the classes' names, each once.

    Returns:
        By value where all are numbers, else in alphabetical order but for the numbers within them
        (2 before 10, day2 before day10).
    """
    listed = sorted(names)
    if all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name) for name in listed):
        return sorted(listed, key=decimal.Decimal)
    return sorted(listed, key=_natural)


def _natural(name: str) -> list[tuple[str, int]]:
    runs = re.findall(r"([^0-9]*)([0-9]*)", name)
    return [(text, int(number or -1)) for text, number in runs]


def plain_value(value: Any) -> Any:
    """A Python value for a scalar of numpy or torch, or an array of one element; else as it is."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        size = value.numel() if isinstance(value, Tensor) else value.size
        value = value.item() if size == 1 else value
    return value


def _distinct(part: RawLabels) -> tuple[list[Any], NDArray[np.int64]]:
    """The different labels, and for each example which of them it has."""
    if isinstance(part.values, pa.ChunkedArray):
        return _distinct_of_column(part.values, part.where)
    codes: dict[tuple[type, Any], int] = {}
    codes_N = np.empty(len(part.values), np.int64)
    for number, value in enumerate(part.values):
        plain = plain_value(value)
        if isinstance(plain, float) and math.isnan(plain):
            plain = None
        try:
            codes_N[number] = codes.setdefault((type(plain), plain), len(codes))
        except TypeError:
            plain = _Unhashable(plain)
            codes_N[number] = codes.setdefault((type(plain), plain), len(codes))
    return [value for _, value in codes], codes_N


class _Unhashable:
    """A label such as a list, which is refused when its turn comes."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _distinct_of_column(values: pa.ChunkedArray, where: str) -> tuple[list[Any], NDArray[np.int64]]:
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    elif pa.types.is_floating(kind):
        kind = pa.float64()
    if pa.types.is_nested(kind):
        raise DataError(
            f"{where}: the labels hold {kind}, one class an example expected; give the number or "
            "the name of the class, or name another --label-column"
        )
    if pa.types.is_null(kind) or not len(values):
        return [None][: len(values)], np.zeros(len(values), np.int64)
    encoded = values.cast(kind).dictionary_encode(null_encoding="encode").unify_dictionaries()
    codes_N = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return encoded.chunk(0).dictionary.to_pylist(), codes_N.astype(np.int64)


def _key(value: Any) -> Key:
    """What a label is.

    Raises:
        _RefusedError: if it is none.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _RefusedError("no label; give it one or leave it out")
    if isinstance(value, bool):
        return "truth value", value
    if isinstance(value, int | float | decimal.Decimal):
        return "number", _whole(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _RefusedError("which is no text in UTF-8") from error
    if isinstance(value, str):
        if not value.strip():
            raise _RefusedError("no label; give it one or leave it out")
        return "text", str(value)
    if isinstance(value, _Unhashable):
        value = value.value
    raise _RefusedError(
        f"a {type(value).__name__}; one class an example expected, a whole number or a name"
    )


def _whole(value: int | float | decimal.Decimal) -> int:
    if not isinstance(value, int):
        if not math.isfinite(value) or value != int(value):
            raise _RefusedError(
                "which is no whole number; a class expected, not a score or probability (for "
                "numbers to predict choose --objective regression)"
            )
        if isinstance(value, float) and abs(value) >= EXACT:
            raise _RefusedError("which is too large to be exact as a float; give the class a name")
    number = int(value)
    if number < 0:
        raise _RefusedError(
            "a negative number, as unlabelled examples have; leave these out, or give the classes "
            "names (such as no and yes) or numbers from 0 on"
        )
    if number >= LARGEST:
        raise _RefusedError(
            "which is too large for the number of a class; give the classes names where these are "
            "classes, such as c17"
        )
    return number


def _refusal(part: RawLabels, is_meant: NDArray[np.bool_], value: Any, why: str) -> DataError:
    count, row = int(is_meant.sum()), int(np.argmax(is_meant))
    many = f" ({count:,} such)" if count > 1 else ""
    if why.startswith("no label"):
        what, _, remedy = why.partition(";")
        if ".csv" in part.where or ".tsv" in part.where:
            remedy += " (a class that is called NA or null needs quotes)"
        return DataError(f"{part.where}: {part.unit} {row} has {what}{many};{remedy}")
    shown = value.value if isinstance(value, _Unhashable) else value
    return DataError(f"{part.where}: {part.unit} {row} has the label {_shown(shown)}{many}, {why}")


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int | float | decimal.Decimal) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _require_one_kind(keys: Sequence[Key], first: dict[Key, str]) -> None:
    for key in keys:
        if key[0] != keys[0][0]:
            raise DataError(
                f"{first[key]} has the label {_shown(key[1])}, a {key[0]}, but {first[keys[0]]} "
                f"has {_shown(keys[0][1])}, a {keys[0][0]}; write all labels alike"
            )


def _require_classes(where: str, keys: Sequence[Key], examples: int) -> None:
    """At least two; and what differs in nearly every example is a name, an id or a measurement."""
    if len(keys) == 1:
        raise DataError(
            f"{where}: all {examples:,} training examples have the label {_shown(keys[0][1])}; "
            "give at least two classes, or name the right --label-column"
        )
    if 2 * len(keys) > examples:
        raise DataError(
            f"{where}: {len(keys):,} different labels in {examples:,} training examples: too few "
            "examples to learn from; give each class at least 2, name the right --label-column, or "
            "choose --objective regression where they are numbers to predict"
        )


def _known_class(key: Key, names: Sequence[str], where: str) -> int:
    value: str | int = key[1]
    if isinstance(value, str):
        if names.count(value) == 1:
            return names.index(value)
        shown = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        raise DataError(f"{where} has the label {_shown(value)}; the classes are {shown}")
    if value >= len(names):
        raise DataError(
            f"{where} has the label {_shown(value)}, but the known names are of only {len(names)} "
            f"classes, 0 to {len(names) - 1}"
        )
    return value


def _own_classes(where: str, keys: Sequence[Key]) -> tuple[tuple[str, ...], list[Key]]:
    """Names of the classes, and the labels in the same order."""
    if not keys:
        return (), []
    if keys[0][0] != "text":
        ordered = sorted(keys)
        return tuple(str(value) for _, value in ordered), ordered
    texts = [value for _, value in keys]
    require_distinct(where, texts)
    if all(NUMBER.fullmatch(text) for text in texts):
        texts = _numerals(where, texts)
    else:
        texts = in_class_order(texts)
    return tuple(texts), [("text", text) for text in texts]


def require_distinct(where: str, texts: Iterable[str]) -> None:
    """Refuse names that a reader cannot tell apart.

    Args:
        where: what errors call their source.
        texts: the names.

    Raises:
        DataError: if two differ in spaces, invisible characters or the encoding of accents only.
    """
    met: dict[str, str] = {}
    for text in texts:
        seen = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())
        same = met.setdefault(seen, text)
        if same != text:
            raise DataError(
                f"{where}: the labels {same!a} and {text!a} differ only in spaces, "
                "invisible characters or in how accents are encoded; write them alike"
            )


def _numerals(where: str, texts: Sequence[str]) -> list[str]:
    """Texts that are numbers, by value: 2 before 10."""
    values: dict[float, str] = {}
    for text in texts:
        value = float(text.replace(",", "."))
        if not value.is_integer():
            raise DataError(
                f"{where}: the label {text!r} is a number, but no whole one; a class expected, not "
                "a score or probability"
            )
        same = values.setdefault(value, text)
        if same != text:
            raise DataError(
                f"{where}: the labels {same!r} and {text!r} are the same number; write them alike"
            )
    return [values[value] for value in sorted(values)]


def _mapping(ordered: Sequence[Key], are_floats: bool) -> tuple[Note, ...]:
    """What the labels were where they were not 0..C-1 already."""
    if not ordered:
        return ()
    kind, values = ordered[0][0], [value for _, value in ordered]
    is_numbered = kind == "number" and values == list(range(len(values)))
    if is_numbered and not are_floats:
        return ()
    order = "by name" if kind == "text" and not NUMBER.fullmatch(values[0]) else "in this order"
    what = f"different labels, each a {'float' if are_floats else kind}, made classes {order}"
    shown = tuple(f"{value} is class {number}" for number, value in enumerate(values[:EXAMPLES]))
    return (Note(what, len(values), shown),)
