"""Hooks see every step and epoch once, change nothing, and go on from checkpoints."""

import torch

from goldiprox.config import TrainConfig
from goldiprox.records.runs import RunFolder
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery

MANIFEST = {"config": {}, "config_hash": "h"}


class Stop(Exception):  # noqa: N818 - not an error of the library's
    """What a killed process is in these tests."""


class Watching(Hook):
    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.starts = 0
        self.steps, self.epochs, self.ids = [], [], []

    def started(self, loop):
        self.starts += 1
        assert loop.step == len(self.steps)

    def stepped(self, loop, record):
        assert loop.step == record.step + 1
        if record.step == self.stop_at:
            raise Stop
        self.steps.append(record.step)
        self.ids += record.selection.ids_k.tolist()
        assert len(record.loss_k) == len(loop.stepped.output) == len(record.selection)

    def epoch_ended(self, loop, epoch):
        assert loop.step == epoch * loop.per_epoch
        self.epochs.append((epoch, len(loop.evaluations)))

    def state_dict(self):
        return {"steps": list(self.steps), "epochs": list(self.epochs), "ids": list(self.ids)}

    def load_state_dict(self, state):
        self.steps, self.epochs, self.ids = state["steps"], state["epochs"], state["ids"]


CONFIG = TrainConfig(batch=8, pool=24, epochs=3, method="uniform", model="mlp-128")


def test_a_hook_is_told_everything_and_changes_nothing(make_task):
    task = make_task(count=62)
    plain = train(CONFIG, task)
    hook = Watching()
    watched = train(CONFIG, task, hooks=[hook])
    assert hook.starts == 1
    assert hook.steps == list(range(9))
    assert hook.epochs == [(1, 0), (2, 1), (3, 2)]  # before each epoch's evaluation
    assert len(hook.ids) == watched.evaluations[-1].examples
    for one, two in zip(
        plain.model.state_dict().values(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def test_a_hook_goes_on_from_the_checkpoint(make_task, tmp_path):
    task = make_task(count=62)
    whole = Watching()
    train(CONFIG, task, hooks=[whole])
    settings = {"manifest": MANIFEST, "checkpoint": CheckpointEvery(steps=2)}
    for stop_at in (5, None):
        hook = Watching(stop_at)
        try:
            train(CONFIG, task, folder=RunFolder(tmp_path / "run"), hooks=[hook], **settings)
        except Stop:
            continue
    assert hook.steps == whole.steps
    assert hook.epochs == whole.epochs
    assert hook.ids == whole.ids
