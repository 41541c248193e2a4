"""Irreducible losses: the checkpoint of lowest held-out loss, one clean pass, one table."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

import goldiprox
from goldiprox.config import IrreducibleConfig
from goldiprox.data.examples import Examples
from goldiprox.irreducible import irreducible_losses
from goldiprox.precompute.irreducible import (
    average_loss,
    irreducible_cost,
    irreducible_table,
    require_fitting,
)
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import ConfigError, TableError
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery, Task

QUICK = IrreducibleConfig(batch=16, epochs=12, patience=12, lr=0.006, model="mlp-128", seed=6)


def net(shape, classes):
    """BatchNorm and dropout: only evaluation mode gives the same numbers twice."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 32), nn.BatchNorm1d(32),
                         nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, classes))  # fmt: skip


@pytest.fixture
def splits(make_tiny_splits):
    return make_tiny_splits(count=260, label_noise=0.3, validation=0.3)


@pytest.fixture
def colour(make_tiny_splits):
    return make_tiny_splits(count=260, shape=(3, 6, 6), label_noise=0.3, validation=0.3)


def task_of(splits):
    return Task(
        train=splits.holdout,
        evaluation=splits.validation,
        preprocess=splits.preprocess,
        num_classes=splits.num_classes,
    )


def one_at_a_time(model, examples, preprocess):
    """Loss, whether correct: each example alone, un-augmented, in evaluation mode, in float64."""
    model = copy.deepcopy(model).double().eval()
    losses, correct = [], []
    mean = torch.tensor(preprocess.mean_C, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(preprocess.std_C, dtype=torch.float64).view(-1, 1, 1)
    with torch.no_grad():
        for row, target in zip(examples.rows_N, examples.targets_N, strict=True):
            image = (examples.store.images_NCHW[row].double() / 255 - mean) / std
            logits = model(image[None])[0]
            losses.append(float(logits.logsumexp(0) - logits[target]))
            correct.append(bool(logits.argmax() == target))
    return losses, correct


def weights_after(splits, config, epochs):
    """Train afresh for so many epochs: the weights an unbroken run had then."""
    config = dataclasses.replace(config, epochs=epochs, patience=epochs + 1)
    settings = config.training(config.model, len(splits.holdout))
    return train(settings, task_of(splits), factory=net).model


@pytest.mark.parametrize("data", ["splits", "colour"])
def test_the_table_is_from_the_checkpoint_of_lowest_validation_loss(data, request):
    splits, config = request.getfixturevalue(data), QUICK
    assert splits.preprocess.augments == (data == "colour")
    table = irreducible_table(splits, config, factory=net)
    curve = []
    for epoch in range(1, QUICK.epochs + 1):
        model = weights_after(splits, config, epoch)
        losses, correct = one_at_a_time(model, splits.validation, splits.preprocess)
        curve.append((np.mean(losses), np.mean(correct), model))
    best = min(range(len(curve)), key=lambda e: curve[e][0])
    by_accuracy = max(range(len(curve)), key=lambda e: curve[e][1])
    assert 0 < best < len(curve) - 1, "the fixture must make lowest and last differ"
    assert best != by_accuracy, "the fixture must make lowest loss and highest accuracy differ"
    found = table.provenance["best"]
    assert found["epoch"] == best + 1
    assert found["loss"] == pytest.approx(curve[best][0], rel=1e-5)
    assert found["accuracy"] == pytest.approx(curve[best][1])

    expected, _ = one_at_a_time(curve[best][2], splits.train, splits.preprocess)
    assert table.ids_N.tolist() == splits.train.ids_N.tolist()
    assert np.allclose(table.columns[IRREDUCIBLE_LOSS], expected, atol=2e-5)


def test_patience_stops_and_the_best_still_counts(splits):
    whole = irreducible_table(splits, QUICK, factory=net)
    best = whole.provenance["best"]["epoch"]
    patient = irreducible_table(splits, dataclasses.replace(QUICK, patience=2), factory=net)
    assert patient.provenance["epochs_trained"] <= QUICK.epochs
    if patient.provenance["best"]["epoch"] == best:
        assert patient.provenance["epochs_trained"] == min(best + 2, QUICK.epochs)
        assert np.array_equal(patient.columns[IRREDUCIBLE_LOSS], whole.columns[IRREDUCIBLE_LOSS])


class Untouchable(Examples):
    """Examples that nobody may look at."""

    def fetch(self, positions_B):
        raise AssertionError("the test set was touched")


def test_the_test_set_is_never_touched(splits):
    names = ("store", "ids_N", "rows_N", "targets_N", "true_targets_N")
    test = Untouchable(**{name: getattr(splits.test, name) for name in names})
    guarded = dataclasses.replace(splits, test=test)
    table = irreducible_table(guarded, QUICK, factory=net)
    plain = irreducible_table(splits, QUICK, factory=net)
    assert np.array_equal(table.columns[IRREDUCIBLE_LOSS], plain.columns[IRREDUCIBLE_LOSS])

    # Another test set altogether makes no difference to the losses.
    other = dataclasses.replace(splits, test=splits.test.select(torch.arange(3)))
    again = irreducible_table(other, QUICK, factory=net)
    assert np.array_equal(again.columns[IRREDUCIBLE_LOSS], plain.columns[IRREDUCIBLE_LOSS])


def test_the_training_set_is_not_trained_on(splits):
    """Other labels in the training part change its losses only through the labels themselves."""
    wrong = dataclasses.replace(
        splits.train, targets_N=(splits.train.targets_N + 1) % splits.num_classes
    )
    one = irreducible_table(splits, QUICK, factory=net)
    folds = (dataclasses.replace(splits.folds[0], scored=wrong),)
    noisy = dataclasses.replace(splits, train=wrong, folds=folds)
    other = irreducible_table(noisy, QUICK, factory=net)
    assert one.provenance["best"] == other.provenance["best"]
    assert one.provenance["label_digest"] != other.provenance["label_digest"]
    assert not np.allclose(one.columns[IRREDUCIBLE_LOSS], other.columns[IRREDUCIBLE_LOSS])


def test_wrong_labels_have_higher_irreducible_losses(make_tiny_splits):
    splits = make_tiny_splits(count=600, label_noise=0.2)
    table = irreducible_table(splits, dataclasses.replace(QUICK, patience=2), factory=net)
    losses = torch.from_numpy(table.columns[IRREDUCIBLE_LOSS])
    wrong = splits.train.corrupted_N
    assert losses[wrong].mean() > losses[~wrong].mean() + 0.3


def test_copies_are_scored_under_their_own_ids(make_tiny_splits):
    splits = make_tiny_splits(count=200, duplicate=2.0)
    table = irreducible_table(splits, dataclasses.replace(QUICK, epochs=2), factory=net)
    half = len(splits.train) // 2
    assert len(table) == 2 * half
    first, second = np.split(table.columns[IRREDUCIBLE_LOSS], 2)
    assert np.allclose(first, second, atol=1e-6)
    assert not np.isin(table.ids_N, splits.holdout.ids_N.numpy()).any()


def test_an_interrupted_model_is_resumed_to_the_same_table(splits, tmp_path):
    whole = irreducible_table(splits, QUICK, factory=net)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(done, total, status):
        if done >= 20:
            raise Stop

    folder = RunFolder(tmp_path / "il")
    settings = {"folder": folder, "factory": net, "checkpoint": CheckpointEvery(steps=3)}
    with pytest.raises(Stop):
        irreducible_table(splits, QUICK, report=lambda name: stop, **settings)
    again = irreducible_table(splits, QUICK, **settings)
    assert np.array_equal(again.columns[IRREDUCIBLE_LOSS], whole.columns[IRREDUCIBLE_LOSS])
    assert again.provenance["best"] == whole.provenance["best"]


def test_what_it_cost_is_all_of_it(splits):
    config = dataclasses.replace(QUICK, epochs=3, patience=9)
    table = irreducible_table(splits, config, factory=net)
    cost = irreducible_cost(table)
    holdout, validation, scored = len(splits.holdout), len(splits.validation), len(splits.train)
    forward = 2 * (16 * 32 + 32 * 3)
    training = 3 * forward - 2 * 16 * 32
    assert cost.phases.keys() == {"irreducible-training", "irreducible-scoring"}
    assert cost.phases["irreducible-training"].examples == 3 * holdout
    assert cost.phases["irreducible-training"].steps == 3 * -(-holdout // 16)
    assert cost.phases["irreducible-training"].flops == pytest.approx(
        3 * (holdout * training + validation * forward)
    )
    assert cost.phases["irreducible-scoring"].flops == pytest.approx(scored * forward)
    assert cost.total().seconds > 0
    assert table.provenance["training_steps"] == 3 * -(-holdout // 16)


def test_the_configuration_does_not_depend_on_where_the_files_lie(splits):
    config = dataclasses.replace(QUICK, epochs=1)
    elsewhere = dataclasses.replace(
        splits, config=dataclasses.replace(splits.config, data_dir="/elsewhere")
    )
    one = irreducible_table(splits, config, factory=net).provenance
    other = irreducible_table(elsewhere, config, factory=net).provenance
    assert one["config_hash"] == other["config_hash"]
    assert "/elsewhere" not in str(other)


def fitting(splits):
    return ScoreTable(
        ids_N=splits.train.ids_N.numpy(),
        columns={IRREDUCIBLE_LOSS: np.ones(len(splits.train), np.float32)},
        provenance={
            "fingerprint": splits.dataset.fingerprint,
            "label_digest": splits.train.label_digest(),
        },
    )


REMEDY = r"goldiprox irreducible tiny .*--out il\.parquet"


def test_a_table_that_fits_is_accepted(splits):
    require_fitting(fitting(splits), splits)


def test_a_table_of_other_data_is_refused_first(splits, make_tiny_splits):
    other = make_tiny_splits(count=260, seed=1, label_noise=0.3, validation=0.3)
    with pytest.raises(TableError, match=rf"belongs to other data: .* there, .* here; .*{REMEDY}"):
        require_fitting(fitting(other), splits)


def test_a_table_of_another_split_is_refused_by_its_ids(splits, make_tiny_splits):
    other = make_tiny_splits(count=260, label_noise=0.3, validation=0.3, holdout=0.6)
    with pytest.raises(TableError, match=rf"lacks \d+ of {len(splits.train)} ids .*{REMEDY}"):
        require_fitting(fitting(other), splits)


def test_a_table_of_other_labels_is_refused(splits):
    noisier = dataclasses.replace(
        splits, train=dataclasses.replace(splits.train, targets_N=splits.train.targets_N * 0)
    )
    with pytest.raises(TableError, match=rf"belongs to other labels \(noise.*{REMEDY}"):
        require_fitting(fitting(noisier), splits)


def test_a_table_with_a_loss_that_is_nan_is_refused(splits):
    table = fitting(splits)
    table.columns[IRREDUCIBLE_LOSS][5] = np.nan
    with pytest.raises(TableError, match=rf"NaN or infinite .*first: {table.ids_N[5]}\).*{REMEDY}"):
        require_fitting(table, splits)


def test_a_table_for_more_examples_fits_if_the_labels_do(splits):
    with pytest.raises(TableError, match="other labels"):
        require_fitting(fitting(dataclasses.replace(splits, train=splits.full)), splits)


@pytest.mark.parametrize("training", [True, False])
def test_losses_of_a_model_of_ones_own(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model(torch.randn(50, 5) * 3 + 1)  # moves the running statistics
    model.train(training)
    state = copy.deepcopy(model.state_dict())
    inputs, targets = torch.randn(41, 5), torch.randint(0, 3, (41,))
    data = goldiprox.with_ids(TensorDataset(inputs, targets), ids=range(100, 141))
    table = irreducible_losses(model, DataLoader(data, batch_size=8, shuffle=True))
    assert model.training == training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    order = torch.from_numpy(table.ids_N) - 100
    assert sorted(order.tolist()) == list(range(41))
    with torch.no_grad():
        expected = F.cross_entropy(
            copy.deepcopy(model).double().eval()(inputs.double()), targets, reduction="none"
        )
    assert np.allclose(table.columns[IRREDUCIBLE_LOSS], expected[order], atol=1e-5)
    goldiprox.Chooser(model, "rho-loss", irreducible=table)(next(iter(DataLoader(data, 41))))


def repeats(data, model, orders):
    batches = [b for order in orders for b in DataLoader(data, 8, sampler=order)]
    return irreducible_losses(model, batches)


def test_an_example_that_is_drawn_again_counts_once():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    data = goldiprox.with_ids(TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,))))
    plain = repeats(data, model, [range(20)])
    # What a distributed sampler makes of 20 examples for 3 ranks, and drawing with replacement.
    padded = [*range(20), 0]
    table = repeats(data, model, [padded[rank::3] for rank in range(3)])
    assert table.ids_N.tolist() == [*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3)]
    expected = plain.columns[IRREDUCIBLE_LOSS][table.ids_N]
    assert np.allclose(table.columns[IRREDUCIBLE_LOSS], expected, atol=1e-6)
    drawn = torch.randint(0, 20, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    assert sorted(repeats(data, model, [drawn]).ids_N) == sorted(set(drawn))


def test_different_examples_under_one_id_are_refused():
    torch.manual_seed(0)
    batch = (torch.tensor([3, 3]), torch.randn(2, 4), torch.tensor([0, 1]))
    with pytest.raises(TableError, match=r"different losses \(first: 3\): .*wrap the whole"):
        irreducible_losses(nn.Linear(4, 3), [batch])
    parts = [goldiprox.with_ids(TensorDataset(batch[1], batch[2])) for _ in range(2)]
    with pytest.raises(ConfigError, match="share 2 ids"):
        irreducible_losses(nn.Linear(4, 3), DataLoader(ConcatDataset(parts)))


THREE = dataclasses.replace(QUICK, epochs=3, members=3)


def test_several_models_average_their_probabilities(splits):
    joint = irreducible_table(splits, THREE, factory=net)
    seeds = range(THREE.seed, THREE.seed + 3)
    single = [
        irreducible_table(splits, dataclasses.replace(THREE, members=1, seed=s), factory=net)
        for s in seeds
    ]
    probability = [0.0] * len(splits.train)
    for table in single:
        for i, loss in enumerate(table.columns[IRREDUCIBLE_LOSS].tolist()):
            probability[i] += math.exp(-loss) / 3
    expected = [-math.log(p) for p in probability]
    found = joint.columns[IRREDUCIBLE_LOSS]
    assert np.allclose(found, expected, atol=1e-5)
    mean_loss = np.mean([t.columns[IRREDUCIBLE_LOSS] for t in single], axis=0)
    assert (found <= mean_loss + 1e-6).all()
    assert (found < mean_loss - 1e-3).any(), "the fixture's models must differ"
    parts = [irreducible_cost(t).total() for t in single]
    assert irreducible_cost(joint).total().flops == pytest.approx(sum(p.flops for p in parts))
    assert [m["name"] for m in joint.provenance["models"]] == ["member-0", "member-1", "member-2"]
    assert len({m["weights_digest"] for m in joint.provenance["models"]}) == 3


def test_averaging_does_not_overflow_at_large_losses():
    """exp(-800) is zero in float64: the sum has to be taken in logarithms."""
    low, high = np.float32([800.0, 0.5]), np.float32([900.0, 900.0])
    assert average_loss([low, high]) == pytest.approx([800 + math.log(2), 0.5 + math.log(2)])


def test_a_model_that_was_finished_before_is_not_trained_again(splits, tmp_path):
    folder = RunFolder(tmp_path / "il")
    whole = irreducible_table(splits, THREE, factory=net, folder=folder)
    before = {p: p.stat().st_mtime_ns for p in folder.path.glob("*/model.safetensors")}
    assert len(before) == 3
    (folder.path / "member-1" / "result.json").unlink()
    told = []

    def report(name):
        told.append(name)
        return lambda *_: None

    again = irreducible_table(splits, THREE, factory=net, folder=folder, report=report)
    assert told == ["member-1"]
    assert np.array_equal(again.columns[IRREDUCIBLE_LOSS], whole.columns[IRREDUCIBLE_LOSS])
    after = {p: p.stat().st_mtime_ns for p in before}
    assert [p.parent.name for p in before if after[p] != before[p]] == ["member-1"]
    flops = [irreducible_cost(t).total().flops for t in (whole, again)]
    assert flops[0] == pytest.approx(flops[1])


def test_fewer_steps_make_a_weaker_model(splits):
    few = irreducible_table(splits, dataclasses.replace(QUICK, steps=3), factory=net).provenance
    many = irreducible_table(splits, QUICK, factory=net).provenance
    assert few["training_steps"] == 3 < many["training_steps"]
    assert few["best"]["loss"] > many["best"]["loss"]


class Memoriser(nn.Module):
    """Knows which inputs it was trained on: indifferent to new ones, absurdly sure of those."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), classes)
        self.seen = set()

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        keys = [row.numpy().tobytes() for row in x.flatten(1)]
        if self.training:
            self.seen.update(keys)
            return logits
        return logits * torch.tensor([1000.0 * (key in self.seen) for key in keys])[:, None]


@pytest.mark.parametrize("members", [1, 2])
def test_under_halves_nobody_scores_what_it_was_trained_on(make_tiny_splits, members):
    """Copies included. A position in a half taken for an id would be noticed at once."""
    splits = make_tiny_splits(count=300, duplicate=2.0, label_noise=0.2, holdout_mode="halves")
    config = dataclasses.replace(QUICK, epochs=2, members=members)
    table = irreducible_table(splits, config, factory=Memoriser)
    require_fitting(table, splits)
    assert len(table) == len(splits.train) == 2 * 240
    losses = table.columns[IRREDUCIBLE_LOSS]
    assert np.allclose(losses, math.log(splits.num_classes), atol=1e-6)

    one, other = splits.folds
    swapped = (dataclasses.replace(one, scored=other.scored),
               dataclasses.replace(other, scored=one.scored))  # fmt: skip
    wrong = irreducible_table(
        dataclasses.replace(splits, folds=swapped), config, factory=Memoriser
    ).columns[IRREDUCIBLE_LOSS]
    own = ~np.isclose(wrong, math.log(splits.num_classes), atol=1e-6)
    assert own.mean() > 0.8, "scored by the wrong half, all but the validation part is known"


def test_under_halves_the_losses_are_the_other_halfs_and_both_models_are_charged(make_tiny_splits):
    splits = make_tiny_splits(count=300, label_noise=0.2, holdout_mode="halves")
    config = dataclasses.replace(QUICK, epochs=3, patience=9)
    table = irreducible_table(splits, config, factory=net)
    losses = dict(zip(table.ids_N.tolist(), table.columns[IRREDUCIBLE_LOSS].tolist(), strict=True))
    steps = 0
    for fold in splits.folds:
        task = Task(train=fold.fit, evaluation=fold.validation, preprocess=splits.preprocess,
                    num_classes=splits.num_classes)  # fmt: skip
        settings = config.training(config.model, len(fold.fit))
        trained = train(settings, task, factory=net, keep_best=True)
        expected, _ = one_at_a_time(trained.model, fold.scored, splits.preprocess)
        assert [losses[i] for i in fold.scored.ids_N.tolist()] == pytest.approx(expected, abs=2e-5)
        assert not set(fold.fit.rows_N.tolist()) & set(fold.scored.rows_N.tolist())
        steps += trained.steps
    cost = irreducible_cost(table)
    assert cost.phases["irreducible-training"].steps == steps
    assert cost.phases["irreducible-scoring"].examples == len(splits.train)
    assert [m["name"] for m in table.provenance["models"]] == ["half-0", "half-1"]
    assert sum(m["scored"] for m in table.provenance["models"]) == len(splits.train)
