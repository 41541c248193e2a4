"""Monte-Carlo dropout: some units dropped, everything else as in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from goldiprox.schema import ConfigError
from goldiprox.seeds import derive_seed

__all__ = ["dropout_modules", "dropped"]


def dropout_modules(model: nn.Module) -> list[_DropoutNd]:
    """The model's dropout layers that drop anything.

    Raises:
        ConfigError: if there are none: all Monte-Carlo samples would be the same.
    """
    found = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if not found:
        raise ConfigError(
            "this method samples dropout masks, but the model has no dropout layer with p > 0; "
            "use a model that has one, such as mlp-dropout or small-cnn-dropout"
        )
    return found


@contextmanager
def dropped(model: nn.Module, seed: int, sample: int, *, consistent: bool) -> Iterator[None]:
    """Drop units in every forward pass of the block; to be used inside ``scoring_mode``.

    Args:
        model: in evaluation mode.
        seed: of all samples.
        sample: number of this sample; another one drops other units.
        consistent: whether all examples lose the same units, so that one sample is one function
            of the input (Kirsch et al. 2019, section 3.2). Otherwise each example has a mask of
            its own, which then depends on how the pool is cut into micro-batches.
    """
    modules = dropout_modules(model)
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
    masks: dict[tuple[int, tuple[int, ...]], Tensor] = {}
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
                mask = kept / (1.0 - layer.p) if layer.p < 1 else kept * 0.0
                mask = mask.to(output.device, non_blocking=True)  # the host need not wait for it
                masks[(number, shape)] = mask
            return output * mask.to(output.dtype)

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


def _mask_shape(layer: _DropoutNd, output: Tensor) -> tuple[int, ...]:
    """One mask for all examples; the layers for images drop whole channels."""
    if isinstance(layer, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return (1, output.shape[1], *(1 for _ in output.shape[2:]))
    return (1, *output.shape[1:])
