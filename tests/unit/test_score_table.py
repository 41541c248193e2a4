"""Score tables over replicas: averages, resuming, joined columns, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from goldiprox.config import IrreducibleConfig
from goldiprox.names import name_of
from goldiprox.precompute.data_diet import ScoreConfig, average, score_replica
from goldiprox.precompute.diet_scores import SCORES
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import CheckpointError, ConfigError, TableError
from goldiprox.selection.pruning import PruneRule
from goldiprox.training.task import CheckpointEvery
from goldiprox.workflows import replicas as replicas_module
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.prune import prune_scores
from goldiprox.workflows.score import halved, held_out_probabilities, make_scores
from goldiprox.workflows.tables import describe_table

CONFIG = ScoreConfig(
    model="mlp-128", scores=("el2n", "forgetting", "input-norm"), replicas=2, epoch=(2,), batch=16
)


def test_the_table_is_the_mean_of_its_replicas(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(label_noise=0.2)
    out = tmp_path / "s.parquet"
    make_scores(splits, CONFIG, out)
    table = ScoreTable.read(out)
    assert table.ids_N.tolist() == splits.full.ids_N.tolist()
    assert list(table.columns) == [
        *("label", "el2n", "el2n_std", "forgetting", "first_learnt", "first_learnt_std"),
        *("forgetting_std", "never_learnt", "input_norm"),
    ]
    alone = [score_replica(splits, CONFIG, n).columns["el2n"].astype(np.float64) for n in (0, 1)]
    assert not np.allclose(alone[0], alone[1], atol=0.01)  # independent seeds
    assert np.allclose(table.columns["el2n"], np.mean(alone, axis=0), atol=1e-6)
    assert np.allclose(table.columns["el2n_std"], np.std(alone, axis=0, ddof=1), atol=1e-6)
    assert [r["seed"] for r in table.provenance["replicas"]] == [0, 1]
    assert table.columns["label"].tolist() == splits.full.targets_N.tolist()
    # Told apart by their labels alone.
    clean = make_tiny_splits()
    with pytest.raises(TableError, match="other labels"):
        table.require("make it again", label_digest=clean.full.label_digest())


def test_more_replicas_use_the_old_ones_again(make_tiny_splits, tmp_path, monkeypatch):
    splits = make_tiny_splits()
    out = tmp_path / "s.parquet"
    make_scores(splits, CONFIG, out)
    before = out.read_bytes()
    trained = []

    def counting(splits, config, replica, *rest, **more):
        trained.append(replica)
        return score_replica(splits, config, replica, *rest, **more)

    monkeypatch.setattr(replicas_module, "score_replica", counting)
    make_scores(splits, CONFIG, out)
    assert (out.read_bytes(), trained) == (before, [])
    more = dataclasses.replace(CONFIG, replicas=3)
    with pytest.raises(TableError, match=r"replicas is 2 there, 3 now"):
        make_scores(splits, more, out)
    out.unlink()
    make_scores(splits, more, out)
    assert trained == [2]
    assert len(ScoreTable.read(out).provenance["replicas"]) == 3
    out.unlink()
    with pytest.raises(CheckpointError, match=r"score.batch is 16 there, 32 now"):
        make_scores(splits, dataclasses.replace(CONFIG, batch=32), out)


def test_a_killed_replica_goes_on_and_ends_the_same(make_tiny_splits, tmp_path):
    """Stopped in the middle of an epoch, after a checkpoint in the middle of another."""
    splits = make_tiny_splits(label_noise=0.2)
    config = dataclasses.replace(
        CONFIG,
        scores=("el2n", "grand-init", "forgetting", "aum", "margin"),
        epoch=(0, 1, 3),
        epochs=5,
        batch=4,  # 48 steps an epoch
    )
    whole = score_replica(splits, config, 0)

    class Stop(Exception):  # noqa: N818 - no error: the test's own way to kill a run
        pass

    def stop_at(step, total, status):
        del total, status
        if step >= 110:
            raise Stop

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Stop):
        score_replica(
            splits, config, 0, folder, checkpoint=CheckpointEvery(steps=100), report=stop_at
        )
    assert list(folder.path.glob("checkpoint-*"))
    resumed = score_replica(splits, config, 0, folder, checkpoint=CheckpointEvery(steps=100))
    assert list(resumed.columns) == list(whole.columns)
    for name, values in whole.columns.items():
        assert np.array_equal(values, resumed.columns[name]), name


def test_side_by_side_gives_what_one_after_another_gives(make_tiny_splits, tmp_path):
    splits = make_tiny_splits()
    config = dataclasses.replace(CONFIG, replicas=2, scores=("el2n", "aum"))
    tables = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.parquet"
        make_scores(splits, config, out, execution=Execution(workers=workers))
        tables.append(ScoreTable.read(out))
    for name, values in tables[0].columns.items():
        assert np.array_equal(values, tables[1].columns[name]), name


def test_the_last_replica_missing_gets_as_many_threads_as_the_others(
    make_tiny_splits, tmp_path, monkeypatch
):
    """More threads add up in another order: going on would not end where an unbroken run ends."""
    splits, out = make_tiny_splits(), tmp_path / "s.parquet"
    given = []

    def here(job, shared, arguments, processes, tell, *, threads):
        given.append((list(arguments), processes, threads))
        yield from ((n, job(shared, a, tell)) for n, a in enumerate(arguments))

    monkeypatch.setattr(replicas_module, "run_parallel", here)
    monkeypatch.setattr(replicas_module.torch, "get_num_threads", lambda: 8)
    config = dataclasses.replace(CONFIG, replicas=3)
    make_scores(splits, config, out, execution=Execution(workers=2))
    out.unlink()
    (tmp_path / "s.parquet.run" / "replica-2.parquet").unlink()
    make_scores(splits, config, out, execution=Execution(workers=2))
    assert given == [([0, 1, 2], 2, 4), ([2], 1, 4)]
    with pytest.raises(ConfigError, match="--jobs is 0"):
        make_scores(splits, config, tmp_path / "t.parquet", execution=Execution(workers=0))


def test_a_model_that_cannot_be_sent_to_processes_is_refused(make_tiny_splits, tmp_path):
    def flat(shape, classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes))

    with pytest.raises(ConfigError, match=r"<locals>\.flat"):
        make_scores(
            make_tiny_splits(),
            dataclasses.replace(CONFIG, model=name_of(flat)),
            tmp_path / "s.parquet",
            execution=Execution(workers=2),
        )


IL = IrreducibleConfig(epochs=2)
WITH_IL = dataclasses.replace(CONFIG, scores=("el2n", "irreducible-loss"), replicas=1, epoch=(1,))


@pytest.mark.parametrize("holdout", ["split", "reuse", "halves"])
def test_irreducible_losses_come_from_the_half_that_was_not_seen(
    make_tiny_splits, tmp_path, holdout
):
    splits = make_tiny_splits(duplicate=2, label_noise=0.2, holdout_mode=holdout)
    both = halved(splits)
    assert both.full.label_digest() == splits.full.label_digest()
    one, other = (set(fold.scored.origin_N.tolist()) for fold in both.folds)
    assert not one & other
    assert one | other == set(splits.full.origin_N.tolist())
    for fold in both.folds:
        seen = [set(part.ids_N.tolist()) for part in (fold.fit, fold.validation)]
        assert not seen[0] & seen[1]
        assert seen[0] | seen[1] in (one, other)  # originals, no copies
        assert not (seen[0] | seen[1]) & set(fold.scored.origin_N.tolist())
    out = tmp_path / "s.parquet"
    make_scores(splits, WITH_IL, out, irreducible=IL)
    table = ScoreTable.read(out)
    assert np.isfinite(table.columns[IRREDUCIBLE_LOSS]).all()
    assert table.provenance["ledger"]["phases"]["irreducible-training"]["steps"] > 0
    # The predictions are those that the losses come from, copies included.
    found = held_out_probabilities(
        splits, IL, tmp_path / "s.parquet.run" / "irreducible", target_model=WITH_IL.model
    )
    labels = splits.full.targets_N.numpy()
    assert np.allclose(
        -np.log(found[np.arange(len(labels)), labels]), table.columns[IRREDUCIBLE_LOSS], atol=1e-5
    )


@pytest.mark.parametrize("change", [{"high_relevance": 1, "low_share": 0.5}, {"ambiguous": 0.3}])
def test_data_that_were_thinned_out_or_mixed_are_so_once(make_tiny_splits, change):
    splits = make_tiny_splits(label_noise=0.2, **change)
    both = halved(splits)
    assert both.dataset is splits.dataset
    assert both.full.label_digest() == splits.full.label_digest()
    assert sum(len(fold.scored) for fold in both.folds) == len(splits.full)


def test_halves_score_a_subset_and_train_on_everything(make_tiny_splits):
    splits = make_tiny_splits()
    reduced = splits.reduced(splits.full.ids_N[::3], "a third")
    both = halved(reduced)
    assert both.full.label_digest() == reduced.full.label_digest()
    assert sum(len(fold.scored) for fold in both.folds) == len(reduced.full)
    assert sum(len(f.fit) + len(f.validation) for f in both.folds) == len(splits.full)


def test_a_table_of_irreducible_losses_is_joined_or_refused(make_tiny_splits, make_table, tmp_path):
    splits = make_tiny_splits()
    note = {
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.full.label_digest(),
    }
    whole = make_table(splits.full.ids_N.flip(0), provenance=note)
    make_scores(splits, WITH_IL, tmp_path / "s.parquet", table=whole)
    found = ScoreTable.read(tmp_path / "s.parquet")
    wanted = dict(zip(whole.ids_N.tolist(), whole.columns[IRREDUCIBLE_LOSS], strict=True))
    assert found.columns[IRREDUCIBLE_LOSS].tolist() == [wanted[i] for i in found.ids_N.tolist()]
    for given, told in [
        (make_table(splits.train.ids_N, provenance=note), "lacks"),
        (make_table(splits.full.ids_N, provenance=note | {"label_digest": "x"}), "other labels"),
        (make_table(splits.full.ids_N, provenance=note | {"fingerprint": "x"}), "other data"),
    ]:
        with pytest.raises(TableError, match=told):
            make_scores(splits, WITH_IL, tmp_path / "t.parquet", table=given)
    with pytest.raises(TableError, match="not asked for"):
        make_scores(splits, CONFIG, tmp_path / "t.parquet", table=whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scores": ("el2n", "elan")}, 'unknown score "elan"; known: el2n'),
        ({"scores": ()}, "--scores is empty"),
        ({"scores": ("el2n", "el2n")}, "twice"),
        ({"replicas": 0}, "replicas is 0"),
        ({"epoch": (-1,)}, "--epoch -1"),
        ({"epoch": (5,), "epochs": 3}, "--epoch 5 is never reached"),
        ({"batch": 0}, "batch is 0"),
        ({"epoch": (0,), "epochs": 0}, "--epochs is 0"),
        ({"lr": -1.0}, "lr is -1"),
    ],
)
def test_impossible_settings_are_refused(change, told):
    with pytest.raises(ConfigError, match=told):
        ScoreConfig(**change)


def test_replicas_that_do_not_match_are_refused():
    def table(ids, **columns):
        arrays = {k: np.array(v, dtype=np.float32) for k, v in columns.items()}
        return ScoreTable(ids_N=np.array(ids), columns=arrays, provenance={})

    with pytest.raises(TableError, match="do not match"):
        average([table([1, 2], a=[0, 1]), table([2, 1], a=[0, 1])])
    with pytest.raises(TableError, match="a is NaN or infinite"):
        average([table([1], a=[np.nan])])


def test_the_page_on_scores_has_every_one_of_them():
    page = (Path(__file__).parents[2] / "docs" / "data-diet.md").read_text(encoding="utf-8")
    for name in SCORES:
        assert f"| `{name}` |" in page


def test_what_was_scored_and_what_was_kept_fit_their_own_labels_alone(make_tiny_splits, tmp_path):
    splits, clean = make_tiny_splits(label_noise=0.2), make_tiny_splits()
    out, kept = tmp_path / "s.parquet", tmp_path / "kept.parquet"
    make_scores(splits, WITH_IL, out, irreducible=IL)
    assert describe_table(out, splits)["fits"].endswith("all of its training examples")
    for rule, by in (("random", None), ("highest", IRREDUCIBLE_LOSS)):
        prune_scores(ScoreTable.read(out), PruneRule(rule=rule), kept, by=by)
        assert describe_table(kept, splits)["fits"].endswith("a part of its training examples")
        with pytest.raises(TableError, match="other labels"):
            describe_table(kept, clean)
    with pytest.raises(TableError, match="other labels"):
        describe_table(out, clean)
