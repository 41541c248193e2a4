"""What a selection method is: how it chooses, what it needs, where it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from goldiprox.schema import CALLER, SUPPLIERS, ConfigError, Evidence
from goldiprox.selection.coreset import CoreSetSpec
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.groups import ClassBalanced, IrreducibleFilter
from goldiprox.selection.plans import PlanFactory, pools
from goldiprox.selection.selectors import Selector, TopK

__all__ = ["FIELDS", "CompanionSpec", "Method", "require_fields"]


@dataclass(frozen=True, kw_only=True)
class CompanionSpec:
    """A second, small model that a method wants trained beside the learner.

    Attributes:
        fills: the :class:`~goldiprox.schema.Evidence` field that its losses fill.
        learns: what it takes a step on after each pool: as many random candidates as are chosen
            (``pool``), or the chosen ones (``chosen``).
        pretrained: whether it starts as the irreducible-loss model rather than afresh.
        lr_factor: its learning rate as a multiple of the learner's.
    """

    fills: str
    learns: Literal["pool", "chosen"]
    pretrained: bool = False
    lr_factor: float = 1.0


FIELDS = frozenset(field.name for field in fields(Evidence)) - {"ids_B"}
"""What a method may need: evidence that is not always there."""


def require_fields(name: str, needs: Iterable[str]) -> None:
    """Refuse needs that nobody can fill.

    Args:
        name: the method's.
        needs: names of :class:`~goldiprox.schema.Evidence` fields.

    Raises:
        ConfigError: if there is no such field.
    """
    unknown = sorted(str(need) for need in needs if need not in FIELDS)
    if unknown:
        close = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(
            f'method "{name}" needs {", ".join(unknown)}, which Evidence does not have{hint}; '
            f"it has: {', '.join(sorted(FIELDS))}"
        )


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
        plan: which candidates each step draws; shuffled pools unless given.
        each_step: whether it chooses from the pool of each step; False where its plan decides for
            whole epochs.
        companion: a second model trained beside the learner, where the method needs one.
        core_set: what is chosen by a proxy before the training, where the method does that.

    Raises:
        ConfigError: if it needs something that :class:`~goldiprox.schema.Evidence` does not have,
            or nothing decides what it chooses.
    """

    name: str
    selector: Selector
    needs: frozenset[str]
    summary: str
    source: str
    cost: str
    plan: PlanFactory = pools
    each_step: bool = True
    companion: CompanionSpec | None = None
    core_set: CoreSetSpec | None = None

    def __post_init__(self) -> None:
        needs: Any = self.needs  # the user may have written them in another way
        needs = needs.split() if isinstance(needs, str) else needs
        object.__setattr__(self, "needs", frozenset(needs) - {"ids_B"})  # they are always there
        require_fields(self.name, self.needs)
        if self.companion is not None:
            require_fields(self.name, {self.companion.fills})
        if not self.each_step and self.plan is pools:
            raise ConfigError(
                f'method "{self.name}" chooses nothing: each_step=False leaves the choice to its '
                "plan; give one, or leave each_step out"
            )

    @property
    def score(self) -> ScoreFunction | None:
        """The score that it chooses the highest of; None if it chooses in another way."""
        return self.selector.score if isinstance(self.selector, TopK) else None

    @property
    def needs_forward(self) -> bool:
        """Whether the pool's inputs are needed, for a scoring pass over them."""
        return self.companion is not None or bool(self.needs - {"irreducible_B", "targets_B"})

    @property
    def needs_classes(self) -> bool:
        """Whether it works only where each example has one of several classes."""
        if self.core_set is not None:
            return self.core_set.by != "k-center"
        # The filter takes a loss for minus the logarithm of a label's probability.
        by_class = isinstance(self.selector, ClassBalanced | IrreducibleFilter)
        return by_class or not self.needs.isdisjoint({"log_probs_BC", "mc_log_probs_KBC"})

    @property
    def from_caller(self) -> list[str]:
        """The evidence that only the user's own loop can give."""
        return sorted(field for field in self.needs if SUPPLIERS.get(field) == CALLER)

    @property
    def needs_irreducible(self) -> bool:
        """Whether an irreducible-loss table is needed."""
        own = set() if self.companion is None else {self.companion.fills}
        return "irreducible_B" in self.needs - own

    @property
    def needs_irreducible_model(self) -> bool:
        """Whether an irreducible-loss model must be trained before, for its table or itself."""
        return self.needs_irreducible or (self.companion is not None and self.companion.pretrained)
