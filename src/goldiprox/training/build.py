"""A model by name or factory, and the feeder that makes its batches of a data set's examples."""

from __future__ import annotations

import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.data.examples import Examples
from goldiprox.data.preprocess import Preprocess
from goldiprox.data.text import TextPreprocessor
from goldiprox.models.registry import build_model, model_factory, tokenizer_for
from goldiprox.models.scaled import ScaledOutput
from goldiprox.models.text import agree_on_padding
from goldiprox.models.vision import Factory
from goldiprox.schema import DataError
from goldiprox.seeds import derive_seed
from goldiprox.training.feed import Feeder
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import Task

__all__ = ["build", "build_for"]


def build(
    model: str | Factory,
    train: Examples,
    preprocess: Preprocess,
    num_classes: int,
    *,
    seed: int,
    device: torch.device,
    tokenizer: str | None = None,
    max_length: int = 128,
) -> tuple[nn.Module, Feeder]:
    """Make a model for some examples, and what feeds it.

    Args:
        model: its name, or a factory called with the shape of one example (of texts:
            ``(max_length, vocabulary)``) and the number of classes.
        train: what it will be trained on; words for a vocabulary come from nowhere else.
        preprocess: the data set's. One for texts gets the model's tokenizer, unless it has one.
        num_classes: size of the output. A built-in model's outputs are scaled to the training
            targets' means and deviations where these are numbers.
        seed: seed of the initial weights.
        device: where model and batches go.
        tokenizer: a tokenizer for texts, instead of the model's own.
        max_length: texts are cut to so many tokens.

    Returns:
        The model on the device, in training mode, and its feeder.

    Raises:
        ConfigError: if the model or tokenizer is unknown, or does not fit the examples.
    """
    name = model if isinstance(model, str) else None
    is_text = isinstance(preprocess, TextPreprocessor)
    factory = model_factory(model, text=is_text) if isinstance(model, str) else model
    if isinstance(preprocess, TextPreprocessor) and preprocess.tokenizer is None:
        found = tokenizer_for(name, tokenizer, lambda: _texts(train), max_length)
        preprocess = preprocess.with_tokenizer(found)
    net = build_model(factory, preprocess.input_shape(train.store), num_classes, seed)
    if train.kind == "numbers" and name is not None and ":" not in name:
        net = ScaledOutput.of(net, train.targets_N)
    if isinstance(preprocess, TextPreprocessor) and preprocess.tokenizer is not None:
        agree_on_padding(net, preprocess.tokenizer.padding)
    feeder = Feeder.of(net, preprocess, device)
    return feeder.place(net).train(), feeder


def build_for(
    config: TrainConfig, task: Task, factory: Factory | None = None
) -> tuple[nn.Module, Feeder]:
    """Make the model of a run, as it is before the first step, and its feeder.

    Args:
        config: the run's settings.
        task: its data.
        factory: the model's factory, if not looked up by ``config.model``.

    Returns:
        The model on its device, in training mode, and its feeder.

    Raises:
        ConfigError: as :func:`build` does, or if the device is absent.
    """
    return build(
        factory or config.resolved_model(task.train.store.example_shape),
        task.train,
        task.preprocess,
        task.num_classes,
        seed=derive_seed(config.seed, "weights"),
        device=resolve_device(config.device),
        tokenizer=config.tokenizer,
        max_length=config.max_length,
    )


def _texts(examples: Examples) -> list[str]:
    texts = examples.store.fetch(torch.unique(examples.rows_N))  # each once, copies or not
    if not isinstance(texts, list):
        raise DataError(f"expected texts, got {type(texts).__name__}")
    return texts
