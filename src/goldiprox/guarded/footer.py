"""The footer of a Parquet file, read in Python.

The reader of pyarrow ends the whole interpreter when it is asked for the column chunks of a footer
that is damaged in some ways. Sizes must be known before anything is read, so they are taken from
the bytes here: Thrift's compact protocol, structs as dictionaries by field number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Chunk", "column_chunks", "group_rows"]

T = TypeVar("T")

MAGIC = b"PAR1"
DEEPEST = 24


@dataclass(frozen=True)
class Chunk:
    """A column of a row group, as the footer describes it.

    Attributes:
        group: number of the row group.
        column: name of the outermost column it belongs to.
        physical: number of the physical type.
        values: how many, nulls and items of lists included.
        unfolded: bytes of its pages, decompressed.
        has_dictionary: whether values are named by a dictionary.
    """

    group: int
    column: str
    physical: int
    values: int
    unfolded: int
    has_dictionary: bool


def column_chunks(path: Path) -> list[Chunk]:
    """All column chunks of a file.

    Raises:
        ValueError: if there is no footer that can be understood.
    """
    return _understood(path, lambda footer: list(_chunks(footer)))


def group_rows(path: Path) -> list[int]:
    """How many rows each row group has.

    Raises:
        ValueError: if there is no footer that can be understood.
    """
    return _understood(path, lambda footer: [max(0, group[3]) for group in footer[4]])


def _understood(path: Path, look: Callable[[dict[int, Any]], list[T]]) -> list[T]:
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 8))
        tail = handle.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length + 12 > size:
            raise ValueError("it does not end in a Parquet footer")
        handle.seek(size - 8 - length)
        footer = _Compact(handle.read(length))
    try:
        return look(footer.struct(0))
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError("its footer cannot be understood") from error


def _chunks(footer: dict[int, Any]) -> Iterator[Chunk]:
    for number, group in enumerate(footer[4]):
        for column in group[1]:
            facts = column[3]
            yield Chunk(
                group=number,
                column=facts[3][0].decode(),
                physical=facts[1],
                values=max(0, facts[5]),
                unfolded=max(0, facts[6]),
                has_dictionary=11 in facts or any(e in _DICTIONARY for e in facts[2]),
            )


_DICTIONARY = (2, 8)
"""Numbers of the encodings that name values of a dictionary."""


class _Compact:
    """Reads Thrift's compact protocol."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > DEEPEST:
            raise ValueError("its footer is nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._unsigned())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("its footer cannot be understood")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._unsigned()
        if count > len(self._raw) - self._at:  # an item takes a byte at least
            raise ValueError("its footer cannot be understood")
        kind = head & 15
        if kind in (1, 2):
            return [self._byte() == 1 for _ in range(count)]
        return [self._value(kind, depth) for _ in range(count)]

    def _byte(self) -> int:
        value = self._raw[self._at]
        self._at += 1
        return value

    def _take(self, count: int) -> bytes:
        if count > len(self._raw) - self._at:
            raise ValueError("its footer cannot be understood")
        self._at += count
        return self._raw[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("its footer cannot be understood")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
