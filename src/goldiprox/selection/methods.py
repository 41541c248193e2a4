"""METHODS: every selection method by name, with its source, its needs and its cost."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from goldiprox.schema import ConfigError
from goldiprox.selection.functions import (
    negative_irreducible_loss,
    reducible_loss,
    training_loss,
)
from goldiprox.selection.selectors import RandomChoice, Selector, TopK

__all__ = ["METHODS", "Method", "method", "register"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose examples.

    Attributes:
        name: hyphenated, as on the command line.
        selector: evidence to selection.
        needs: the :class:`~goldiprox.schema.Evidence` fields that the selector reads.
        summary: one line for tables.
        source: citation.
        cost: what one step costs beyond the training step, in passes over the pool.
    """

    name: str
    selector: Selector
    needs: frozenset[str]
    summary: str
    source: str
    cost: str

    @property
    def needs_forward(self) -> bool:
        """Whether a scoring pass of the current model is needed."""
        return bool(self.needs - {"irreducible_B", "targets_B"})

    @property
    def needs_irreducible(self) -> bool:
        """Whether an irreducible-loss table is needed."""
        return "irreducible_B" in self.needs


METHODS: dict[str, Method] = {}


def register(entry: Method) -> Method:
    """Add a method, so that every command and `compare` know it by name.

    Raises:
        ConfigError: if the name is taken.
    """
    if entry.name in METHODS:
        raise ConfigError(
            f'a method named "{entry.name}" is registered already; choose another name'
        )
    METHODS[entry.name] = entry
    return entry


def method(name: str) -> Method:
    """Look a method up.

    Raises:
        ConfigError: if it is unknown; the message lists the known ones.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(f'unknown method "{name}"{hint}; known: {", ".join(METHODS)}')
    return METHODS[name]


register(
    Method(
        name="uniform",
        selector=RandomChoice(),
        needs=frozenset(),
        summary="random choice from the pool: plain shuffled training",
        source="the baseline of every comparison",
        cost="nothing",
    )
)
register(
    Method(
        name="loss",
        selector=TopK(training_loss),
        needs=frozenset({"loss_B"}),
        summary="highest training loss",
        source="Loshchilov & Hutter 2015; Kawaguchi & Lu 2020",
        cost="1 forward over the pool",
    )
)
register(
    Method(
        name="irreducible",
        selector=TopK(negative_irreducible_loss),
        needs=frozenset({"irreducible_B"}),
        summary="lowest irreducible loss",
        source="Mindermann et al. 2022, section 4",
        cost="nothing per step; 1 irreducible-loss model before",
    )
)
register(
    Method(
        name="rho-loss",
        selector=TopK(reducible_loss),
        needs=frozenset({"loss_B", "irreducible_B"}),
        summary="highest reducible loss: training loss minus irreducible loss",
        source="Mindermann et al. 2022, algorithm 1",
        cost="1 forward over the pool; 1 irreducible-loss model before",
    )
)
