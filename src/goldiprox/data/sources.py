"""Data sets that need no search, and what the others share when they look for their files."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.data.messages import first_line
from goldiprox.data.notes import note_of
from goldiprox.data.parquet import (
    ParquetImages,
    ParquetTexts,
    find_shards,
    holds_texts,
    read_groups,
    read_images,
    read_texts,
)
from goldiprox.data.settings import Reading
from goldiprox.data.store import Dataset, TextStore, make_dataset
from goldiprox.data.tabular import contents_of, read_features
from goldiprox.data.targets import TargetKind, Targets
from goldiprox.schema import DataError

__all__ = [
    "CACHE",
    "ENVIRONMENT",
    "absent",
    "data_roots",
    "diabetes",
    "digits",
    "download_timeout",
    "from_parquet",
    "parquet_path",
    "stratified_test_rows",
    "test_rows_of",
]

ENVIRONMENT = "GOLDIPROX_DATA_DIR"
CACHE = Path("~/.cache/goldiprox")
TEST_SHARE = 0.2
DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer before a download counts as impossible


def stratified_test_rows(labels_N: Tensor, share: float = TEST_SHARE) -> Tensor:
    """A fixed test set for data published without one: the same share of every class.

    Rows are ordered by a hash, not by a random generator, so the choice stays the same for ever,
    whatever becomes of the generators of numpy and torch.

    Args:
        labels_N: int64 labels.
        share: share of each class, rounded to whole examples.

    Returns:
        int64 rows, ascending.
    """
    keys = [hashlib.sha256(b"goldiprox/test/%d" % row).digest() for row in range(len(labels_N))]
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels_N.tolist()):
        by_class.setdefault(label, []).append(row)
    chosen: list[int] = []
    for rows in by_class.values():
        chosen += sorted(rows, key=keys.__getitem__)[: round(share * len(rows))]
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def test_rows_of(targets: Targets) -> Tensor:
    """A fixed test set: the same share of every class, or of all where there are no classes."""
    if targets.kind == "classes":
        return stratified_test_rows(targets.values_N)
    return stratified_test_rows(torch.zeros(len(targets.values_N), dtype=torch.int64))


def digits(data_dir: Path | None = None) -> Dataset:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

    Args:
        data_dir: not used; the data is part of scikit-learn.

    Returns:
        The data set; a fifth of every class, chosen once and for ever, is the test set.
    """
    del data_dir
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    bunch = load_digits()
    pixels = np.rint(bunch.images * 15).astype(np.uint8)  # 0..16 becomes 0..240
    labels_N = torch.from_numpy(bunch.target.astype(np.int64))
    return make_dataset(
        "digits",
        torch.from_numpy(pixels).unsqueeze(1),
        labels_N,
        stratified_test_rows(labels_N),
        class_names=[str(digit) for digit in range(10)],
        source="scikit-learn",
    )


def diabetes(data_dir: Path | None = None) -> Dataset:
    """The 442 diabetes patients that come with scikit-learn: how far the disease went in a year.

    Args:
        data_dir: not used; the data is part of scikit-learn.

    Returns:
        The data set, ten features and one number to predict; a fifth of the rows, chosen once and
        for ever, is the test set. Source: Efron et al. 2004, "Least Angle Regression".
    """
    del data_dir
    from sklearn.datasets import load_diabetes  # scikit-learn takes a second to import

    bunch = load_diabetes(scaled=False)
    table = pa.table({name: bunch.data[:, at] for at, name in enumerate(bunch.feature_names)})
    test_rows = stratified_test_rows(torch.zeros(len(bunch.target), dtype=torch.int64))
    features = read_features(
        table,
        bunch.feature_names,
        torch.from_numpy(np.setdiff1d(np.arange(len(bunch.target)), test_rows)),
        "diabetes",
    )
    return make_dataset(
        "diabetes",
        features.store,
        torch.from_numpy(bunch.target).float(),
        test_rows,
        class_names=["progression"],
        source="scikit-learn",
        preprocess=features.preprocess,
        contents=contents_of(table),
        targets="numbers",
    )


def parquet_path(
    path: Path, reading: Reading | None = None, targets: TargetKind | None = None
) -> Dataset:
    """Labelled images or texts from a Parquet file, or from a folder of training and test files.

    Args:
        path: a file, or a folder as :func:`goldiprox.data.parquet.find_shards` reads it.
        reading: names columns, where the user does.
        targets: what the labels are read as, see :func:`goldiprox.data.parquet.read_images`.

    Returns:
        The data set, named like the path; without test files a fifth of every class is the test
        set.

    Raises:
        DataError: if nothing is there, or it is damaged or incomplete.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist: give a table (CSV, TSV, JSON lines, Parquet), or a folder of "
            "tables or images"
        )
    train, test = find_shards(path) if path.is_dir() else ([path], [])
    if not train:
        raise DataError(
            f"{path}: neither images nor tables in it (CSV, TSV, JSON lines, Parquet); give one "
            "folder of images a class, or tables named train* and test*"
        )
    reading = reading or Reading()
    found: ParquetImages | ParquetTexts
    if holds_texts(train[0], reading):
        found = read_texts(train, test, reading)
    else:
        found = read_images(train, test, reading, targets=targets)
    groups = read_groups(train, test, reading.group_column)
    dataset = from_parquet(path.resolve().stem, path, found, groups)
    unused = [] if path.is_file() else sorted({*path.rglob("*.parquet")} - {*train, *test})
    left_out = note_of(
        "left out: Parquet files that are neither training nor test set",
        (str(file.relative_to(path)) for file in unused),
    )
    return replace(dataset, notes=(*left_out, *dataset.notes))


def from_parquet(
    name: str,
    path: Path,
    found: ParquetImages | ParquetTexts,
    groups: list[Any] | None = None,
) -> Dataset:
    """Make a data set of what was read; without test files, of a part of the training files."""
    labels = found.labels
    total = len(labels.values_N)
    if found.train_count < total:
        test_rows = torch.arange(found.train_count, total)
    else:
        test_rows = test_rows_of(labels)
    notes = labels.notes
    if isinstance(found, ParquetImages):
        notes += found.notes
    inputs = found.images_NCHW if isinstance(found, ParquetImages) else TextStore(found.texts)
    return make_dataset(
        name, inputs, labels.values_N, test_rows, targets=labels.kind,
        class_names=labels.names, source=str(path), groups=groups, notes=notes,
    )  # fmt: skip


def data_roots(data_dir: Path | None) -> Iterator[Path]:
    """The folder that was named, or else the one the environment names."""
    named, how = (data_dir, "data folder") if data_dir is not None else (None, ENVIRONMENT)
    if named is None and os.environ.get(ENVIRONMENT):
        named = Path(os.environ[ENVIRONMENT])
    if named is None:
        return
    if not named.expanduser().is_dir():
        raise DataError(f"{how} {named} is not a folder")
    yield named.expanduser()


def absent(
    name: str, data_dir: Path | None, files: str, ways: str, failure: Exception | None
) -> DataError:
    """The error for a data set that was not found, with every way to get it.

    Args:
        name: the data set.
        data_dir: the folder the user named, if any; then nothing else was tried.
        files: what to put into a folder.
        ways: other ways to get the data set.
        failure: why it could not be downloaded, if that was tried.

    Returns:
        The error, one line.
    """
    if data_dir is not None:
        return DataError(
            f"{name} not found in {data_dir}: put {files} there, or name no folder and {ways}"
        )
    named = os.environ.get(ENVIRONMENT)
    why = f" (download failed: {first_line(failure)})" if failure else ""
    where = f"{ENVIRONMENT}={named} and the usual places" if named else "the usual places"
    return DataError(
        f"{name} not found in {where}: put {files} into a folder and name it with --data-dir or in "
        f"the environment variable {ENVIRONMENT}, or {ways}{why}"
    )


@contextmanager
def download_timeout() -> Iterator[None]:
    """Put a time limit on every socket: torchvision itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
