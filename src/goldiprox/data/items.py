"""Examples that are tensors already: inputs and targets of any shape, from map-style data sets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from goldiprox.data.labels import RawLabels
from goldiprox.data.notes import Note
from goldiprox.data.preprocess import Augmentation, ModelInputs
from goldiprox.data.store import Dataset, Store, make_dataset, png_bytes, png_of_lines
from goldiprox.data.targets import TargetKind, Targets, read_targets
from goldiprox.schema import DataError

__all__ = ["ItemPreprocessor", "ItemStore", "holds_tensors", "tensor_items"]

IN_MEMORY = 1 << 30
"""Bytes of inputs up to which they are read once and kept."""

IDENTIFIED = 64
"""Items of a data set that is not kept in memory which identify it."""

GIVEN = "targets as they are, in tensors; noise exchanges them between examples"


class ItemStore:
    """Inputs of map-style data sets, each a tensor or named tensors, all of one shape.

    Args:
        item: gives the input of a row.
        count: how many rows there are.
    """

    def __init__(self, item: Callable[[int], Any], count: int) -> None:
        self._item = item
        self._count = count
        first = item(0)
        self._names = tuple(first) if isinstance(first, Mapping) else None
        self._kept: dict[str, Tensor] | None = None
        size = sum(value.numel() * value.element_size() for value in self._one(0).values())
        if size * count <= IN_MEMORY:
            rows = [self._one(row) for row in range(count)]
            self._kept = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def __len__(self) -> int:
        return self._count

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of the input; of named ones, of the first."""
        return tuple(next(iter(self._one(0).values())).shape)

    def fetch(self, rows_B: Tensor) -> ModelInputs:
        """The inputs of these rows, stacked.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            A tensor, or a dict of tensors where inputs have names.
        """
        if self._kept is not None:
            found = {name: values.index_select(0, rows_B) for name, values in self._kept.items()}
        else:
            rows = [self._one(row) for row in rows_B.tolist()]
            empty = {name: value[None][:0] for name, value in self._one(0).items()}
            found = {n: torch.stack([row[n] for row in rows]) if rows else empty[n] for n in empty}
        return found if self._names is not None else found[""]

    def thumbnail(self, row: int) -> bytes:
        """An input that looks like an image as one, anything else as its shape: a PNG file."""
        value = next(iter(self._one(row).values()))
        if value.dim() == 2:
            value = value[None]
        if value.dim() != 3 or value.shape[0] not in (1, 3) or not value.isfinite().all():
            return png_of_lines([f"{tuple(value.shape)} {value.dtype}"])
        low, high = float(value.min()), float(value.max())
        scaled = (value.double() - low) * (255 / (high - low) if high > low else 0)
        return png_bytes(scaled.round().to(torch.uint8))

    def contents(self) -> Iterator[bytes]:
        """What identifies the inputs: all bytes, or those of some rows where they are not kept."""
        if self._kept is not None:
            for name, values in self._kept.items():
                yield f"{name} {tuple(values.shape)} {values.dtype}".encode()
                yield _raw(values)
            return
        step = max(1, self._count // IDENTIFIED)
        for row in range(0, self._count, step):
            for name, value in self._one(row).items():
                yield f"{row} {name} {tuple(value.shape)} {value.dtype}".encode()
                yield _raw(value)

    def _one(self, row: int) -> dict[str, Tensor]:
        """The input of a row by name; the only one of it has an empty name."""
        given = self._item(row)
        named = given if isinstance(given, Mapping) else {"": given}
        if (tuple(named) if self._names is not None else None) != self._names:
            raise DataError(f"input {row} has the names {', '.join(named)}, unlike the first")
        return {name: torch.as_tensor(value) for name, value in named.items()}


@dataclass(frozen=True, kw_only=True)
class ItemPreprocessor:
    """Hands tensors on as they are, in the form that the user's data set gives them."""

    @property
    def augments(self) -> bool:
        """Nothing is augmented here."""
        return False

    def prepare(self, store: Store) -> Store:
        """The store itself."""
        return store

    def draw(self, count: int, generator: torch.Generator) -> Augmentation | None:
        """Nothing is drawn."""
        del count, generator
        return None

    def __call__(
        self,
        raw: Any,
        augmentation: Augmentation | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> ModelInputs:
        """The same on the device.

        Raises:
            DataError: if these are no tensors.
        """
        del augmentation
        if isinstance(raw, dict):
            return {name: _moved(value, device) for name, value in raw.items()}
        if not isinstance(raw, Tensor):
            raise DataError(f"expected tensors, got {type(raw).__name__}")
        return _moved(raw, device)

    def input_shape(self, store: Store) -> tuple[int, ...]:
        """Shape of one input."""
        return store.example_shape

    def without_augmentation(self) -> Self:
        """Itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """That nothing is done."""
        return {"kind": "tensors"}


def holds_tensors(data: Any) -> bool:
    """Whether a data set's first item is ``(input, target)`` with an input that needs no reading.

    That is a tensor or array of floats, one of integers that has too few axes for an image, or a
    mapping of tensors.
    """
    if not len(data):
        return False
    item = data[0]
    if not isinstance(item, tuple | list) or len(item) != 2:
        return False
    value = item[0]
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(v, Tensor | np.ndarray) for v in value.values())
    if isinstance(value, Tensor):
        return value.is_floating_point() or (value.dim() < 2 and value.dtype != torch.uint8)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" or (value.ndim < 2 and value.dtype.kind == "i")
    return False


def tensor_items(
    name: str,
    train: Any,
    test: Any,
    holdout: Any,
    class_names: Sequence[str] | None,
    targets: TargetKind | None,
    test_rows_of: Callable[[Targets], Tensor],
) -> Dataset:
    """Make a data set of map-style ones whose inputs are tensors.

    Args:
        name: what to call it.
        train: gives ``(input, target)`` by number.
        test: likewise, or None.
        holdout: likewise, or None.
        class_names: of the classes or labels, where they are known.
        targets: what the targets are; tensors of one axis or more are taken as they are, everything
            else for classes unless given.
        test_rows_of: chooses the test set where there is none.

    Raises:
        DataError: if inputs or targets differ in shape, or a target is none.
    """
    parts = [part for part in (train, test, holdout) if part is not None]
    counts = [len(part) for part in parts]
    starts = [0, *accumulate(counts)]

    def item(row: int) -> Any:
        at = bisect_right(starts, row) - 1
        return parts[at][row - starts[at]]

    known = _targets(name, parts, class_names, targets)
    try:
        store = ItemStore(lambda row: item(row)[0], starts[-1])
    except RuntimeError as error:
        raise DataError(
            f"{name}: inputs differ in shape ({str(error).splitlines()[0]}); pad them to one"
        ) from error
    second = counts[0] + (0 if test is None else counts[1])
    if test is None:
        first = Targets(values_N=known.values_N[: counts[0]], kind=known.kind, names=known.names)
        test_rows = test_rows_of(first)
    else:
        test_rows = torch.arange(counts[0], second)
    return make_dataset(
        name, store, known.values_N, test_rows,
        class_names=known.names, source=type(train).__name__,
        holdout_rows=None if holdout is None else torch.arange(second, starts[-1]),
        preprocess=ItemPreprocessor(), contents=store.contents(),
        targets=known.kind, notes=known.notes,
    )  # fmt: skip


def _targets(
    name: str, parts: Sequence[Any], class_names: Sequence[str] | None, kind: TargetKind | None
) -> Targets:
    values = [[part[number][1] for number in range(len(part))] for part in parts]
    first = values[0][0]
    has_axes = isinstance(first, Tensor | np.ndarray) and torch.as_tensor(first).dim() > 0
    if kind is None and has_axes:
        kind = "tensors"
    if kind == "tensors":
        try:
            stacked = torch.stack([torch.as_tensor(v) for part in values for v in part])
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"{name}: targets differ in shape ({str(error).splitlines()[0]}); pad them to one"
            ) from error
        names = tuple(class_names or ())
        return Targets(values_N=stacked, kind=kind, names=names, notes=(Note(GIVEN, len(stacked)),))
    labels = [
        RawLabels(values=part, where=name, unit=f"item of part {number}")
        for number, part in enumerate(values)
    ]
    return read_targets(labels, 1, kind or "classes", class_names)


def _moved(values: Tensor, device: torch.device | str | None) -> Tensor:
    return values if device is None else values.to(device, non_blocking=True)


def _raw(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes() if values.numel() else b""
