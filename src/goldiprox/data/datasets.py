"""Load a data set by its registered name or by a path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from goldiprox.data.cifar import CIFARS, cifar
from goldiprox.data.fashion_mnist import fashion_mnist
from goldiprox.data.files import Checked
from goldiprox.data.folders import cinic10, clothing1m, image_folder, is_image_folder
from goldiprox.data.glue import cola, sst2
from goldiprox.data.mnist import ambiguous_mnist, mnist, qmnist
from goldiprox.data.own import from_hub, from_items
from goldiprox.data.parquet import find_shards
from goldiprox.data.preprocess import Augmentation, ImagePreprocessor
from goldiprox.data.settings import Reading
from goldiprox.data.sources import diabetes, digits, parquet_path
from goldiprox.data.store import (
    Dataset,
    ImageStore,
    Inputs,
    Store,
    TextStore,
    fingerprint,
    make_dataset,
)
from goldiprox.data.table_data import from_table_files, parquet_tables
from goldiprox.data.table_files import (
    find_table_files,
    is_table_file,
    other_tables,
    require_known_kind,
)
from goldiprox.data.targets import TargetKind
from goldiprox.schema import ConfigError
from goldiprox.wrap import with_ids

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "ImagePreprocessor",
    "ImageStore",
    "Inputs",
    "Loader",
    "Store",
    "TextStore",
    "dataset_names",
    "fingerprint",
    "from_items",
    "load",
    "make_dataset",
    "register",
    "with_ids",
]

Loader = Callable[[Path | None], Dataset]
"""Finds a data set, in the given folder only if there is one, else in its usual places."""

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "diabetes": diabetes,
    "fashion-mnist": fashion_mnist,
    **{name: partial(cifar, name) for name in CIFARS},
    "mnist": mnist,
    "qmnist": qmnist,
    "ambiguous-mnist": ambiguous_mnist,
    "cola": cola,
    "sst2": sst2,
}
"""The registered data sets by name."""

FILES = ("skip_unreadable",)
"""Settings of images that lie in files of their own, but for those that only change the speed."""
IMAGES = ("image_size", "image_fit", "background", *FILES)
"""Settings of images that are read from files."""
COLUMNS = ("input_column", "label_column", "group_column", "feature_columns")
"""Settings of tables."""

FOLDER_DATASETS: dict[str, Callable[[Path | None, Reading, Checked | None], Dataset]] = {
    "cinic10": cinic10,
    "clothing1m": clothing1m,
}
"""Those whose images lie in files of their own, and may be read in several ways."""


def register(name: str, loader: Loader) -> None:
    """Make a data set of your own loadable by name.

    Args:
        name: the name; without a slash, so that it cannot be taken for a path.
        loader: called with the data folder or None; see :func:`make_dataset`.

    Raises:
        ConfigError: if the name is taken or looks like a path.
    """
    if name in DATASETS or name in FOLDER_DATASETS:
        raise ConfigError(f"a data set named {name} is registered already: choose another name")
    if not name or _looks_like_path(name):
        raise ConfigError(f"{name!r} cannot be a data set's name: it reads as a path")
    DATASETS[name] = loader


def load(
    name_or_path: str,
    *,
    data_dir: Path | None = None,
    reading: Reading | None = None,
    checked: Checked | None = None,
    targets: TargetKind | None = None,
) -> Dataset:
    """Load a data set.

    A registered name wins over a file or folder of the same name; write ``./cifar10`` to mean
    the folder.

    Args:
        name_or_path: a registered name; the path of a Parquet file, of a folder of them or of an
            image folder; or ``hub:`` and the name of a data set of the public hub.
        data_dir: the folder in which a registered data set is to be found, and nowhere else;
            None looks in ``$GOLDIPROX_DATA_DIR``, the data set's usual places, and online.
        reading: how files are read: columns, sizes, worker processes.
        checked: told how many images, of how many, have been checked for being readable.
        targets: what the labels of files are read as; what they look like unless given (lists are
            label sets, anything else is classes).

    Returns:
        The data set, read into memory unless it is a large image folder.

    Raises:
        ConfigError: if the name is unknown, a folder is named beside a path, or a setting of
            ``reading`` would do nothing with such data.
        DataError: if the data is absent or damaged.
    """
    reading = reading or Reading()
    folder = None if data_dir is None else Path(data_dir)
    if name_or_path in DATASETS:
        _require_used(reading, [*COLUMNS, *IMAGES], f"{name_or_path}, whose form is known")
        return _of_kind(DATASETS[name_or_path](folder), targets)
    if name_or_path in FOLDER_DATASETS:
        _require_used(reading, COLUMNS, f"{name_or_path}, which has no columns")
        return FOLDER_DATASETS[name_or_path](folder, reading, checked)
    if name_or_path.startswith("hub:"):
        _require_used(reading, [*FILES, "feature_columns"], "data sets of the hub")
        return from_hub(name_or_path.removeprefix("hub:"), reading, targets)
    path = Path(name_or_path).expanduser()
    if name_or_path and (_looks_like_path(name_or_path) or path.exists()):
        if data_dir is not None:
            raise ConfigError(
                f"a data folder ({data_dir}) goes with a registered name only, and "
                f"{name_or_path} is a path: write the whole path"
            )
        if path.is_dir() and is_image_folder(path):
            _require_used(
                reading, COLUMNS, f"{name_or_path}, an image folder, which has no columns"
            )
            return image_folder(path, reading, checked)
        if path.is_file():
            require_known_kind(path)
        if path.is_file() and is_table_file(path):
            files: tuple[list[Path], list[Path]] = [path], []
        elif path.is_dir() and not any(find_shards(path)):
            files = find_table_files(path)
        else:
            _require_used(reading, FILES, "Parquet files")
            files = parquet_tables(path, reading, targets)
        if files[0]:
            dataset = from_table_files(path.resolve().stem, *files, reading, targets, checked)
            unused = other_tables(path, [*files[0], *files[1]]) if path.is_dir() else ()
            return replace(dataset, notes=(*unused, *dataset.notes))
        return _of_kind(parquet_path(path, reading, targets), targets)
    known = dataset_names()
    near = difflib.get_close_matches(name_or_path.lower().replace("_", "-"), known, n=1)
    raise ConfigError(
        f"unknown data set {name_or_path!r}{f' (did you mean {near[0]}?)' if near else ''}: "
        f"known are {', '.join(known)}, or give the path of a Parquet file or folder, or of an "
        "image folder, or hub:NAME"
    )


def dataset_names() -> list[str]:
    """Data sets that are known by name."""
    return sorted({*DATASETS, *FOLDER_DATASETS})


def _of_kind(dataset: Dataset, targets: TargetKind | None) -> Dataset:
    """Hand a data set through, if what it has to predict is of the kind asked for.

    Raises:
        ConfigError: if not.
    """
    if targets is not None and targets != dataset.targets:
        raise ConfigError(
            f"{dataset.name} has {dataset.targets} to predict, and the objective is about "
            f"{targets}: choose another --objective, or leave it out"
        )
    return dataset


def _require_used(reading: Reading, unused: Sequence[str], what: str) -> None:
    """Refuse a setting that was given and would do nothing."""
    for field in fields(Reading):
        value = getattr(reading, field.name)
        if field.name in unused and value != field.default:
            given = " ".join(value) if isinstance(value, tuple) else "" if value is True else value
            flag = f"--{field.name.replace('_', '-')} {given}".strip()
            raise ConfigError(f"{flag} does nothing with {what}: leave it out")


def _looks_like_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.endswith(".parquet")
