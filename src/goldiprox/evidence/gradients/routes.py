"""By which way the norms of a model are taken: learnt once, remembered as long as it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["MATERIALISED_SHARE", "Route", "route_of", "without_checks"]

MATERIALISED_SHARE = 0.25
"""Share of the trainable numbers that no rule covers from which all gradients are materialised: a
second pass for these alone costs more than the rules save."""


_CHECKED = ContextVar("checked", default=True)


@contextmanager
def without_checks() -> Iterator[None]:
    """Leave the order of rows unchecked in the block, as most passes do."""
    token = _CHECKED.set(False)
    try:
        yield
    finally:
        _CHECKED.reset(token)


@dataclass
class Route:
    """What is known of a model in one state.

    Attributes:
        uncovered: parameters that no rule covers; None until the first batch has been looked at.
        materialised: whether all gradients are materialised, without the tape.
        looped: whether gradients are materialised one example at a time.
        passes: tape passes so far.
        checked: parameters whose rows a pass has checked.
        trusted: whether a rule's norms were handed out of a pass that checked nothing.
    """

    uncovered: frozenset[int] | None = None
    materialised: bool = False
    looped: bool = False
    passes: int = field(default=0)
    checked: frozenset[int] = frozenset()
    trusted: bool = False

    def order_is_due(self) -> bool:
        """Count a tape pass; whether the order of rows is to be checked in it.

        In the first, the 4th, the 16th and so on: an order may depend on the data, but a check
        costs another backward pass.
        """
        if not _CHECKED.get():
            return False
        self.passes += 1
        return self.passes & (self.passes - 1) == 0 and self.passes.bit_length() % 2 == 1

    def was_unseen(self, covered: frozenset[int]) -> bool:
        """Whether rules covered parameters, in an unchecked pass, whose rows no pass has checked.

        Where the first example was moved, a pass sees for itself that no rule covers a layer, and
        has nothing to check.

        Args:
            covered: by the rules, in this pass.
        """
        return _CHECKED.get() and not covered <= self.checked


_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Route]] = WeakKeyDictionary()


def route_of(
    model: nn.Module, parameters: tuple[str, ...], functions: tuple[Callable[..., Any], ...]
) -> Route:
    """The route of a model in its present modes.

    Args:
        model: any module.
        parameters: names of those that are trainable.
        functions: how it is run and how losses are made.
    """
    # By their code: a function could hold the model, and then the model would never be let go.
    codes = tuple(getattr(function, "__code__", type(function)) for function in functions)
    modes = tuple(module.training for module in model.modules())
    return _KNOWN.setdefault(model, {}).setdefault((parameters, codes, modes), Route())
