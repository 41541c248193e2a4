"""Settings of the data: which data set, what is done to it, what is held out.

The string below each field is its help text on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from goldiprox.data.noise import LabelNoise, duplicate
from goldiprox.schema import ConfigError, require_seed

__all__ = ["DataConfig", "HoldoutMode", "Reading"]

HoldoutMode = Literal["split", "own", "reuse", "halves"]
"""Where an irreducible-loss model's training examples come from; see :class:`DataConfig`."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read."""

    input_column: str | None = None
    """Column of a file or hub data set that holds the images, texts or names of image files. By
    default img, image, text or sentence."""

    label_column: str | None = None
    """Column that holds the labels; of several numbers to predict, their columns, separated by
    commas. By default label, labels or fine_label, of a table also target, class or y."""

    feature_columns: tuple[str, ...] = ()
    """Columns of a table (CSV, TSV, JSON lines, Parquet) that are features, numbers or categories,
    separated by commas. By default all that are neither label nor group, unless there is a column
    of texts or images."""

    group_column: str | None = None
    """Column that holds a group of each example, kept beside it for audits."""

    image_size: int | None = None
    """Resize images to squares of this many pixels; needed where they differ."""

    image_fit: Literal["crop", "pad", "squash"] = "crop"
    """How images that are no squares are resized: crop keeps the middle, pad keeps everything
    between bars in the colour of --background, squash changes the aspect ratio."""

    background: str = "white"
    """Colour behind images with transparent parts: a name or #rrggbb."""

    skip_unreadable: bool = False
    """Leave out images of a folder that cannot be read (damaged, broken links, more than 8 bits a
    channel) instead of stopping; reads every image once before training. How many were left out is
    said and recorded."""

    workers: int | None = None
    """Processes that read images of a folder; 0 reads in the training process. By default one a
    core, four at most."""

    lazy: bool | None = None
    """Read images of a folder as they are needed instead of all at the start. By default where all
    of them would take more than 1 GiB of memory."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"--image-size is {self.image_size}; it must be at least 1")
        if self.background != "white":
            from PIL import ImageColor  # here: settings are read by commands that need no images

            try:
                ImageColor.getrgb(self.background)
            except ValueError as error:
                raise ConfigError(
                    f"--background {self.background} is no colour: give a name such as white, or "
                    "#rrggbb"
                ) from error
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers is {self.workers}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Reading):
    """Which data a run uses and what is done to it.

    What is left to the data set (``auto``, None) is filled in by
    :func:`goldiprox.data.splits.make_splits`; ``Splits.config`` holds the values used.
    """

    dataset: str
    """Data set: a name of goldiprox.data.datasets, the path of a table (CSV, TSV,
    JSON lines, Parquet), of a folder of them or of an image folder, or hub:NAME."""

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

    noise_pairs: str | None = None
    """Structured noise: flip the share --label-noise of certain classes' labels to another class,
    instead of drawing anew. Pairs of names or numbers of classes, separated by commas:
    cat:dog,dog:cat makes cats dogs and dogs cats."""

    confusion: str | None = None
    """Structured noise, the pairs taken from a confusion matrix: a file (JSON or CSV; rows are true
    classes), such as goldiprox confusion writes. The four classes most often taken for another one
    are flipped to that one; the paper's --label-noise is 0.5 here."""

    noise_matrix: str | None = None
    """Structured noise from a file (JSON or CSV) of probabilities: row i holds those of the labels
    that class i gets. Takes the place of --label-noise."""

    ambiguous: float = 0.0
    """Share of the images to be made ambiguous: the mean of two images of different classes,
    labelled as either at random. Not counted as wrong labels but by themselves."""

    holdout_noise: bool = True
    """Whether the holdout set is as noisy and ambiguous as the training set. Without, the
    irreducible-loss model learns from what was published; needs a holdout set that is no part of
    the training set."""

    high_relevance: int | None = None
    """Keep this many classes whole (a random choice) and of the others the share --low-share only,
    in the test set too. cifar100-relevance: 20."""

    low_share: float = 0.06
    """Share kept of the classes of low relevance, see --high-relevance; 0.06 is the paper's."""

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
    """Seed of the split and of all that is done to the data: noise, mixtures, relevance,
    duplication."""

    augment: bool = True
    """Whether colour images are randomly cropped and mirrored in training. Greyscale images never
    are."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if not 0 <= self.ambiguous < 1:
            raise ConfigError(
                f"--ambiguous {self.ambiguous} is impossible: give a share from 0 to below 1"
            )
        if not 0 < self.low_share < 1:
            raise ConfigError(
                f"--low-share {self.low_share} is impossible: give a share between 0 and 1, both "
                "excluded"
            )
        self._check_structure()
        require_seed("--data-seed", self.data_seed)

    def _check_structure(self) -> None:
        given = [
            f"--{field.replace('_', '-')}"
            for field in ("noise_pairs", "confusion", "noise_matrix")
            if getattr(self, field)
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other: give one of them")
        if given and given != ["--noise-matrix"] and not self.label_noise:
            raise ConfigError(
                f"{given[0]} needs --label-noise, the share of the labels to flip, such as 0.5"
            )
        if self.noise_matrix and self.label_noise:
            raise ConfigError(
                "--noise-matrix holds the probabilities itself: leave --label-noise out"
            )
