"""Training on what pruning kept: who is left, who is refused, what the records say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from goldiprox.config import CompareConfig, IrreducibleConfig, TrainConfig
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.precompute.irreducible import require_fitting
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import CheckpointError, ConfigError, TableError
from goldiprox.workflows.compare import compare
from goldiprox.workflows.subset import reduce_to
from goldiprox.workflows.train import train_one

SETTINGS = {"model": "mlp-128", "pool": 16, "epochs": 2}


def kept(path, splits, ids_N, **change):
    note = {
        "kind": "kept",
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.full.label_digest(),
    }
    ids = np.asarray(ids_N, dtype=np.int64)
    ScoreTable(ids_N=ids, columns={}, provenance=note | change).write(path)
    return path


@pytest.fixture
def half(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(label_noise=0.2, duplicate=2)
    ids_N = splits.full.ids_N[::2]
    return splits, ids_N, reduce_to(splits, kept(tmp_path / "kept.parquet", splits, ids_N))


def test_only_the_ids_named_are_trained_on(half):
    splits, ids_N, reduced = half
    wanted = set(ids_N.tolist())
    assert set(reduced.train.ids_N.tolist()) == wanted & set(splits.train.ids_N.tolist())
    assert set(reduced.full.ids_N.tolist()) == wanted
    assert len(reduced.full) == len(wanted)
    assert reduced.holdout.ids_N.tolist() == splits.holdout.ids_N.tolist()
    assert reduced.test.ids_N.tolist() == splits.test.ids_N.tolist()
    (fold,) = reduced.folds
    assert fold.scored.ids_N.tolist() == reduced.train.ids_N.tolist()
    labels = dict(zip(splits.train.ids_N.tolist(), splits.train.targets_N.tolist(), strict=True))
    assert [labels[i] for i in reduced.train.ids_N.tolist()] == reduced.train.targets_N.tolist()
    assert reduced.describe()["subset"].startswith(f"{len(wanted)} ids")


def test_halves_score_what_is_left_and_train_on_everything(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(holdout_mode="halves")
    ids_N = splits.full.ids_N[5:60]
    reduced = reduce_to(splits, kept(tmp_path / "kept.parquet", splits, ids_N))
    assert reduced.train.ids_N.tolist() == reduced.full.ids_N.tolist() == ids_N.tolist()
    for fold, whole in zip(reduced.folds, splits.folds, strict=True):
        assert fold.fit.ids_N.tolist() == whole.fit.ids_N.tolist()
        assert set(fold.scored.ids_N.tolist()) == set(ids_N.tolist()) & set(
            whole.scored.ids_N.tolist()
        )


def test_runs_train_on_the_subset_and_say_so(half, tmp_path):
    splits, ids_N, reduced = half
    config = TrainConfig(method="uniform", batch=8, **SETTINGS)
    train_one(reduced, config, tmp_path / "run")
    trained = np.unique(read_steps(tmp_path / "run")["ids"].combine_chunks().flatten().to_numpy())
    assert set(trained.tolist()) <= set(ids_N.tolist())
    manifest = RunFolder(tmp_path / "run").manifest()
    assert manifest["config"]["data"]["subset"] == reduced.config.subset
    # The whole data, or another subset, is another run.
    with pytest.raises(CheckpointError, match="subset"):
        train_one(splits, config, tmp_path / "run")
    other = reduce_to(splits, kept(tmp_path / "other.parquet", splits, ids_N[:-1]))
    with pytest.raises(CheckpointError, match="subset"):
        train_one(other, config, tmp_path / "run")


def test_plain_training_on_a_subset_takes_all_of_it(half, tmp_path):
    """Nothing is held out where nothing is chosen."""
    _, ids_N, splits = half
    config = TrainConfig(method="uniform", model="mlp-128", batch=8, pool=8, epochs=1)
    told = train_one(splits, config, tmp_path / "plain", full=True)
    steps = read_steps(tmp_path / "plain")
    trained = sorted(i for ids in steps["ids"].to_pylist() for i in ids)
    assert trained == sorted(ids_N.tolist())
    assert len(splits.full) > len(splits.train)
    assert told["trained on"].startswith(f"all {len(splits.full)} examples")
    assert RunFolder(tmp_path / "plain").manifest()["arm"] == "uniform-full"


def test_every_arm_of_a_comparison_keeps_to_the_subset(half, tmp_path):
    _, ids_N, reduced = half
    config = CompareConfig(
        methods=("uniform", "uniform-full", "rho-loss"), seeds=1, batch=(8,), **SETTINGS
    )
    compare(reduced, config, tmp_path / "out", irreducible=IrreducibleConfig(epochs=1))
    for name in config.methods:
        steps = read_steps(tmp_path / "out" / "runs" / f"{name}-0")
        trained = set(steps["ids"].combine_chunks().flatten().to_pylist())
        assert trained <= set(ids_N.tolist())
        in_train = set(reduced.train.ids_N.tolist())
        assert (trained <= in_train) == (name != "uniform-full")


def test_a_table_for_all_the_data_serves_a_part_of_it(half, make_table):
    splits, _, reduced = half
    note = {
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.train.label_digest(),
    }
    whole = make_table(splits.train.ids_N, provenance=note)
    require_fitting(whole, reduced)
    own = make_table(
        reduced.train.ids_N, provenance=note | {"label_digest": reduced.train.label_digest()}
    )
    require_fitting(own, reduced)
    with pytest.raises(TableError, match="other labels"):
        require_fitting(
            dataclasses.replace(whole, provenance=note | {"label_digest": "x"}), reduced
        )


def test_what_does_not_belong_here_is_refused(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(label_noise=0.2)
    ids_N = splits.full.ids_N[:50]
    for ids, change, told in [
        (ids_N, {"fingerprint": "x"}, "other data"),
        (ids_N, {"label_digest": "x"}, "other labels"),
        (splits.test.ids_N[:3], {}, "3 of its 3 ids are not in the training set"),
        (torch.cat([ids_N, torch.tensor([10**9])]), {}, r"1 of its 51 .*first: 1000000000"),
    ]:
        path = kept(tmp_path / "kept.parquet", splits, ids, **change)
        with pytest.raises(TableError, match=told) as refused:
            reduce_to(splits, path)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="all held out"):
        reduce_to(splits, kept(tmp_path / "kept.parquet", splits, splits.holdout.ids_N))
    with pytest.raises(TableError, match="does not exist"):
        reduce_to(splits, tmp_path / "nowhere.parquet")
    with pytest.raises(ConfigError, match="not read here"):
        make_splits(splits.dataset, DataConfig(dataset="tiny", subset="kept.parquet"))


def test_scores_of_the_training_part_alone_are_a_subset_too(make_tiny_splits, tmp_path):
    splits = make_tiny_splits()
    path = kept(
        tmp_path / "kept.parquet", splits, splits.train.ids_N[:9],
        label_digest=splits.train.label_digest(),
    )  # fmt: skip
    assert len(reduce_to(splits, path).train) == 9
