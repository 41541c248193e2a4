"""What a checkpoint of the reference loop keeps, and how a run goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from goldiprox.chooser import Chooser
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import Clock, Ledger
from goldiprox.schema import NonFinite
from goldiprox.selection.plans import Plan
from goldiprox.training.companion import Companion
from goldiprox.training.hooks import Hook

__all__ = ["require_finite_weights", "restore", "state_of"]


class Resumable(Protocol):
    """A run that can be put where it was: what it is made of."""

    device: torch.device
    model: nn.Module
    optimizer: Optimizer
    chooser: Chooser
    plan: Plan
    companion: Companion | None
    hooks: Sequence[Hook]
    evaluations: list[Evaluation]
    ledger: Ledger
    clock: Clock
    best: dict[str, Tensor] | None
    step: int
    examples: int


def state_of(run: Resumable) -> dict[str, Any]:
    """All that a run needs to go on as if it had never stopped."""
    return {
        "step": run.step,
        "examples": run.examples,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "chooser": run.chooser.state_dict(),
        "plan": run.plan.state_dict(),
        "companion": None if run.companion is None else run.companion.state_dict(),
        "hooks": [hook.state_dict() for hook in run.hooks if hook.remembers],
        "evaluations": [asdict(e) for e in run.evaluations],
        "ledger": run.ledger.to_json(),
        "best": run.best,
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": cuda_random_state(run.device),
    }


def restore(run: Resumable, state: dict[str, Any]) -> None:
    """Bring a run, and the global random state, to where :func:`state_of` was taken."""
    run.step = state["step"]
    run.examples = state["examples"]
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.chooser.load_state_dict(state["chooser"])
    run.plan.load_state_dict(state["plan"])
    if run.companion is not None:
        run.companion.load_state_dict(state["companion"])
    remembering = [hook for hook in run.hooks if hook.remembers]
    for hook, kept in zip(remembering, state["hooks"], strict=True):
        hook.load_state_dict(kept)
    run.evaluations = [Evaluation(**e) for e in state["evaluations"]]
    uncounted = run.ledger.uncounted
    run.ledger = Ledger.from_json(state["ledger"])
    run.ledger.leave_out(uncounted)
    run.clock = Clock(run.device, run.ledger)
    run.best = state["best"]
    torch.set_rng_state(state["cpu_rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], run.device)


def cuda_random_state(device: torch.device) -> Tensor | None:
    """Of the run's own device, which need not be the current one."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def require_finite_weights(model: nn.Module, step: int) -> None:
    """A finite loss may still have a NaN gradient: no checkpoint may keep what it left.

    Raises:
        NonFinite: naming the weight and the last step.
    """
    # A buffer may well hold infinities (a mask of attention does), but training makes no NaN there.
    bad = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    bad += [name for name, value in model.named_buffers() if bool(value.isnan().any())]
    if bad:
        raise NonFinite(
            f"{bad[0]} became NaN or infinite in step {step}, although the loss was finite; lower "
            "the learning rate, or look for an infinite gradient"
        )
