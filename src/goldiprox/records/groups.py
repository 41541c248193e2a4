"""Counts by group of a finished run: who was in its pools, who was chosen, how the test set went.

Written into the run folder where a group column was named, for audits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from goldiprox.records.files import read_json, write_json

__all__ = ["GroupCounts"]

FILE = "groups.json"


@dataclass(frozen=True, kw_only=True)
class GroupCounts:
    """Numbers of examples, one entry a group.

    Attributes:
        names: of the groups.
        pool: training examples, from which pools are drawn.
        chosen: picks over the whole run; an example chosen twice counts twice.
        test: test examples.
        correct: of these, how many the final weights classify as labelled.
    """

    names: Sequence[str]
    pool: Sequence[int]
    chosen: Sequence[int]
    test: Sequence[int]
    correct: Sequence[int]

    def write(self, folder: Path) -> None:
        """Write ``groups.json`` into a run folder."""
        write_json(folder / FILE, asdict(self))

    @staticmethod
    def read(folder: Path) -> GroupCounts | None:
        """Read it back; None where a run has none.

        Raises:
            CheckpointError: if the file is damaged.
        """
        return GroupCounts(**read_json(folder / FILE)) if (folder / FILE).exists() else None
