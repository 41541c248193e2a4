"""Choosing once, from a whole data set, what to keep: pruning by a score.

Higher scores are harder examples and are kept first. Ties break by random numbers keyed by id: the
order of a table changes nothing, and ids that follow the classes, as in a data set that is sorted
by them, do not decide which class loses its ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence, require_seed
from goldiprox.seeds import stream
from goldiprox.selection.groups import MOST_STRATA, Stratified
from goldiprox.selection.ranking import best_mask, draw_key, random_mask, ranked, require_finite

__all__ = ["Losses", "PruneRule", "Rule", "losses_by_group", "prune", "prune_mask"]

_PART = 1 << 20
"""Examples that are counted at a time."""

Rule = Literal["highest", "lowest", "window", "stratified", "random"]


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """What is kept."""

    keep: float = 0.5
    """Share of the examples to keep, above 0 and at most 1."""

    rule: Rule = "highest"
    """highest (the hardest), lowest, window (the share --keep that begins at --offset of the
    ascending order), stratified (drop the hardest --cutoff, then keep evenly over the range of the
    scores: CCS), or random."""

    offset: float = 0.0
    """Share of the examples below the window, from 0 to 1 - keep."""

    cutoff: float = 0.0
    """Share of the hardest examples that stratified drops first, from 0 to 1 - keep: the more, the
    more is pruned and the noisier the labels are."""

    strata: int = 50
    """Intervals of equal width into which stratified cuts the range of the scores."""

    balanced: bool = False
    """Keep the same share of every class, by the same rule within each."""

    seed: int = 0
    """Seed of random, of stratified and of ties."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.keep) and 0 < self.keep <= 1):
            raise ConfigError(f"--keep is {self.keep}; give a share in (0, 1], such as 0.5")
        if self.rule not in get_args(Rule):
            raise ConfigError(f'unknown --rule "{self.rule}"; known: {", ".join(get_args(Rule))}')
        for name, rule in (("offset", "window"), ("cutoff", "stratified")):
            value = getattr(self, name)
            if value and self.rule != rule:
                raise ConfigError(f"--{name} goes with --rule {rule}, not with {self.rule}")
            if not 0 <= value <= 1 - self.keep + 1e-9:
                raise ConfigError(
                    f"--{name} {value} does not fit beside --keep {self.keep}: it must be from 0 "
                    f"to {1 - self.keep:g}"
                )
        require_seed("--seed", self.seed)
        if not 1 <= self.strata <= MOST_STRATA:
            raise ConfigError(f"--strata is {self.strata}; give a number from 1 to {MOST_STRATA}")


def prune(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, classes_N: Tensor | None) -> Tensor:
    """Choose what to keep.

    Args:
        rule: how.
        scores_N: finite; higher is harder.
        ids_N: int64 ids, all different.
        classes_N: whole numbers, for ``balanced``.

    Returns:
        int64 positions of what is kept, ascending: ``round(keep * N)`` of them, at least one.

    Raises:
        NonFinite: if a score is NaN or infinite.
        ConfigError: if ``balanced`` is asked for without classes.
    """
    return prune_mask(rule, scores_N, ids_N, classes_N).nonzero().squeeze(1)


def prune_mask(
    rule: PruneRule, scores_N: Tensor, ids_N: Tensor, classes_N: Tensor | None
) -> Tensor:
    """The same as a mask: bool, of shape [N].

    Raises:
        NonFinite: if a score is NaN or infinite.
        ConfigError: if ``balanced`` is asked for without classes.
    """
    require_finite(scores_N, ids_N, "score")
    count = _kept(rule.keep, len(ids_N))
    if not rule.balanced:
        return RULES[rule.rule](rule, scores_N, ids_N, count)
    if classes_N is None:
        raise ConfigError("balanced pruning needs each example's class")
    is_kept_N = torch.zeros(len(ids_N), dtype=torch.bool)
    for members, share in _quotas(classes_N, count, _key(rule)):
        is_kept_N[members] = RULES[rule.rule](rule, scores_N[members], ids_N[members], share)
    return is_kept_N


def _kept(keep: float, count: int) -> int:
    return max(1, round(keep * count)) if count else 0


def _quotas(classes_N: Tensor, count: int, key: int) -> Iterator[tuple[Tensor, int]]:
    """Positions of each class and how many of them to keep: in proportion, ``count`` in all."""
    names, sizes = _sizes(classes_N)
    exact = sizes.double() * count / len(classes_N)
    quotas = exact.floor().long()
    # The largest remainders get what rounding down left over.
    order = ranked(exact - quotas, names, key)
    quotas[order[: count - int(quotas.sum())]] += 1
    for name, quota in zip(names, quotas, strict=True):
        yield (classes_N == name).nonzero().squeeze(1), int(quota)


def _sizes(groups_N: Tensor, of_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numbers of the groups, ascending, and how many members each has: int64.

    Part by part, so that there is no sorted copy of a large data set.

    Args:
        groups_N: whole numbers.
        of_N: bool; only these members are counted.
    """
    groups = groups_N.numpy()
    starts = range(0, len(groups), _PART)
    names = np.unique(
        np.concatenate([np.unique(groups[s : s + _PART]) for s in starts] or [groups])
    )
    sizes = np.zeros(len(names), dtype=np.int64)
    for start in starts:
        part = groups[start : start + _PART]
        if of_N is not None:
            part = part[of_N.numpy()[start : start + _PART]]
        sizes += np.bincount(np.searchsorted(names, part), minlength=len(names))
    return torch.from_numpy(names.astype(np.int64)), torch.from_numpy(sizes)


def _key(rule: PruneRule) -> int:
    """Of the random numbers that break ties."""
    return draw_key(stream(rule.seed, "prune-ties"))


def _highest(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, count: int) -> Tensor:
    return best_mask(scores_N, ids_N, count, _key(rule))


def _lowest(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, count: int) -> Tensor:
    return best_mask(scores_N, ids_N, count, _key(rule), lowest=True)


def _window(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, count: int) -> Tensor:
    """The examples from ``offset`` on, in ascending order of the score."""
    start = min(round(rule.offset * len(ids_N)), len(ids_N) - count)
    below = best_mask(scores_N, ids_N, start, _key(rule), lowest=True)
    return best_mask(scores_N, ids_N, start + count, _key(rule), lowest=True) & ~below


def _stratified(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, count: int) -> Tensor:
    """Coverage-centric core-set selection (Zheng et al. 2023, arXiv:2210.15809)."""
    left = max(count, len(ids_N) - round(rule.cutoff * len(ids_N)))
    easier = best_mask(scores_N, ids_N, left, _key(rule), lowest=True).nonzero().squeeze(1)
    pool = Evidence(ids_B=ids_N[easier], loss_B=scores_N[easier])
    even = Stratified(lambda evidence: evidence.need("loss_B"), rule.strata)
    is_kept_N = torch.zeros(len(ids_N), dtype=torch.bool)
    is_kept_N[easier[even(pool, count, stream(rule.seed, "prune")).positions_k]] = True
    return is_kept_N


def _random(rule: PruneRule, scores_N: Tensor, ids_N: Tensor, count: int) -> Tensor:
    del scores_N
    return random_mask(ids_N, count, stream(rule.seed, "prune"))


# Each gives a mask of what is kept: a whole data set has no room for a sort or for positions.
RULES: dict[str, Callable[[PruneRule, Tensor, Tensor, int], Tensor]] = {
    "highest": _highest,
    "lowest": _lowest,
    "window": _window,
    "stratified": _stratified,
    "random": _random,
}


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What pruning took from one class or group.

    Attributes:
        group: its number.
        before: examples before.
        removed: examples removed.
        excessive: whether it lost far more than its share: the odds of being removed are more than
            twice those of all others, and by more than chance does (3 standard deviations).
    """

    group: int
    before: int
    removed: int
    excessive: bool

    @property
    def kept(self) -> int:
        """Examples that are left."""
        return self.before - self.removed


def losses_by_group(groups_N: Tensor, kept: Tensor) -> list[Losses]:
    """What pruning took from each group, in the order of their numbers.

    Args:
        groups_N: whole numbers, of all examples.
        kept: int64 positions of what is kept, or a mask.
    """
    is_removed_N = torch.ones(len(groups_N), dtype=torch.bool)
    is_removed_N[kept] = False
    names, sizes = _sizes(groups_N)
    _, gone = _sizes(groups_N, is_removed_N)
    removed_all = int(gone.sum())
    return [
        Losses(
            group=group,
            before=before,
            removed=removed,
            excessive=_excessive(before, removed, len(groups_N), removed_all),
        )
        for group, before, removed in zip(
            names.tolist(), sizes.tolist(), gone.tolist(), strict=True
        )
    ]


def _excessive(before: int, removed: int, total: int, total_removed: int) -> bool:
    others, others_removed = total - before, total_removed - removed
    if others == 0 or total_removed in (0, total):
        return False
    # Half a case more on each side keeps the odds finite.
    odds = (removed + 0.5) / (before - removed + 0.5)
    other_odds = (others_removed + 0.5) / (others - others_removed + 0.5)
    share = total_removed / total
    # Spread of a hypergeometric draw: what pruning at random would do to this group.
    spread = math.sqrt(before * share * (1 - share) * others / max(1, total - 1))
    return odds > 2 * other_odds and removed - before * share > 3 * spread
