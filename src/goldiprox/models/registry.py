"""Models by name: the built-in ones and any factory ``package.module:factory``."""

from __future__ import annotations

import difflib

import torch
from torch import nn

from goldiprox.models.vision import VISION_MODELS, Factory, Shape
from goldiprox.names import import_named
from goldiprox.schema import ConfigError

__all__ = ["build_model", "factory_name", "model_factory", "parameter_count"]


def model_factory(name: str) -> Factory:
    """Find a model factory.

    Args:
        name: a built-in name, or ``package.module:factory`` where ``factory`` takes the shape of
            one example and the number of classes and returns an ``nn.Module``.

    Raises:
        ConfigError: if there is no such model, naming the known ones or what failed to import.
    """
    if name in VISION_MODELS:
        return VISION_MODELS[name]
    if ":" not in name:
        close = difflib.get_close_matches(name, VISION_MODELS, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(
            f'unknown model "{name}"{hint}; known: {", ".join(VISION_MODELS)}, '
            "or a factory of your own as package.module:factory"
        )
    found = import_named(name, "model")
    if not callable(found):
        raise ConfigError(f'model "{name}" is not callable; name a function or a class')
    return found


def factory_name(factory: Factory) -> str:
    """What a factory of the user's own is called in records: ``package.module:name``."""
    module = getattr(factory, "__module__", type(factory).__module__)
    return f"{module}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def build_model(factory: Factory, input_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """Make a model with reproducible initial weights; the global random state is left as it was.

    Args:
        factory: see :func:`model_factory`.
        input_shape: shape of one example.
        num_classes: size of the output.
        seed: seed of the initial weights.

    Raises:
        ConfigError: if the factory returns something that is not a module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory(input_shape, num_classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model factory returned a {type(model).__name__}; it must return an nn.Module"
        )
    return model


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
