"""Recording and replaying: the same weights bit for bit, and every misfit named with its step."""

import dataclasses
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.records import sequences
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence, cut, join, thin, write_sequence
from goldiprox.records.steplog import read_steps
from goldiprox.schema import ConfigError, SequenceError
from goldiprox.training import sequence as module
from goldiprox.training.loop import Loop, train
from goldiprox.training.sequence import (
    Recorder,
    drop_recorded,
    replay,
    replay_config,
    write_recorded,
)
from goldiprox.training.task import CheckpointEvery

POOL, BATCH, EPOCHS = 24, 8, 3  # 62 examples: 3 pools an epoch, the last one short
STEPS = 9
MANIFEST = {"config": {}, "config_hash": "h"}


class Stop(Exception):  # noqa: N818 - not an error of the library's
    """What a killed process is in these tests."""


def dropout(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 12), nn.ReLU(), nn.Dropout(0.4),
                         nn.Linear(12, classes))  # fmt: skip


def batchnorm(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Conv2d(6, 5, 3, padding=1), nn.Dropout2d(0.2), nn.Flatten(),
                         nn.Linear(5 * math.prod(shape[1:]), classes))  # fmt: skip


def larger(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 40), nn.Tanh(),
                         nn.Linear(40, classes))  # fmt: skip


def settings(**given):
    known = {"batch": BATCH, "pool": POOL, "epochs": EPOCHS, "seed": 1, "lr": 3e-3,
             "schedule": "cosine", "method": "rho-loss"}  # fmt: skip
    return TrainConfig(**{**known, **given})


@pytest.fixture
def record(tmp_path, make_table):
    def make(task, name="s.parquet", factory=dropout, hook=Recorder, every=100, **given):
        config = settings(**given)
        parts = tmp_path / name.replace(".", "-")
        trained = train(
            config,
            task,
            folder=RunFolder(tmp_path / f"run-{name}"),
            manifest=MANIFEST,
            irreducible=make_table(task.train.ids_N),
            factory=factory,
            hooks=[hook(parts)],
            checkpoint=CheckpointEvery(steps=every),
        )
        provenance = {
            "steps": trained.steps, "method": config.method, "batch": config.batch,
            "pool": config.pool_size, "seed": config.seed, "epochs": config.epochs,
        }  # fmt: skip
        write_recorded(parts, tmp_path / name, provenance)
        drop_recorded(parts)
        assert not parts.exists()
        return BatchSequence.open(tmp_path / name), trained

    return make


def replayed(sequence, task, factory=dropout, **given):
    config = replay_config(TrainConfig(seed=1, lr=3e-3, schedule="cosine", **given), sequence)
    return train(config, task, factory=factory, plan=replay(sequence))


def equal(one, other):
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


METHODS = ["rho-loss", "uniform", "loss", "grad-norm-is", "rs2", "infobatch", "divbs"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [dropout, batchnorm])
def test_replay_on_the_same_model_gives_the_same_weights(method, factory, record, make_task):
    """With augmentation, dropout and BatchNorm; equal to the bit."""
    task = make_task(count=62, shape=(3, 8, 8), augment=True)
    assert task.preprocess.augments
    sequence, recorded = record(task, factory=factory, method=method)
    again = replayed(sequence, task, factory)
    assert equal(recorded, again)
    assert [e.accuracy for e in again.evaluations] == [e.accuracy for e in recorded.evaluations]
    other = replayed(sequence, task, factory, weight_decay=0.5)
    assert not equal(recorded, other)
    assert again.ledger.phases["scoring"].examples == 0
    assert again.ledger.phases["scoring"].flops == 0


@pytest.mark.parametrize("method", ["rho-loss", "rs2"])
def test_replay_on_texts_gives_the_same_weights_too(method, record, make_text_task):
    """What is chosen from a padded pool is cut to what loading it alone would give."""
    task = make_text_task(count=62)
    sequence, recorded = record(task, factory=None, method=method, model="small-transformer")
    assert equal(recorded, replayed(sequence, task, None, model="small-transformer"))


def test_a_sequence_holds_what_the_step_log_holds(record, make_task, tmp_path):
    task = make_task(count=62)
    for method in ("grad-norm-is", "rho-loss"):
        sequence, _ = record(task, f"{method}.parquet", method=method)
        log = read_steps(tmp_path / f"run-{method}.parquet").to_pylist()
        steps = list(sequence.steps())
        assert [s.step for s in steps] == [row["step"] for row in log] == list(range(STEPS))
        assert [s.epoch for s in steps] == [row["epoch"] for row in log]
        assert [s.ids_k.tolist() for s in steps] == [row["ids"] for row in log]
        weights = [None if s.weights_k is None else s.weights_k.tolist() for s in steps]
        assert weights == [row["weights"] for row in log]
    assert weights == [None] * STEPS


def test_another_model_trains_on_the_recorded_ids_in_their_order(record, make_task):
    task = make_task(count=62, shape=(3, 8, 8), augment=True)
    sequence, _ = record(task, method="grad-norm-is")
    config = replay_config(TrainConfig(seed=7), sequence)
    loop = Loop(config, task, factory=larger, plan=replay(sequence))
    for step in sequence.steps():
        loop.one_step()
        chosen = loop.log._pending[-1].selection
        assert chosen.ids_k.tolist() == step.ids_k.tolist()
        assert loop.stepped.batch[2].tolist() == (
            task.train.targets_N[task.train.positions_of(chosen.ids_k)].tolist()
        )
        if step.weights_k is not None:
            assert chosen.weights_k.tolist() == step.weights_k.tolist()


@pytest.mark.parametrize("method", ["rho-loss", "infobatch", "grad-norm-is"])
@pytest.mark.parametrize("at", [0, 1, 2, 4, 7])
def test_an_interrupted_recording_gives_the_same_file(method, at, record, make_task, monkeypatch):
    monkeypatch.setattr(sequences, "GROUP_PICKS", 3 * BATCH)
    monkeypatch.setattr(module, "GROUP_PICKS", 2 * BATCH)  # parts grow large in between, too
    monkeypatch.setattr(module, "SETTLE_EVERY", 1)
    task = make_task(count=62)
    whole, _ = record(task, "whole.parquet", method=method)

    class Dying(Recorder):
        def stepped(self, loop, step):
            super().stepped(loop, step)
            if step.step == at:
                raise Stop

    with pytest.raises(Stop):
        record(task, "broken.parquet", hook=Dying, every=2, method=method)
    broken, _ = record(task, "broken.parquet", every=3, method=method)
    assert broken.path.read_bytes() == whole.path.read_bytes()


def test_steps_that_were_not_recorded_are_noticed_on_resuming(record, make_task, tmp_path):
    task = make_task(count=62)

    class Dying(Recorder):
        def stepped(self, loop, step):
            super().stepped(loop, step)
            if step.step == 5:
                raise Stop

    with pytest.raises(Stop):
        record(task, "broken.parquet", hook=Dying, every=2)
    parts = sorted((tmp_path / "broken-parquet").iterdir())
    parts[0].unlink()
    with pytest.raises(SequenceError, match="no part with step 0, and 4 steps were done"):
        record(task, "broken.parquet")


def test_an_interrupted_replay_goes_on(record, make_task, tmp_path):
    task = make_task(count=62)
    sequence, recorded = record(task)
    config = replay_config(settings(), sequence)

    def run(hooks=()):
        return train(config, task, folder=RunFolder(tmp_path / "replay"), manifest=MANIFEST,
                     factory=dropout, hooks=hooks, plan=replay(sequence),
                     checkpoint=CheckpointEvery(steps=2))  # fmt: skip

    class Dying(module.Hook):
        def stepped(self, loop, step):
            if step.step == 6:
                raise Stop

    with pytest.raises(Stop):
        run([Dying()])
    assert equal(run([module.Hook()]), recorded)


def test_parts_of_sequences_are_replayed_from_their_own_pools(record, make_task, tmp_path):
    """Cut in mid-epoch, thinned, joined from runs of other seeds and other pools."""
    task = make_task(count=62)
    one, _ = record(task, "one.parquet", seed=1)
    two, _ = record(task, "two.parquet", seed=2, pool=16)
    cut(one, tmp_path / "cut", 4, 8)
    thin(two, tmp_path / "thin", 3)
    join([BatchSequence.open(tmp_path / n) for n in ("cut", "thin", "one.parquet")], tmp_path / "j")
    joined = BatchSequence.open(tmp_path / "j")
    trained = replayed(joined, task)
    assert trained.steps == len(joined) == 4 + 4 + 9
    part = replayed(joined, task, steps=5)
    assert part.steps == 5


@pytest.mark.parametrize("field", ["pool", "ids", "positions", "step"])
def test_a_step_that_does_not_fit_is_named(field, record, make_task, tmp_path):
    task = make_task(count=62)
    sequence, _ = record(task)
    rows = pa.concat_tables([table for _, table in sequence.tables()]).to_pylist()
    wrong = {
        "pool": "0" * 16,
        "ids": [*rows[5]["ids"][:-1], rows[5]["ids"][0]],
        "positions": [*rows[5]["positions"][:-1], POOL + 3],
        "step": rows[5]["step"] + 1,
    }
    rows[5][field] = wrong[field]
    table = pa.Table.from_pylist(rows, schema=sequences.SCHEMA)
    write_sequence(tmp_path / "bad", [table], sequence.parts)
    bad = BatchSequence.open(tmp_path / "bad")
    with pytest.raises(SequenceError, match="does not fit at step 5 ") as caught:
        replayed(bad, task)
    assert ("its pool" in str(caught.value)) == (field in ("pool", "step"))
    assert replayed(bad, task, steps=5).steps == 5


def test_other_data_are_noticed_at_the_first_step(record, make_task):
    task = make_task(count=62)
    sequence, _ = record(task)
    other = dataclasses.replace(task, train=task.train.select(torch.arange(61)))
    more = make_task(count=90, seed=3)
    for wrong in (other, more):
        with pytest.raises(SequenceError, match="does not fit at step 0"):
            replayed(sequence, wrong)


def test_an_id_that_is_not_there_is_noticed_where_it_comes(record, make_task):
    """A method that trains on all it draws: its pools are put together from their ids."""
    task = make_task(count=62)
    sequence, _ = record(task, method="infobatch")
    gone = task.train.ids_N[-1].item()
    at = next(n for n, step in enumerate(sequence.steps()) if gone in step.ids_k)
    other = dataclasses.replace(task, train=task.train.select(torch.arange(61)))
    with pytest.raises(SequenceError, match=f"does not fit at step {at} "):
        replayed(sequence, other)


def test_the_end_of_the_sequence_is_an_error_not_a_silence(record, make_task):
    task = make_task(count=62)
    sequence, _ = record(task)
    config = dataclasses.replace(replay_config(settings(), sequence), steps=STEPS + 1)
    with pytest.raises(SequenceError, match="ends after 9 steps, and step 9 is asked for"):
        train(config, task, factory=dropout, plan=replay(sequence))


def test_the_sequence_decides_what_it_recorded(record, make_task):
    sequence, _ = record(make_task(count=62))
    config = replay_config(TrainConfig(model="small-cnn", seed=5), sequence)
    assert (config.method, config.batch, config.pool, config.steps) == ("uniform", 8, 24, 9)
    assert (config.model, config.seed) == ("small-cnn", 5)
    assert replay_config(settings(steps=4), sequence).steps == 4
    for wrong, name in (
        ({"method": "loss"}, "--method loss"),
        ({"batch": 16}, "--batch 16"),
        ({"pool": 100, "batch": 8}, "--pool 100"),
        ({"epochs": 7}, "--epochs 7"),
    ):
        with pytest.raises(ConfigError, match=f"{name} contradicts --replay: .* was recorded with"):
            replay_config(TrainConfig(**wrong), sequence)
    with pytest.raises(ConfigError, match="--steps 10 is more than the 9 steps"):
        replay_config(TrainConfig(steps=10), sequence)


def test_missing_parts_are_refused_when_joined(tmp_path):
    with pytest.raises(SequenceError, match="no part with step 0, and 9 steps were done"):
        write_recorded(tmp_path / "none", tmp_path / "s", {"steps": 9, "batch": 8})
    assert not (tmp_path / "s").exists()


def test_parts_whose_removal_is_cut_short_are_not_joined_again(record, make_task, monkeypatch):
    task = make_task(count=62)
    whole, _ = record(task, "whole.parquet")
    monkeypatch.setattr(module, "SETTLE_EVERY", 1)
    monkeypatch.setattr(module, "GROUP_PICKS", BATCH)  # a part for each step
    removed, rmtree = [], shutil.rmtree

    def dying(folder, ignore_errors=False):
        if "broken-parquet" not in folder.name:  # the run's own parts
            rmtree(folder, ignore_errors=ignore_errors)
        elif not ignore_errors:
            removed.extend(sorted(folder.iterdir()))
            removed[0].unlink()
            raise Stop

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(Stop):
        record(task, "broken.parquet")
    assert len(removed) > 2
    assert not (whole.path.parent / "broken-parquet").exists()
    assert (whole.path.parent / "broken.parquet").read_bytes() == whole.path.read_bytes()


def test_ids_beyond_float_precision_survive(record, make_task):
    task = make_task(count=62)
    big = dataclasses.replace(task.train, ids_N=task.train.ids_N + 2**24 * 3 + 1)
    task = dataclasses.replace(task, train=big)
    sequence, _ = record(task, method="uniform")
    found = np.concatenate([s.ids_k for s in sequence.steps()])
    assert set(found.tolist()) <= set(big.ids_N.tolist())
    replayed(sequence, task)
