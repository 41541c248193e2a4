"""Train on part of a data set: read what pruning kept, check that it belongs to this data."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from goldiprox.data.advice import command_for
from goldiprox.data.datasets import load
from goldiprox.data.files import Checked
from goldiprox.data.splits import DataConfig, Splits, make_splits
from goldiprox.data.targets import TargetKind
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import TableError, id_list

__all__ = ["reduce_to", "splits_for"]


def splits_for(
    config: DataConfig, checked: Checked | None = None, targets: TargetKind | None = None
) -> Splits:
    """Load a data set, divide it, and reduce it to the subset that is named, if there is one.

    Args:
        config: which, and what is done to it.
        checked: told how many images, of how many, have been checked for being readable.
        targets: what the labels of files are read as, see :func:`goldiprox.data.datasets.load`.

    Raises:
        GoldiproxError: if the data or the subset is absent, damaged or does not fit.
    """
    folder = None if config.data_dir is None else Path(config.data_dir)
    dataset = load(
        config.dataset, data_dir=folder, reading=config, checked=checked, targets=targets
    )
    splits = make_splits(dataset, replace(config, subset=None))
    return splits if config.subset is None else reduce_to(splits, Path(config.subset))


def reduce_to(splits: Splits, path: Path) -> Splits:
    """The same data with only the ids of a table left to train on.

    The division into training and holdout part is that of the whole data. Records know the subset
    by its ids, not by the file's name, so a file that was changed is another subset.

    Args:
        splits: the whole data.
        path: a table with what to keep, such as ``goldiprox prune`` writes.

    Raises:
        TableError: if it belongs to other data or labels, or names examples that are not here.
        ConfigError: if nothing would be left to train on.
    """
    table = ScoreTable.read(path)
    command = command_for("score", splits, "--out scores.parquet")
    remedy = f"score and prune this data: {command}, then goldiprox prune"
    table.require(remedy, fingerprint=splits.dataset.fingerprint)
    ids_N = torch.tensor(table.ids_N)  # a copy: what was read from a file is not writable
    strange = ids_N[~torch.isin(ids_N, splits.full.ids_N)]
    if len(strange):
        raise TableError(
            f"subset {path}: {len(strange)} of its {len(ids_N)} ids are not in the training set "
            f"(first: {id_list(strange, 3)}); {remedy}"
        )
    digests = {splits.full.label_digest(), splits.train.label_digest()}
    if table.provenance.get("label_digest") not in digests:
        table.require(remedy, label_digest=splits.full.label_digest())
    digest = hashlib.sha256(ids_N.sort().values.numpy().astype("<i8").tobytes()).hexdigest()
    return splits.reduced(ids_N, f"{len(ids_N)} ids, sha256 {digest[:16]}")
