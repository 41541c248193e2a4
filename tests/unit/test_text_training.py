"""Training on texts: the same loop, whatever chooses, and it goes on where it stopped."""

from dataclasses import asdict

import pytest
import torch

from goldiprox.config import IrreducibleConfig, LearnerConfig, TrainConfig
from goldiprox.evidence.flops import flops_per_example
from goldiprox.models.text import WordTokenizer
from goldiprox.precompute import coreset
from goldiprox.records.runs import RunFolder
from goldiprox.selection.methods import method
from goldiprox.training.build import build
from goldiprox.training.loop import Loop, train
from goldiprox.training.task import CheckpointEvery


def config(method="loss", **changes):
    settings = {"model": "small-transformer", "batch": 4, "pool": 20, "epochs": 2, "lr": 3e-3}
    return TrainConfig(method=method, device="cpu", **{**settings, **changes})


@pytest.mark.parametrize("method", ["uniform", "loss", "rho-loss", "grad-norm", "bald", "rs2"])
def test_every_kind_of_method_trains_on_texts(make_text_task, make_table, method):
    task = make_text_task()
    table = make_table(task.train.ids_N)
    found = train(config(method), task, irreducible=table)
    assert found.steps == 8
    assert [e.matthews for e in found.evaluations] == [None, None]  # three classes
    assert found.feeder.preprocess.tokenizer.vocabulary > 10


def test_a_model_learns_what_stands_in_the_texts(make_text_task):
    task = make_text_task(count=200, classes=2)
    found = train(config("uniform", model="bag-of-embeddings", epochs=20, pool=8, lr=5e-3), task)
    # A fifth of the texts do not tell their class.
    assert max(e.accuracy for e in found.evaluations) > 0.75
    assert max(e.matthews for e in found.evaluations) > 0.5


def test_what_is_trained_on_is_padded_no_further_than_it_needs(make_text_task, monkeypatch):
    widths = []
    loop = Loop(config("loss"), make_text_task())
    lengths = loop.feeder.lengths(loop.task.train)
    loop.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append((module.training, kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    for _ in range(4):
        widths.clear()
        loop.one_step()
        (scored, pool), (trained, batch) = widths[0], widths[-1]
        assert (scored, trained) == (False, True)
        draw = loop.plan.draw(loop.step - 1)
        assert pool[1] == lengths[draw.positions_B].max()
        assert batch[1] <= pool[1]


def test_it_goes_on_where_it_stopped(make_text_task, tmp_path):
    task = make_text_task()
    manifest = {"config": asdict(config()), "config_hash": "c"}
    whole = train(config(), task, folder=RunFolder(tmp_path / "whole"), manifest=manifest)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(done, total, status):
        if done >= 4:
            raise Stopped

    broken = RunFolder(tmp_path / "broken")
    every = CheckpointEvery(steps=3)
    with pytest.raises(Stopped):
        train(config(), task, folder=broken, manifest=manifest, checkpoint=every, report=stop)
    found = train(config(), task, folder=broken, manifest=manifest, checkpoint=every)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name]), name


def test_texts_of_mean_length_stand_for_all_when_costs_are_counted(make_text_task):
    task = make_text_task()
    model, feeder = build(
        "small-transformer", task.train, task.preprocess, 3, seed=0, device=torch.device("cpu")
    )
    lengths = feeder.lengths(task.train).double()
    typical = feeder.typical(task.train, 8)
    assert float((lengths[typical] - lengths.mean()).abs().max()) <= 1
    few = flops_per_example(model, feeder(task.train, typical))
    assert few[1] > 2 * few[0] > 0


def test_auto_means_what_goes_with_texts():
    assert LearnerConfig().resolved_model(()) == "albert/albert-base-v2"
    assert LearnerConfig().resolved_model((1, 8, 8)) == "mlp"
    assert IrreducibleConfig().resolved_model("albert/albert-base-v2", ()) == "bag-of-embeddings"
    settings = IrreducibleConfig(tokenizer="folder", max_length=7).training("small-transformer", 99)
    assert (settings.tokenizer, settings.max_length) == ("folder", 7)


def test_a_vocabulary_comes_from_the_training_texts_once_each(make_text_task):
    task = make_text_task()
    copies = task.train.select(torch.arange(70).repeat(2))
    _, feeder = build(
        "bag-of-embeddings", copies, task.preprocess, 3, seed=0, device=torch.device("cpu")
    )
    assert feeder.preprocess.tokenizer.key == WordTokenizer(task.train.store.texts, 128).key


@pytest.mark.parametrize("name", ["svp", "svp-forgetting", "svp-k-center"])
def test_a_proxy_reads_the_learner_s_tokens(make_text_task, name, monkeypatch):
    """With a learning rate of its own: the learner's may be that of a pretrained model."""
    seen = []

    def watched(config, task, **settings):
        seen.append((config.lr, task.preprocess.tokenizer))
        return train(config, task, **settings)

    monkeypatch.setattr(coreset, "train", watched)
    core_set = coreset.CoreSet(method(name).core_set)
    found = train(config(name, lr=2e-5), make_text_task(), hooks=(core_set,), plan=core_set.plan)
    assert found.steps == 8
    assert seen == [(1e-3, found.feeder.preprocess.tokenizer)]
