"""Experiment trackers are told of every evaluation, and change nothing."""

import sys
from types import SimpleNamespace

import pytest
import torch

from goldiprox.commands.shared import LogTo
from goldiprox.config import TrainConfig
from goldiprox.loggers import TRACKERS, open_logger
from goldiprox.records.runs import RunFolder
from goldiprox.schema import ConfigError
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery
from goldiprox.training.tracking import Tracking
from goldiprox.workflows.execution import Execution

CONFIG = TrainConfig(batch=8, pool=24, epochs=2, method="uniform", model="mlp-128")


class Fake:
    """A module with the two calls that trackio and wandb share."""

    def __init__(self):
        self.begun, self.logged, self.finished = [], [], 0

    def init(self, **settings):
        self.begun.append(settings)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def _log(self, values, *, step):
        self.logged.append((step, values))

    def _finish(self):
        self.finished += 1


@pytest.fixture
def trackio(monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    return fake


def test_every_evaluation_is_logged_and_the_run_is_the_same(make_task, tmp_path, trackio):
    task = make_task(count=48)
    plain = train(CONFIG, task)
    hooks = Execution(tracker="trackio").hooks(tmp_path, CONFIG)
    told = train(CONFIG, task, hooks=hooks)
    for one, two in zip(plain.model.parameters(), told.model.parameters(), strict=True):
        assert torch.equal(one, two)
    (begun,) = trackio.begun
    assert begun["project"] == "goldiprox"
    assert begun["name"] == str(tmp_path)
    assert begun["config"]["batch"] == 8
    assert [step for step, _ in trackio.logged] == [e.step for e in told.evaluations] == [2, 4]
    for (_, values), evaluation in zip(trackio.logged, told.evaluations, strict=True):
        assert values["accuracy"] == evaluation.accuracy
        assert values["loss"] == evaluation.loss
        assert values["seconds"] == evaluation.seconds
    assert trackio.finished == 1


def test_a_run_goes_on_with_a_tracker_that_it_began_without(make_task, tmp_path, trackio):
    task = make_task(count=48)
    manifest = {"config": {}, "config_hash": "h"}

    class Stop(Tracking):
        def stepped(self, run, record):
            if record.step == 2:
                raise KeyboardInterrupt

    every = CheckpointEvery(steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, task, folder=RunFolder(tmp_path), manifest=manifest, checkpoint=every,
              hooks=[Stop("trackio", tmp_path, CONFIG)])  # fmt: skip
    train(CONFIG, task, folder=RunFolder(tmp_path), manifest=manifest, checkpoint=every)
    assert [step for step, _ in trackio.logged] == [2]


def test_absent_and_unknown_trackers_are_refused_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--log wandb: install it with: pip install wandb"):
        Execution(tracker="wandb")
    with pytest.raises(ConfigError, match='unknown tracker "mlflow"; known: trackio, wandb'):
        open_logger("mlflow", project="p", name="n", out=tmp_path, config={})


def test_the_flag_offers_the_trackers():
    assert LogTo.__args__ == TRACKERS
