"""Whole runs of the reference loop for every objective, from examples in memory."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig, config_hash, settings_of
from goldiprox.objectives import OBJECTIVES, objective
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import ConfigError, DataError
from goldiprox.seeds import stream
from goldiprox.training.evaluate import evaluate
from goldiprox.training.loop import Loop, train

N, VOCABULARY = 70, 300


class Flat(nn.Module):
    """Numbers of an image."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.Tanh())
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.body(x))


class PerRow(nn.Module):
    """Takes an image's rows for the tokens of a text."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.head = nn.Linear(shape[-1], outputs)

    def forward(self, x):
        return self.head(x.flatten(1, 2))


def targets_for(entry, y, draw):
    """Targets of the kind that an objective wants, which the classes y decide."""
    if entry.per_token:
        return torch.stack([y, y, (y + 1) % 3, y], 1)
    return {
        "numbers": 3.0 * y + torch.randn(y.shape, generator=draw),
        "label sets": torch.stack([y == 0, y > 0, y == 2], 1).float(),
    }.get(entry.target_kind, y)


@pytest.fixture
def make_case(make_task):
    """A task whose targets fit an objective, and a factory of a model."""

    def make(name):
        task = make_task(count=N)

        def with_targets(examples):
            targets_N = targets_for(OBJECTIVES[name], examples.targets_N, stream(3))
            return dataclasses.replace(examples, targets_N=targets_N, true_targets_N=targets_N)

        task = dataclasses.replace(
            task,
            train=with_targets(task.train),
            evaluation=with_targets(task.evaluation),
            num_classes=1 if OBJECTIVES[name].target_kind == "numbers" else 3,
        )
        return task, PerRow if OBJECTIVES[name].per_token else Flat

    return make


def settings(name, **changed):
    given = {"model": "own", "method": "rho-loss", "batch": 7, "pool": 14, "epochs": 6, "lr": 1e-2}
    return TrainConfig(objective=name, **{**given, **changed})


def table_for(task):
    ids_N = task.train.ids_N.numpy()
    values = torch.rand(len(ids_N), generator=stream(4)).numpy()
    return ScoreTable(ids_N=ids_N, columns={IRREDUCIBLE_LOSS: values}, provenance={})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_lowers_the_loss_and_keeps_the_metrics(name, make_case, tmp_path):
    task, factory = make_case(name)
    task = dataclasses.replace(task, evaluation=task.train)  # its labels are random
    config, folder = settings(name), RunFolder(tmp_path)
    body = {"train": settings_of(config)}
    manifest = {"config": body, "config_hash": config_hash(body)}
    trained = train(config, task, folder=folder, manifest=manifest, factory=factory,
                    irreducible=table_for(task))  # fmt: skip
    first, last = trained.evaluations[0], trained.evaluations[-1]
    assert last.loss < first.loss
    trained_for = OBJECTIVES[name]
    found = evaluate(trained.model, task.evaluation, trained.feeder, objective=trained_for)
    assert dict(last.metrics) == pytest.approx(dict(found.metrics))
    assert last.metrics["loss"] == pytest.approx(last.loss)
    assert (last.accuracy is None) == (name != "classification")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metric"]["name"] == trained_for.headline.name
    values = [e.metrics[trained_for.headline.name] for e in trained.evaluations]
    assert result["final"] == values[-1]
    assert result["best"] == (max if result["metric"]["higher_is_better"] else min)(values)
    assert ("final_accuracy" in result) == (name == "classification")
    rows = read_steps(tmp_path).to_pylist()
    knows_right = name in ("classification", "multilabel")
    assert all((row["already_correct"] is not None) == knows_right for row in rows)
    assert rows[-1]["corrupted"] == 0


@pytest.mark.parametrize("name", ["regression", "language-model"])
def test_a_step_is_that_of_a_handwritten_loop(name, make_case):
    task, factory = make_case(name)
    loop = Loop(settings(name, method="uniform", pool=7), task, factory=factory)
    twin = factory(task.train.store.example_shape, task.num_classes)
    twin.load_state_dict(loop.model.state_dict())
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.01)
    for _ in range(5):
        loop.one_step()
        _, inputs, targets = loop.stepped.batch
        if name == "regression":
            losses = (twin(inputs).squeeze(1) - targets) ** 2
        else:
            logits = twin(inputs)[:, :-1].transpose(1, 2)
            losses = nn.functional.cross_entropy(logits, targets[:, 1:], reduction="none").mean(1)
        assert torch.allclose(loop.stepped.loss_k, losses.detach(), rtol=1e-5)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    for ours, theirs in zip(loop.model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["multilabel", "regression-huber"])
@pytest.mark.parametrize("method", ["learnability", "infobatch", "grad-norm", "rho-loss-soft"])
def test_companions_plans_and_gradients_take_the_objective(name, method, make_case):
    task, factory = make_case(name)
    config = settings(name, method=method, companion_model="mlp-128", epochs=3)
    trained = train(config, task, factory=factory, irreducible=table_for(task))
    assert trained.evaluations[-1].loss < 1.5 * trained.evaluations[0].loss


def test_an_objective_of_the_task_s_own_comes_before_the_settings(make_case):
    task, factory = make_case("regression")

    def cubed(output, batch):
        return (output.squeeze(1) - batch[2]).abs() ** 3

    task = dataclasses.replace(task, objective=objective(cubed))
    trained = train(settings("classification", method="loss"), task, factory=factory)
    assert trained.evaluations[-1].metrics.keys() == {"loss"}


def test_what_does_not_fit_is_refused_before_the_first_step(make_case):
    task, factory = make_case("regression")
    with pytest.raises(DataError, match="one number an example"):
        Loop(settings("classification", method="loss"), task, factory=factory)
    task, factory = make_case("classification")
    with pytest.raises(DataError, match=r"label 2 is none of the model's 2 classes"):
        Loop(
            settings("classification", method="uniform"),
            dataclasses.replace(task, num_classes=2),
            factory=factory,
        )
    with pytest.raises(ConfigError, match='"bald" needs classes'):
        Loop(settings("regression", method="bald"), *make_case("regression")[:1], factory=factory)
