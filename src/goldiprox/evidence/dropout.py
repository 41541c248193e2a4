"""Monte-Carlo dropout: some units dropped, everything else as in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from goldiprox.schema import ConfigError
from goldiprox.seeds import derive_seed

__all__ = ["dropout_modules", "dropped"]


def dropout_modules(
    model: nn.Module, froze: Callable[[nn.Module], bool] = lambda _: False
) -> list[_DropoutNd]:
    """The model's dropout layers that drop anything.

    Args:
        model: any module.
        froze: which layers the user keeps in evaluation mode: they drop nothing.

    Raises:
        ConfigError: if there are none: all Monte-Carlo samples would be the same.
    """
    found = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if not found:
        raise ConfigError(
            "this method samples dropout masks, but the model has no dropout layer with p > 0; "
            "use a model that has one, such as mlp-dropout or small-cnn-dropout"
        )
    awake = [layer for layer in found if not froze(layer)]
    if not awake:
        raise ConfigError(
            "this method samples dropout masks, but all dropout layers of the model are frozen "
            "(in evaluation mode while it trains); call .train() on one, or choose by the loss"
        )
    return awake


@contextmanager
def dropped(
    model: nn.Module,
    seed: int,
    sample: int,
    *,
    consistent: bool,
    froze: Callable[[nn.Module], bool] = lambda _: False,
) -> Iterator[None]:
    """Drop units in every forward pass of the block; to be used inside ``scoring_mode``.

    Args:
        model: in evaluation mode.
        seed: of all samples.
        sample: number of this sample; another one drops other units.
        consistent: whether all examples lose the same units, so that one sample is one function
            of the input (Kirsch et al. 2019, section 3.2). Otherwise each example has a mask of
            its own, which then depends on how the pool is cut into micro-batches.
        froze: which layers drop nothing, as the user keeps them in evaluation mode.

    Raises:
        ConfigError: if no layer drops anything, or masks of one cannot be shared.
    """
    modules = dropout_modules(model, froze)
    if not consistent:
        _seed_masks(model, derive_seed(seed, "masks", sample))
        for module in modules:
            module.training = True
        try:
            yield
        finally:
            for module in modules:
                module.training = False
        return
    masks: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor | None]] = {}
    handles = []
    for number, module in enumerate(modules):

        def drop(layer: nn.Module, args: Any, output: Tensor, number: int = number) -> Tensor:
            del args  # in evaluation mode the layer handed its input through
            assert isinstance(layer, _DropoutNd)
            shape = _mask_shape(layer, output)
            mask = masks.get((number, shape))
            if mask is None:
                generator = torch.Generator().manual_seed(derive_seed(seed, sample, number))
                kept = torch.rand(shape, generator=generator) >= layer.p
                scale, shift = _effect(layer, kept)
                # The host need not wait for them.
                scale = scale.to(output.device, non_blocking=True)
                if shift is not None:
                    shift = shift.to(output.device, non_blocking=True)
                masks[number, shape] = mask = scale, shift
            scale, shift = mask
            dropped = output * scale.to(output.dtype)
            return dropped if shift is None else dropped + shift.to(output.dtype)

        handles.append(module.register_forward_hook(drop))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seed_masks(model: nn.Module, seed: int) -> None:
    """Seed the CPU and the model's own device; torch.manual_seed would seed all others too."""
    torch.default_generator.manual_seed(seed)
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type == "cuda":
        with torch.cuda.device(parameter.device):
            torch.cuda.manual_seed(seed)


BY_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
"""The layers that drop whole channels."""

ALPHA = 1.7580993408473766
"""Minus the value that SELU tends to on the left: what is dropped gets it."""


def _mask_shape(layer: _DropoutNd, output: Tensor) -> tuple[int, ...]:
    """One mask for all examples."""
    if isinstance(layer, BY_CHANNEL):
        return (1, output.shape[1], *(1 for _ in output.shape[2:]))
    if isinstance(layer, nn.Dropout | nn.AlphaDropout):
        return (1, *output.shape[1:])
    raise ConfigError(
        f"a {type(layer).__name__} is no dropout layer of torch's, so its masks cannot be shared "
        "by all candidates; sample masks for each of them: dropout_shared=False"
    )


def _effect(layer: _DropoutNd, kept: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a mask does: what outputs are multiplied by, and what is added.

    AlphaDropout sets what it drops to minus alpha and keeps mean and variance (Klambauer et al.
    2017, arXiv:1706.02515); with p = 1 torch's layers make zeros.
    """
    p = layer.p
    if p >= 1:
        return kept * 0.0, None
    if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
        a = ((ALPHA**2 * p + 1.0) * (1.0 - p)) ** -0.5
        return kept * a, (kept * 1.0 - 1.0 + p) * (ALPHA * a)
    return kept / (1.0 - p), None
