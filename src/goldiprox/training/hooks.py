"""Hooks: what looks at a run as it goes, and keeps its own state in the run's checkpoints."""

from __future__ import annotations

from typing import Any

from goldiprox.records.evaluations import Evaluation
from goldiprox.records.steplog import StepRecord
from goldiprox.training.run import Run

__all__ = ["Hook"]


class Hook:
    """Told of a run's course; every method does nothing unless overridden.

    A hook must leave the model's weights, modes and gradients and the global random state as they
    were: the run with the hook equals the run without it.
    """

    remembers = True
    """Whether checkpoints keep its state; a run may go on without a hook that remembers nothing."""

    def started(self, run: Run) -> None:
        """Before the first step of this process; after a checkpoint was loaded, if there is one."""

    def stepped(self, run: Run, record: StepRecord) -> None:
        """After each step. The record's tensors are on the device; bring them over in bulk.

        ``run.drawn`` is what the step drew.
        """

    def epoch_ended(self, run: Run, epoch: int) -> None:
        """After the last step of an epoch, before its evaluation.

        Args:
            run: the run.
            epoch: passes over the pools done so far, 1 at the end of the first.
        """

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        """After each evaluation.

        Args:
            run: the run.
            evaluation: what came out, with the costs paid until then.
        """

    def finished(self, run: Run) -> None:
        """After the last step and its evaluation, before the run's records are written."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of the hook: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
