"""Where examples live: image stores, and a data set with its ids, labels and fingerprint."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from goldiprox.data.preprocess import ImagePreprocessor, Preprocess
from goldiprox.data.settings import HoldoutMode
from goldiprox.schema import DataError

__all__ = ["Dataset", "ImageStore", "Inputs", "Store", "fingerprint", "make_dataset", "png_bytes"]

Inputs = Tensor | dict[str, Tensor] | list[str]
"""One batch of raw inputs: a tensor, named tensors, or texts."""


@runtime_checkable
class Store(Protocol):
    """Raw inputs by row; a row's number is the example's id."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""
        ...

    def __len__(self) -> int: ...

    def fetch(self, rows_B: Tensor) -> Inputs:
        """The raw inputs of these rows, in this order; repeats are allowed."""
        ...

    def thumbnail(self, row: int) -> bytes:
        """One example as the bytes of a PNG file, for galleries."""
        ...


class ImageStore:
    """Images held in memory as one uint8 tensor."""

    def __init__(self, images_NCHW: Tensor) -> None:
        """Take the tensor as it is, without a copy.

        Args:
            images_NCHW: uint8, 1 or 3 channels.

        Raises:
            DataError: if the tensor has another type or shape.
        """
        shape = tuple(images_NCHW.shape)
        if images_NCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DataError(
                f"images of type {images_NCHW.dtype} and shape {shape} cannot be stored: "
                "give uint8 of shape (count, 1 or 3 channels, height, width)"
            )
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return int(self.images_NCHW.shape[0])

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images_NCHW.shape[1:]
        return channels, height, width

    def fetch(self, rows_B: Tensor) -> Tensor:
        """Copy the images of these rows.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            uint8 images, BCHW.
        """
        return self.images_NCHW.index_select(0, rows_B)

    def thumbnail(self, row: int) -> bytes:
        """One image as the bytes of a PNG file.

        Args:
            row: the image's row.

        Returns:
            The bytes.
        """
        return png_bytes(self.images_NCHW[row])


def png_bytes(pixels_CHW: Tensor) -> bytes:
    """A uint8 image of 1 or 3 channels as the bytes of a PNG file."""
    grey = pixels_CHW.shape[0] == 1
    array = (pixels_CHW[0] if grey else pixels_CHW.permute(1, 2, 0)).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled data set; an example's id is its row in ``store``, never a place in a subset.

    Attributes:
        name: what the user called it.
        store: all inputs, those of the training set and those of the test set.
        labels_N: int64 class labels as published.
        train_rows: int64 rows of the training set, ascending.
        test_rows: int64 rows of the test set, ascending.
        class_names: one name per class.
        fingerprint: sha256 in hex; see :func:`fingerprint`.
        preprocess: turns raw inputs into what a model takes.
        source: where the data was found.
        holdout_rows: int64 rows of a holdout set that was published beside the training set,
            ascending; None where there is none.
        holdout_mode: where the irreducible-loss model's examples come from unless the user says.
        holdout_share: share of the training set for the modes ``split`` and ``reuse``, likewise.
        high_relevance: how many classes are kept whole, likewise; None keeps all of them.
    """

    name: str
    store: Store
    labels_N: Tensor
    train_rows: Tensor
    test_rows: Tensor
    class_names: tuple[str, ...]
    fingerprint: str
    preprocess: Preprocess
    source: str
    holdout_rows: Tensor | None = None
    holdout_mode: HoldoutMode = "split"
    holdout_share: float = 0.5
    high_relevance: int | None = None

    def __len__(self) -> int:
        return len(self.store)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def fingerprint(
    inputs: Tensor, labels_N: Tensor, test_rows: Tensor, holdout_rows: Tensor | None = None
) -> str:
    """Identify a data set by what is in it, not by where it lies.

    Covers shape, type and raw bytes of the inputs, the published labels and which rows are test
    or holdout rows. The bytes are hashed where they are: no copy is made of a contiguous tensor.

    Args:
        inputs: the raw inputs of all examples.
        labels_N: int64 labels as published.
        test_rows: int64 rows of the test set.
        holdout_rows: int64 rows of the published holdout set, if there is one.

    Returns:
        sha256 in hex.
    """
    part_N = torch.zeros(len(labels_N), dtype=torch.uint8)
    part_N[test_rows] = 1
    if holdout_rows is not None:
        part_N[holdout_rows] = 2
    header = {"shape": list(inputs.shape), "dtype": str(inputs.dtype), "layout": 1}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for tensor in (inputs, labels_N, part_N):
        digest.update(tensor.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def make_dataset(
    name: str,
    images_NCHW: Tensor,
    labels_N: Tensor,
    test_rows: Tensor,
    *,
    class_names: Sequence[str],
    source: str,
    holdout_rows: Tensor | None = None,
) -> Dataset:
    """Put a data set together and check that its parts fit; use it to register your own.

    Args:
        name: what to call it.
        images_NCHW: uint8 images of all parts.
        labels_N: int64 labels in 0..C-1.
        test_rows: int64 rows that are the test set.
        class_names: one name per class.
        source: where the data was found, for the records.
        holdout_rows: int64 rows of a holdout set of its own, if it has one; then that is what
            irreducible-loss models are trained on. All other rows are the training set.

    Returns:
        The data set, with fingerprint, and channel means over the training rows.

    Raises:
        DataError: if counts differ, a label is out of range, or a part is empty.
    """
    store = ImageStore(images_NCHW)
    if labels_N.dtype != torch.int64:
        raise DataError(f"{source}: labels of type {labels_N.dtype}; give torch.int64")
    if len(labels_N) != len(store):
        raise DataError(f"{source}: {len(store)} images but {len(labels_N)} labels")
    bad = ((labels_N < 0) | (labels_N >= len(class_names))).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"{source}: {len(bad)} labels outside 0..{len(class_names) - 1} "
            f"(first: {int(labels_N[bad[0]])} in row {int(bad[0])}); "
            "get the files again"
        )
    train_rows, test_rows, holdout_rows = _parts(len(store), test_rows, holdout_rows, source)
    return Dataset(
        name=name,
        store=store,
        labels_N=labels_N,
        train_rows=train_rows,
        test_rows=test_rows,
        class_names=tuple(class_names),
        fingerprint=fingerprint(images_NCHW, labels_N, test_rows, holdout_rows),
        preprocess=ImagePreprocessor.measure(images_NCHW, train_rows),
        source=source,
        holdout_rows=holdout_rows,
        holdout_mode="split" if holdout_rows is None else "own",
    )


def _parts(
    count: int, test_rows: Tensor, holdout_rows: Tensor | None, source: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Training, test and holdout rows, ascending, each row in one of them."""
    part_N = torch.zeros(count, dtype=torch.uint8)
    part_N[test_rows] = 1
    if holdout_rows is not None:
        if (part_N[holdout_rows] == 1).any():
            raise DataError(f"{source}: a row is in the test set and in the holdout set")
        part_N[holdout_rows] = 2
    train_rows, test_rows, own_rows = ((part_N == part).nonzero().flatten() for part in range(3))
    if not len(train_rows) or not len(test_rows):
        raise DataError(
            f"{source}: {len(train_rows)} training and {len(test_rows)} test examples; "
            "neither may be empty"
        )
    if holdout_rows is not None and not len(own_rows):
        raise DataError(f"{source}: its holdout set is empty")
    return train_rows, test_rows, None if holdout_rows is None else own_rows
