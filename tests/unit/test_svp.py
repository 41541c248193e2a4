"""Selection via proxy: what is kept, what it costs, how it resumes."""

from __future__ import annotations

import pytest
import torch

from goldiprox.chooser import Chooser
from goldiprox.cli import main
from goldiprox.config import TrainConfig
from goldiprox.precompute import coreset
from goldiprox.precompute.coreset import CoreSet, proxy_config
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.schema import ConfigError
from goldiprox.selection.coreset import CoreSetSpec, FixedSubset, k_center_greedy
from goldiprox.selection.methods import METHODS, method
from goldiprox.selection.plans import Course
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery

NAMES = [name for name, entry in METHODS.items() if entry.core_set is not None]
MANIFEST = {"config": {}, "config_hash": "h"}


def config_for(name, **more):
    return TrainConfig(**{"method": name, "batch": 5, "pool": 20, "model": "mlp-128", **more})


def run(name, task, folder=None, **more):
    core_set = CoreSet(method(name).core_set)
    return train(
        config_for(name, **more),
        task,
        folder=folder,
        manifest=MANIFEST,
        hooks=(core_set,),
        plan=core_set.plan,
    )


def trained_ids(folder):
    return [i for ids in read_steps(folder.path)["ids"].to_pylist() for i in ids]


def proxy_outputs(task, name):
    """The same proxy, trained again by itself; its probabilities and last-layer inputs."""
    spec, data = METHODS[name].core_set, task.train
    config = proxy_config(config_for(name), data.store.example_shape, len(data), spec)
    proxy = train(config, task).model.eval()
    inputs = task.preprocess(data.fetch(torch.arange(len(data))))
    caught = []
    last = [m for m in proxy.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        probs = proxy(inputs).softmax(1)
    return probs, caught[0]


@pytest.mark.parametrize(
    ("name", "uncertainty"),
    [
        ("svp", lambda p: -(p * p.log()).sum(1)),
        ("svp-least-confidence", lambda p: 1 - p.max(1).values),
        ("svp-margin", lambda p: -p.sort(1).values.diff(dim=1)[:, -1]),
    ],
)
def test_the_examples_that_the_proxy_is_least_sure_of_are_trained_on(
    name, uncertainty, make_task, tmp_path
):
    task = make_task(count=60)
    folder = RunFolder(tmp_path / "run")
    run(f"{name}@keep=0.25", task, folder, epochs=4)
    probs, _ = proxy_outputs(task, name)
    expected = task.train.ids_N[uncertainty(probs).topk(15).indices].tolist()
    ids = trained_ids(folder)
    assert sorted(ids[:15]) == sorted(expected), "each once before any comes again"
    assert len(ids) == 4 * 3 * 5
    assert set(ids) == set(expected)


def test_k_center_covers_the_proxy_s_features(make_task, tmp_path):
    task = make_task(count=60)
    folder = RunFolder(tmp_path / "run")
    run("svp-k-center@keep=0.25", task, folder, epochs=1)
    _, features = proxy_outputs(task, "svp-k-center")
    expected = task.train.ids_N[k_center_greedy(features, task.train.ids_N, 15, 0)].tolist()
    assert sorted(trained_ids(folder)) == sorted(expected)


def test_the_proxy_is_charged_before_the_first_step(make_task):
    task = make_task(count=60)
    ours, plain = run("svp", task, epochs=1), train(config_for("uniform", epochs=1), task)
    spec = METHODS["svp"].core_set
    config = proxy_config(config_for("svp"), task.train.store.example_shape, 60, spec)
    proxy = train(config, task)
    for what in ("flops", "examples"):
        paid = [getattr(it.ledger.phases["training"], what) for it in (ours, plain, proxy)]
        assert paid[0] == pytest.approx(paid[1] + paid[2]), what
    assert ours.ledger.phases["scoring"].examples == 60
    assert ours.evaluations[0].flops > plain.evaluations[0].flops + proxy.evaluations[0].flops


@pytest.mark.parametrize("name", ["svp", "svp-forgetting"])
def test_a_resumed_run_has_its_core_set_and_trains_no_proxy(name, make_task, tmp_path, monkeypatch):
    task = make_task(count=60)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    run(name, task, whole, epochs=3)

    class StopError(Exception):
        pass

    def stop(done, total, status):
        if done >= 3:
            raise StopError

    core_set = CoreSet(method(name).core_set)
    with pytest.raises(StopError):
        train(
            config_for(name, epochs=3, evaluate_every=1),
            task,
            folder=broken,
            manifest=MANIFEST,
            hooks=(core_set,),
            plan=core_set.plan,
            checkpoint=CheckpointEvery(steps=1),
            report=stop,
        )

    def never(*_, **__):
        raise AssertionError("the proxy is trained again")

    monkeypatch.setattr(coreset, "train", never)
    run(name, task, broken, epochs=3, evaluate_every=1)
    assert trained_ids(broken) == trained_ids(whole)


def test_chance_decides_between_examples_that_were_forgotten_as_often(
    make_task, tmp_path, monkeypatch
):
    """Not the id, by which the examples of an image folder are sorted by class."""
    task = make_task(count=60)
    events = torch.zeros(60)
    events[[7, 30, 59]] = torch.tensor([1.0, 2.0, 5.0])
    monkeypatch.setattr(coreset.ScoreHook, "columns", lambda _: {"forgetting": events.numpy()})
    kept = []
    for seed in range(3):
        folder = RunFolder(tmp_path / str(seed))
        run("svp-forgetting@keep=0.5", task, folder, epochs=4, seed=seed)
        kept.append(set(trained_ids(folder)))
        assert len(kept[-1]) == 30
        assert set(task.train.ids_N[[7, 30, 59]].tolist()) <= kept[-1]
    assert len({frozenset(ids) for ids in kept}) == 3
    lowest = set(task.train.ids_N.sort().values[:27].tolist())
    assert all(8 <= len(ids & lowest) <= 20 for ids in kept)


def test_the_subset_comes_whole_before_it_comes_again():
    course = Course(ids_N=torch.arange(100) * 3, pool=20, batch=4, steps=10, seed=1)
    plan = FixedSubset(course, torch.tensor([5, 50, 7, 99, 12, 31, 2]))
    epochs = [[plan.draw(2 * e + s).positions_B.tolist() for s in range(2)] for e in range(3)]
    for first, second in epochs:
        assert sorted(first + second) == [2, 5, 7, 12, 31, 50, 99]
    assert epochs[0] != epochs[1]


def test_what_cannot_be_is_refused(make_task, tmp_path, capsys):
    with pytest.raises(ConfigError, match="trains a proxy and chooses a core-set before"):
        train(config_for("svp"), make_task())
    with pytest.raises(ConfigError, match="decides for whole epochs"):
        Chooser(torch.nn.Linear(2, 2), "svp")((torch.arange(4),))
    assert CoreSetSpec(by="entropy", keep=0.1).count(5) == 1
    budget = ["--protocol", "budget", "--seconds", "5"]
    with pytest.raises(SystemExit):
        main(["compare", "digits", "--methods", "svp", *budget, "--out", str(tmp_path / "b")])
    assert "which reference seconds do not count" in capsys.readouterr().err


def test_every_criterion_is_compared(tmp_path):
    out = tmp_path / "out"
    settings = ["--model", "mlp-128", "--pool", "64", "--batch", "8", "--epochs", "1"]
    command = ["compare", "digits", "--methods", ",".join(["uniform", *NAMES]), "--seeds", "1"]
    main([*command, *settings, "--out", str(out)])
    chosen = {name: set(trained_ids(RunFolder(out / "runs" / f"{name}-0"))) for name in NAMES}
    assert len({frozenset(ids) for ids in chosen.values()}) == len(NAMES)
    one = RunFolder(tmp_path / "one")
    main(["train", "digits", "--method", "svp", *settings, "--out", str(one.path)])
    assert set(trained_ids(one)) == chosen["svp"]
