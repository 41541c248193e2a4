"""What the loop promises at its edges: small last pools, plans that weight, devices."""

import math

import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.schema import ConfigError, Selection
from goldiprox.selection.plans import Draw
from goldiprox.training.build import build_for
from goldiprox.training.checkpoint import state_of
from goldiprox.training.loop import Loop


def batchnorm(shape, classes):
    width = math.prod(shape)
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(width), nn.Linear(width, classes)
    )


def config(method, **settings):
    return TrainConfig(method=method, **{"batch": 5, "pool": 20, "epochs": 1, **settings})


def test_only_plans_that_leave_a_batch_of_one_are_refused(make_task):
    """62 examples in pools of 20 leave 2, of which 1 is chosen; plans of whole batches do not."""
    task = make_task(count=62)
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match="last pool of an epoch has 2 candidates"):
        Loop(config("uniform"), task, factory=batchnorm)
    for method in ("rs2", "infobatch"):
        Loop(config(method), task, factory=batchnorm)
        with pytest.raises(ConfigError, match="cannot train on a batch of one"):
            Loop(config(method, batch=1, pool=1), task, factory=batchnorm)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plan_s_weights_follow_the_choice_to_its_device(make_task, monkeypatch):
    loop = Loop(config("loss", model="mlp-128"), make_task(count=62))
    positions_k = torch.arange(2, device="meta")
    chosen = Selection(positions_k=positions_k, ids_k=positions_k, weights_k=positions_k.float())
    monkeypatch.setattr(loop.chooser, "select", lambda pool, k, known: chosen)
    draw = Draw(positions_B=torch.arange(4), k=2, weights_B=torch.ones(4))
    assert loop._select(None, draw).weights_k.device.type == "meta"


def test_a_checkpoint_keeps_the_random_state_of_the_run_s_own_device(make_task, monkeypatch):
    loop = Loop(config("loss", model="mlp-128"), make_task(count=62))
    assert state_of(loop)["cuda_rng"] is None
    loop.device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: device)
    assert state_of(loop)["cuda_rng"] == torch.device("cuda", 1)


def test_a_choice_by_class_sees_the_labels_without_a_forward_pass(make_task, make_table):
    task = make_task(count=60)
    table = make_table(task.train.ids_N.numpy())
    loop = Loop(
        config("irreducible@class-balanced", model="mlp-128", batch=9, pool=60),
        task,
        irreducible=table,
    )
    assert not loop.chooser.method.needs_forward
    loop.one_step()
    counts = loop.stepped.batch[2].bincount(minlength=task.num_classes)
    assert counts.max() - counts.min() <= 1


def test_the_model_of_a_run_is_made_without_a_loop(make_task):
    task, settings = make_task(count=62), config("loss", model="mlp-128")
    model, _ = build_for(settings, task)
    for one, two in zip(model.parameters(), Loop(settings, task).model.parameters(), strict=True):
        assert torch.equal(one, two)
