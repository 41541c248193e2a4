"""What each parameter's uses contribute to the squared norms, and where a tensor's examples are."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from goldiprox.evidence.gradients.products import Use, square_norms, square_sums

__all__ = ["Examples", "Ledger"]


@dataclass
class Ledger:
    """Collects what each parameter's uses contribute, and squares a parameter when all are in.

    Gradients of several uses of a parameter add before they are squared. A parameter is named by
    its position among the model's trainable parameters.

    Attributes:
        square_B: running sum of squared norms.
        excluded: parameters that someone else accounts for.
        pending: uses seen in the forward pass that the backward pass has not reached.
        kinds: the kinds of use a parameter had; outer products, kernels and plain vectors cannot
            be added to one another here.
        muted: whether what a backward pass finds is to be left alone.
    """

    square_B: Tensor
    excluded: set[int] = field(default_factory=set)
    pending: dict[int, int] = field(default_factory=dict)
    kinds: dict[int, set[str]] = field(default_factory=dict)
    muted: bool = False
    _uses: dict[int, list[Use]] = field(default_factory=dict)
    _rows: dict[int, Tensor] = field(default_factory=dict)

    def announce(self, index: int | None, kind: str) -> None:
        """Note in the forward pass that a parameter is used."""
        if index is not None:
            self.pending[index] = self.pending.get(index, 0) + 1
            self.kinds.setdefault(index, set()).add(kind)

    def wants(self, index: int | None) -> bool:
        """Whether contributions to this parameter are to be computed at all."""
        return index is not None and index not in self.excluded and not self.muted

    def add_use(self, index: int | None, use: Use) -> None:
        """Take one use of a matrix or kernel."""
        if index is None or not self.wants(index):
            return
        self._uses.setdefault(index, []).append(use)
        self._settle(index)

    def add_rows(self, index: int | None, rows_BD: Tensor) -> None:
        """Take one use of a parameter whose per-example gradient is small enough to be held."""
        if index is None or not self.wants(index):
            return
        rows_BD = rows_BD.to(self.square_B.dtype)
        held = self._rows.get(index)
        self._rows[index] = rows_BD if held is None else held + rows_BD
        self._settle(index)

    def take_rows(self, index: int) -> Tensor | None:
        """Hand over a parameter's summed rows instead of squaring them here."""
        return self._rows.pop(index, None)

    def refused(self, derived: set[int]) -> set[int]:
        """After the forward pass: parameters that someone else must account for.

        Args:
            derived: parameters behind a value computed from them alone; the tape squares these.

        Returns:
            Those whose uses are of kinds that cannot be added here.
        """
        del derived
        return {index for index, kinds in self.kinds.items() if len(kinds) > 1}

    def close(self) -> Tensor:
        """Square what is left: parameters with a use whose output got no gradient."""
        for index in {*self._uses, *self._rows}:
            self._complete(index)
        return self.square_B

    def _settle(self, index: int) -> None:
        self.pending[index] -= 1
        if self.pending[index] == 0:
            self._complete(index)

    def _complete(self, index: int) -> None:
        uses, rows_BD = self._uses.pop(index, None), self._rows.pop(index, None)
        if uses:
            self.take_uses(index, uses)
        if rows_BD is not None:
            self.take_whole_rows(rows_BD)

    def take_uses(self, index: int, uses: list[Use]) -> None:
        """All uses of a matrix or kernel are in: add what they come to."""
        del index
        self.square_B += square_norms(uses).to(self.square_B.dtype)

    def take_whole_rows(self, rows_BD: Tensor) -> None:
        """All uses of a small parameter are in: add what its summed gradients come to."""
        self.square_B += square_sums(rows_BD)


@dataclass(frozen=True)
class Examples:
    """Where the examples are in a tensor: along ``axis``, ``per`` consecutive rows for each."""

    count: int
    axis: int = 0
    per: int = 1

    @property
    def lead(self) -> bool:
        """Whether the tensor's first axis is exactly the examples."""
        return self.axis == 0 and self.per == 1

    def positions(self, x: Tensor, trailing: int) -> Tensor:
        """Bring examples first and flatten all but the last axes: [B, T, *trailing].

        Args:
            x: tensor laid out as this object says.
            trailing: number of axes at the end to leave alone.
        """
        if self.per > 1:
            x = x.unflatten(0, (self.count, self.per))
        elif self.axis:
            x = x.movedim(self.axis, 0)
        return x.reshape(self.count, -1, *x.shape[x.dim() - trailing :])
