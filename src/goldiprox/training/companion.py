"""A second, small model that is trained beside the learner; its losses are evidence."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from goldiprox.batch import Batch, ids_of, take, trimmed
from goldiprox.config import TrainConfig
from goldiprox.evidence.forward import ScoringPass
from goldiprox.seeds import stream
from goldiprox.selection.methods import CompanionSpec
from goldiprox.selection.ranking import random_k
from goldiprox.training.optimization import make_optimizer, training_step

__all__ = ["Companion"]


class Companion:
    """Scores each pool, then learns from a part of it.

    Args:
        model: on the learner's device; starts with the weights it has.
        spec: what it fills and what it learns from.
        config: the learner's settings; the learning rate is a multiple of the learner's.
        scoring: its scoring pass.
        flops: floating-point operations of one example's forward pass, and of its training.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: CompanionSpec,
        config: TrainConfig,
        scoring: ScoringPass,
        flops: tuple[float, float],
    ) -> None:
        self.model = model.train()
        self.spec = spec
        self.flops = flops
        self._config = config
        self._optimizer = make_optimizer(model, config)
        self._scoring = scoring

    def score(self, pool: Batch) -> dict[str, Tensor]:
        """Its losses on a pool, in evaluation mode, as the evidence field that it fills."""
        return {self.spec.fills: self._scoring(pool, {"loss_B"}).need("loss_B")}

    def learn(self, pool: Batch, chosen: Batch, step: int, lr: float) -> None:
        """One training step.

        Args:
            pool: all candidates.
            chosen: those that the learner is trained on.
            step: number of the step.
            lr: the learner's learning rate at this step.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr * self.spec.lr_factor
        batch = chosen if self.spec.learns == "chosen" else self._sample(pool, chosen, step)
        objective = self._scoring.objective
        training_step(self.model, self._optimizer, batch, None, self._config, objective)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _sample(self, pool: Batch, chosen: Batch, step: int) -> Batch:
        """As many candidates as were chosen, at random."""
        chance = stream(self._config.seed, "companion", step)
        part = take(pool, random_k(ids_of(pool), ids_of(chosen).numel(), chance))
        return trimmed(part, per_token=self._scoring.objective.per_token)
