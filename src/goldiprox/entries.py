"""The one walk over the structure of a batch: what has an entry for each example is cut.

A value counts as having one entry for each of B examples if it is

* a tensor or numpy array whose first axis has the size B;
* a list or tuple of B things;
* a mapping, dataclass, named tuple, list or tuple of such values ("columns").

Scalars (tensors and arrays without axes, numbers, texts, None) belong to the whole batch and are
kept, as is a first axis of size 1, which broadcasts. Everything else is refused, because a value
that stays whole beside examples that were cut belongs to other examples, and nobody notices: a
tensor with the time first, crops stacked behind one another, objects of unknown type.

Two readings are possible where a list has as many parts as there are examples and each part has as
many entries: B examples, or B columns of B examples. And a tensor of shape [B, B, ...] may have
its examples on either axis. :class:`Layout` remembers what other pools told of each place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from functools import cached_property
from numbers import Number
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from goldiprox.schema import DataError

__all__ = ["Cut", "Layout", "Positions", "Span", "cut", "fits", "opened", "tensors", "transformed"]

Place = tuple[Any, ...]
"""Where a value stands in a batch: the keys and positions that lead to it."""

SCALARS = (
    *(type(None), str, bytes, Number, np.generic, Enum, PurePath, date, time, timedelta),
    *(torch.dtype, torch.device, type),
)

REMEDY = "give it one entry for each example, or leave it out of the batch"


class Cut(Protocol):
    """What is done to values with one entry for each example."""

    def tensor(self, rows: Tensor, /) -> Any:
        """Cut a tensor along its first axis."""

    def array(self, rows: npt.NDArray[Any], /) -> Any:
        """Cut a numpy array along its first axis."""

    def sequence(self, entries: Sequence[Any], /) -> Any:
        """Cut a list or tuple."""


class Positions:
    """Takes the examples at some int64 positions, repeats allowed."""

    def __init__(self, positions: Tensor) -> None:
        """Keep them."""
        self._positions = positions

    @cached_property
    def _on_host(self) -> list[int]:
        listed: list[int] = self._positions.tolist()
        return listed

    def tensor(self, rows: Tensor) -> Tensor:
        """Rows in the order asked for."""
        return rows.index_select(0, self._positions.to(rows.device))

    def array(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows in the order asked for."""
        return rows[np.asarray(self._on_host, dtype=np.int64)]

    def sequence(self, entries: Sequence[Any]) -> Sequence[Any]:
        """Entries in the order asked for, in a list or a tuple as they were."""
        return type(entries)(entries[i] for i in self._on_host)  # type: ignore[call-arg]


class Span:
    """Takes consecutive examples."""

    def __init__(self, span: slice) -> None:
        """Keep the slice."""
        self._span = span

    def tensor(self, rows: Tensor) -> Tensor:
        """A view of the rows."""
        return rows[self._span]

    def array(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of the rows."""
        return rows[self._span]

    def sequence(self, entries: Sequence[Any]) -> Sequence[Any]:
        """The entries."""
        return entries[self._span]


class Layout:
    """What pools seen so far told of places that a single pool leaves open.

    Attributes:
        doubtful: places of tensors [B, B, ...] in the last batches whose first axis no other pool
            has shown to be that of the examples.
    """

    def __init__(self) -> None:
        self.doubtful: dict[Place, None] = {}
        self._first_axis: set[Place] = set()
        self._is_listed: dict[Place, bool] = {}

    def names(self) -> str:
        """The doubtful places, for messages."""
        return ", ".join(map(_named, self.doubtful))

    def settle(self) -> None:
        """Take the first axis of all doubtful places for that of the examples."""
        self._first_axis.update(self.doubtful)
        self.doubtful.clear()

    def saw_tensor(self, place: Place, shape: torch.Size) -> None:
        """Note a tensor whose first axis has as many entries as there are examples."""
        if place in self._first_axis:
            return
        if len(shape) > 1 and shape[0] in shape[1:] and shape[0] > 1:
            self.doubtful[place] = None
        else:
            self._first_axis.add(place)

    def is_listed(self, place: Place, can_be: tuple[bool, bool]) -> bool | None:
        """Whether a list's entries are examples rather than columns; None if it is unknown.

        Args:
            place: of the list.
            can_be: whether this pool allows examples, and whether it allows columns.
        """
        examples, columns = can_be
        if examples == columns:
            return self._is_listed.get(place)
        self._is_listed[place] = examples
        return examples


def opened(value: Any) -> Any:
    """A dataclass as the mapping of its fields; anything else as it is."""
    if isinstance(value, dict | tuple | list):  # nearly always, so it is asked first
        return value
    if is_dataclass(value) and not isinstance(value, type | Mapping):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value


def cut(value: Any, size: int, how: Cut, layout: Layout | None = None, place: Place = ()) -> Any:
    """Cut whatever has one entry for each of ``size`` examples, in the structure of the whole.

    Args:
        value: a batch (``place`` empty) or a part of one.
        size: how many examples there are.
        how: what to do with each tensor, array or list that has one entry for each.
        layout: what other pools told of the same structure; learns from this one.
        place: where the value stands in its batch.

    Returns:
        The same structure; scalars are kept.

    Raises:
        DataError: if a part is neither cut nor a scalar, or can be read in two ways; it names the
            part.
    """
    if isinstance(value, Tensor):
        return _cut_tensor(value, size, how, layout, place)
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, np.ndarray):
        if _axis(value.shape, size, place) is None:
            return value
        if layout is not None:
            layout.saw_tensor(place, torch.Size(value.shape))
        return how.array(value)
    if _is_list(value) and not _has_columns(value, size, layout, place):
        return how.sequence(value) if value else value
    parts = _parts(value)
    if parts is None:
        raise DataError(
            f"{_named(place)} is of type {type(value).__name__}, of which it is not known what "
            f"belongs to which example: {_advice(value)}"
        )
    return _rebuilt(value, [cut(part, size, how, layout, (*place, key)) for key, part in parts])


def fits(value: Any, size: int) -> bool | None:
    """Whether a value has entries for ``size`` examples: None if it holds nothing but scalars."""
    if isinstance(value, Tensor | np.ndarray):
        if isinstance(value, Tensor) and not _is_dense(value):
            return False
        if not value.ndim or (value.shape[0] == 1 != size and size not in value.shape):
            return None
        return bool(value.shape[0] == size)
    if isinstance(value, SCALARS):
        return None
    if _is_list(value) and len(value) == size:
        return True
    parts = _parts(value)
    if parts is None:
        return False
    answers = {fits(part, size) for _, part in parts}
    if False in answers or (_is_list(value) and parts and True not in answers):
        return False
    return True if True in answers else None


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a structure, in its order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for _, part in _parts(value) or ():
            yield from tensors(part)


def transformed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with its tensors and everything unknown changed; scalars are kept."""
    if isinstance(value, SCALARS):
        return value
    parts = None if isinstance(value, Tensor) else _parts(value)
    if parts is None:
        return change(value)
    return _rebuilt(value, [transformed(part, change) for _, part in parts])


def _cut_tensor(value: Tensor, size: int, how: Cut, layout: Layout | None, place: Place) -> Any:
    if not _is_dense(value):
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise DataError(
            f"{_named(place)} is a {kind} tensor, which cannot be cut by example; make it a dense "
            "one (to_dense(), or padded), or leave it out of the batch"
        )
    if _axis(value.shape, size, place) is None:
        return value
    if layout is not None:
        layout.saw_tensor(place, value.shape)
    return how.tensor(value)


def _axis(shape: Sequence[int], size: int, place: Place) -> int | None:
    """The axis of the examples, which is the first one; None if there is none to cut.

    Raises:
        DataError: if the shape is neither that of examples nor one that broadcasts.
    """
    if not shape:
        return None
    if shape[0] == size:
        return 0
    if shape[0] == 1 and size not in shape:
        return None
    text = f"{_named(place)} has the shape {tuple(shape)} beside {size} ids"
    if size in shape:
        axis = list(shape).index(size)
        raise DataError(
            f"{text}: the first axis must be that of the examples; transpose({axis}, 0) it and let "
            "the model undo that (batch_first=True for recurrent layers)"
        )
    if size and shape[0] and shape[0] % size == 0:
        raise DataError(
            f"{text}: if each example has {shape[0] // size} rows, give it the shape "
            f"({size}, {shape[0] // size}, ...); else leave it out of the batch"
        )
    raise DataError(f"{text}: {REMEDY}")


def _has_columns(value: Sequence[Any], size: int, layout: Layout | None, place: Place) -> bool:
    """Whether a list holds columns of the examples, rather than one entry for each.

    Raises:
        DataError: if it can be neither, or either.
    """
    if not place:  # the batch itself, unless it is a plain list of texts or numbers
        return len(value) != size or not all(isinstance(part, SCALARS) for part in value)
    listed = len(value) == size
    nested = [part for part in value if not isinstance(part, SCALARS)]
    columns = bool(nested) and _any_column(value, size)
    if not (listed or columns):
        for number, part in enumerate(value):  # the part that is at fault says more
            if fits(part, size) is False:
                cut(part, size, Span(slice(0, 0)), None, (*place, number))
        if value:
            raise DataError(
                f"{_named(place)} is a {type(value).__name__} of {len(value)} things beside "
                f"{size} ids: {REMEDY}"
            )
    known = None if layout is None else layout.is_listed(place, (listed, columns))
    if listed and columns and known is None and size > 1:
        raise DataError(
            f"{_named(place)} can be read in two ways, as {size} examples and as {size} columns of "
            f"{size} examples each, since the pool has {size} examples too; use a pool of another "
            "size (drop_last=True for the last of an epoch), or stack it into a tensor"
        )
    return columns if known is None else not known


def _any_column(value: Sequence[Any], size: int) -> bool:
    """Whether all parts can be columns, and some hold more than scalars."""
    answers = {fits(part, size) for part in value}
    return True in answers and False not in answers


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def _is_dense(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_nested


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """What a container holds, each with its key; None if it is no container."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, PackedSequence):
        return None  # a named tuple, but its entries are not those of examples
    if isinstance(value, list | tuple):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return list(opened(value).items())
    return None


def _rebuilt(value: Any, parts: list[Any]) -> Any:
    """A container of the same kind with other parts."""
    if isinstance(value, Mapping):
        whole = dict(zip(value, parts, strict=True))
        if type(value) is dict:
            return whole
        try:  # transformers' BatchEncoding, OrderedDict, UserDict
            return type(value)(whole)  # type: ignore[call-arg]
        except TypeError:
            return whole
    if isinstance(value, list | tuple):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    # Not by its constructor, which may compute things; and without what it had cached.
    new = object.__new__(type(value))
    for field, part in zip(fields(value), parts, strict=True):
        object.__setattr__(new, field.name, part)
    return new


def _advice(value: Any) -> str:
    if isinstance(value, PackedSequence):
        return "let the batch hold the padded tensor and its lengths, and pack them in the model"
    return (
        "let the batch hold tensors, arrays, lists, dicts, named tuples or dataclasses, with one "
        "entry for each example"
    )


def _named(place: Place) -> str:
    """A place for messages: ``the batch's field "x"['mask']``, or ``part 1 of the batch``."""
    if not place:
        return "the batch"
    first, *rest = place
    inside = "".join(f"[{key!r}]" for key in rest)
    if isinstance(first, str):
        return f'the batch\'s field "{first}"{inside}'
    return f"part {first}{inside} of the batch"
