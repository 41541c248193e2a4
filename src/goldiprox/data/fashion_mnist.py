"""Fashion-MNIST: where its idx files are found, and how they are read."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch

from goldiprox.data.idx import idx_shape, read_idx
from goldiprox.data.sources import (
    CACHE,
    absent,
    data_roots,
    download_timeout,
)
from goldiprox.data.store import Dataset, make_dataset
from goldiprox.schema import DataError

__all__ = ["fashion_mnist"]

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def fashion_mnist(data_dir: Path | None = None) -> Dataset:
    """Fashion-MNIST from its idx files: 60,000 + 10,000 garments, greyscale, 28x28.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    places = [
        place / sub
        for place in data_roots(data_dir)
        for sub in ("", "FashionMNIST/raw", "fashion-mnist")
    ]
    if data_dir is None:
        places += [SYSTEM_FASHION_MNIST, CACHE.expanduser() / "FashionMNIST/raw"]
    for place in places:
        if files := _idx_files(place):
            return _read_fashion(files)
    failure: Exception | None = None
    if data_dir is None:
        try:
            return _read_fashion(_idx_files(_download_fashion_mnist()))
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        "fashion-mnist",
        data_dir,
        f"{', '.join(IDX_FILES)} (plain or .gz)",
        "run `apt install dataset-fashion-mnist`, or be online with goldiprox[vision] installed",
        failure,
    )


def _idx_files(place: Path) -> dict[str, Path]:
    """The four files in a folder, plain or .gz; empty if there is none of them."""
    found = {
        name: path
        for name in IDX_FILES
        for path in (place / f"{name}.gz", place / name)
        if path.is_file()
    }
    if missing := [name for name in IDX_FILES if found and name not in found]:
        raise DataError(f"{place}: {', '.join(missing)} missing beside {', '.join(found)}")
    return found


def _read_fashion(files: dict[str, Path]) -> Dataset:
    paths = [files[name] for name in IDX_FILES]
    train_images, train_labels, test_images, test_labels = paths
    train_shape, test_shape = idx_shape(train_images, 3), idx_shape(test_images, 3)
    if train_shape[1:] != test_shape[1:]:
        raise DataError(
            f"{test_images}: images of {test_shape[1]}x{test_shape[2]} pixels, but "
            f"{train_shape[1]}x{train_shape[2]} in {train_images.name}; get both again"
        )
    for images, labels, shape in (
        (train_images, train_labels, train_shape),
        (test_images, test_labels, test_shape),
    ):
        (count,) = idx_shape(labels, 1)
        if count != shape[0]:
            raise DataError(
                f"{labels}: {count} labels found, {shape[0]} expected (as many as images in "
                f"{images.name}); get both again"
            )
    split, total = train_shape[0], train_shape[0] + test_shape[0]
    pixels = np.empty((total, *train_shape[1:]), np.uint8)
    labels_u8 = np.empty(total, np.uint8)
    for low, high, images, labels in (
        (0, split, train_images, train_labels),
        (split, total, test_images, test_labels),
    ):
        read_idx(images, pixels[low:high])
        read_idx(labels, labels_u8[low:high])
        if high > low and (highest := int(labels_u8[low:high].max())) >= len(CLASSES):
            row = int(np.argmax(labels_u8[low:high] == highest))
            raise DataError(
                f"{labels}: label {highest} found (row {row}), "
                f"0..{len(CLASSES) - 1} expected; get the file again"
            )
    return make_dataset(
        "fashion-mnist",
        torch.from_numpy(pixels).unsqueeze(1),
        torch.from_numpy(labels_u8).to(torch.int64),
        torch.arange(split, total),
        class_names=CLASSES,
        source=str(train_images.parent),
    )


def _download_fashion_mnist() -> Path:
    vision = importlib.import_module("torchvision.datasets")
    root = CACHE.expanduser()
    with download_timeout():
        vision.FashionMNIST(str(root), train=True, download=True)
    return root / "FashionMNIST/raw"
