"""The RHO-LOSS paper's architectures from torchvision: for small images, and pretrained.

For images of about 32x32 the early down-sampling goes, as is usual for CIFAR: a 3x3 stem without
stride and no pooling behind it. Auxiliary heads, which change the loss, are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from goldiprox.models.vision import Factory, Shape
from goldiprox.schema import ConfigError

__all__ = ["ZOO_MODELS", "pretrained_resnet"]

SMALLEST = 32


def _torchvision() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ConfigError(
            'this model comes from torchvision: pip install "goldiprox[vision]"'
        ) from error


def _channels(input_shape: Shape, name: str) -> int:
    if len(input_shape) != 3 or min(input_shape[1:]) < SMALLEST:
        raise ConfigError(
            f"{name} needs images of at least {SMALLEST}x{SMALLEST} pixels, not examples of shape "
            f"{input_shape}; use --model mlp"
        )
    return input_shape[0]


def _stem(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1, bias=False)


def _vgg11(models: Any, channels: int, num_classes: int) -> nn.Module:
    model: Any = models.vgg11_bn(num_classes=num_classes)
    model.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier[0] = nn.Linear(512, 4096)
    found: nn.Module = model
    return found


def _resnet(name: str) -> Callable[[Any, int, int], nn.Module]:
    def make(models: Any, channels: int, num_classes: int) -> nn.Module:
        model: nn.Module = getattr(models, name)(num_classes=num_classes)
        model.conv1 = _stem(channels, 64)
        model.maxpool = nn.Identity()
        return model

    return make


def _densenet121(models: Any, channels: int, num_classes: int) -> nn.Module:
    model: Any = models.densenet121(num_classes=num_classes)
    model.features.conv0 = _stem(channels, 64)
    model.features.pool0 = nn.Identity()
    found: nn.Module = model
    return found


def _mobilenet_v2(models: Any, channels: int, num_classes: int) -> nn.Module:
    # (expansion, channels, blocks, stride); the published table has stride 2 in its second row.
    rows = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    model: Any = models.MobileNetV2(
        num_classes=num_classes, inverted_residual_setting=[list(row) for row in rows]
    )
    model.features[0][0] = _stem(channels, 32)
    found: nn.Module = model
    return found


def _googlenet(models: Any, channels: int, num_classes: int) -> nn.Module:
    model = models.GoogLeNet(num_classes=num_classes, aux_logits=False, init_weights=True)
    model.conv1 = type(model.conv1)(channels, 192, kernel_size=3, padding=1)
    model.maxpool1 = model.conv2 = model.conv3 = model.maxpool2 = nn.Identity()
    found: nn.Module = model
    return found


def _inception_v3(models: Any, channels: int, num_classes: int) -> nn.Module:
    model = models.Inception3(num_classes=num_classes, aux_logits=False, init_weights=True)
    model.Conv2d_1a_3x3 = type(model.Conv2d_1a_3x3)(channels, 192, kernel_size=3, padding=1)
    for name in (
        "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"
    ):  # fmt: skip
        setattr(model, name, nn.Identity())
    found: nn.Module = model
    return found


def _small(name: str, make: Callable[[Any, int, int], nn.Module]) -> Factory:
    def factory(input_shape: Shape, num_classes: int) -> nn.Module:
        channels = _channels(input_shape, name)
        return make(_torchvision(), channels, num_classes)

    return factory


def pretrained_resnet(name: str) -> Factory:
    """A factory of an ImageNet-size ResNet with torchvision's weights and a head of its own.

    The weights come from torch's folder for downloads, or else from the network. Greyscale images
    go through the three colours' filters added up, which is what repeating the image would do.

    Args:
        name: ``resnet18`` or ``resnet50``.
    """

    def factory(input_shape: Shape, num_classes: int) -> nn.Module:
        channels = _channels(input_shape, f"{name}-pretrained")
        models = _torchvision()
        model: Any = getattr(models, name)()
        model.load_state_dict(_weights(models, name))
        if channels != 3:
            colour = model.conv1.weight.detach()
            grey = colour.sum(1, keepdim=True)
            model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            with torch.no_grad():
                model.conv1.weight.copy_(grey.expand(-1, channels, -1, -1) / channels)
        model.fc = nn.Linear(model.fc.in_features, num_classes)
        found: nn.Module = model
        return found

    return factory


def _weights(models: Any, name: str) -> dict[str, Any]:
    url: str = models.get_model_weights(name).DEFAULT.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        file = url.rsplit("/", 1)[1]
        raise ConfigError(
            f"the weights of {name}-pretrained cannot be had ({first}): put {file} (from {url}) "
            f"into {folder}"
        ) from error
    return state


ZOO_MODELS: dict[str, Factory] = {
    name: _small(name, make)
    for name, make in {
        "vgg11-bn": _vgg11,
        "googlenet": _googlenet,
        "resnet34": _resnet("resnet34"),
        "resnet50": _resnet("resnet50"),
        "densenet121": _densenet121,
        "mobilenet-v2": _mobilenet_v2,
        "inception-v3": _inception_v3,
    }.items()
} | {f"{name}-pretrained": pretrained_resnet(name) for name in ("resnet18", "resnet50")}
"""Image models by name; VGG, GoogLeNet, MobileNet and Inception have dropout before their heads."""
