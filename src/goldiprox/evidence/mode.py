"""How a model runs while it is scored: mode, precision and device; all is put back afterwards."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = [
    "BatchNormMode",
    "Precision",
    "ScoringMode",
    "autocast",
    "device_of",
    "is_frozen",
    "random_state_kept",
    "scoring_mode",
    "takes_statistics",
    "twin_of",
    "uncompiled",
    "undisturbed",
]

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


Code = Iterable[Callable[..., Any] | None]
"""Functions that run beside a model."""


def scoring_mode(
    model: nn.Module, batchnorm: BatchNormMode, code: Code = (), *, keep_random: bool = True
) -> ScoringMode:
    """Put a model into evaluation mode for scoring and restore everything afterwards.

    Modes, buffers and the random states of torch, numpy and Python are put back. Layers that were
    frozen (in evaluation mode while the model trains) are scored as they are.

    Args:
        model: any module.
        batchnorm: ``running`` uses the stored statistics; ``batch`` uses those of the batch that
            is scored (Mindermann et al. 2022, appendix B) without moving the stored ones.
        code: functions that run in the block beside the model, see :func:`random_state_kept`.
        keep_random: whether random states are put back; if not, the block sees to it itself.
    """
    return ScoringMode(model, batchnorm, code, keep_random=keep_random)


def is_frozen(module: nn.Module, model: nn.Module) -> bool:
    """Whether a layer is kept in evaluation mode while its model trains."""
    return model.training and not module.training


def takes_statistics(model: nn.Module) -> bool:
    """Whether a BatchNorm of the model would be scored with the pool's statistics on request."""
    return any(isinstance(m, _BatchNorm) and not is_frozen(m, model) for m in model.modules())


class ScoringMode(AbstractContextManager["ScoringMode"]):
    """See :func:`scoring_mode`.

    Not a generator: entering and leaving one costs a small model several per cent of a step.
    """

    def __init__(
        self,
        model: nn.Module,
        batchnorm: BatchNormMode,
        code: Code = (),
        *,
        keep_random: bool = True,
    ) -> None:
        self._model = model
        self._batchnorm = batchnorm
        self._code = code
        self._keep_random = keep_random
        self._random: _RandomState | None = None
        self._trains = False
        self._modes: list[tuple[nn.Module, bool]] = []
        self._norms: list[tuple[_BatchNorm, bool]] = []

    def __enter__(self) -> ScoringMode:
        modules = list(self._model.modules())
        self._buffers = _Buffers(modules, norms=False)
        if self._keep_random:
            self._random = _RandomState(modules, elsewhere=_draws_elsewhere(modules, self._code))
        self._trains = self._model.training
        of_batch = self._batchnorm == "batch"
        for module in modules:
            training = False
            frozen = self._trains and not module.training
            if of_batch and isinstance(module, _BatchNorm) and not frozen:
                # With tracking off, a training-mode norm neither reads nor writes its buffers.
                self._norms.append((module, module.track_running_stats))
                module.track_running_stats = False
                training = True
            if module.training != training:
                self._modes.append((module, module.training))
                # Past Module.__setattr__, whose look-ups cost more than a small model's scoring.
                module.__dict__["training"] = training
        return self

    def __exit__(self, *error: object) -> None:
        for module, training in self._modes:
            module.__dict__["training"] = training
        for norm, tracked in self._norms:
            norm.track_running_stats = tracked
        self._buffers.restore()
        if self._random is not None:
            self._random.restore()

    def froze(self, module: nn.Module) -> bool:
        """Whether a layer was frozen before: in evaluation mode while the model trained."""
        was_training = {id(changed): training for changed, training in self._modes}
        return self._trains and not was_training.get(id(module), module.training)


class _Undisturbed(AbstractContextManager[None]):
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        modules = list(self._model.modules())
        self._buffers = _Buffers(modules, norms=True)
        self._random = _RandomState(modules, elsewhere=True)

    def __exit__(self, *error: object) -> None:
        self._buffers.restore()
        self._random.restore()


def undisturbed(model: nn.Module) -> AbstractContextManager[None]:
    """Put back a model's buffers and the random states, whatever is done in the block."""
    return _Undisturbed(model)


def twin_of(model: nn.Module) -> nn.Module:
    """A copy to try something on, or the model itself if it cannot be copied.

    torch refuses to copy computed weights (the old ``weight_norm``), pickle locks and files.
    """
    try:
        return deepcopy(model)
    except (RuntimeError, TypeError, AttributeError, pickle.PickleError):
        return model


class _RandomStateKept(AbstractContextManager[None]):
    def __init__(self, model: nn.Module, code: Code | None) -> None:
        self._model = model
        self._code = code

    def __enter__(self) -> None:
        modules = list(self._model.modules())
        elsewhere = self._code is None or _draws_elsewhere(modules, self._code)
        self._state = _RandomState(modules, elsewhere=elsewhere)

    def __exit__(self, *error: object) -> None:
        self._state.restore()


def random_state_kept(model: nn.Module, code: Code | None = None) -> AbstractContextManager[None]:
    """Put back the random states of torch, numpy and Python after a block.

    Args:
        model: runs in the block; where it is on a GPU, that GPU's state is kept too.
        code: functions that run in the block beside it; None if anything may. If these and all
            layers are of PyTorch or of this package, only torch's random state is looked at:
            numpy's takes longer to save than a small model's scores to compute.
    """
    return _RandomStateKept(model, code)


QUIET = ("torch.nn.", "goldiprox.")
"""Where the code is that draws random numbers from nobody but torch."""

_QUIET_TYPES: dict[type, bool] = {}


def _draws_elsewhere(modules: Iterable[nn.Module], code: Code) -> bool:
    """Whether numpy's or Python's random numbers may be drawn: by code of the user's own."""
    for module in modules:
        kind = type(module)
        quiet = _QUIET_TYPES.get(kind)
        if quiet is None:
            quiet = _QUIET_TYPES[kind] = kind.__module__.startswith(QUIET)
        if not quiet or module._forward_hooks or module._forward_pre_hooks:
            return True
        if "forward" in module.__dict__:
            return True
    return any(
        function is not None and not str(getattr(function, "__module__", "")).startswith(QUIET)
        for function in code
    )


class _RandomState:
    """The random states that a model may move; numpy's and Python's if it draws elsewhere."""

    def __init__(self, modules: Sequence[nn.Module], *, elsewhere: bool) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = _cuda_states(modules)
        self._others: tuple[Any, Any] | None = None
        if elsewhere:
            self._others = (random.getstate(), np.random.get_state())  # noqa: NPY002

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda:
            torch.cuda.set_rng_state(state, device)
        if self._others is not None:
            random.setstate(self._others[0])
            np.random.set_state(self._others[1])  # noqa: NPY002


def _cuda_states(modules: Sequence[nn.Module]) -> list[tuple[torch.device, Tensor]]:
    """The state of each GPU that holds a part of the model."""
    device = _device_among(modules)
    if device.type != "cuda":
        return []
    devices = {device}
    if torch.cuda.device_count() > 1:
        held = (p for module in modules for p in module._parameters.values())
        devices |= {parameter.device for parameter in held if parameter is not None}
    return [(place, torch.cuda.get_rng_state(place)) for place in devices if place.type == "cuda"]


class _Buffers:
    """What buffers hold, to be put back where a forward pass changed or replaced it.

    Args:
        modules: whose buffers.
        norms: whether those of torch's normalisations are kept too; in evaluation mode, or with
            tracking off, these do not change, and a convolutional net has many.
    """

    def __init__(self, modules: Iterable[nn.Module], *, norms: bool) -> None:
        self._kept: list[tuple[dict[str, Tensor | None], str, Tensor, int, Tensor]] = []
        for module in modules:
            buffers = module._buffers
            if not buffers or (not norms and _is_torchs_norm(module)):
                continue
            for name, buffer in buffers.items():
                if buffer is not None and not buffer.is_inference():  # those cannot be written to
                    version = buffer._version
                    self._kept.append((buffers, name, buffer, version, buffer.detach().clone()))

    def restore(self) -> None:
        for owner, name, buffer, version, copy in self._kept:
            now = owner.get(name)
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copy)
            # One of another shape is a cache that grew, and its size is kept elsewhere too.
            if now is not buffer and now is not None and now.shape == buffer.shape:
                owner[name] = buffer


def _is_torchs_norm(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and type(module).__module__.startswith("torch.nn.")


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
