"""What a checkpoint of the reference loop keeps, and how a run goes on from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from goldiprox.records.ledger import Clock, Ledger
from goldiprox.schema import NonFinite
from goldiprox.training.task import Evaluation

if TYPE_CHECKING:
    from goldiprox.training.loop import Loop

__all__ = ["require_finite_weights", "restore", "state_of"]


def state_of(loop: Loop) -> dict[str, Any]:
    """All that a run needs to go on as if it had never stopped."""
    return {
        "step": loop.step,
        "examples": loop.examples,
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "chooser": loop.chooser.state_dict(),
        "plan": loop.plan.state_dict(),
        "companion": None if loop.companion is None else loop.companion.state_dict(),
        "hooks": [hook.state_dict() for hook in loop.hooks],
        "evaluations": [asdict(e) for e in loop.evaluations],
        "ledger": loop.ledger.to_json(),
        "best": loop.best,
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": cuda_random_state(loop.device),
    }


def restore(loop: Loop, state: dict[str, Any]) -> None:
    """Bring a run, and the global random state, to where :func:`state_of` was taken."""
    loop.step = state["step"]
    loop.examples = state["examples"]
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    loop.chooser.load_state_dict(state["chooser"])
    loop.plan.load_state_dict(state["plan"])
    if loop.companion is not None:
        loop.companion.load_state_dict(state["companion"])
    for hook, kept in zip(loop.hooks, state["hooks"], strict=True):
        hook.load_state_dict(kept)
    loop.evaluations = [Evaluation(**e) for e in state["evaluations"]]
    uncounted = loop.ledger.uncounted
    loop.ledger = Ledger.from_json(state["ledger"])
    loop.ledger.leave_out(uncounted)
    loop.clock = Clock(loop.device, loop.ledger)
    loop.best = state["best"]
    torch.set_rng_state(state["cpu_rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], loop.device)


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
