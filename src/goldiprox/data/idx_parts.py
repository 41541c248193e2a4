"""Pairs of idx files, images and their labels, put together part by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goldiprox.data.idx import idx_shape, read_idx
from goldiprox.schema import DataError

__all__ = ["find_idx", "read_idx_parts"]


def find_idx(place: Path, names: Sequence[str]) -> list[Path]:
    """Files in a folder, plain or .gz, in the order of their names; empty if there is none.

    Raises:
        DataError: if there are some of them but not all.
    """
    found = {
        name: path
        for name in names
        for path in (place / f"{name}.gz", place / name)
        if path.is_file()
    }
    if missing := [name for name in names if found and name not in found]:
        raise DataError(f"{place}: {', '.join(missing)} missing beside {', '.join(found)}")
    return [found[name] for name in names if found]


def read_idx_parts(files: Sequence[Path], classes: int) -> tuple[Tensor, Tensor, list[int]]:
    """Read images and labels of several parts into one array each.

    Args:
        files: images, labels, images, labels, ...; labels are bytes, or QMNIST's rows of eight
            integers, of which the first is the class.
        classes: how many there are.

    Returns:
        uint8 images [N, 1, H, W], int64 labels [N], and how many there are in each part.

    Raises:
        DataError: if a file is damaged, or files do not fit together.
    """
    parts = list(zip(files[::2], files[1::2], strict=True))
    shapes = [idx_shape(images, 3) for images, _ in parts]
    first = parts[0][0]
    for (images, labels), shape in zip(parts, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise DataError(
                f"{images}: images of {shape[1]}x{shape[2]} pixels, but "
                f"{shapes[0][1]}x{shapes[0][2]} in {first.name}; get both again"
            )
        count = _label_shape(labels)[0]
        if count != shape[0]:
            raise DataError(
                f"{labels}: {count} labels found, {shape[0]} expected (as many as images in "
                f"{images.name}); get both again"
            )
    counts = [shape[0] for shape in shapes]
    pixels = np.empty((sum(counts), *shapes[0][1:]), np.uint8)
    labels_N = np.empty(sum(counts), np.int64)
    low = 0
    for (images, labels), count in zip(parts, counts, strict=True):
        if not count:
            continue
        part = slice(low, low + count)
        read_idx(images, pixels[part])
        labels_N[part] = _read_labels(labels)
        low_row, high_row = int(labels_N[part].argmin()), int(labels_N[part].argmax())
        row = low_row if labels_N[part][low_row] < 0 else high_row
        if not 0 <= labels_N[part][row] < classes:
            raise DataError(
                f"{labels}: label {labels_N[part][row]} found (row {row}), "
                f"0..{classes - 1} expected; get the file again"
            )
        low += count
    return torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels_N), counts


def _label_shape(path: Path) -> tuple[int, ...]:
    return idx_shape(path, 2, "int32") if "idx2-int" in path.name else idx_shape(path, 1)


def _read_labels(path: Path) -> NDArray[np.int64]:
    shape = _label_shape(path)
    if len(shape) == 1:
        narrow = np.empty(shape, np.uint8)
        read_idx(path, narrow)
        return narrow.astype(np.int64)
    wide = np.empty(shape, np.int32)
    read_idx(path, wide)
    return wide[:, 0].astype(np.int64)
