"""Load a data set by its registered name or by a path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from goldiprox.data.cifar10 import cifar10
from goldiprox.data.fashion_mnist import fashion_mnist
from goldiprox.data.preprocess import Augmentation, ImagePreprocessor
from goldiprox.data.sources import digits, parquet_path
from goldiprox.data.store import Dataset, ImageStore, Inputs, Store, fingerprint, make_dataset
from goldiprox.data.wrap import with_ids
from goldiprox.schema import ConfigError

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "ImagePreprocessor",
    "ImageStore",
    "Inputs",
    "Loader",
    "Store",
    "fingerprint",
    "load",
    "make_dataset",
    "register",
    "with_ids",
]

Loader = Callable[[Path | None], Dataset]
"""Finds a data set, in the given folder only if there is one, else in its usual places."""

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}
"""The registered data sets by name."""


def register(name: str, loader: Loader) -> None:
    """Make a data set of your own loadable by name.

    Args:
        name: the name; without a slash, so that it cannot be taken for a path.
        loader: called with the data folder or None; see :func:`make_dataset`.

    Raises:
        ConfigError: if the name is taken or looks like a path.
    """
    if name in DATASETS:
        raise ConfigError(f"a data set named {name} is registered already: choose another name")
    if not name or _looks_like_path(name):
        raise ConfigError(f"{name!r} cannot be a data set's name: it reads as a path")
    DATASETS[name] = loader


def load(name_or_path: str, *, data_dir: Path | None = None) -> Dataset:
    """Load a data set.

    A registered name wins over a file or folder of the same name; write ``./cifar10`` to mean
    the folder.

    Args:
        name_or_path: a registered name, or the path of a Parquet file or folder.
        data_dir: the folder in which a registered data set is to be found, and nowhere else;
            None looks in ``$GOLDIPROX_DATA_DIR``, the data set's usual places, and online.

    Returns:
        The data set, read into memory.

    Raises:
        ConfigError: if the name is unknown, or a folder is named beside a path.
        DataError: if the data is absent or damaged.
    """
    if name_or_path in DATASETS:
        return DATASETS[name_or_path](None if data_dir is None else Path(data_dir))
    path = Path(name_or_path).expanduser()
    if name_or_path and (_looks_like_path(name_or_path) or path.exists()):
        if data_dir is not None:
            raise ConfigError(
                f"a data folder ({data_dir}) goes with a registered name only, and "
                f"{name_or_path} is a path: write the whole path"
            )
        return parquet_path(path)
    near = difflib.get_close_matches(name_or_path.lower().replace("_", "-"), DATASETS, n=1)
    raise ConfigError(
        f"unknown data set {name_or_path!r}{f' (did you mean {near[0]}?)' if near else ''}: "
        f"known are {', '.join(sorted(DATASETS))}, or give the path of a Parquet file or folder"
    )


def _looks_like_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.endswith(".parquet")
