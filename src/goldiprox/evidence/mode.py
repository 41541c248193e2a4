"""How a model runs while it is scored: mode, precision and device; all is put back afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormMode", "Precision", "autocast", "device_of", "scoring_mode", "uncompiled"]

Precision = Literal["float32", "bf16"]
BatchNormMode = Literal["batch", "running"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a device; for float32 no autocast, not even a surrounding one."""
    if precision == "float32" and not torch.is_autocast_enabled(device.type):
        return nullcontext()  # entering a disabled autocast costs as much as a small kernel
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def uncompiled() -> AbstractContextManager[object]:
    """Run compiled models in their plain form: what looks into a pass sees nothing of a kernel."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing has been compiled, and the import takes a second
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def scoring_mode(model: nn.Module, batchnorm: BatchNormMode) -> AbstractContextManager[None]:
    """Put a model into evaluation mode for scoring and restore everything afterwards.

    Args:
        model: any module.
        batchnorm: ``running`` uses the stored statistics; ``batch`` uses those of the batch that
            is scored (Mindermann et al. 2022, appendix B) without moving the stored ones.
    """
    return _ScoringMode(model, batchnorm)


class _ScoringMode(AbstractContextManager[None]):
    """Not a generator: entering and leaving one costs a small model several per cent of a step."""

    def __init__(self, model: nn.Module, batchnorm: BatchNormMode) -> None:
        self._model = model
        self._batchnorm = batchnorm
        self._modes: list[tuple[nn.Module, bool]] = []
        self._norms: list[tuple[_BatchNorm, bool]] = []

    def __enter__(self) -> None:
        self._cpu_state = torch.get_rng_state()
        modules = list(self._model.modules())
        self._device = _device_among(modules)
        is_cuda = self._device.type == "cuda"
        self._cuda_state = torch.cuda.get_rng_state(self._device) if is_cuda else None
        of_batch = self._batchnorm == "batch"
        for module in modules:
            training = False
            if of_batch and isinstance(module, _BatchNorm):
                # With tracking off, a training-mode norm neither reads nor writes its buffers.
                self._norms.append((module, module.track_running_stats))
                module.track_running_stats = False
                training = True
            if module.training != training:
                self._modes.append((module, module.training))
                # Past Module.__setattr__, whose look-ups cost more than a small model's scoring.
                module.__dict__["training"] = training

    def __exit__(self, *error: object) -> None:
        for module, training in self._modes:
            module.__dict__["training"] = training
        for norm, tracked in self._norms:
            norm.track_running_stats = tracked
        torch.set_rng_state(self._cpu_state)
        if self._cuda_state is not None:
            torch.cuda.set_rng_state(self._cuda_state, self._device)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU if it has none."""
    return _device_among(model.modules())


def _device_among(modules: Iterable[nn.Module]) -> torch.device:
    # Not model.parameters(): its guard against doubles costs more than a step can spare.
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                return parameter.device
    return torch.device("cpu")
