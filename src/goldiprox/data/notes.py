"""What a reader of data did to it or left out, for the terminal and the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["EXAMPLES", "Note", "note_of"]

EXAMPLES = 3
"""How many examples a note names."""


@dataclass(frozen=True)
class Note:
    """One kind of thing that a reader did to the data, such as leaving files out.

    Attributes:
        what: what was done to what, without the count: ``left out: files that are no images``.
        count: how many there were.
        first: the first few of them, such as names of files.
    """

    what: str
    count: int
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: ``left out: files that are no images: 12 (first: a/x.txt, b/y.txt)``."""
        some = "first: " if self.count > len(self.first) else ""
        named = f" ({some}{', '.join(self.first)})" if self.first else ""
        return f"{self.what}: {self.count:,}{named}"

    def to_json(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {"what": self.what, "count": self.count, "first": list(self.first)}


def note_of(what: str, things: Iterable[str]) -> tuple[Note, ...]:
    """A note that counts these things and names the first; none if there are none.

    Args:
        what: see :class:`Note`.
        things: all of them.

    Returns:
        One note or none, to be added to others.
    """
    listed = tuple(things)
    return (Note(what, len(listed), listed[:EXAMPLES]),) if listed else ()
