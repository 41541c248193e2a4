"""Plans: which examples each step of a run may choose from.

Most methods choose from shuffled pools. Some decide for a whole epoch instead of for each step:
then the plan does the choosing, and every candidate it draws is trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Selection
from goldiprox.seeds import stream
from goldiprox.selection.ranking import random_k
from goldiprox.selection.selectors import how_many

__all__ = [
    "Course",
    "Draw",
    "InfoBatch",
    "Plan",
    "PlanFactory",
    "ShuffledPools",
    "WholeBatches",
    "pools",
]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The run that a plan is made for.

    Attributes:
        ids_N: int64 ids of the training examples.
        pool: candidates per step.
        batch: examples trained on per step, of a full pool.
        steps: steps of the whole run.
        seed: the run's.
    """

    ids_N: Tensor
    pool: int
    batch: int
    steps: int
    seed: int

    def chosen(self, pool: int) -> int:
        """How many to choose from a pool of this size (the last one of an epoch is short)."""
        return how_many(pool, self.batch / self.pool)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one step draws.

    Attributes:
        positions_B: int64 positions of the candidates in the training examples, on the CPU.
        k: how many of them to train on.
        weights_B: float32 weights of the candidates in the mean loss; None for ones.
        chosen: the choice itself, where it is made already: there is nothing to score then.
    """

    positions_B: Tensor
    k: int
    weights_B: Tensor | None = None
    chosen: Selection | None = None


class Plan(Protocol):
    """What a run asks at each step, and tells after it where the plan observes."""

    observes: bool
    """Whether it learns from the losses."""

    def draw(self, step: int) -> Draw:
        """The candidates of a step; steps are asked for one after the other."""
        ...

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Learn what was trained on, and its losses before the step (on any device)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...


PlanFactory = Callable[[Course], Plan]


class ShuffledPools:
    """Every epoch a new shuffle of the data, cut into pools: Algorithm 1 of Mindermann et al. 2022.

    The order of an epoch depends on the seed and the epoch alone.
    """

    observes = False

    def __init__(self, course: Course) -> None:
        self._course = course
        self._per_epoch = -(-len(course.ids_N) // course.pool)
        self._epoch = -1
        self._order_N = torch.empty(0, dtype=torch.int64)

    def draw(self, step: int) -> Draw:
        """The pool of a step, and the share to choose from it."""
        epoch, number = divmod(step, self._per_epoch)
        order_N, start = self._order_of(epoch), number * self._course.pool
        size = min(self._course.pool, len(order_N) - start)
        return Draw(positions_B=order_N.narrow(0, start, size), k=self._course.chosen(size))

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = stream(self._course.seed, "order", epoch)
            self._order_N = torch.randperm(len(self._course.ids_N), generator=generator)
            self._epoch = epoch
        return self._order_N

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class WholeBatches(ShuffledPools):
    """A fresh random subset each epoch, until every example has had its turn: RS2.

    An epoch trains on the same number of examples as with :class:`ShuffledPools`, but the shuffle
    goes on through the following epochs, so no example comes a second time before all came once.

    Source: Okanovic et al. 2024 (RS2 without replacement, arXiv:2305.18424).
    """

    def draw(self, step: int) -> Draw:
        """The next batch of the shuffle; all of it is trained on."""
        size, count = self._course.batch, len(self._course.ids_N)
        batches = max(1, (count + size - 2) // size)  # no last batch of one: see _end
        epoch, number = divmod(step, batches)
        end = _end(number * size, size, count)
        positions_B = self._order_of(epoch)[number * size : end]
        return Draw(positions_B=positions_B, k=positions_B.numel())


def _end(start: int, size: int, count: int) -> int:
    """Where a batch ends; one that would leave a single example takes it along.

    BatchNorm cannot train on a batch of one.
    """
    end = min(start + size, count)
    return count if count - end == 1 else end


class InfoBatch:
    """Drop, pass by pass, a random share of the examples whose last loss was below the mean.

    A pass goes over the data in batches. Before each one, of the examples whose loss when last
    trained on lies below the mean of all known ones, the share ``dropped`` is left out at random,
    and those that stay get the weight 1 / (1 - dropped) (exactly: how many there were over how many
    stay), so that the expected gradient is the whole data's. Examples not seen yet stay. For the
    last ``full`` of the run's steps a pass over everything begins.

    Source: Qin et al. 2024 (InfoBatch, arXiv:2303.04947).

    Args:
        course: the run.
        dropped: share r of the examples below the mean that is left out.
        full: share of the steps, at the end, that train on everything.

    Raises:
        ConfigError: if a share is impossible.
    """

    observes = True

    def __init__(self, course: Course, *, dropped: float = 0.5, full: float = 0.125) -> None:
        if not (0 <= dropped < 1 and 0 <= full <= 1):
            raise ConfigError(
                f"infobatch drops {dropped} and trains in full for {full}: give a share of at "
                "least 0 and below 1, and one from 0 to 1"
            )
        self._course = course
        self._dropped = dropped
        self._full_from = course.steps * (1 - full)
        self._loss_N: Tensor | None = None
        self._order_n = torch.empty(0, dtype=torch.int64)
        self._weights_n = torch.empty(0)
        self._next = 0
        self._pass = -1
        self._pruned = False

    def draw(self, step: int) -> Draw:
        """The next batch of the pass; a new pass where this one has ended."""
        whole = step >= self._full_from
        if self._next >= len(self._order_n) or (whole and self._pruned):
            self._start_pass(whole)
        part = slice(self._next, _end(self._next, self._course.batch, len(self._order_n)))
        self._next = part.stop
        positions_B = self._order_n[part]
        return Draw(positions_B=positions_B, k=len(positions_B), weights_B=self._weights_n[part])

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Keep the losses, on the device they are on."""
        if self._loss_N is None:
            self._loss_N = torch.full((len(self._course.ids_N),), torch.nan, device=loss_k.device)
        self._loss_N = self._loss_N.to(loss_k.device)  # a checkpoint brings it to the CPU
        positions_k = draw.positions_B[chosen.positions_k.cpu()]
        there_k = positions_k.to(loss_k.device, non_blocking=True)
        self._loss_N[there_k] = loss_k.float()

    def state_dict(self) -> dict[str, Any]:
        """The losses seen, and what is left of the pass."""
        return {
            "loss": self._loss_N,
            "order": self._order_n,
            "weights": self._weights_n,
            "next": self._next,
            "pass": self._pass,
            "pruned": self._pruned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a pass."""
        self._loss_N = state["loss"]
        self._order_n, self._weights_n = state["order"], state["weights"]
        self._next, self._pass = state["next"], state["pass"]
        self._pruned = state["pruned"]

    def _start_pass(self, whole: bool) -> None:
        self._pass += 1
        self._next = 0
        seed, count = self._course.seed, len(self._course.ids_N)
        order_N = torch.randperm(count, generator=stream(seed, "order", self._pass))
        weights_N = torch.ones(count)
        kept_N = torch.ones(count, dtype=torch.bool)
        self._pruned = self._loss_N is not None and not whole
        if self._loss_N is not None and not whole:
            loss_N = self._loss_N.cpu()
            # NaN, not seen yet, is not below anything.
            below = (loss_N < loss_N.nanmean()).nonzero().squeeze(1)
            ids = self._course.ids_N[below]
            chance = stream(seed, "infobatch", self._pass)
            out = below[random_k(ids, int(self._dropped * len(below)), chance)]
            weights_N[below] = len(below) / max(1, len(below) - len(out))
            kept_N[out] = False
        self._order_n = order_N[kept_N[order_N]]
        self._weights_n = weights_N[self._order_n]


def pools(course: Course) -> Plan:
    """The plan of every method that chooses at each step."""
    return ShuffledPools(course)
