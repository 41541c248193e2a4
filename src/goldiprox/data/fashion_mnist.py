"""Fashion-MNIST: where its idx files are found, and how they are read."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from goldiprox.data.idx_parts import find_idx, read_idx_parts
from goldiprox.data.sources import (
    CACHE,
    absent,
    data_roots,
    download_timeout,
)
from goldiprox.data.store import Dataset, make_dataset

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
        if files := find_idx(place, IDX_FILES):
            return _read_fashion(files)
    failure: Exception | None = None
    if data_dir is None:
        try:
            return _read_fashion(find_idx(_download_fashion_mnist(), IDX_FILES))
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        "fashion-mnist",
        data_dir,
        f"{', '.join(IDX_FILES)} (plain or .gz)",
        "run `apt install dataset-fashion-mnist`, or be online with goldiprox[vision] installed",
        failure,
    )


def _read_fashion(files: list[Path]) -> Dataset:
    images_NCHW, labels_N, counts = read_idx_parts(files, len(CLASSES))
    return make_dataset(
        "fashion-mnist", images_NCHW, labels_N, torch.arange(counts[0], sum(counts)),
        class_names=CLASSES, source=str(files[0].parent),
    )  # fmt: skip


def _download_fashion_mnist() -> Path:
    vision = importlib.import_module("torchvision.datasets")
    root = CACHE.expanduser()
    with download_timeout():
        vision.FashionMNIST(str(root), train=True, download=True)
    return root / "FashionMNIST/raw"
