"""Variants of methods by name: ``rho-loss@gumbel=0.5``, ``loss@class-balanced@filtered``.

A modifier changes how a method's scores become a choice, or what it may choose from. The score
itself stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.groups import (
    MOST_STRATA,
    ClassBalanced,
    IrreducibleFilter,
    Stratified,
)
from goldiprox.selection.sampling import (
    COLDEST,
    HOTTEST,
    Boltzmann,
    GumbelTopK,
    possible_temperature,
)
from goldiprox.selection.selectors import RandomChoice, Selector, TopK

__all__ = ["KEEP", "MODIFIERS", "Modifier", "split_name", "vary"]

FILTERED = "filtered"
KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class Modifier:
    """What may stand behind an ``@``.

    Attributes:
        name: as written.
        summary: what it changes.
        default: its value unless one is given; None if it takes none.
        value: what the value is, for tables and messages.
        valid: whether a value is possible.
        needs: evidence that it reads beyond the method's own.
    """

    name: str
    summary: str
    default: float | None = None
    value: str = ""
    valid: Callable[[float], bool] = math.isfinite
    needs: frozenset[str] = frozenset()


MODIFIERS: dict[str, Modifier] = {
    modifier.name: modifier
    for modifier in (
        Modifier(
            name="gumbel",
            summary="drawn without replacement, in proportion to exp(score / temperature)",
            default=1.0,
            value=f"temperature, a number from {COLDEST:g} to {HOTTEST:g}",
            valid=possible_temperature,
        ),
        Modifier(
            name="boltzmann",
            summary="drawn with replacement, in proportion to exp(score / temperature)",
            default=1.0,
            value=f"temperature, a number from {COLDEST:g} to {HOTTEST:g}",
            valid=possible_temperature,
        ),
        Modifier(
            name="class-balanced",
            summary="the best of every class in turn (drawn with @gumbel, if that is given too)",
            needs=frozenset({"targets_B"}),
        ),
        Modifier(
            name="stratified",
            summary="at random, evenly over strata of the range of scores",
            default=10,
            value=f"number of strata, a whole number from 2 to {MOST_STRATA}",
            valid=lambda value: 2 <= value <= MOST_STRATA and value == int(value),
        ),
        Modifier(
            name=FILTERED,
            summary="labels implausible to the irreducible-loss model are left out first",
            default=0.1,
            value="probability of the label below which it is implausible, between 0 and 1",
            valid=lambda value: 0 < value < 1,
            needs=frozenset({"irreducible_B"}),
        ),
        Modifier(
            name=KEEP,
            summary="a core-set of this size (with svp and its kin, alone)",
            default=0.5,
            value="share of the data to keep, above 0 and at most 1",
            valid=lambda value: 0 < value <= 1,
        ),
    )
}
"""Every modifier by its name."""

TOGETHER = frozenset({"gumbel", "class-balanced"})
"""The ways of choosing that go together; ``filtered`` goes with everything."""


def split_name(name: str) -> tuple[str, dict[str, float | None]]:
    """Split ``METHOD@modifier=value@...`` into the method and its modifiers with their values.

    Raises:
        ConfigError: if a modifier is unknown, given twice, or its value impossible.
    """
    base, *parts = name.split("@")
    modifiers: dict[str, float | None] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in MODIFIERS:
            known = ", ".join(f"@{known}" for known in MODIFIERS)
            raise ConfigError(f'unknown variant "@{key}" in method "{name}"; known: {known}')
        if key in modifiers:
            raise ConfigError(f'method "{name}" says @{key} twice; say it once')
        modifiers[key] = _value(MODIFIERS[key], text if "=" in part else None, name)
    return base, modifiers


def _value(modifier: Modifier, text: str | None, name: str) -> float | None:
    if text is None:
        return modifier.default
    if modifier.default is None:
        raise ConfigError(f'method "{name}": @{modifier.name} takes no value; leave ={text} out')
    try:
        value = float(text)
        possible = modifier.valid(value)
    except (ValueError, OverflowError):
        possible = False
    if not possible:
        raise ConfigError(
            f'method "{name}": @{modifier.name}={text} is impossible; the value is a '
            f"{modifier.value}, such as {modifier.default:g}"
        )
    return value


def vary(selector: Selector, modifiers: Mapping[str, float | None], name: str) -> Selector:
    """The selector of a variant.

    Args:
        selector: the method's own.
        modifiers: as :func:`split_name` gives them.
        name: the variant's whole name, for messages.

    Raises:
        ConfigError: if the modifiers do not go together or not with this method.
    """
    ways = {key: value for key, value in modifiers.items() if key != FILTERED}
    if ways:
        selector = _choosing(selector, ways, name)
    if FILTERED in modifiers:
        if isinstance(selector, IrreducibleFilter):
            raise ConfigError(f'method "{name}" filters already; leave @{FILTERED} out')
        threshold = modifiers[FILTERED]
        assert threshold is not None
        selector = IrreducibleFilter(selector, threshold)
    return selector


def _choosing(selector: Selector, ways: Mapping[str, float | None], name: str) -> Selector:
    """Another way from scores to a choice."""
    if len(ways) > 1 and set(ways) != TOGETHER:
        raise ConfigError(
            f'method "{name}": {" and ".join(f"@{way}" for way in ways)} do not go together; of '
            "the ways to choose only @gumbel and @class-balanced do, and @filtered goes with all"
        )
    if isinstance(selector, RandomChoice) and set(ways) == {"class-balanced"}:
        return ClassBalanced(_no_preference, temperature=1.0)
    if not isinstance(selector, TopK):
        raise ConfigError(
            f'method "{name}": {name.partition("@")[0]} does not choose by the highest score, so '
            f"@{next(iter(ways))} cannot change how; known to go with it: @{FILTERED}"
        )
    return _ways(selector.score, ways)


def _ways(score: ScoreFunction, ways: Mapping[str, float | None]) -> Selector:
    temperature = ways.get("gumbel")
    if "class-balanced" in ways:
        return ClassBalanced(score, temperature=temperature)
    if temperature is not None:
        return GumbelTopK(score, temperature)
    ((way, value),) = ways.items()
    assert value is not None
    return Boltzmann(score, value) if way == "boltzmann" else Stratified(score, int(value))


def _no_preference(evidence: Evidence) -> Tensor:
    """The same score for everyone: scores_B."""
    return torch.zeros(evidence.ids_B.shape, device=evidence.ids_B.device)
