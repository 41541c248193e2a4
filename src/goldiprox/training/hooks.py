"""Hooks: what looks at a run as it goes, and keeps its own state in the run's checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goldiprox.records.steplog import StepRecord
    from goldiprox.training.loop import Loop

__all__ = ["Hook"]


class Hook:
    """Told of a run's course; every method does nothing unless overridden.

    A hook must leave the model's weights, modes and gradients and the global random state as they
    were: the run with the hook equals the run without it.
    """

    def started(self, loop: Loop) -> None:
        """Before the first step of this process; after a checkpoint was loaded, if there is one."""

    def stepped(self, loop: Loop, record: StepRecord) -> None:
        """After each step. The record's tensors are on the device; bring them over in bulk.

        ``loop.drawn`` is what the step drew.
        """

    def epoch_ended(self, loop: Loop, epoch: int) -> None:
        """After the last step of an epoch, before its evaluation.

        Args:
            loop: the run.
            epoch: passes over the pools done so far, 1 at the end of the first.
        """

    def finished(self, loop: Loop) -> None:
        """After the last step and its evaluation, before the run's records are written."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of the hook: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
