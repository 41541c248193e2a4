import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from goldiprox.analysis.compare import summarise
from goldiprox.config import TrainConfig
from goldiprox.data.datasets import load, make_dataset
from goldiprox.data.examples import Examples
from goldiprox.data.shift import keep_relevant, mix
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.schema import ConfigError
from goldiprox.workflows.train import train_one


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def splits_of(dataset, **changes):
    return make_splits(dataset, DataConfig(dataset="digits", **changes))


def test_classes_of_low_relevance_are_kept_in_part_in_train_and_test(digits):
    fewer, high = keep_relevant(digits, 3, 0.1, seed=0)
    assert len(high) == 3
    for part, whole in (
        (fewer.train_rows, digits.train_rows),
        (fewer.test_rows, digits.test_rows),
    ):
        assert torch.isin(part, whole).all()
        before = torch.bincount(digits.labels_N[whole], minlength=10)
        after = torch.bincount(digits.labels_N[part], minlength=10)
        for label in range(10):
            expected = before[label] if label in high else round(0.1 * int(before[label]))
            assert after[label] == expected
    assert fewer.fingerprint != digits.fingerprint


def test_relevance_is_seeded_and_shares_are_nested(digits):
    small, high = keep_relevant(digits, 3, 0.1, seed=0)
    large, same = keep_relevant(digits, 3, 0.4, seed=0)
    assert high == same
    assert torch.isin(small.train_rows, large.train_rows).all()
    assert keep_relevant(digits, 3, 0.1, seed=0)[0].fingerprint == small.fingerprint
    highs = {keep_relevant(digits, 3, 0.1, seed=seed)[1] for seed in range(5)}
    assert len(highs) > 1


def test_low_relevance_is_marked_by_the_published_label(digits):
    splits = splits_of(digits, high_relevance=4, label_noise=0.3)
    train = splits.train
    low = torch.unique(train.true_targets_N[train.mark("low_relevance")])
    high = torch.unique(train.true_targets_N[~train.mark("low_relevance")])
    assert len(low) == 6
    assert len(high) == 4
    assert splits.describe()["marked"]["low_relevance"]["train"] == int(
        train.mark("low_relevance").sum()
    )
    assert splits.config.low_share == 0.06


def test_a_data_set_can_bring_its_own_relevance(digits):
    own = dataclasses.replace(digits, high_relevance=4)
    assert splits_of(own).config.high_relevance == 4
    assert (
        splits_of(own).train.label_digest()
        == splits_of(digits, high_relevance=4).train.label_digest()
    )


def test_mixtures_are_the_mean_of_two_classes_labelled_as_either(digits):
    mixed, ambiguous_N = mix(digits, [digits.train_rows], 0.25, seed=0)
    rows = ambiguous_N.nonzero().flatten()
    assert len(rows) == round(0.25 * len(digits.train_rows))
    assert torch.isin(rows, digits.train_rows).all()
    partner = mixed.store.partner_N[rows]
    assert (digits.labels_N[rows] != digits.labels_N[partner]).all()
    assert torch.isin(partner, digits.train_rows).all()
    plain = digits.store.images_NCHW.float()
    expected = torch.floor((plain[rows] + plain[partner] + 1) / 2)
    assert torch.equal(mixed.store.fetch(rows).float(), expected)
    others = (~ambiguous_N).nonzero().flatten()
    assert torch.equal(mixed.store.fetch(others), digits.store.fetch(others))
    is_own = mixed.labels_N[rows] == digits.labels_N[rows]
    is_partners = mixed.labels_N[rows] == digits.labels_N[partner]
    assert (is_own ^ is_partners).all()
    assert 0.4 < is_own.double().mean() < 0.6


def test_any_order_and_repeats_of_a_mixed_store_are_right(digits):
    mixed, ambiguous_N = mix(digits, [digits.train_rows], 0.5, seed=3)
    rows = torch.tensor([7, 7, 0, 1500, 900, 7])
    one_by_one = torch.cat([mixed.store.fetch(row.view(1)) for row in rows])
    assert ambiguous_N[rows].any()
    assert torch.equal(mixed.store.fetch(rows), one_by_one)
    shown = np.asarray(Image.open(io.BytesIO(mixed.store.thumbnail(900))))
    np.testing.assert_array_equal(shown, one_by_one[4, 0])


@pytest.mark.parametrize("mode", ["split", "reuse", "halves"])
def test_no_image_of_the_holdout_set_is_mixed_into_what_it_scores(digits, mode):
    splits = splits_of(digits, ambiguous=0.5, holdout_mode=mode)
    partner_N = splits.dataset.store.partner_N
    for fold in splits.folds:
        seen = torch.cat([fold.fit.rows_N, fold.validation.rows_N])
        scored = fold.scored.rows_N[~torch.isin(fold.scored.rows_N, seen)]
        partners = partner_N[scored]
        assert (partners >= 0).any()
        assert not torch.isin(partners[partners >= 0], seen).any()
    assert not splits.test.mark("ambiguous").any()


def test_ambiguous_examples_are_marked_and_are_not_corrupted(digits):
    splits = splits_of(digits, ambiguous=0.5)
    marked = splits.describe()["marked"]["ambiguous"]
    assert marked["train"] == round(0.5 * len(splits.train))
    assert marked["holdout"] > 0
    assert not splits.full.corrupted_N.any()
    clean = splits_of(digits, ambiguous=0.5, holdout_noise=False)
    assert not clean.holdout.mark("ambiguous").any()
    assert clean.train.label_digest() == splits.train.label_digest()
    assert splits.dataset.fingerprint != digits.fingerprint
    assert splits_of(digits, ambiguous=0.5, data_seed=1).dataset.fingerprint != (
        splits.dataset.fingerprint
    )


def test_marks_follow_their_examples(digits):
    splits = splits_of(digits, ambiguous=0.3, duplicate=2)
    train = splits.train
    copies = train.ids_N >= len(digits)
    assert torch.equal(train.mark("ambiguous")[copies], train.mark("ambiguous")[~copies])
    some = train.select(torch.tensor([9, 3, 3]))
    assert torch.equal(some.mark("ambiguous"), train.mark("ambiguous")[[9, 3, 3]])
    plain = dataclasses.replace(splits.holdout, marks={})
    both = Examples.concatenate(train, plain)
    assert int(both.mark("ambiguous").sum()) == int(train.mark("ambiguous").sum())
    assert torch.equal(train.mark("corrupted"), train.corrupted_N)
    assert not train.mark("unheard of").any()


def test_structure_is_resolved_and_recorded(digits, tmp_path):
    matrix = np.diag([50.0] * 10)
    matrix[3, 5] = 9
    matrix[7, 1] = 8
    path = tmp_path / "confusion.csv"
    np.savetxt(path, matrix, delimiter=",")
    by_file = splits_of(digits, label_noise=0.5, confusion=str(path))
    assert by_file.config.noise_pairs == "3:5,7:1"
    by_hand = splits_of(digits, label_noise=0.5, noise_pairs="3:5,7:1")
    assert by_hand.train.label_digest() == by_file.train.label_digest()
    assert by_hand.config == by_file.config
    wrong = by_hand.full.true_targets_N[by_hand.full.corrupted_N]
    assert set(wrong.tolist()) == {3, 7}
    again = make_splits(digits, by_file.config)
    assert again.config == by_file.config


def test_a_matrix_file_is_told_from_another_content(digits, tmp_path):
    path = tmp_path / "matrix.csv"
    np.savetxt(path, np.roll(np.eye(10), 1, axis=1), delimiter=",")
    splits = splits_of(digits, noise_matrix=str(path))
    assert torch.equal(splits.train.targets_N, (splits.train.true_targets_N + 1) % 10)
    assert splits.config.noise_matrix.startswith(f"{path}@")
    assert make_splits(digits, splits.config).config == splits.config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ambiguous": 1.0}, "--ambiguous 1.0 is impossible"),
        ({"low_share": 0.0}, "--low-share 0.0 is impossible"),
        ({"high_relevance": 10}, "--high-relevance 10 of 10 classes"),
        ({"noise_pairs": "1:2"}, "--noise-pairs needs --label-noise"),
        ({"confusion": "x"}, "--confusion needs --label-noise"),
        ({"noise_matrix": "x", "label_noise": 0.1}, "leave --label-noise out"),
        ({"noise_matrix": "x", "confusion": "y"}, "--confusion and --noise-matrix exclude"),
    ],
)
def test_impossible_shifts_are_refused(digits, changes, message):
    with pytest.raises(ConfigError, match=message):
        splits_of(digits, **changes)


def test_one_class_cannot_be_mixed():
    images = torch.zeros(40, 1, 2, 2, dtype=torch.uint8)
    one = make_dataset(
        "one", images, torch.zeros(40, dtype=torch.int64), torch.arange(5),
        class_names=["a", "b"], source="here",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="two classes"):
        splits_of(one, ambiguous=0.5)


def test_a_run_counts_what_it_chose_of_each_mark(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(count=400, classes=4, high_relevance=2, low_share=0.5, ambiguous=0.25)
    train_one(splits, TrainConfig(model="mlp-128", method="uniform", batch=8, epochs=2), tmp_path)
    steps = read_steps(tmp_path)
    chosen = torch.tensor(steps["ids"].combine_chunks().flatten().to_numpy())
    for mark in ("low_relevance", "ambiguous"):
        expected = splits.train.mark(mark)[splits.train.positions_of(chosen)]
        assert sum(steps[mark].to_pylist()) == int(expected.sum()) > 0
    found = summarise([RunFolder(tmp_path)], {})
    share = splits.train.mark("low_relevance").double().mean()
    assert found.shares_marked["low_relevance"] == pytest.approx(float(share))
    entry = found.methods[0]
    counted = sum(steps["low_relevance"].to_pylist()) / len(chosen)
    assert entry.selected_share["low_relevance"] == pytest.approx(counted)
    assert len([point.shares["ambiguous"] for point in entry.curve]) == 2
