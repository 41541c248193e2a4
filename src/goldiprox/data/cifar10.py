"""CIFAR-10: where its files are found, and how they are read."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from goldiprox.data.messages import first_line
from goldiprox.data.parquet import find_shards, read_images
from goldiprox.data.sources import (
    CACHE,
    absent,
    data_roots,
    download_timeout,
    from_parquet,
)
from goldiprox.data.store import Dataset, make_dataset
from goldiprox.schema import DataError

__all__ = ["cifar10"]

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def cifar10(data_dir: Path | None = None) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 colour images of 32x32, from Parquet or torchvision's files.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    places = [place / sub for place in data_roots(data_dir) for sub in ("cifar10", "")]
    if data_dir is None:
        places.append(CACHE.expanduser() / "cifar10")
    for place in places:
        if place.is_dir():
            train, test = find_shards(place)
            if train:
                return _read_cifar10(place, train, test)
        if (place / "cifar-10-batches-py").is_dir():
            return _torchvision_cifar10(place)
    failure: Exception | None = None
    if data_dir is None:
        try:
            return _download_cifar10()
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        "cifar10",
        data_dir,
        "train.parquet and test.parquet in the hub's layout (columns img and label), or the folder "
        "cifar-10-batches-py,",
        "be online with goldiprox[vision] or huggingface_hub installed",
        failure,
    )


def _read_cifar10(place: Path, train: list[Path], test: list[Path]) -> Dataset:
    if not test:
        raise DataError(f"{place}: {train[0].name} found, but no test*.parquet beside it")
    found = read_images(train, test)
    shape = tuple(found.images_NCHW.shape[1:])
    if shape != (3, 32, 32):
        raise DataError(f"{place}: images of shape {shape} found, (3, 32, 32) expected of cifar10")
    return from_parquet("cifar10", place, found, CLASSES)


def _torchvision_cifar10(root: Path) -> Dataset:
    """Through torchvision, which compares checksums before it opens CIFAR's pickles."""
    try:
        vision = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise DataError(
            f"{root / 'cifar-10-batches-py'}: torchvision reads these files: install "
            "goldiprox[vision]"
        ) from error
    try:
        parts = [vision.CIFAR10(str(root), train=is_train) for is_train in (True, False)]
    except RuntimeError as error:
        raise DataError(f"{root / 'cifar-10-batches-py'}: {first_line(error)}") from error
    counts = [len(part.data) for part in parts]
    images_NCHW = torch.empty((sum(counts), 3, 32, 32), dtype=torch.uint8)
    labels_N = torch.tensor([label for part in parts for label in part.targets])
    for part, place in zip(parts, torch.split(images_NCHW, counts), strict=True):
        place.copy_(torch.from_numpy(part.data).permute(0, 3, 1, 2))
    return make_dataset(
        "cifar10", images_NCHW, labels_N, torch.arange(counts[0], sum(counts)),
        class_names=CLASSES, source=str(root / "cifar-10-batches-py"),
    )  # fmt: skip


def _download_cifar10() -> Dataset:
    folder = CACHE.expanduser() / "cifar10"
    try:
        vision = importlib.import_module("torchvision.datasets")
    except ImportError:
        hub = importlib.import_module("huggingface_hub")
        hub.snapshot_download(
            "uoft-cs/cifar10",
            repo_type="dataset",
            allow_patterns="*.parquet",
            local_dir=str(folder),
        )
        train, test = find_shards(folder)
        return _read_cifar10(folder, train, test)
    with download_timeout():
        vision.CIFAR10(str(folder), download=True)
    return _torchvision_cifar10(folder)
