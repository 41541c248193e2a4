"""Training, holdout, validation and test examples of one run, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from goldiprox.data.examples import Examples
from goldiprox.data.noise import LabelNoise, corrupt_uniform, duplicate
from goldiprox.data.preprocess import Preprocess
from goldiprox.data.store import Dataset
from goldiprox.schema import ConfigError
from goldiprox.seeds import stream

__all__ = ["DataConfig", "Examples", "Splits", "make_splits"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data a run uses and what is done to it."""

    dataset: str
    """Data set: digits, fashion-mnist, cifar10, or the path of a Parquet file or folder."""

    data_dir: str | None = None
    """Folder that holds the data set's files. By default they are looked for in
    $GOLDIPROX_DATA_DIR, then in the data set's usual places, then online."""

    label_noise: float = 0.0
    """Share of the training labels to draw anew at random, from 0 up to (not including) 1. The
    original label may be drawn again, so with 10 classes 0.1 makes about 9 % of the labels wrong;
    see redraw-original. The test set stays clean."""

    redraw_original: bool = True
    """Whether label noise may draw the original label again, as in the RHO-LOSS paper's code.
    Switch it off to make every drawn label wrong."""

    duplicate: float = 1.0
    """How often each example occurs in the training set: 5 means five times each, 1.5 means that
    a random half occurs twice. Holdout and test sets are not duplicated."""

    holdout: float = 0.5
    """Share of the training set to set aside, on which the irreducible-loss model is trained. Half
    is what the RHO-LOSS paper uses for CIFAR."""

    validation: float = 0.1
    """Share of the holdout set on which the irreducible-loss model's best checkpoint is chosen,
    so that the test set is never used for a choice."""

    data_seed: int = 0
    """Seed of the split, of the label noise and of the duplication."""

    augment: bool = True
    """Whether colour images are randomly cropped and mirrored in training. Greyscale images never
    are."""

    def __post_init__(self) -> None:
        LabelNoise(share=self.label_noise, redraw_original=self.redraw_original)
        duplicate(torch.arange(1), self.duplicate, torch.Generator(), stride=1)
        for field, purpose in (
            ("holdout", "of the training set"),
            ("validation", "of the holdout set"),
        ):
            value = getattr(self, field)
            if not 0 < value < 1:
                raise ConfigError(
                    f"{field} {value} is impossible: give a share {purpose} between 0 and 1, "
                    "both excluded"
                )
        if self.data_seed < 0:
            raise ConfigError(
                f"--data-seed {self.data_seed} is negative: give 0 or a positive whole number"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """All examples of one run. No example is in two of the four parts, and neither is a copy.

    Attributes:
        dataset: where they come from.
        train: what the target model trains on; with copies if duplication was asked for.
        holdout: what the irreducible-loss model trains on.
        validation: where its best checkpoint is chosen.
        test: the published test set, its labels clean.
        config: how this was made.
        preprocess: the data set's, with augmentation switched off if so configured.
        num_classes: number of classes.
    """

    dataset: Dataset
    train: Examples
    holdout: Examples
    validation: Examples
    test: Examples
    config: DataConfig
    preprocess: Preprocess
    num_classes: int

    @cached_property
    def full(self) -> Examples:
        """Everything that is not test: what uniform training without a holdout set would use."""
        return Examples.concatenate(self.train, self.holdout, self.validation)

    def describe(self) -> dict[str, Any]:
        """What a run's manifest records of its data.

        Returns:
            Values that JSON can hold.
        """
        parts = {
            "train": self.train,
            "holdout": self.holdout,
            "validation": self.validation,
            "test": self.test,
        }
        return {
            "dataset": self.dataset.name,
            "source": self.dataset.source,
            "fingerprint": self.dataset.fingerprint,
            "example_shape": list(self.dataset.store.example_shape),
            "num_classes": self.num_classes,
            "class_names": list(self.dataset.class_names),
            "sizes": {name: len(part) for name, part in parts.items()},
            "originals": {name: len(torch.unique(part.origin_N)) for name, part in parts.items()},
            "label_digests": {name: part.label_digest() for name, part in parts.items()},
            "label_noise": {
                "share_drawn": self.config.label_noise,
                "original_may_be_redrawn": self.config.redraw_original,
                "wrong": {name: int(part.corrupted_N.sum()) for name, part in parts.items()},
            },
            "preprocess": self.preprocess.describe(),
        }


def make_splits(dataset: Dataset, config: DataConfig) -> Splits:
    """Corrupt labels, split, then duplicate, each from a generator of its own.

    In this order: the noise of an example is the same whether it ends in train or in holdout, and
    the same for every holdout share; and a copy never leaks out of the training part.

    Args:
        dataset: the data.
        config: what to do to it.

    Returns:
        The parts.

    Raises:
        ConfigError: if a part would be empty.
    """
    rows_N = dataset.train_rows
    held = round(config.holdout * len(rows_N))
    validated = round(config.validation * held)
    for part, size, field in (
        ("training", len(rows_N) - held, "holdout"),
        ("holdout", held - validated, "holdout" if held == 0 else "validation"),
        ("validation", validated, "validation"),
    ):
        if size < 1:
            raise ConfigError(
                f"{field} {getattr(config, field)} of {len(rows_N)} training examples leaves the "
                f"{part} set empty: choose another {field} share"
            )

    labels_N = dataset.labels_N.clone()
    labels_N[rows_N] = corrupt_uniform(
        labels_N[rows_N],
        config.label_noise,
        dataset.num_classes,
        config.redraw_original,
        stream(config.data_seed, "noise"),
    )
    shuffled = rows_N[torch.randperm(len(rows_N), generator=stream(config.data_seed, "split"))]
    stride = len(dataset.store)

    def examples(ids_N: Tensor) -> Examples:
        origins_N = ids_N % stride
        return Examples(
            store=dataset.store,
            ids_N=ids_N,
            rows_N=origins_N,
            targets_N=labels_N[origins_N],
            true_targets_N=dataset.labels_N[origins_N],
        )

    train_ids = duplicate(
        shuffled[held:].sort().values,
        config.duplicate,
        stream(config.data_seed, "duplicate"),
        stride=stride,
    )
    preprocess = dataset.preprocess
    return Splits(
        dataset=dataset,
        train=examples(train_ids),
        holdout=examples(shuffled[validated:held].sort().values),
        validation=examples(shuffled[:validated].sort().values),
        test=examples(dataset.test_rows),
        config=config,
        preprocess=preprocess if config.augment else preprocess.without_augmentation(),
        num_classes=dataset.num_classes,
    )
