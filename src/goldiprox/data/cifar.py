"""CIFAR-10 and CIFAR-100: where their files are found, and how they are read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from goldiprox.data.messages import first_line
from goldiprox.data.parquet import find_shards, read_images
from goldiprox.data.settings import Reading
from goldiprox.data.sources import (
    CACHE,
    absent,
    data_roots,
    download_timeout,
    from_parquet,
)
from goldiprox.data.store import Dataset, make_dataset
from goldiprox.schema import DataError

__all__ = ["CIFARS", "cifar"]

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


CLASSES_100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Attributes: ``batches`` and ``vision`` are torchvision's folder and class."""

    name: str
    batches: str
    vision: str
    label: str
    classes: tuple[str, ...]


TEN = _Kind(
    name="cifar10", batches="cifar-10-batches-py", vision="CIFAR10", label="label", classes=CLASSES
)
HUNDRED = _Kind(
    name="cifar100", batches="cifar-100-python", vision="CIFAR100", label="fine_label",
    classes=CLASSES_100,
)  # fmt: skip

CIFARS: dict[str, tuple[_Kind, int | None]] = {
    "cifar10": (TEN, None),
    "cifar100": (HUNDRED, None),
    # 20 classes are kept whole: Mindermann et al. 2022, section 4.3.
    "cifar100-relevance": (HUNDRED, 20),
}
"""The files of each, and how many classes are kept whole unless the user says; None keeps all."""


def cifar(name: str, data_dir: Path | None = None) -> Dataset:
    """CIFAR-10 or CIFAR-100 (fine labels): 50,000 + 10,000 colour images of 32x32.

    From Parquet in the hub's layout, or torchvision's files.

    Args:
        name: of :data:`CIFARS`. ``cifar100-relevance`` is all of CIFAR-100 as well;
            :func:`goldiprox.data.splits.make_splits` thins out the other classes.
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    kind, relevant = CIFARS[name]
    return replace(_find(kind, data_dir), name=name, high_relevance=relevant)


def _find(kind: _Kind, data_dir: Path | None) -> Dataset:
    places = [place / sub for place in data_roots(data_dir) for sub in (kind.name, "")]
    if data_dir is None:
        places.append(CACHE.expanduser() / kind.name)
    for place in places:
        if place.is_dir():
            train, test = find_shards(place)
            if train:
                return _read_cifar(kind, place, train, test)
        if (place / kind.batches).is_dir():
            return _torchvision_cifar(kind, place)
    failure: Exception | None = None
    if data_dir is None:
        try:
            return _download_cifar(kind)
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        kind.name,
        data_dir,
        f"train.parquet and test.parquet in the hub's layout (columns img and {kind.label}), or "
        f"the folder {kind.batches},",
        "be online with goldiprox[vision] or huggingface_hub installed",
        failure,
    )


def _read_cifar(kind: _Kind, place: Path, train: list[Path], test: list[Path]) -> Dataset:
    if not test:
        raise DataError(f"{place}: {train[0].name} found, but no test*.parquet beside it")
    found = read_images(train, test, Reading(label_column=kind.label), kind.classes)
    shape = tuple(found.images_NCHW.shape[1:])
    if shape != (3, 32, 32):
        raise DataError(
            f"{place}: images of shape {shape} found, (3, 32, 32) expected of {kind.name}"
        )
    return from_parquet(kind.name, place, found)


def _torchvision_cifar(kind: _Kind, root: Path) -> Dataset:
    """Through torchvision, which compares checksums before it opens CIFAR's pickles."""
    try:
        vision = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise DataError(
            f"{root / kind.batches}: torchvision reads these files: install goldiprox[vision]"
        ) from error
    make = getattr(vision, kind.vision)
    try:
        parts = [make(str(root), train=is_train) for is_train in (True, False)]
    except RuntimeError as error:
        raise DataError(f"{root / kind.batches}: {first_line(error)}") from error
    counts = [len(part.data) for part in parts]
    images_NCHW = torch.empty((sum(counts), 3, 32, 32), dtype=torch.uint8)
    labels_N = torch.tensor([label for part in parts for label in part.targets])
    for part, place in zip(parts, torch.split(images_NCHW, counts), strict=True):
        place.copy_(torch.from_numpy(part.data).permute(0, 3, 1, 2))
    return make_dataset(
        kind.name, images_NCHW, labels_N, torch.arange(counts[0], sum(counts)),
        class_names=kind.classes, source=str(root / kind.batches),
    )  # fmt: skip


def _download_cifar(kind: _Kind) -> Dataset:
    folder = CACHE.expanduser() / kind.name
    try:
        vision = importlib.import_module("torchvision.datasets")
    except ImportError:
        hub = importlib.import_module("huggingface_hub")
        hub.snapshot_download(
            f"uoft-cs/{kind.name}",
            repo_type="dataset",
            allow_patterns="*.parquet",
            local_dir=str(folder),
        )
        train, test = find_shards(folder)
        return _read_cifar(kind, folder, train, test)
    with download_timeout():
        getattr(vision, kind.vision)(str(folder), download=True)
    return _torchvision_cifar(kind, folder)
