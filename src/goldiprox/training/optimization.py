"""The weighted training step and its optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from goldiprox.batch import Batch, cross_entropy_losses, default_logits, require_targets
from goldiprox.config import TrainConfig
from goldiprox.evidence.forward import autocast
from goldiprox.schema import ConfigError

__all__ = ["make_optimizer", "resolve_device", "training_step"]


def resolve_device(name: str) -> torch.device:
    """A device from its setting.

    Raises:
        ConfigError: if CUDA is asked for where there is none, or the name means nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'unknown device "{name}"; use cpu, cuda, cuda:N or auto') from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            has = f"{count} CUDA device(s)" if count else "no CUDA device"
            raise ConfigError(f"--device {name}: this machine has {has}; use --device cpu")
    return device


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW with PyTorch's defaults, fused where the device has it.

    Raises:
        ConfigError: if the model has nothing to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f'model "{config.model}" has no trainable parameters')
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def training_step(
    model: nn.Module,
    optimizer: AdamW,
    batch: Batch,
    weights_k: Tensor,
    config: TrainConfig,
) -> tuple[Tensor, Tensor]:
    """One optimizer step on the weighted mean of the chosen examples' losses.

    Args:
        model: in training mode.
        optimizer: its gradients are cleared here.
        batch: the chosen examples, on the model's device.
        weights_k: weights in the mean.
        config: for the precision.

    Returns:
        loss_k in nats and correct_k (whether the label was predicted), both before the update.
    """
    with autocast(weights_k.device, config.precision):
        logits_kC = default_logits(model, batch)
    loss_k = cross_entropy_losses(logits_kC, batch)
    optimizer.zero_grad(set_to_none=True)
    (loss_k * weights_k).mean().backward()
    optimizer.step()
    with torch.no_grad():
        correct_k = logits_kC.argmax(1).eq(require_targets(batch))
    return loss_k.detach(), correct_k
