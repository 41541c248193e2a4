"""Selection via proxy: a small model is trained first and says which examples to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from goldiprox.config import TrainConfig
from goldiprox.evidence.flops import count_flops
from goldiprox.evidence.forward import ScoringPass
from goldiprox.precompute.data_diet import ScoreConfig, ScoreHook
from goldiprox.records.ledger import RUN_PHASES, Cost
from goldiprox.schema import Selection
from goldiprox.seeds import stream
from goldiprox.selection.coreset import (
    PROXY_SCORES,
    CoreSetSpec,
    FixedSubset,
    k_center_greedy,
    keep_highest,
)
from goldiprox.selection.plans import Course, Draw, Plan
from goldiprox.selection.ranking import tie_key
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.run import Run
from goldiprox.training.task import Trained

__all__ = ["CoreSet"]

PROXY_BATCH = 128
PROXY_LR = 1e-3  # not the learner's, which may be that of a pretrained model
SCORING_BATCH = 512


class CoreSet(Hook):
    """Trains a proxy on a run's training examples before its first step, and keeps a part of them.

    It is a hook and makes the plan of the same run: ``train(..., hooks=(it,), plan=it.plan)``. The
    proxy's loading, training and scoring are charged to the run, before its first step; a resumed
    run has its core-set in its checkpoint.

    Source: Coleman et al. 2020 (arXiv:1906.11829).

    Args:
        spec: the criterion, the share kept, how long the proxy is trained.
    """

    def __init__(self, spec: CoreSetSpec) -> None:
        self._spec = spec
        self._plan: _Later | None = None
        self._kept_n: Tensor | None = None

    def plan(self, course: Course) -> Plan:
        """The run's plan: shuffled batches of the core-set."""
        self._plan = _Later(course)
        return self._plan

    def started(self, run: Run) -> None:
        """Train the proxy and choose, unless a checkpoint holds the choice."""
        if self._kept_n is None:
            self._kept_n = self._choose(run)
        assert self._plan is not None
        self._plan.subset = FixedSubset(self._plan.course, self._kept_n)

    def state_dict(self) -> dict[str, Any]:
        """The core-set."""
        return {"kept": self._kept_n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same core-set."""
        self._kept_n = state["kept"]

    def _choose(self, run: Run) -> Tensor:
        """Positions of the core-set, ascending."""
        spec, examples = self._spec, run.task.train
        count = spec.count(len(examples))
        config = proxy_config(run.config, examples.store.example_shape, len(examples), spec)
        hook = ScoreHook(
            ScoreConfig(scores=("forgetting",), epoch=(spec.epochs,), epochs=spec.epochs)
        )
        hooks = (hook,) if spec.by == "forgetting" else ()
        # On the learner's inputs, hence with its tokenizer.
        task = replace(run.task, preprocess=run.feeder.preprocess)
        proxy = train(config, task, hooks=hooks)
        for phase in RUN_PHASES:
            run.ledger.add(phase, proxy.ledger.phases.get(phase, Cost()))
        key = tie_key(stream(run.config.seed, "core-set"))
        if spec.by == "forgetting":  # where most examples tie
            scores_N = torch.from_numpy(hook.columns()["forgetting"])
            return keep_highest(scores_N, examples.ids_N, count, key)
        found = _look(run, proxy, spec)
        with run.clock("scoring"):
            if spec.by == "k-center":
                return k_center_greedy(found, examples.ids_N, count, key).sort().values
            return keep_highest(found, examples.ids_N, count, key)


def proxy_config(
    learner: TrainConfig, shape: tuple[int, ...], examples: int, spec: CoreSetSpec
) -> TrainConfig:
    """The proxy's training run: every example once an epoch, shuffled, nothing chosen.

    Args:
        learner: settings of the run that the core-set is for; the seed is shared.
        shape: of one example.
        examples: how many there are.
        spec: the core-set.
    """
    batch = min(PROXY_BATCH, examples)
    return TrainConfig(
        model=learner.resolved_companion(shape),
        objective=learner.objective,
        method="uniform",
        batch=batch,
        pool=batch,
        epochs=spec.epochs,
        lr=PROXY_LR,
        weight_decay=learner.weight_decay,
        precision=learner.precision,
        device=learner.device,
        seed=learner.seed,
        evaluate_every=10**9,  # at the end, for the record; nothing is chosen by it
    )


def _look(run: Run, proxy: Trained, spec: CoreSetSpec) -> Tensor:
    """One pass of the proxy, un-augmented, charged as scoring: scores_N or features_ND."""
    examples = run.task.train
    feeder = proxy.feeder
    scoring = ScoringPass(proxy.model, batchnorm="running", objective=run.objective)
    field = "features_BD" if spec.by == "k-center" else "log_probs_BC"
    few = feeder(examples, feeder.typical(examples, 8))
    flops = count_flops(proxy.model, few, objective=run.objective)
    run.ledger.leave_out(flops.uncounted)
    count = len(examples)
    with run.clock("scoring", examples=count, flops=flops.forward * count):
        parts = torch.arange(len(examples)).split(SCORING_BATCH)
        score = PROXY_SCORES.get(spec.by)
        found = [
            evidence.need(field) if score is None else score(evidence)
            for evidence in scoring.over((feeder(examples, some) for some in parts), {field})
        ]
        return torch.cat(found).cpu()


class _Later:
    """A plan that is known once the run has started."""

    observes = False

    def __init__(self, course: Course) -> None:
        self.course = course
        self.subset: FixedSubset | None = None

    def draw(self, step: int) -> Draw:
        assert self.subset is not None, "the hook has not been told that the run started"
        return self.subset.draw(step)

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """The hook keeps the core-set."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The hook restores the core-set."""
