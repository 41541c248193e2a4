"""A method of the user's own, by one decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence
from goldiprox.selection.entry import FIELDS, Method, require_fields
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.methods import METHODS, register
from goldiprox.selection.selectors import Selector, StatefulSelector, TopK

__all__ = ["method", "undeclared"]

Chooses = ScoreFunction | Selector | type[StatefulSelector]
"""What :func:`method` makes a method of."""

_MADE_BY: dict[str, tuple[str, str]] = {}
"""Module and name of the function behind each decorated method."""


def method(
    name: str,
    *,
    needs: str | Iterable[str] = (),
    summary: str | None = None,
    source: str = "of the user's own",
    cost: str = "not stated",
) -> Callable[[Chooses], Method]:
    """Make a selection method of a function, and register it by name.

    A function of one argument is a score, ``Evidence -> scores_B``, of which the highest are
    chosen; it has all variants (``my-method@gumbel``). A function of three arguments,
    ``(evidence, k, generator) -> Selection``, chooses itself. A class is called for an instance.

    Example::

        @goldiprox.method("learnable", needs="loss_B irreducible_B", source="me, 2026")
        def learnable(evidence: goldiprox.Evidence) -> Tensor:
            return evidence.need("loss_B").exp() - evidence.need("irreducible_B").exp()

        choose = goldiprox.Chooser(model, "learnable", irreducible="il.parquet")

    In a module ``mine.py`` beside the user it is ``--methods mine:learnable`` for ``compare``.

    Args:
        name: of the method, hyphenated.
        needs: the fields of :class:`~goldiprox.schema.Evidence` that it reads.
        summary: one line for tables; the first line of the docstring unless given.
        source: citation.
        cost: what one step costs beyond the training step.

    Returns:
        A decorator that returns the :class:`~goldiprox.selection.methods.Method`.

    Raises:
        ConfigError: if the name is taken or impossible, a field unknown, or the function of
            another form. Decorating the same function again (in a notebook) replaces it.
    """
    wanted = frozenset(needs.split() if isinstance(needs, str) else needs) - {"ids_B"}
    require_fields(name, wanted)
    if not name or set(name) & set("@:=,/ "):
        raise ConfigError(f'"{name}" cannot name a method; use letters, digits and hyphens')

    def decorate(function: Chooses) -> Method:
        origin = (function.__module__, getattr(function, "__qualname__", name))
        if _MADE_BY.get(name) == origin:
            METHODS.pop(name, None)
        first_line = (inspect.getdoc(function) or "").partition("\n")[0]
        entry = register(
            Method(
                name=name,
                selector=_selector(name, function),
                needs=wanted,
                summary=summary or first_line or "of the user's own",
                source=source,
                cost=cost,
            )
        )
        _MADE_BY[name] = origin
        return entry

    return decorate


def undeclared(
    selector: Selector, evidence: Evidence, k: int, generator: torch.Generator
) -> list[str]:
    """Absent evidence that a selector reads: to be asked once it has failed.

    Args:
        selector: runs once more.
        evidence: what it failed on.
        k: how many it was to choose.
        generator: what it draws from.

    Returns:
        Names of fields, sorted.
    """
    read: set[str] = set()

    class Watched(Evidence):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if value is None and name in FIELDS:
                read.add(name)
            return value

        def at(self, positions: Tensor) -> Evidence:  # which looks at all fields
            return watch(Evidence(**values_of(self)).at(positions))

    def values_of(whose: Evidence) -> dict[str, Any]:
        return {field.name: object.__getattribute__(whose, field.name) for field in fields(whose)}

    def watch(whose: Evidence) -> Evidence:
        return Watched(**values_of(whose))

    with suppress(Exception):  # it will fail again
        selector(watch(evidence), k, generator)
    return sorted(read)


def _selector(name: str, function: Chooses) -> Selector:
    made: Any = function() if inspect.isclass(function) else function
    if isinstance(made, StatefulSelector):
        return made
    parameters = inspect.signature(made).parameters.values()
    taken = sum(parameter.default is parameter.empty for parameter in parameters)
    if taken == 1:
        return TopK(made)
    if taken == 3:
        selector: Selector = made
        return selector
    raise ConfigError(
        f'method "{name}" is made of a function with {taken} arguments; a score takes one '
        "(evidence), a selector three (evidence, k, generator)"
    )
