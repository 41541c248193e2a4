"""Models by name: the built-in ones and any factory ``package.module:factory``."""

from __future__ import annotations

import difflib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from goldiprox.models.text import (
    TEXT_MODELS,
    PretrainedTokenizer,
    WordTokenizer,
    pretrained_classifier,
)
from goldiprox.models.vision import VISION_MODELS, Factory, Shape
from goldiprox.models.zoo import ZOO_MODELS
from goldiprox.names import import_named, require_own
from goldiprox.schema import ConfigError

OUTPUTS = ("num_classes", "classes", "n_classes", "num_labels", "num_outputs")
"""What people call the number of outputs of a factory that takes nothing else."""

__all__ = ["build_model", "factory_name", "model_factory", "tokenizer_for"]


def model_factory(name: str, *, text: bool = False) -> Factory:
    """Find a model factory.

    Args:
        name: a built-in name; for texts also a hub model of the transformers library or a local
            folder; or ``package.module:factory``, where ``factory`` takes the shape of one example
            and the number of classes and returns an ``nn.Module``.
        text: whether the examples are texts; their shape is ``(max_length, vocabulary)``.

    Raises:
        ConfigError: if there is no such model, naming the known ones or what failed to import, or
            it is for other examples.
    """
    images = VISION_MODELS | ZOO_MODELS
    known, others = (TEXT_MODELS, images) if text else (images, TEXT_MODELS)
    if name in known:
        return known[name]
    if name in others:
        kinds = ("images", "texts") if text else ("texts", "images")
        raise ConfigError(
            f'model "{name}" takes {kinds[0]} and these examples are {kinds[1]}; known for them: '
            f"{', '.join(known)}"
        )
    if ":" in name:
        found = import_named(name, "model")
        if not callable(found):
            raise ConfigError(f'model "{name}" is not callable; name a function or a class')
        return found
    if text:
        require_own(name, "model")
        return pretrained_classifier(name)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f' (did you mean "{close[0]}"?)' if close else ""
    raise ConfigError(
        f'unknown model "{name}"{hint}; known: {", ".join(known)}, '
        "or a factory of your own as package.module:factory"
    )


def tokenizer_for(
    model: str | None, tokenizer: str | None, texts: Callable[[], Iterable[str]], max_length: int
) -> WordTokenizer | PretrainedTokenizer:
    """The tokenizer that goes with a text model.

    Args:
        model: the model's name; None for a factory of the user's own.
        tokenizer: a tokenizer named by the user, which wins over the model's own.
        texts: gives the texts that the model will be trained on, for a vocabulary of words where
            the model brings no tokenizer.
        max_length: texts are cut to so many tokens.

    Raises:
        ConfigError: if it cannot be found, or takes no texts as long as that.
    """
    if tokenizer is not None:
        require_own(tokenizer, "tokenizer")
        return PretrainedTokenizer(tokenizer, max_length)
    if model is None or model in TEXT_MODELS or ":" in model:
        return WordTokenizer(texts(), max_length)
    require_own(model, "model")
    return PretrainedTokenizer(model, max_length)


def factory_name(factory: Factory) -> str:
    """What a factory of the user's own is called in records: ``package.module:name``."""
    module = getattr(factory, "__module__", type(factory).__module__)
    return f"{module}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def build_model(factory: Factory, input_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """Make a model with reproducible initial weights; the global random state is left as it was.

    Args:
        factory: see :func:`model_factory`.
        input_shape: shape of one example; of texts, (max_length, vocabulary).
        num_classes: size of the output.
        seed: seed of the initial weights.

    Raises:
        ConfigError: if the factory takes other arguments, fails, or returns something that is not a
            module.
    """
    call = _call_of(factory, input_shape, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = call()
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = str(error).partition("\n")[0]
            raise ConfigError(
                f"the model factory {factory_name(factory)} failed for examples of shape "
                f"{tuple(input_shape)} and {num_classes} outputs: {type(error).__name__}: "
                f"{said} ({Path(place.filename).name}, line {place.lineno})"
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model factory returned a {type(model).__name__}; it must return an nn.Module"
        )
    return model


def _call_of(factory: Factory, input_shape: Shape, num_classes: int) -> Callable[[], object]:
    """The call that a factory's parameters allow: shape and outputs, outputs alone, or nothing.

    Raises:
        ConfigError: if it takes something else.
    """
    try:
        signature = inspect.signature(factory)
    except ValueError:  # of a few built-in callables nothing is known
        return lambda: factory(input_shape, num_classes)
    makers: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
        ((input_shape, num_classes), {}),
        *(((), {name: num_classes}) for name in OUTPUTS if name in signature.parameters),
        ((), {}),
    )
    for arguments, named in makers:
        with suppress(TypeError):
            signature.bind(*arguments, **named)
            return functools.partial(factory, *arguments, **named)
    raise ConfigError(
        f"the model factory {factory_name(factory)}{signature} cannot be called: it must take the "
        "shape of one example and the number of outputs, num_classes alone, or nothing"
    )
