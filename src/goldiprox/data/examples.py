"""Examples of a store: ids, rows and labels side by side, inputs fetched on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from goldiprox.data.store import Inputs, Store
from goldiprox.data.targets import TargetKind
from goldiprox.schema import DataError, id_list

__all__ = ["Examples"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Some of the examples of a store.

    Attributes:
        store: holds the inputs.
        ids_N: int64 ids; a copy made by duplication has an id of its own.
        rows_N: int64 rows in the store.
        targets_N: labels as used, noise included: int64, or float32 where numbers or several
            labels are predicted.
        true_targets_N: labels as published.
        marks: what else is known of each example: bool, one an example, by name, such as
            ``low_relevance`` and ``ambiguous``.
        kind: what the labels are: classes, numbers or label sets.
    """

    store: Store
    ids_N: Tensor
    rows_N: Tensor
    targets_N: Tensor
    true_targets_N: Tensor
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    kind: TargetKind = "classes"

    def __len__(self) -> int:
        return int(self.ids_N.shape[0])

    @property
    def corrupted_N(self) -> Tensor:
        """Bool, whether the label used is not the published one (of several, whether any is)."""
        differs = self.targets_N != self.true_targets_N
        return differs if differs.dim() == 1 else differs.flatten(1).any(1)

    def mark(self, name: str) -> Tensor:
        """Bool, whether each example is marked so; ``corrupted`` is a mark too.

        Args:
            name: of the mark; one that nothing was said of is false everywhere.
        """
        if name == "corrupted":
            return self.corrupted_N
        if name in self.marks:
            return self.marks[name]
        return torch.zeros(len(self), dtype=torch.bool)

    @property
    def origin_N(self) -> Tensor:
        """int64 ids of the originals; an example that is no copy is its own."""
        return self.ids_N % len(self.store)

    def fetch(self, positions_B: Tensor) -> Inputs:
        """The raw inputs at these positions.

        Args:
            positions_B: int64 positions in this object, not ids.

        Returns:
            Raw inputs, one per position.
        """
        return self.store.fetch(self.rows_N[positions_B])

    def prefetch(self, positions_B: Tensor) -> None:
        """Say what will soon be fetched; a store that reads ahead starts on it, others ignore it.

        Args:
            positions_B: int64 positions, exactly those of the fetch to come.
        """
        if callable(ahead := getattr(self.store, "prefetch", None)):
            ahead(self.rows_N[positions_B])

    def select(self, positions: Tensor) -> Examples:
        """The examples at these positions; they keep their ids.

        Args:
            positions: int64 positions, or a bool mask.

        Returns:
            Fewer, reordered or repeated examples.
        """
        return Examples(
            store=self.store,
            ids_N=self.ids_N[positions],
            rows_N=self.rows_N[positions],
            targets_N=self.targets_N[positions],
            true_targets_N=self.true_targets_N[positions],
            marks={name: mark_N[positions] for name, mark_N in self.marks.items()},
            kind=self.kind,
        )

    @staticmethod
    def concatenate(*parts: Examples) -> Examples:
        """Examples of one store, one part after the other.

        Args:
            *parts: at least one.

        Returns:
            All of them.

        Raises:
            DataError: if the parts are of different stores: the same id would mean two examples.
        """
        store = parts[0].store
        if any(part.store is not store for part in parts):
            raise DataError("examples of different data sets cannot be put together: ids clash")
        return Examples(
            store=store,
            ids_N=torch.cat([part.ids_N for part in parts]),
            rows_N=torch.cat([part.rows_N for part in parts]),
            targets_N=torch.cat([part.targets_N for part in parts]),
            true_targets_N=torch.cat([part.true_targets_N for part in parts]),
            marks={
                name: torch.cat([part.mark(name) for part in parts])
                for name in dict.fromkeys(name for part in parts for name in part.marks)
            },
            kind=parts[0].kind,
        )

    def label_digest(self) -> str:
        """Identify the labels as used: sha256 in hex over (id, target) pairs sorted by id."""
        order = self.ids_N.argsort(stable=True)
        if self.kind != "classes":
            digest = hashlib.sha256(self.ids_N[order].numpy().astype("<i8").tobytes())
            digest.update(self.targets_N[order].contiguous().view(torch.uint8).numpy().tobytes())
            return digest.hexdigest()
        pairs = torch.stack([self.ids_N[order], self.targets_N[order]], dim=1)
        return hashlib.sha256(pairs.numpy().astype("<i8").tobytes()).hexdigest()

    def positions_of(self, ids_B: Tensor) -> Tensor:
        """Where these ids are, in constant time per id.

        Args:
            ids_B: int64 ids; repeats are allowed.

        Returns:
            int64 positions, one per id.

        Raises:
            DataError: if an id is not among the examples, or belongs to several of them.
        """
        table = self._position_by_id
        inside_B = (ids_B >= 0) & (ids_B < len(table))
        positions_B = torch.full_like(ids_B, -1)
        positions_B[inside_B] = table[ids_B[inside_B]]
        if (positions_B < 0).any():
            unknown = ids_B[positions_B < 0]
            raise DataError(
                f"{len(unknown)} of {len(ids_B)} ids are not among these {len(self)} examples "
                f"(first: {id_list(unknown)})"
            )
        return positions_B

    @cached_property
    def _position_by_id(self) -> Tensor:
        positions_N = torch.arange(len(self))
        size = int(self.ids_N.max()) + 1 if len(self) else 0
        table = torch.full((size,), -1, dtype=torch.int64)
        table[self.ids_N] = positions_N
        repeated = self.ids_N[table[self.ids_N] != positions_N]
        if len(repeated):
            raise DataError(f"ids occur more than once (first: {id_list(torch.unique(repeated))})")
        return table
