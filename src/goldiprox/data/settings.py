"""Settings of the data: which data set, what is done to it, what is held out.

The string below each field is its help text on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from goldiprox.data.noise import LabelNoise, duplicate
from goldiprox.schema import ConfigError

__all__ = ["DataConfig", "HoldoutMode"]

HoldoutMode = Literal["split", "own", "reuse", "halves"]
"""Where an irreducible-loss model's training examples come from; see :class:`DataConfig`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data a run uses and what is done to it.

    What is left to the data set (``auto``, None) is filled in by
    :func:`goldiprox.data.splits.make_splits`; ``Splits.config`` holds the values used.
    """

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

    holdout_noise: bool = True
    """Whether the holdout set is as noisy as the training set. Without, the irreducible-loss model
    learns from the published labels; needs a holdout set that is no part of the training set."""

    duplicate: float = 1.0
    """How often each example occurs in the training set: 5 means five times each, 1.5 means that
    a random half occurs twice. Holdout and test sets are not duplicated."""

    holdout_mode: Literal["auto", "split", "own", "reuse", "halves"] = "auto"
    """What the irreducible-loss model is trained on. split: a share of the training set, set aside
    for it. own: the data set's own holdout set (qmnist, cinic10). reuse: a share of the training
    set, which the target model trains on too. halves: nothing is held out; two models, one on each
    half of the training set, and each scores the half that it has not seen. auto: what the RHO-LOSS
    paper does for the data set, split where it says nothing."""

    holdout: float | None = None
    """Share of the training set that split sets aside or reuse uses again. By default what the
    RHO-LOSS paper takes: half, of clothing1m a tenth."""

    validation: float = 0.1
    """Share of the holdout set on which the irreducible-loss model's best checkpoint is chosen,
    so that the test set is never used for a choice."""

    subset: str | None = None
    """Table of the ids to train on, as goldiprox prune writes it: the rest of the training set is
    left out. What the irreducible-loss model is trained on stays whole."""

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
            if value is not None and not 0 < value < 1:
                raise ConfigError(
                    f"{field} {value} is impossible: give a share {purpose} between 0 and 1, "
                    "both excluded"
                )
        if self.data_seed < 0:
            raise ConfigError(
                f"--data-seed {self.data_seed} is negative: give 0 or a positive whole number"
            )
