"""Data sets of the user's own: any with a length and an index, and those of the public hub."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from goldiprox.data.gather import Gathered, as_source
from goldiprox.data.image_names import LOOKED_AT, are_image_names
from goldiprox.data.items import holds_tensors, tensor_items
from goldiprox.data.labels import RawLabels, plain_value
from goldiprox.data.messages import first_line
from goldiprox.data.notes import Note
from goldiprox.data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS, TEXT_COLUMNS
from goldiprox.data.settings import Reading
from goldiprox.data.sources import test_rows_of
from goldiprox.data.store import Dataset, TextStore, make_dataset
from goldiprox.data.targets import TargetKind, read_targets
from goldiprox.data.text_columns import as_text
from goldiprox.schema import DataError

__all__ = ["from_hub", "from_items"]

PARTS = ("train", "test", "holdout")

UNLABELLED = (-1, "")
"""What the hub's data sets hold, besides nulls, where an example has no label."""


def from_items(
    name: str,
    train: Any,
    test: Any = None,
    *,
    holdout: Any = None,
    class_names: Sequence[str] | None = None,
    reading: Reading | None = None,
    targets: TargetKind | None = None,
) -> Dataset:
    """Make a data set of map-style ones, such as torchvision's; read into memory once.

    Args:
        name: what to call it.
        train: has a length and gives ``(input, label)`` by number, or a mapping with one input and
            one label column. Inputs are PIL images, encoded images, uint8 arrays HWC or HW, uint8
            tensors CHW, or texts. Or they are tensors as a model takes them, of any shape and type
            (or mappings of such): these are read once too (above 1 GiB whenever they are needed),
            so a random transform must be taken off.
        test: likewise; None takes a fifth of every class for testing.
        holdout: likewise; None if it has no holdout set of its own.
        class_names: one a class; the data set's own if it has them (``classes`` or a feature's
            ``names``), else what :func:`goldiprox.data.labels.read_labels` makes of the labels.
        reading: names the columns of mappings, and a group column if there is one; says how images
            are resized.
        targets: what the labels are; tensors are taken as they are, lists are label sets, and
            everything else is classes unless given.

    Returns:
        The data set; ids number the training items first, then the test items, then the holdout's.

    Raises:
        DataError: if an item has another form, or images differ in size; the item is named.
    """
    reading = reading or Reading()
    if holds_tensors(train):
        known = class_names or _own_names(train, reading)
        return tensor_items(name, train, test, holdout, known, targets, test_rows_of)
    train, test, holdout = (_undecoded(part, reading) for part in (train, test, holdout))
    labels: list[RawLabels] = []
    groups: list[Any] = []
    counts = [0 if part is None else len(part) for part in (train, test, holdout)]
    places: list[str] = []
    texts: list[str] = []
    images = Gathered(sum(counts), reading, places.__getitem__)
    for what, part, count in zip(PARTS, (train, test, holdout), counts, strict=True):
        values: list[Any] = []
        for number in range(count):
            where = f"{name}: {what} item {number}"
            value, label, group = _fields(part[number], where, reading)
            text = as_text(value)
            if places and (text is None) == bool(texts):
                raise DataError(f"{where} is a {type(value).__name__}, unlike the first item")
            places.append(where)
            if text is None:
                images.add(len(places) - 1, [as_source(value, where)])
            else:
                texts.append(text)
            values.append(label)
            groups.append(plain_value(group))
        labels.append(RawLabels(values=values, where=name, unit=f"{what} item"))
    if not counts[0]:
        raise DataError(f"{name}: no training items")
    if are_image_names(texts[:LOOKED_AT]) and Path(texts[0]).is_file():
        raise DataError(
            f"{places[0]} is {texts[0]!r}, the name of an image file, not a text; give "
            "pathlib.Path(name), which is read"
        )
    if targets is None:
        listed = isinstance(labels[0].values[0], list | tuple | set)
        targets = "label sets" if listed else "classes"
    classes = read_targets(labels, 1, targets, class_names or _own_names(train, reading))
    first, second = counts[0], counts[0] + counts[1]
    test_rows = torch.arange(first, second)
    if test is None:
        test_rows = test_rows_of(replace(classes, values_N=classes.values_N[:first]))
    return make_dataset(
        name,
        TextStore(texts) if texts else images.images(),
        classes.values_N,
        test_rows,
        class_names=classes.names,
        targets=classes.kind,
        source=type(train).__name__,
        holdout_rows=None if holdout is None else torch.arange(second, sum(counts)),
        groups=groups if reading.group_column else None,
        notes=(*classes.notes, *images.notes()),
    )


def _own_names(data: Any, reading: Reading) -> tuple[str, ...] | None:
    """The names that a data set has for its classes; those of the whole for a part of one."""
    while isinstance(data, Subset):
        data = data.dataset
    names = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if names is None and isinstance(features, Mapping):
        known = [reading.label_column] if reading.label_column else LABEL_COLUMNS
        label = next((features[column] for column in known if column in features), None)
        names = getattr(label, "names", None)
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, list | tuple) or not names:
        return None
    return tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in names)


def _fields(item: Any, where: str, reading: Reading) -> tuple[Any, Any, Any]:
    """Input, label and group of an item."""
    if isinstance(item, dict):
        names = (
            _column(where, reading.input_column, (*IMAGE_COLUMNS, *TEXT_COLUMNS), item),
            _column(where, reading.label_column, LABEL_COLUMNS, item),
        )
        group = reading.group_column
        return (
            item[names[0]],
            item[names[1]],
            item[_column(where, group, (), item)] if group else None,
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where} is a {type(item).__name__}; (input, label) expected")
    return item[0], item[1], None


def _undecoded(data: Any, reading: Reading) -> Any:
    """A data set of the hub's library with its images as they are stored, for our own decoder."""
    features = getattr(data, "features", None)
    if not isinstance(features, Mapping) or not hasattr(data, "cast_column"):
        return data
    for column in [reading.input_column] if reading.input_column else IMAGE_COLUMNS:
        feature: Any = features.get(column)
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            return data.cast_column(column, type(feature)(decode=False))
    return data


def from_hub(name: str, reading: Reading, targets: TargetKind | None = None) -> Dataset:
    """A data set of the public hub, through the ``datasets`` library and its cache.

    Args:
        name: ``owner/name``, or ``owner/name:configuration``.
        reading: names columns, where the user does.
        targets: what the labels are read as, see :func:`from_items`.

    Returns:
        The data set. Its ``test`` split is the test set, else ``validation``, else a fifth of
        every class; a split without labels (GLUE's hold -1) is passed over.

    Raises:
        DataError: if the library is absent, the hub is out of reach, or columns are missing.
    """
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"hub:{name}: install goldiprox[text], which reads hub data") from error
    path, _, configuration = name.partition(":")
    try:
        splits = library.load_dataset(path, configuration or None)
    except Exception as error:
        raise DataError(
            f"hub:{name}: cannot be had ({first_line(error)}); offline, put its Parquet files into "
            "a folder (train*.parquet and test*.parquet) and name that folder instead"
        ) from error
    if "train" not in splits:
        raise DataError(f"hub:{name}: no split train, only {', '.join(splits)}")
    train = splits["train"]
    label = _column(f"hub:{name}", reading.label_column, LABEL_COLUMNS, train.features)
    test, notes = None, []
    for part in ("test", "validation"):
        if part not in splits or not len(splits[part]):
            continue
        if not _is_labelled(splits[part][label]):
            notes.append(
                Note(f"left out: the split {part}, which has no labels", len(splits[part]))
            )
        elif test is None:
            test = splits[part]
        else:
            notes.append(Note(f"left out: the split {part}, beside test", len(splits[part])))
    dataset = from_items(f"hub:{name}", train, test, reading=reading, targets=targets)
    return replace(dataset, notes=(*notes, *dataset.notes))


def _is_labelled(labels: Iterable[Any]) -> bool:
    """Whether a split has labels; where only some are missing, reading it names the first."""
    return not all(label is None or label in UNLABELLED for label in labels)


def _column(where: str, given: str | None, known: Sequence[str], present: Any) -> str:
    for column in [given] if given else known:
        if column in present:
            return column
    raise DataError(
        f"{where}: no column {given or ' or '.join(known)}; there are {', '.join(present)}"
    )
