"""The model trained beside the learner."""

import copy
import importlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from goldiprox.batch import take
from goldiprox.config import TrainConfig
from goldiprox.models.registry import build_model, model_factory
from goldiprox.records.runs import RunFolder
from goldiprox.schema import ConfigError
from goldiprox.selection import methods
from goldiprox.selection.functions import reducible_loss
from goldiprox.selection.methods import CompanionSpec, Method
from goldiprox.selection.selectors import TopK
from goldiprox.training.loop import Loop, train
from goldiprox.training.task import CheckpointEvery


@pytest.fixture
def register(monkeypatch):
    """A method with a companion, known for one test."""
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))

    def add(**spec):
        entry = Method(
            name="beside",
            selector=TopK(reducible_loss),
            needs=frozenset({"loss_B", "irreducible_B"}),
            summary="",
            source="",
            cost="",
            companion=CompanionSpec(fills="irreducible_B", **spec),
        )
        return methods.register(entry)

    return add


def config(**settings):
    return TrainConfig(
        **{
            "batch": 8,
            "pool": 24,
            "epochs": 2,
            "method": "beside",
            "model": "mlp-512",
            "companion_model": "mlp-128",
            "scoring_precision": "float32",
            **settings,
        }
    )


def test_a_step_by_hand(register, make_task):
    """The choice is by the companion's losses before its step, which is on the chosen ones."""
    register(learns="chosen", lr_factor=0.5)
    task = make_task(count=72)
    loop = Loop(config(), task)
    learner, beside = copy.deepcopy(loop.model), copy.deepcopy(loop.companion.model)
    assert not loop.chooser.method.needs_irreducible
    optimizer = torch.optim.AdamW(beside.parameters(), lr=0.5e-3, weight_decay=0.01)
    drawn = loop.plan.draw(0)
    pool = loop.feeder(task.train, drawn.positions_B)
    with torch.no_grad():
        losses = [F.cross_entropy(m(pool[1]), pool[2], reduction="none") for m in (learner, beside)]
    chosen = (losses[0] - losses[1]).topk(8).indices
    loop.one_step()
    assert set(loop.log._pending[0].selection.ids_k.tolist()) == set(pool[0][chosen].tolist())
    order = loop.log._pending[0].selection.positions_k
    batch = take(pool, order)
    F.cross_entropy(beside(batch[1]), batch[2]).backward()
    optimizer.step()
    for expected, found in zip(beside.parameters(), loop.companion.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_learning_from_the_pool_takes_as_many_random_candidates(register, make_task, monkeypatch):
    register(learns="pool")
    task = make_task(count=72)
    loop = Loop(config(), task)
    seen = []
    inner = loop.companion.model.forward
    monkeypatch.setattr(
        loop.companion.model,
        "forward",
        lambda x: seen.append((len(x), torch.is_grad_enabled())) or inner(x),
    )
    before = copy.deepcopy(loop.companion.model.state_dict())
    loop.one_step()
    assert seen == [(24, False), (8, True)]
    after = loop.companion.model.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_a_resumed_run_keeps_its_companion(register, make_task, tmp_path):
    register(learns="pool")
    task = make_task(count=62)
    manifest = {"config": {}, "config_hash": "h"}
    whole = train(config(epochs=3), task)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(done, total, status):
        if done >= 6:
            raise Stop

    settings = {"manifest": manifest, "checkpoint": CheckpointEvery(steps=2)}
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Stop):
        train(config(epochs=3), task, folder=folder, report=stop, **settings)
    resumed = train(config(epochs=3), task, folder=folder, **settings)
    for one, two in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def test_its_cost_is_charged_to_scoring(register, make_task):
    register(learns="chosen")
    task = make_task(count=72)
    loop = Loop(config(), task)
    loop.one_step()
    small = build_model(model_factory("mlp-128"), (1, 4, 4), 3, 0)
    large = build_model(model_factory("mlp-512"), (1, 4, 4), 3, 0)
    matmul = [2 * sum(p.numel() for p in m.parameters() if p.dim() == 2) for m in (small, large)]
    found = loop.ledger.phases["scoring"].flops
    least = 24 * sum(matmul) + 8 * 2 * matmul[0]  # forward of both, at least forward twice more
    assert least < found < least + 8 * 2 * matmul[0]


def test_a_pretrained_companion_must_be_given(register, make_task):
    register(learns="chosen", pretrained=True)
    with pytest.raises(ConfigError, match="give it as companion="):
        Loop(config(), make_task(count=72))
    given = build_model(model_factory("mlp-128"), (1, 4, 4), 3, 0)
    assert Loop(config(), make_task(count=72), companion=given).companion.model is given


def test_what_choosing_costs_is_measured_with_a_pretrained_companion_too(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    kinds = importlib.import_module("method_overhead").in_the_loop("rho-loss-updating")
    for work in (kinds["choice"], kinds["step"]):
        work()
