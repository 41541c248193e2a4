"""One forward pass over a pool, with no side effects: losses and log-probabilities.

After the pass the model's modes, buffers and gradients and the global random state are what they
were before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from goldiprox.batch import (
    Batch,
    cross_entropy_losses,
    default_logits,
    ids_of,
    micro_batches,
    stack_outputs,
    targets_of,
)
from goldiprox.schema import ConfigError, Evidence

__all__ = ["BatchNormMode", "Precision", "ScoringPass", "autocast", "device_of", "scoring_mode"]

Precision = Literal["float32", "bf16"]
BatchNormMode = Literal["batch", "running"]

FORWARD_FIELDS = frozenset({"loss_B", "log_probs_BC"})
"""The evidence that this module can supply."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bfloat16 on a device, or nothing at all for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def scoring_mode(model: nn.Module, batchnorm: BatchNormMode) -> Iterator[None]:
    """Put a model into evaluation mode for scoring and restore everything afterwards.

    Args:
        model: any module.
        batchnorm: ``running`` uses the stored statistics; ``batch`` uses those of the batch that
            is scored (Mindermann et al. 2022, appendix B) without moving the stored ones.
    """
    modes = [(module, module.training) for module in model.modules()]
    norms: list[tuple[_BatchNorm, bool]] = []
    cpu_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        for module, _ in modes:
            is_norm = isinstance(module, _BatchNorm)
            module.training = is_norm and batchnorm == "batch"
            if isinstance(module, _BatchNorm):
                # With tracking off, a training-mode norm neither reads nor writes its buffers.
                norms.append((module, module.track_running_stats))
                if batchnorm == "batch":
                    module.track_running_stats = False
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, tracked in norms:
            norm.track_running_stats = tracked
        torch.set_rng_state(cpu_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)


class ScoringPass:
    """Computes the evidence that needs a forward pass of the current model.

    Args:
        model: the model being trained.
        precision: ``bf16`` runs the pass under autocast; losses are float32 either way.
        micro_batch: at most this many examples at once; None scores the pool in one go.
        batchnorm: see :func:`scoring_mode`.
        logits: how to get logits_BC from the model and a batch.
        per_example_loss: how to get loss_B from the model and a batch, for anything that is not
            classification by cross-entropy; then no logits are made.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Precision = "float32",
        micro_batch: int | None = None,
        batchnorm: BatchNormMode = "running",
        logits: Callable[[nn.Module, Batch], Tensor] = default_logits,
        per_example_loss: Callable[[nn.Module, Batch], Tensor] | None = None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch is {micro_batch}; it must be at least 1, or None")
        self.model = model
        self.precision = precision
        self.micro_batch = micro_batch
        self.batchnorm = batchnorm
        self._logits = logits
        self._per_example_loss = per_example_loss
        self._has_batchnorm = any(isinstance(m, _BatchNorm) for m in model.modules())

    def __call__(self, batch: Batch, needs: Collection[str], **known: Tensor) -> Evidence:
        """Score a pool.

        Args:
            batch: the pool; inputs already on the model's device.
            needs: names of evidence fields; only what this pass can supply is computed.
            **known: further fields that are known already (``irreducible_B=...``).

        Returns:
            Evidence with the fields asked for.

        Raises:
            ConfigError: if BatchNorm should use the pool's statistics but the pool is cut up, or
                if log-probabilities are asked of a loss that the caller defined himself.
        """
        ids_B = ids_of(batch)
        size = int(ids_B.shape[0])
        wanted = FORWARD_FIELDS.intersection(needs)
        found: dict[str, Any] = {"targets_B": targets_of(batch), **known}
        if wanted:
            self._check(size, wanted)
            losses: list[Tensor] = []
            log_probs: list[Tensor] = []
            with (
                torch.no_grad(),
                scoring_mode(self.model, self.batchnorm),
                autocast(device_of(self.model), self.precision),
            ):
                for part in micro_batches(batch, self.micro_batch):
                    if self._per_example_loss is not None:
                        losses.append(self._own_losses(part))
                        continue
                    logits_BC = self._logits(self.model, part).float()
                    if "loss_B" in wanted:
                        losses.append(cross_entropy_losses(logits_BC, part))
                    if "log_probs_BC" in wanted:
                        log_probs.append(logits_BC.log_softmax(1))
            if losses:
                found["loss_B"] = stack_outputs(losses)
            if log_probs:
                found["log_probs_BC"] = stack_outputs(log_probs)
        return Evidence(ids_B=ids_B, **found)

    def _own_losses(self, part: Batch) -> Tensor:
        assert self._per_example_loss is not None
        loss_B = self._per_example_loss(self.model, part)
        count = int(ids_of(part).shape[0])
        if loss_B.shape != (count,):
            # A mean or a column would broadcast against other evidence and choose nonsense.
            raise ConfigError(
                f"per_example_loss returned the shape {tuple(loss_B.shape)} for {count} examples; "
                'return one loss for each (reduction="none", averaged over anything but examples)'
            )
        return loss_B.float()

    def _check(self, size: int, wanted: frozenset[str]) -> None:
        is_cut = self.micro_batch is not None and self.micro_batch < size
        if is_cut and self.batchnorm == "batch" and self._has_batchnorm:
            raise ConfigError(
                f"BatchNorm cannot take the statistics of a pool of {size} that is scored "
                f"{self.micro_batch} at a time: score it whole, or use the running statistics "
                "(--scoring-batchnorm running)"
            )
        if self._per_example_loss is not None and "log_probs_BC" in wanted:
            raise ConfigError(
                "this method needs class probabilities, which a per_example_loss of your own does "
                "not give; pass logits=... instead"
            )


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
