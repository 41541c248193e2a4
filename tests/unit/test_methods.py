"""The table of methods."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from goldiprox.chooser import Chooser
from goldiprox.config import TrainConfig
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.schema import ConfigError, Evidence, MissingEvidence, Selection
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.methods import METHODS, CompanionSpec, Method, method, register
from goldiprox.selection.ranking import top_k
from goldiprox.selection.selectors import RandomChoice, TopK
from goldiprox.training.loop import train

FIELDS = set(Evidence.__dataclass_fields__)


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_is_complete(name):
    entry = METHODS[name]
    assert entry.name == name
    assert name == name.lower()
    assert "_" not in name
    assert entry.needs <= FIELDS - {"ids_B"}
    assert min(map(len, (entry.summary, entry.source, entry.cost))) > 5


def test_the_papers_four_are_there_and_need_what_they_should():
    needs = {name: set(METHODS[name].needs) for name in ("uniform", "loss", "irreducible")}
    assert needs == {"uniform": set(), "loss": {"loss_B"}, "irreducible": {"irreducible_B"}}
    assert METHODS["rho-loss"].needs == {"loss_B", "irreducible_B"}
    forward = {name for name in ("uniform", "loss", "irreducible", "rho-loss")
               if METHODS[name].needs_forward}  # fmt: skip
    assert forward == {"loss", "rho-loss"}
    assert METHODS["rho-loss"].needs_irreducible
    assert not METHODS["loss"].needs_irreducible


def test_an_unknown_name_gets_a_hint_and_the_list():
    with pytest.raises(ConfigError, match=r'unknown method "rho-los" \(did you mean "rho-loss"'):
        method("rho-los")
    with pytest.raises(ConfigError, match="known: uniform, loss, "):
        method("xyz")


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr("goldiprox.selection.methods.METHODS", dict(METHODS))
    entry = Method(
        name="my-own",
        selector=RandomChoice(),
        needs=frozenset(),
        summary="mine",
        source="here",
        cost="nothing",
    )
    assert register(entry) is entry
    assert method("my-own") is entry
    with pytest.raises(ConfigError, match=r'"my-own" is registered already'):
        register(entry)
    assert "my-own" not in METHODS


def test_a_method_that_leaves_the_choice_to_a_plan_has_one():
    words = {"needs": frozenset(), "summary": "mine", "source": "here", "cost": "nothing"}
    with pytest.raises(ConfigError, match="each_step=False leaves the choice to its plan"):
        Method(name="my-own", selector=RandomChoice(), each_step=False, **words)
    by_epoch = [name for name, entry in METHODS.items() if not entry.each_step]
    assert by_epoch[:3] == ["rs2", "infobatch", "svp"]


def own(selector, *needs):
    return Method(
        name="my-own",
        selector=selector,
        needs=frozenset(needs),
        summary="mine",
        source="here",
        cost="nothing",
    )


def highest_class(evidence, k, generator):
    """Needs labels, but neither a model nor a table."""
    targets_B = evidence.need("targets_B")
    return Selection.of(evidence.ids_B, top_k(targets_B.float(), evidence.ids_B, k, 0))


def test_a_method_may_need_labels_alone(monkeypatch, make_task, tmp_path):
    monkeypatch.setitem(METHODS, "my-own", own(highest_class, "targets_B"))
    task = make_task(count=40, classes=4)
    folder = RunFolder(tmp_path / "run")
    config = TrainConfig(method="my-own", batch=4, pool=40, epochs=1, model="mlp-128")
    train(config, task, folder=folder, manifest={"config": {}, "config_hash": "h"})
    [ids] = read_steps(folder.path)["ids"].to_pylist()
    label_of = dict(zip(task.train.ids_N.tolist(), task.train.targets_N.tolist(), strict=True))
    assert len(set(ids)) == 4
    assert [label_of[i] for i in ids] == sorted(label_of.values(), reverse=True)[:4]


def weighted(evidence, k, generator):
    """Everything, at weights that depend on the id."""
    positions = torch.arange(len(evidence))
    return Selection.of(evidence.ids_B, positions, (evidence.ids_B % 3).float() * 2)


@pytest.mark.parametrize("needs", [(), ("loss_B",)])
def test_weights_reach_the_gradient_and_the_log(needs, monkeypatch, make_task, tmp_path):
    monkeypatch.setitem(METHODS, "my-own", own(weighted, *needs))
    task = make_task(count=30)
    folder = RunFolder(tmp_path / "run")
    config = TrainConfig(method="my-own", batch=10, pool=10, epochs=2, lr=0.01, seed=5)

    def factory(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))

    trained = train(
        config, task, folder=folder, manifest={"config": {}, "config_hash": "h"}, factory=factory
    )
    torch.manual_seed(derive_seed(5, "weights"))
    model = factory((1, 4, 4), 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    everything = task.preprocess(task.train.store.images_NCHW[task.train.rows_N])
    logged = []
    for epoch in range(2):
        order = torch.randperm(30, generator=stream(5, "order", epoch))
        for pool in order.split(10):
            log_probs = model(everything[pool]).log_softmax(1)
            weights = [2 * (int(i) % 3) for i in task.train.ids_N[pool]]
            losses = [-log_probs[j, task.train.targets_N[p]] for j, p in enumerate(pool)]
            loss = sum(w * value for w, value in zip(weights, losses, strict=True)) / 10
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            logged.append(weights)
    for mine, theirs in zip(trained.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert read_steps(folder.path)["weights"].to_pylist() == logged


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"needs": "los_B"}, r'"my-own" needs los_B, .* \(did you mean "loss_B"\?\); it has'),
        ({"companion": CompanionSpec(fills="refrence_B", learns="pool")}, "needs refrence_B"),
    ],
)
def test_unknown_needs_are_refused_with_the_field_meant(changed, message):
    with pytest.raises(ConfigError, match=message):
        replace(own(highest_class, "loss_B"), **changed)


@pytest.mark.parametrize("needs", ["loss_B targets_B", ["loss_B", "targets_B", "ids_B"]])
def test_needs_may_be_written_as_the_decorator_takes_them(needs):
    entry = replace(own(highest_class), needs=needs)
    assert entry.needs == {"loss_B", "targets_B"}
    assert entry.needs_forward


def reads_losses(evidence):
    return evidence.loss_B.exp()


def chooses_by_losses(evidence, k, generator):
    few = evidence.at(torch.arange(4))
    return Selection.of(evidence.ids_B, torch.topk(few.loss_B, k).indices)


@pytest.mark.parametrize("selector", [TopK(reads_losses), chooses_by_losses])
def test_what_a_method_reads_without_needing_it_is_named(selector):
    chooser = Chooser(nn.Linear(3, 2), own(selector, "log_probs_BC"))
    pool = torch.arange(6), torch.randn(6, 3), torch.zeros(6).long()
    with pytest.raises(
        MissingEvidence, match=r'"my-own" reads loss_B, .* needs="log_probs_BC loss_B"'
    ):
        chooser(pool)


def test_another_fault_of_a_method_stays_its_own():
    chooser = Chooser(nn.Linear(3, 2), own(lambda evidence, k, generator: None + k, "loss_B"))
    with pytest.raises(TypeError, match="NoneType"):
        chooser((torch.arange(6), torch.randn(6, 3), torch.zeros(6).long()))
