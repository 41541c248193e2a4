"""What is to be predicted: classes, numbers, or sets of labels; read from columns and objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.data.labels import (
    RawLabels,
    in_class_order,
    plain_value,
    read_labels,
    require_distinct,
)
from goldiprox.data.notes import EXAMPLES, Note
from goldiprox.schema import DataError

__all__ = ["TargetKind", "Targets", "are_lists", "names_in", "read_targets"]

TargetKind = Literal["classes", "numbers", "label sets", "tensors"]
"""``classes``: int64 of shape [N]; ``numbers``: float32, [N] or [N, D]; ``label sets``: 0 and 1 for
each label, float32 of shape [N, C]; ``tensors``: whatever an objective of the user's own takes."""

SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The targets of all examples.

    Attributes:
        values_N: see :data:`TargetKind`; of all parts one after the other.
        kind: which of them.
        names: of the classes or labels; of the numbers, the columns' names.
        notes: how what was found became these.
    """

    values_N: Tensor
    kind: TargetKind
    names: tuple[str, ...]
    notes: tuple[Note, ...] = ()


def read_targets(
    parts: Sequence[RawLabels],
    train_parts: int,
    kind: TargetKind,
    names: Sequence[str] | None = None,
) -> Targets:
    """Read targets of one kind, the same for all parts.

    Args:
        parts: what each file or split holds.
        train_parts: how many of the first parts are the training set.
        kind: what to read it as.
        names: of the classes or labels, where they are known; of numbers, the column's name.

    Returns:
        The targets.

    Raises:
        DataError: if a target is missing, not of this kind, or (classes, labels) not among those of
            the training set; file and row are named.
    """
    if kind == "classes":
        labels = read_labels(parts, train_parts, names)
        return Targets(
            values_N=labels.labels_N, kind=kind, names=labels.class_names, notes=labels.notes
        )
    if kind == "numbers":
        return _numbers(parts, names)
    if kind == "tensors":
        raise DataError(
            f"{parts[0].where}: targets that are tensors cannot be read from a file; use "
            "goldiprox.compare(train=...) from Python"
        )
    return _label_sets(parts, train_parts, names)


def are_lists(values: Any) -> bool:
    """Whether an Arrow column holds a list an example."""
    kind = values.type if isinstance(values, pa.ChunkedArray) else None
    return kind is not None and bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def names_in(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """The names of a column's classes, where the hub's library wrote them into a file's metadata.

    Args:
        metadata: of the file's schema.
        column: that holds labels, or lists of them.

    Returns:
        The names; None where there are none.
    """
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        while "names" not in feature:  # a list of labels
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        names = feature["names"]
    except (ValueError, LookupError, TypeError):
        return None  # metadata of another tool's making: labels speak for themselves
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _numbers(parts: Sequence[RawLabels], names: Sequence[str] | None) -> Targets:
    rows: list[Any] = []
    for part in parts:
        rows += [_number(value, part, row) for row, value in enumerate(_python(part.values))]
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(widths) > 1:
        raise DataError(
            f"{parts[0].where}: some examples have {min(widths) or 'one'} number(s) to predict and "
            f"others {max(widths)}; give all as many"
        )
    exact_N = np.array(rows, dtype=np.float64)
    if (large := np.abs(exact_N)).size and large.max() > np.finfo(np.float32).max:
        raise DataError(
            f"{parts[0].where}: a target of {exact_N.flat[large.argmax()]:g} does not fit into 32 "
            "bits; give the targets in another unit"
        )
    values_N = torch.from_numpy(exact_N.astype(np.float32))
    if len(torch.unique(values_N)) < 2:
        raise DataError(
            f"{parts[0].where}: all {len(rows):,} targets are {float(values_N.flatten()[0]):g}; "
            "name another --label-column"
        )
    width = values_N.shape[1] if values_N.dim() == 2 else 1
    first = names[0] if names else "target"
    own = [first] if width == 1 else [f"{first} {i}" for i in range(width)]
    return Targets(values_N=values_N, kind="numbers", names=tuple(own))


def _python(values: Any) -> Sequence[Any]:
    listed: Sequence[Any] = values.to_pylist() if isinstance(values, pa.ChunkedArray) else values
    return listed


def _number(value: Any, part: RawLabels, row: int) -> Any:
    value = plain_value(value)
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_number(one, part, row) for one in value]
    try:
        number = float(value) if not isinstance(value, bool | bytes) else None
    except (TypeError, ValueError):
        number = None
    if number is None or not np.isfinite(number):
        raise DataError(
            f"{part.where}: {part.unit} {row} has the target {value!r}, a finite number expected; "
            "leave examples without one out, or choose another --objective or --label-column"
        )
    return number


def _label_sets(
    parts: Sequence[RawLabels], train_parts: int, names: Sequence[str] | None
) -> Targets:
    sets = [
        [_label_set(value, part, row) for row, value in enumerate(_python(part.values))]
        for part in parts
    ]
    is_vector = (
        all(
            isinstance(label, int) and label in (0, 1)
            for part in sets
            for row in part
            for label in row
        )
        and len({len(row) for part in sets for row in part}) == 1
    )
    if is_vector and sets[0] and len(sets[0][0]) > 1:
        return _vectors(sets, names)
    if names is not None:
        known = list(names)
        place: dict[Any, int] = {label: at for at, label in enumerate(known)}
        place |= {at: at for at in range(len(known))}
    else:
        found = {label for part in sets[:train_parts] for row in part for label in row}
        known = in_class_order(str(label) for label in found)
        by_text = {str(label): label for label in found}
        if len(by_text) < len(found):
            raise DataError(
                f"{parts[0].where}: some labels are numbers and others texts of the same; write "
                "them alike"
            )
        require_distinct(parts[0].where, known)
        place = {by_text[text]: at for at, text in enumerate(known)}
    if len(known) < 2:
        raise DataError(
            f"{parts[0].where}: {len(known)} label(s) in all; objective multilabel needs at least 2"
        )
    values_NC = torch.zeros(sum(map(len, sets)), len(known))
    at = 0
    for part, rows in zip(parts, sets, strict=True):
        for row, labels in enumerate(rows):
            for label in labels:
                if label not in place:
                    raise DataError(
                        f"{part.where}: {part.unit} {row} has the label {label!r}, which no "
                        "training example has; give it training examples or take it out"
                    )
                values_NC[at, place[label]] = 1
            at += 1
    empty = int((values_NC.sum(1) == 0).sum())
    what = "different labels, of which an example may have several"
    notes: tuple[Note, ...] = (Note(what, len(known), tuple(known[:EXAMPLES])),)
    if empty:
        notes += (Note("examples without any label", empty),)
    return Targets(values_N=values_NC, kind="label sets", names=tuple(known), notes=notes)


def _vectors(sets: list[list[list[Any]]], names: Sequence[str] | None) -> Targets:
    """Labels that were written as 0 and 1 for each."""
    values_NC = torch.tensor([row for part in sets for row in part], dtype=torch.float32)
    width = values_NC.shape[1]
    known = tuple(names) if names and len(names) == width else tuple(map(str, range(width)))
    return Targets(values_N=values_NC, kind="label sets", names=known)


def _label_set(value: Any, part: RawLabels, row: int) -> list[Any]:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if not isinstance(value, list | tuple | set | frozenset):
        raise DataError(
            f"{part.where}: {part.unit} {row} has the labels {value!r}, a list expected (which may "
            "be empty; in CSV a column of 0 and 1 for each label, --label-column a,b); for one "
            "class an example choose --objective classification"
        )
    labels = [plain_value(label) for label in value]
    labels = [int(x) if isinstance(x, bool | float) and x == int(x) else x for x in labels]
    for label in labels:
        if (
            not isinstance(label, int | str)
            or (isinstance(label, int) and label < 0)
            or (isinstance(label, str) and not label.strip())
        ):
            raise DataError(
                f"{part.where}: {part.unit} {row} has the label {label!r} in its list; a name or a "
                "whole number from 0 on expected"
            )
    return labels
