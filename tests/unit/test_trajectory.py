"""Weights kept along a run, and runs that begin where another one was."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from goldiprox.config import TrainConfig
from goldiprox.records.runs import RunFolder
from goldiprox.schema import CheckpointError, ConfigError
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery
from goldiprox.training.trajectory import KeepWeights, load_start, weights_at

CONFIG = TrainConfig(
    model="mlp-128", method="uniform", batch=16, pool=16, epochs=4, lr=1e-2, device="cpu"
)


def run(task, folder, config=CONFIG, **more):
    manifest = {"config": {"seed": config.seed}, "config_hash": str(config.seed)}
    return train(config, task, folder=folder, manifest=manifest, **more)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def parent(make_task, tmp_path):
    task, folder = make_task(), RunFolder(tmp_path / "parent")
    trained = run(task, folder, hooks=(KeepWeights(folder, {1}, {0, 2, 4}),))
    return task, folder, trained


def test_keeps_the_weights_of_the_epochs_asked_for(parent):
    _, folder, trained = parent
    assert same(weights_at(folder, 4), trained.model.state_dict())
    kept = [weights_at(folder, epoch) for epoch in (0, 1, 2, 4)]
    assert not any(same(a, b) for a, b in pairwise(kept))
    with pytest.raises(CheckpointError, match="epoch-0003"):
        weights_at(folder, 3)


def test_goes_on_where_the_parent_was_as_the_parent_did(parent, tmp_path):
    """With the parent's own seed the child is the parent: weights, optimizer and step are there."""
    task, folder, trained = parent
    for epoch in (0, 2):
        child = run(task, RunFolder(tmp_path / f"same-{epoch}"), start=load_start(folder, epoch))
        assert same(child.model.state_dict(), trained.model.state_dict())
        assert child.steps == trained.steps


def test_another_seed_is_another_order_from_the_same_weights(parent, tmp_path):
    task, folder, trained = parent
    own = RunFolder(tmp_path / "other")
    other = dataclasses.replace(CONFIG, seed=7)
    start = load_start(folder, 2)
    child = run(task, own, other, hooks=(KeepWeights(own, {2, 3}),), start=start)
    assert not same(child.model.state_dict(), trained.model.state_dict())
    # Only what it trained itself is kept: epoch 2 was the parent's.
    assert not (own.path / "weights" / "epoch-0002.safetensors").exists()
    assert (own.path / "weights" / "epoch-0003.safetensors").exists()


def test_an_interrupted_child_goes_on_from_its_own_checkpoint(parent, tmp_path):
    task, folder, _ = parent
    other = dataclasses.replace(CONFIG, seed=7)
    whole = run(task, None, other, start=load_start(folder, 2))

    class Stop(Hook):
        def stepped(self, loop, record):
            if record.step == 13:
                raise KeyboardInterrupt

    own = RunFolder(tmp_path / "cut")
    every = CheckpointEvery(steps=1)
    with pytest.raises(KeyboardInterrupt):
        run(task, own, other, hooks=(Stop(),), start=load_start(folder, 2), checkpoint=every)
    seen = []

    class See(Hook):
        def started(self, loop):
            seen.append(loop.step)

    resumed = run(task, own, other, hooks=(See(),), start=load_start(folder, 2), checkpoint=every)
    assert seen == [13]
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_child_that_begins_at_its_last_step_is_evaluated_and_ends(parent, tmp_path):
    task, folder, trained = parent
    own = RunFolder(tmp_path / "end")
    child = run(task, own, start=load_start(folder, CONFIG.epochs))
    assert child.steps == trained.steps
    assert same(child.model.state_dict(), trained.model.state_dict())
    (only,) = child.evaluations
    last = trained.evaluations[-1]
    assert (only.step, only.accuracy, only.loss) == (last.step, last.accuracy, last.loss)
    assert own.result()["final_accuracy"] == last.accuracy


def test_a_child_cannot_begin_after_its_end(parent):
    task, folder, _ = parent
    short = dataclasses.replace(CONFIG, epochs=1)
    with pytest.raises(ConfigError, match="cannot begin after epoch 2"):
        run(task, None, short, start=load_start(folder, 2))
