"""MNIST, QMNIST with its 50,000 extra images, and AmbiguousMNIST: where they lie, how to read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from goldiprox.data.fashion_mnist import IDX_FILES
from goldiprox.data.idx_parts import find_idx, read_idx_parts
from goldiprox.data.messages import first_line
from goldiprox.data.sources import CACHE, absent, data_roots, download_timeout
from goldiprox.data.store import Dataset, make_dataset
from goldiprox.schema import DataError

__all__ = ["ambiguous_mnist", "mnist", "qmnist"]

CLASSES = tuple(str(digit) for digit in range(10))
QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
QMNIST_TEST = 10_000
"""The first of QMNIST's 60,000 test images are MNIST's own; the other 50,000 are the extra ones."""
AMBIGUOUS_FILES = ("amnist_samples.pt", "amnist_labels.pt")
AMBIGUOUS_TRAIN = 60_000


def mnist(data_dir: Path | None = None) -> Dataset:
    """MNIST from its idx files: 60,000 + 10,000 handwritten digits, greyscale, 28x28.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    files = _found("mnist", data_dir, IDX_FILES, ("mnist", "MNIST/raw"), "MNIST")
    images_NCHW, labels_N, counts = read_idx_parts(files, len(CLASSES))
    return make_dataset(
        "mnist", images_NCHW, labels_N, torch.arange(counts[0], sum(counts)),
        class_names=CLASSES, source=str(files[0].parent),
    )  # fmt: skip


def qmnist(data_dir: Path | None = None) -> Dataset:
    """QMNIST: MNIST's 60,000 + 10,000 digits, and 50,000 more as a holdout set.

    The split of Mindermann et al. 2022, section 4.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set; its holdout set is its own.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    files = _found("qmnist", data_dir, QMNIST_FILES, ("qmnist", "QMNIST/raw"), "QMNIST")
    images_NCHW, labels_N, (train, rest) = read_idx_parts(files, len(CLASSES))
    if rest <= QMNIST_TEST:
        raise DataError(
            f"{files[2]}: {rest} images found; more than {QMNIST_TEST} expected, of which those "
            "beyond are the holdout set; get the file again"
        )
    return make_dataset(
        "qmnist", images_NCHW, labels_N, torch.arange(train, train + QMNIST_TEST),
        class_names=CLASSES, source=str(files[0].parent),
        holdout_rows=torch.arange(train + QMNIST_TEST, train + rest),
    )  # fmt: skip


def ambiguous_mnist(data_dir: Path | None = None) -> Dataset:
    """AmbiguousMNIST: 60,000 generated digits with several plausible labels; tested on MNIST.

    Each of the published samples has several labels and occurs once with each of them. The first
    60,000 train (Mindermann et al. 2022, appendix C); the test set is MNIST's. No noise is added to
    the pixels.

    Args:
        data_dir: look here only; None looks in the usual places.

    Returns:
        The data set.

    Raises:
        DataError: if files are absent or damaged.
    """
    subs = ("AmbiguousMNIST", "ambiguous-mnist", "")
    places = [place / sub for place in data_roots(data_dir) for sub in subs]
    if data_dir is None:
        places.append(CACHE.expanduser() / "AmbiguousMNIST")
    place = next((p for p in places if (p / AMBIGUOUS_FILES[0]).is_file()), None)
    if place is None:
        raise absent(
            "ambiguous-mnist",
            data_dir,
            f"{' and '.join(AMBIGUOUS_FILES)} (release data-v1.0.0 of ddu_dirty_mnist) and MNIST's "
            "files (in a folder mnist)",
            "put them into ~/.cache/goldiprox/AmbiguousMNIST",
            None,
        )
    samples, labels = (_tensor(place / name) for name in AMBIGUOUS_FILES)
    if samples.ndim != 4 or labels.ndim != 2 or len(samples) != len(labels):
        raise DataError(
            f"{place}: samples of shape {tuple(samples.shape)} and labels of shape "
            f"{tuple(labels.shape)}; (count, 1, 28, 28) and (count, labels) expected"
        )
    test = mnist(data_dir)
    repeats = labels.shape[1]
    count = min(AMBIGUOUS_TRAIN, labels.numel())
    pixels = (samples[: -(-count // repeats)] * 255).round().clamp(0, 255).to(torch.uint8)
    train_NCHW = pixels.repeat_interleave(repeats, dim=0)[:count]
    test_NCHW = test.store.fetch(test.test_rows)
    assert isinstance(test_NCHW, torch.Tensor)
    if train_NCHW.shape[1:] != test_NCHW.shape[1:]:
        raise DataError(
            f"{place}: images of {tuple(train_NCHW.shape[1:])}, but MNIST's of "
            f"{tuple(test_NCHW.shape[1:])}"
        )
    return make_dataset(
        "ambiguous-mnist",
        torch.cat([train_NCHW, test_NCHW]),
        torch.cat([labels.flatten()[:count].long(), test.labels_N[test.test_rows]]),
        torch.arange(count, count + len(test_NCHW)),
        class_names=CLASSES,
        source=str(place),
    )


def _tensor(path: Path) -> torch.Tensor:
    try:
        found: Any = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); get it again") from error
    if not isinstance(found, torch.Tensor):
        raise DataError(f"{path}: holds a {type(found).__name__}, a tensor expected")
    return found


def _found(
    name: str, data_dir: Path | None, files: Sequence[str], subs: Sequence[str], vision_name: str
) -> list[Path]:
    """The files, downloaded if need be. A bare folder is looked into only if it was named."""
    bare = [""] if data_dir else []  # Fashion-MNIST's files have the same names
    places = [place / sub for place in data_roots(data_dir) for sub in (*subs, *bare)]
    cached = CACHE.expanduser() / vision_name / "raw"
    if data_dir is None:
        places.append(cached)
    for place in places:
        if found := find_idx(place, files):
            return found
    failure: Exception | None = None
    if data_dir is None:
        try:
            make = getattr(importlib.import_module("torchvision.datasets"), vision_name)
            parts: list[dict[str, Any]] = [{"train": True}]
            if name == "qmnist":
                parts = [{"what": "train"}, {"what": "test"}]
            with download_timeout():
                for part in parts:
                    make(str(CACHE.expanduser()), download=True, **part)
            if found := find_idx(cached, files):
                return found
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        name,
        data_dir,
        f"{', '.join(files)} (plain or .gz)",
        "be online with goldiprox[vision] installed",
        failure,
    )
