"""Training, holdout, validation and test examples of one run, drawn from its seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from goldiprox.data.confusion import (
    most_confused,
    parse_pairs,
    read_matrix,
    with_digest,
    write_pairs,
)
from goldiprox.data.datasets import DATASETS
from goldiprox.data.examples import Examples
from goldiprox.data.noise import (
    corrupt_by_exchange,
    corrupt_by_matrix,
    corrupt_pairs,
    corrupt_uniform,
    duplicate,
)
from goldiprox.data.preprocess import Preprocess
from goldiprox.data.settings import DataConfig
from goldiprox.data.shift import keep_relevant, mix
from goldiprox.data.store import Dataset
from goldiprox.schema import ConfigError
from goldiprox.seeds import stream

__all__ = ["DataConfig", "Examples", "Fold", "Splits", "make_splits"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """What one irreducible-loss model is trained on, and whose losses it gives.

    All three are of the data set's store, with its ids: a position in one of them is never an id.

    Attributes:
        fit: the model trains on these; no copies.
        validation: its best checkpoint is the one with the lowest loss here; no copies, and none
            of ``fit``.
        scored: the part of ``Splits.train`` whose irreducible losses the model gives, copies
            included. It holds neither ``fit`` and ``validation`` nor copies of them, but in the
            mode ``reuse``, where it holds both.
    """

    fit: Examples
    validation: Examples
    scored: Examples


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """All examples of one run.

    The target model trains on ``train`` and is tested on ``test``, which share no example and no
    copy. For the irreducible losses of ``train``, train one model per fold on ``fold.fit``, choose
    its checkpoint on ``fold.validation`` and let it score ``fold.scored``: each id of ``train`` is
    scored by exactly one fold. The modes differ in what these are:

    ======== ============================ ============== =========================== ============
    mode     train                        folds          fit, validation             scored
    ======== ============================ ============== =========================== ============
    split    the rest of the training set 1              holdout, validation         train
    own      the training set             1              the published holdout set   train
    reuse    the training set             1              a share of train            train
    halves   the training set             2              one half of train           other half
    ======== ============================ ============== =========================== ============

    Attributes:
        dataset: where they come from.
        train: what the target model trains on; with copies if duplication was asked for.
        holdout: what the irreducible-loss model trains on; empty in the mode ``halves``.
        validation: where its best checkpoint is chosen; empty in the mode ``halves``.
        folds: who trains on what and scores what, see above.
        test: the published test set, its labels clean.
        config: how this was made, nothing left to the data set.
        preprocess: the data set's, with augmentation switched off if so configured.
        num_classes: number of classes.
        whole: the same before it was reduced to a subset; None where it was not.
        subset_N: int64 ids of that subset; None where there is none.
    """

    dataset: Dataset
    train: Examples
    holdout: Examples
    validation: Examples
    folds: tuple[Fold, ...]
    test: Examples
    config: DataConfig
    preprocess: Preprocess
    num_classes: int
    whole: Splits | None = None
    subset_N: Tensor | None = None

    @cached_property
    def full(self) -> Examples:
        """Everything that is not test: what uniform training without a holdout set would use.

        Reduced to a subset, it holds that subset alone, the holdout set's part of it included.
        """
        if self.whole is not None and self.subset_N is not None:
            everything = self.whole.full
            return everything.select(torch.isin(everything.ids_N, self.subset_N))
        if self.config.holdout_mode in ("reuse", "halves"):
            return self.train
        return Examples.concatenate(self.train, self.holdout, self.validation)

    def reduced(self, ids_N: Tensor, name: str) -> Splits:
        """The same data with only some examples left to train on.

        Args:
            ids_N: int64 ids of what is left.
            name: says in records which subset it is; takes the place of the file's name.

        Raises:
            ConfigError: if none of them is in the training part.
        """
        folds = tuple(
            replace(fold, scored=fold.scored.select(torch.isin(fold.scored.ids_N, ids_N)))
            for fold in self.folds
        )
        train = self.train.select(torch.isin(self.train.ids_N, ids_N))
        if not len(train):
            raise ConfigError(
                f"none of the {len(ids_N)} ids of the subset is in the training part "
                f"({len(self.train)} examples); they are all held out: use --holdout-mode halves"
            )
        return replace(
            self,
            train=train,
            folds=folds,
            config=replace(self.config, subset=name),
            whole=self,
            subset_N=ids_N,
        )

    def identity(self) -> dict[str, Any]:
        """The settings that decide the data, as configurations keep them and hashes read them.

        Where files lie, and what a data set of a known form does not read, decide nothing; left
        out, folders that an earlier version wrote are still known as the same.
        """
        settings = asdict(self.config)
        del settings["data_dir"]
        if not self.config.feature_columns:
            del settings["feature_columns"]
        if self.config.dataset in DATASETS:
            del settings["image_fit"], settings["background"]
        return settings

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
            "left_out": self.dataset.left_out,
            "notes": [note.to_json() for note in self.dataset.notes],
            "example_shape": list(self.dataset.store.example_shape),
            "num_classes": self.num_classes,
            **({} if self.dataset.targets == "classes" else {"targets": self.dataset.targets}),
            "class_names": list(self.dataset.class_names),
            "sizes": {name: len(part) for name, part in parts.items()},
            "originals": {name: len(torch.unique(part.origin_N)) for name, part in parts.items()},
            "label_digests": {name: part.label_digest() for name, part in parts.items()},
            "holdout": {
                "mode": self.config.holdout_mode,
                "share": self.config.holdout,
                "folds": [
                    {
                        "fit": len(fold.fit),
                        "validation": len(fold.validation),
                        "scored": len(fold.scored),
                        "label_digest": fold.fit.label_digest(),
                    }
                    for fold in self.folds
                ],
            },
            "subset": self.config.subset,
            "label_noise": {
                "share_drawn": self.config.label_noise,
                "original_may_be_redrawn": self.config.redraw_original,
                "pairs": self.config.noise_pairs,
                "matrix": self.config.noise_matrix,
                "wrong": {name: int(part.corrupted_N.sum()) for name, part in parts.items()},
            },
            "marked": {
                mark: {name: int(part.mark(mark).sum()) for name, part in parts.items()}
                for mark in self.train.marks
            },
            "preprocess": self.preprocess.describe(),
        }


def make_splits(dataset: Dataset, config: DataConfig) -> Splits:
    """Shift, split, mix, corrupt labels, then duplicate, each from a generator of its own.

    The label noise of an example is the same whether it ends in train or in holdout, and the same
    for every holdout share and mode; and neither a copy nor a mixture leaks out of its part.

    Args:
        dataset: the data.
        config: what to do to it.

    Returns:
        The parts.

    Raises:
        ConfigError: if a part would be empty, the data set has no holdout set of its own, or a
            class named for noise is unknown, or a subset is named, which :meth:`Splits.reduced` has
            to make.
        DataError: if a matrix for noise is absent, damaged or of other classes.
    """
    if config.subset is not None:
        raise ConfigError(
            f"subset {config.subset} is not read here; split the whole data, then reduce it with "
            "goldiprox.workflows.subset.reduce_to"
        )
    _require_classes(dataset, config)
    config = _resolved(dataset, config)
    marks: dict[str, Tensor] = {}  # by row
    if config.high_relevance is not None:
        dataset, high = keep_relevant(
            dataset, config.high_relevance, config.low_share, config.data_seed
        )
        marks["low_relevance"] = ~torch.isin(dataset.labels_N, torch.tensor(high))
    train_rows, held = _divide(dataset, config)
    _require_all_parts(dataset, config, train_rows, held)
    if config.ambiguous:
        groups = _groups(train_rows, held, config.holdout_noise)
        dataset, marks["ambiguous"] = mix(dataset, groups, config.ambiguous, config.data_seed)
    labels_N = _used_labels(dataset, config)
    if not config.holdout_noise:
        for held_N, _ in held:
            labels_N[held_N] = dataset.labels_N[held_N]
    stride = len(dataset.store)

    def examples(ids_N: Tensor) -> Examples:
        origins_N = ids_N % stride
        return Examples(
            store=dataset.store,
            ids_N=ids_N,
            rows_N=origins_N,
            targets_N=labels_N[origins_N],
            true_targets_N=dataset.labels_N[origins_N],
            marks={name: mark_N[origins_N] for name, mark_N in marks.items()},
            kind=dataset.targets,
        )

    copying = stream(config.data_seed, "duplicate")
    train = examples(duplicate(train_rows, config.duplicate, copying, stride=stride))
    folds = []
    for held_N, scored_N in held:
        cut = _validated(config, held_N)
        folds.append(
            Fold(
                fit=examples(held_N[cut:].sort().values),
                validation=examples(held_N[:cut].sort().values),
                scored=train.select(torch.isin(train.rows_N, scored_N)),
            )
        )
    nothing = examples(torch.empty(0, dtype=torch.int64))
    preprocess = dataset.preprocess
    return Splits(
        dataset=dataset,
        train=train,
        holdout=folds[0].fit if len(folds) == 1 else nothing,
        validation=folds[0].validation if len(folds) == 1 else nothing,
        folds=tuple(folds),
        test=examples(dataset.test_rows),
        config=config,
        preprocess=preprocess if config.augment else preprocess.without_augmentation(),
        num_classes=dataset.num_classes,
    )


def _resolved(dataset: Dataset, config: DataConfig) -> DataConfig:
    """What was left to the data set, filled in; what does not go together, refused."""
    mode = dataset.holdout_mode if config.holdout_mode == "auto" else config.holdout_mode
    shared = mode in ("split", "reuse")
    if mode == "own" and dataset.holdout_rows is None:
        raise ConfigError(
            f"--holdout-mode own: {dataset.name} was published without a holdout set; use split, "
            "reuse or halves"
        )
    if config.holdout is not None and not shared:
        raise ConfigError(
            f"--holdout {config.holdout} goes with --holdout-mode split or reuse, not with {mode}"
        )
    if not config.holdout_noise and mode in ("reuse", "halves"):
        raise ConfigError(
            f"a clean holdout set cannot be had in --holdout-mode {mode}: it is part of the "
            "training set; use split or own, or leave --holdout-noise on"
        )
    share = dataset.holdout_share if config.holdout is None else config.holdout
    pairs = config.noise_pairs
    if config.confusion is not None:
        matrix = read_matrix(config.confusion, dataset.class_names)
        pairs = write_pairs(most_confused(matrix), dataset.class_names)
        if not pairs:
            raise ConfigError(f"--confusion {config.confusion}: no class is taken for another")
    return replace(
        config,
        # How files are read does not change what they hold.
        workers=None,
        lazy=None,
        holdout_mode=mode,
        holdout=share if shared else None,
        # What was done, not in which file it was written.
        noise_pairs=pairs,
        confusion=None,
        noise_matrix=None if config.noise_matrix is None else with_digest(config.noise_matrix),
        high_relevance=config.high_relevance or dataset.high_relevance,
    )


def _require_classes(dataset: Dataset, config: DataConfig) -> None:
    """Refuse what only classes can have done to them, where something else is predicted."""
    if dataset.targets == "classes":
        return
    for flag, value in (
        ("--noise-pairs", config.noise_pairs),
        ("--noise-matrix", config.noise_matrix),
        ("--confusion", config.confusion),
        ("--ambiguous", config.ambiguous),
        ("--high-relevance", config.high_relevance),
        ("--no-redraw-original", not config.redraw_original),
    ):
        if value:
            raise ConfigError(
                f"{flag} is about classes, and {dataset.name} has {dataset.targets} to predict; "
                "use --label-noise, which gives examples the targets of others"
            )


def _used_labels(dataset: Dataset, config: DataConfig) -> Tensor:
    """Every row's label, corrupted but for the test set's."""
    rows_N = dataset.train_rows
    if dataset.holdout_rows is not None:
        rows_N = torch.cat([rows_N, dataset.holdout_rows]).sort().values
    labels_N = dataset.labels_N.clone()
    clean_N, generator = labels_N[rows_N], stream(config.data_seed, "noise")
    if dataset.targets != "classes":
        labels_N[rows_N] = corrupt_by_exchange(clean_N, config.label_noise, generator)
        return labels_N
    if config.noise_matrix is not None:
        matrix = read_matrix(config.noise_matrix, dataset.class_names)
        noisy_N = corrupt_by_matrix(clean_N, torch.from_numpy(matrix), generator)
    elif config.noise_pairs is not None:
        pairs = parse_pairs(config.noise_pairs, dataset.class_names)
        noisy_N = corrupt_pairs(clean_N, config.label_noise, pairs, generator)
    else:
        noisy_N = corrupt_uniform(
            clean_N, config.label_noise, dataset.num_classes, config.redraw_original, generator
        )
    labels_N[rows_N] = noisy_N
    return labels_N


def _groups(
    train_rows: Tensor, held: list[tuple[Tensor, Tensor]], with_holdout: bool
) -> list[Tensor]:
    """Rows that may be mixed with each other: of one half, of the holdout set, of the rest."""
    held_rows = [held_N.sort().values for held_N, _ in held]
    rest = train_rows[~torch.isin(train_rows, torch.cat(held_rows))]
    return [rest, *(held_rows if with_holdout else [])]


def _divide(dataset: Dataset, config: DataConfig) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Training rows, ascending; and for each fold the rows held, shuffled, and those it scores."""
    rows_N = dataset.train_rows
    generator = stream(config.data_seed, "split")

    def shuffled(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)]

    if config.holdout_mode == "own":
        assert dataset.holdout_rows is not None  # _resolved saw to it
        return rows_N, [(shuffled(dataset.holdout_rows), rows_N)]
    order_N = shuffled(rows_N)
    if config.holdout_mode == "halves":
        middle = len(order_N) // 2
        one, other = order_N[:middle], order_N[middle:]
        return rows_N, [(one, other), (other, one)]
    assert config.holdout is not None
    held = round(config.holdout * len(rows_N))
    train_N = order_N[held:].sort().values if config.holdout_mode == "split" else rows_N
    return train_N, [(order_N[:held], train_N)]


def _validated(config: DataConfig, held_N: Tensor) -> int:
    """How many of the rows held are for validation."""
    return round(config.validation * len(held_N))


def _require_all_parts(
    dataset: Dataset, config: DataConfig, train_rows: Tensor, held: list[tuple[Tensor, Tensor]]
) -> None:
    smallest = min((held_N for held_N, _ in held), key=len)
    validated = _validated(config, smallest)
    for part, size, field in (
        ("training", len(train_rows), "holdout"),
        ("holdout", len(smallest) - validated, "holdout" if len(smallest) == 0 else "validation"),
        ("validation", validated, "validation"),
    ):
        if size < 1:
            raise ConfigError(
                f"{field} {getattr(config, field)} of {len(dataset.train_rows)} training examples "
                f"leaves the {part} set empty: choose another {field} share"
            )
