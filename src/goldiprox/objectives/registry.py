"""Objectives by name, and those of the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from goldiprox.batch import Batch
from goldiprox.names import import_named
from goldiprox.objectives.base import LOSS, Objective
from goldiprox.objectives.classification import Classification
from goldiprox.objectives.language_model import LanguageModel
from goldiprox.objectives.multilabel import Multilabel
from goldiprox.objectives.regression import Regression
from goldiprox.schema import ConfigError

__all__ = ["CLASSIFICATION", "OBJECTIVES", "Given", "objective"]

CLASSIFICATION = Classification()

OBJECTIVES: dict[str, Objective] = {
    entry.name: entry
    for entry in (
        CLASSIFICATION,
        Multilabel(),
        Regression(),
        Regression("absolute"),
        Regression("huber"),
        LanguageModel(),
    )
}
"""Every built-in objective by name."""

Given = str | Objective | type[Objective] | Callable[[Any, Batch], Tensor]
"""What an objective may be given as."""


class OwnLoss(Objective):
    """An objective made of a function alone.

    Args:
        name: for records and messages.
        function: (output, batch) -> loss_B, unreduced.
    """

    metrics = (LOSS,)

    def __init__(self, name: str, function: Callable[[Any, Batch], Tensor]) -> None:
        self.name = name
        self._function = function

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """What the function gives."""
        return self._function(output, batch)


def objective(given: Given) -> Objective:
    """An objective from what a user may give.

    Args:
        given: a name from :data:`OBJECTIVES`; ``package.module:name`` of one of the user's own;
            or the thing itself: an :class:`Objective` or its class, or a function
            ``(output, batch) -> loss_B``.

    Returns:
        The objective.

    Raises:
        ConfigError: if the name is unknown or stands for something else.
    """
    if not isinstance(given, str):
        return _own(given, getattr(given, "__name__", type(given).__name__))
    if given in OBJECTIVES:
        return OBJECTIVES[given]
    if ":" not in given:
        close = difflib.get_close_matches(given, OBJECTIVES, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(
            f'unknown objective "{given}"{hint}; known: {", ".join(OBJECTIVES)}, or one of your '
            "own as package.module:name"
        )
    found = _own(import_named(given, "objective"), given)
    if type(found) is not OwnLoss and not found.name:
        found.name = given
    return found


def _own(given: object, name: str) -> Objective:
    made = given() if isinstance(given, type) and issubclass(given, Objective) else given
    if isinstance(made, Objective):
        if not made.metrics:
            raise ConfigError(f'objective "{name}" reports no metric; name at least one in metrics')
        return made
    if callable(made) and not isinstance(made, type):
        return OwnLoss(name, made)
    raise ConfigError(
        f'objective "{name}" is a {type(given).__name__}; make it a goldiprox.Objective, or a '
        "function of (output, batch) that returns one loss an example"
    )
