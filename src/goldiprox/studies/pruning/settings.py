"""Settings of a pruning study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goldiprox.config import Schedule, TrainConfig
from goldiprox.evidence.mode import Precision
from goldiprox.precompute.data_diet import ScoreConfig
from goldiprox.precompute.diet_scores import score
from goldiprox.schema import ConfigError
from goldiprox.selection.pruning import PruneRule

__all__ = ["DietConfig"]

ALWAYS = "input-norm"
"""A control that stands beside the other scores, with random."""


USUALLY_BY = ("el2n", "grand-init", "forgetting")
"""Scores to prune by unless others are named."""


@dataclass(frozen=True, kw_only=True)
class DietConfig:
    """Settings of a pruning study."""

    model: str = "mlp"
    """Model of the replicas that score and of the fresh models that are trained on what is kept."""

    scores: tuple[str, ...] = (
        *("el2n", "grand", "grand-init", "forgetting", "margin", "aum", "loss", "entropy"),
        "irreducible-loss",
    )
    """Scores to compute, compare with each other and look for wrong labels with, separated by
    commas; input-norm is always there."""

    by: tuple[str, ...] = ()
    """Scores to prune by, of those computed; random and input-norm always beside them. Unless
    given el2n, grand-init and forgetting, or those of them that are computed, or else the first of
    --scores."""

    replicas: int = 10
    """Models whose scores are averaged."""

    epoch: tuple[int, ...] = (1, 5, 10)
    """Passes over the data after which the replicas are looked at; the latest counts, the others
    show how early a score is known."""

    shares: tuple[float, ...] = (0.8, 0.5, 0.3)
    """Shares of the data to keep, separated by commas."""

    window_share: float = 0.4
    """Share of the data in a window."""

    offsets: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6)
    """Where windows begin in the ascending order of the first score of --by."""

    seeds: int = 3
    """Fresh models per arm. A random part is drawn anew for each."""

    epochs: int = 10
    """Passes over the data in the training of fresh models."""

    length: Literal["kept", "full"] = "kept"
    """kept: a fresh model makes --epochs passes over what is kept, so it takes fewer steps, and a
    short schedule on all the data takes as many. full: it takes as many steps as --epochs passes
    over all the data."""

    batch: int = 128
    """Examples trained on per step."""

    lr: float = 1e-3
    """Learning rate of AdamW (its peak in the training of fresh models)."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    schedule: Schedule = "one-cycle"
    """Schedule of the fresh models, over the steps of each: one-cycle, cosine or constant. Replicas
    are scored at a constant rate."""

    precision: Precision = "float32"
    """Arithmetic of training; bf16 is autocast."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""

    seed: int = 0
    """Seed of the first replica; fresh models have seeds of their own beyond the replicas'."""

    def __post_init__(self) -> None:
        if not self.by:
            usual = tuple(name for name in USUALLY_BY if name in self.scores)
            object.__setattr__(self, "by", usual or self.all_scores[:1])
        for name in ("by", "shares", "offsets"):
            values = getattr(self, name)
            if not values and name != "offsets":
                raise ConfigError(f"--{name} is empty; name at least one")
            if len(set(values)) < len(values):
                # Its runs would count twice, and a spread over seeds would look too small.
                raise ConfigError(f"--{name} names something twice: {','.join(map(str, values))}")
        absent = [name for name in self.by if name not in self.all_scores]
        if absent:
            raise ConfigError(f"--by {absent[0]}: that score is not computed; add it to --scores")
        for name in ("seeds", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        for share in self.shares:
            PruneRule(keep=share)
            if share == 1.0:
                raise ConfigError("--shares 1.0: all the data is always trained on; leave it out")
        for offset in self.offsets:
            PruneRule(rule="window", keep=self.window_share, offset=offset)
        self.scoring()
        self.fresh(0, 1, self.batch)

    @property
    def all_scores(self) -> tuple[str, ...]:
        """The scores to compute, the control included."""
        return (*(name for name in self.scores if name != ALWAYS), ALWAYS)

    @property
    def ordered_by(self) -> tuple[str, ...]:
        """Scores to prune by, the control last."""
        return (*(name for name in self.by if name != ALWAYS), ALWAYS)

    @property
    def pruned_by(self) -> tuple[str, ...]:
        """Their columns."""
        return tuple(score(name).column for name in self.ordered_by)

    def scoring(self, scores: tuple[str, ...] | None = None) -> ScoreConfig:
        """Settings of the score table, of all scores unless some are named."""
        return ScoreConfig(
            model=self.model,
            scores=scores or self.all_scores,
            replicas=self.replicas,
            epoch=self.epoch,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            precision=self.precision,
            device=self.device,
            seed=self.seed,
        )

    def fresh(self, number: int, steps: int, batch: int, pool: int | None = None) -> TrainConfig:
        """Settings of a fresh model.

        Args:
            number: which of an arm's models.
            steps: of its training.
            batch: examples per step.
            pool: with it, all the data is gone through in fresh random parts (RS2), an epoch of
                batch/pool of it each; without, all of it is gone through at each epoch.
        """
        return TrainConfig(
            model=self.model,
            method="uniform" if pool is None else "rs2",
            batch=batch,
            pool=batch if pool is None else pool,
            steps=steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            precision=self.precision,
            device=self.device,
            seed=self.seed + self.replicas + number,
            evaluate_every=10**9,  # at the end: nothing is chosen by it
        )
