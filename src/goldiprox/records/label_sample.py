"""A few examples' labels beside a table of scores, by which a table of other data is noticed.

Ids are numbers, and every data set has an example number 17. In a loop of the user's own nothing
else says what a table was made of; but it is rare that another data set, another order or another
part has the same labels at the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from goldiprox.schema import TableError

__all__ = ["LABEL_SAMPLE", "LabelSample", "label_sample"]

LABEL_SAMPLE = "label_sample"
"""The key of a table's provenance."""

KEPT = 1024
"""Examples whose labels are kept."""

ENOUGH = 256
"""Examples after which a table is taken for one of this data."""

PATIENCE = 64
"""Pools after which no more examples are waited for."""

Ints = npt.NDArray[np.int64]


def label_sample(ids_N: Ints, labels_N: Ints) -> dict[str, list[int]]:
    """Ids, evenly spread over all of them, and their labels, for a provenance."""
    order = np.argsort(ids_N)
    count = min(KEPT, ids_N.size)
    places = order[np.linspace(0, max(0, ids_N.size - 1), count).astype(np.int64)]
    return {"ids": ids_N[places].tolist(), "labels": labels_N[places].tolist()}


class LabelSample:
    """Compares the labels of the first pools with those that a table was made with."""

    def __init__(self, provenance: Mapping[str, Any]) -> None:
        """Take the sample out of a table's provenance, which may have none."""
        found = provenance.get(LABEL_SAMPLE)
        ids, labels = (
            (found.get("ids"), found.get("labels")) if isinstance(found, Mapping) else ([], [])
        )
        whole = (
            isinstance(ids, list)
            and isinstance(labels, list)
            and len(ids) == len(labels)
            and all(type(value) is int and abs(value) < 2**63 for value in (*ids, *labels))
        )
        self._ids = np.array(ids if whole else [], dtype=np.int64)
        self._labels = np.array(labels if whole else [], dtype=np.int64)
        order = np.argsort(self._ids)
        self._ids, self._labels = self._ids[order], self._labels[order]
        self._missing = min(ENOUGH, self._ids.size)
        self._pools = PATIENCE

    @property
    def is_open(self) -> bool:
        """Whether more examples are to be compared."""
        return self._missing > 0 and self._pools > 0

    def check(self, ids_B: Tensor, targets_B: Tensor | None) -> None:
        """Compare a pool's labels.

        Args:
            ids_B: the pool's ids.
            targets_B: its labels; other than class numbers are not compared.

        Raises:
            TableError: if an example has another label than when the table was made.
        """
        self._pools -= 1
        if targets_B is None or targets_B.shape != ids_B.shape or targets_B.is_floating_point():
            return
        ids, labels = ids_B.cpu().numpy(), targets_B.cpu().numpy()
        places = np.minimum(np.searchsorted(self._ids, ids), self._ids.size - 1)
        known = self._ids[places] == ids
        other = known & (self._labels[places] != labels)
        self._missing -= int(known.sum())
        if other.any():
            first = int(other.argmax())
            raise TableError(
                f"the irreducible-loss table was made of other data or labels: {int(other.sum())} "
                f"of {int(known.sum())} examples compared have another label (id {ids[first]}: "
                f"{self._labels[places][first]} there, {labels[first]} here); make it of this data "
                "with goldiprox.irreducible_losses, and number parts of a data set as in the whole"
            )
