"""What a store of raw inputs is, whatever the inputs are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Inputs", "Store"]

Inputs = Tensor | dict[str, Tensor] | list[str]
"""One batch of raw inputs: a tensor, named tensors, or texts."""


@runtime_checkable
class Store(Protocol):
    """Raw inputs by row; a row's number is the example's id.

    A store that reads slowly may also have ``prefetch(rows_B)``: told of rows that will soon be
    fetched together, it starts reading them and returns at once. See
    :meth:`goldiprox.data.examples.Examples.prefetch`.
    """

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
