import dataclasses
import hashlib
import json
import struct

import pytest
import torch

from goldiprox.data.datasets import Dataset, load, make_dataset
from goldiprox.data.examples import Examples
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import ConfigError, DataError
from goldiprox.seeds import stream


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("digits")


def config(**changes) -> DataConfig:
    return DataConfig(dataset="digits", **changes)


def test_parts_are_disjoint_and_cover_everything(dataset):
    splits = make_splits(dataset, config())
    parts = [splits.train, splits.holdout, splits.validation, splits.test]
    ids = torch.cat([part.ids_N for part in parts])
    assert torch.equal(ids.sort().values, torch.arange(len(dataset)))
    assert [len(part) for part in parts] == [719, 647, 72, 359]
    assert torch.equal(splits.test.ids_N, dataset.test_rows)


def test_ids_are_rows_of_the_store_even_in_subsets(dataset):
    splits = make_splits(dataset, config())
    some = splits.holdout.select(torch.tensor([5, 0, 9]))
    assert torch.equal(some.ids_N, splits.holdout.ids_N[[5, 0, 9]])
    assert torch.equal(some.fetch(torch.arange(3)), dataset.store.fetch(some.ids_N))
    assert torch.equal(some.true_targets_N, dataset.labels_N[some.ids_N])


def test_copies_stay_in_train_and_have_their_originals_inputs_and_labels(dataset):
    splits = make_splits(dataset, config(duplicate=2.5, label_noise=0.3))
    train = splits.train
    assert len(train) == 2 * 719 + round(0.5 * 719)
    assert len(torch.unique(train.ids_N)) == len(train)
    held = torch.cat([splits.holdout.ids_N, splits.validation.ids_N, splits.test.ids_N])
    assert not torch.isin(train.origin_N, held).any()
    assert not (held >= len(dataset)).any()
    copies = train.ids_N >= len(dataset)
    originals = train.positions_of(train.origin_N[copies])
    assert torch.equal(train.targets_N[copies], train.targets_N[originals])
    assert torch.equal(train.fetch(copies.nonzero().flatten()), train.fetch(originals))


def test_duplication_changes_neither_split_nor_noise(dataset):
    plain = make_splits(dataset, config(label_noise=0.2))
    copied = make_splits(dataset, config(label_noise=0.2, duplicate=3))
    assert plain.holdout.label_digest() == copied.holdout.label_digest()
    assert torch.equal(plain.train.ids_N, copied.train.ids_N[: len(plain.train)])


def test_noise_is_the_same_whatever_the_split(dataset):
    def labels(**changes):
        full = make_splits(dataset, config(label_noise=0.3, **changes)).full
        return full.targets_N[full.ids_N.argsort()]

    assert torch.equal(labels(holdout=0.5), labels(holdout=0.2))
    assert not torch.equal(labels(), labels(data_seed=1))


def test_noise_reaches_all_parts_but_the_test_set(dataset):
    splits = make_splits(dataset, config(label_noise=0.4, redraw_original=False))
    wrong = splits.describe()["label_noise"]["wrong"]
    assert wrong["train"] + wrong["holdout"] + wrong["validation"] == round(0.4 * 1438)
    assert min(wrong["train"], wrong["holdout"], wrong["validation"]) > 0
    assert wrong["test"] == 0
    assert int(splits.train.corrupted_N.sum()) == wrong["train"]
    assert torch.equal(dataset.labels_N, load("digits").labels_N)  # the truth is untouched


def test_a_seed_fixes_everything(dataset):
    one = make_splits(dataset, config(label_noise=0.1, duplicate=1.5, data_seed=4)).describe()
    two = make_splits(dataset, config(label_noise=0.1, duplicate=1.5, data_seed=4)).describe()
    three = make_splits(dataset, config(label_noise=0.1, duplicate=1.5, data_seed=5)).describe()
    assert one == two
    assert one["label_digests"]["train"] != three["label_digests"]["train"]
    assert one["label_digests"]["test"] == three["label_digests"]["test"]
    assert one["fingerprint"] == three["fingerprint"]


def test_purposes_have_unrelated_generators():
    draws = {
        (seed, purpose): torch.rand(3, generator=stream(seed, purpose)).tolist()
        for seed in (0, 1)
        for purpose in ("noise", "split")
    }
    assert len({tuple(value) for value in draws.values()}) == 4
    expected = int.from_bytes(hashlib.sha256(b"0/noise").digest()[:8], "little") >> 1
    assert stream(0, "noise").initial_seed() == expected


def test_full_is_everything_but_test(dataset):
    splits = make_splits(dataset, config())
    assert torch.equal(splits.full.ids_N.sort().values, dataset.train_rows)


def test_description_is_json(dataset):
    text = json.dumps(make_splits(dataset, config(label_noise=0.1)).describe())
    assert json.loads(text)["label_noise"]["original_may_be_redrawn"] is True


def test_augmentation_can_be_switched_off():
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    colour = make_dataset(
        "c", images, labels, torch.arange(30, 40), class_names=["a", "b"], source="here"
    )
    assert make_splits(colour, config(validation=0.5)).preprocess.augments
    assert not make_splits(colour, config(validation=0.5, augment=False)).preprocess.augments


def test_digest_is_over_pairs_sorted_by_id(dataset):
    part = make_splits(dataset, config()).validation
    pairs = sorted(zip(part.ids_N.tolist(), part.targets_N.tolist(), strict=True))
    packed = b"".join(struct.pack("<qq", *pair) for pair in pairs)
    assert part.label_digest() == hashlib.sha256(packed).hexdigest()
    assert part.select(torch.randperm(len(part))).label_digest() == part.label_digest()


def test_digest_changes_with_a_label_an_id_or_a_missing_example(dataset):
    part = make_splits(dataset, config()).validation
    other_label, other_id = part.targets_N.clone(), part.ids_N.clone()
    other_label[3] += 1
    other_id[3] += 10_000
    digests = {
        part.label_digest(),
        dataclasses.replace(part, targets_N=other_label).label_digest(),
        dataclasses.replace(part, ids_N=other_id).label_digest(),
        part.select(torch.arange(len(part) - 1)).label_digest(),
    }
    assert len(digests) == 4


def test_positions_of_finds_ids_in_any_order(dataset):
    train = make_splits(dataset, config(duplicate=2)).train
    positions = torch.tensor([900, 3, 3, 0])
    assert torch.equal(train.positions_of(train.ids_N[positions]), positions)
    assert train.positions_of(torch.tensor([], dtype=torch.int64)).shape == (0,)


def test_positions_of_names_unknown_ids(dataset):
    part = make_splits(dataset, config()).validation
    known = int(part.ids_N[0])
    with pytest.raises(DataError, match=r"2 of 3 ids are not among these 72 .*first: -1, 99999"):
        part.positions_of(torch.tensor([-1, known, 99_999]))


def test_positions_of_repeated_examples_is_refused(dataset):
    part = make_splits(dataset, config()).validation
    twice = Examples.concatenate(part, part)
    with pytest.raises(DataError, match=f"more than once .first: {int(part.ids_N.min())}"):
        twice.positions_of(part.ids_N[:1])


def test_examples_of_different_stores_do_not_mix(dataset):
    one, other = make_splits(dataset, config()), make_splits(load("digits"), config())
    with pytest.raises(DataError, match="different data sets"):
        Examples.concatenate(one.train, other.holdout)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"holdout": 0.0}, "holdout 0.0 is impossible"),
        ({"holdout": 1.0}, "holdout 1.0 is impossible"),
        ({"validation": 1.0}, "validation 1.0 is impossible: give a share of the holdout set"),
        ({"label_noise": 1.0}, "label noise 1.0 is impossible"),
        ({"duplicate": 0.5}, "duplicate 0.5 is impossible"),
        ({"data_seed": -1}, "data-seed is -1; give a whole number from 0"),
        ({"holdout": float("nan")}, "holdout nan is impossible"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"holdout": 0.0001}, "holdout 0.0001 of 1438 .* leaves the holdout set empty"),
        ({"holdout": 0.9999}, "holdout 0.9999 of 1438 .* leaves the training set empty"),
        ({"validation": 0.0001}, "validation 0.0001 .* leaves the validation set empty"),
        ({"validation": 0.9999}, "validation 0.9999 .* leaves the holdout set empty"),
    ],
)
def test_empty_parts_are_refused(dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_splits(dataset, config(**changes))


def tiny(count=60, own=0) -> Dataset:
    """Each image is its own row's number, so that a wrong id shows."""
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(-1, 1, 2, 2)
    return make_dataset(
        "tiny",
        images.clone(),
        torch.arange(count) % 3,
        torch.arange(0, count, 6),
        class_names=["a", "b", "c"],
        source="here",
        holdout_rows=torch.arange(1, count, 6)[:own] if own else None,
    )


def ids(*parts) -> list[int]:
    return sorted(torch.cat([part.ids_N for part in parts]).tolist())


def test_every_mode_scores_each_training_id_once_and_shows_it_to_no_model_that_scores_it():
    for mode in ("split", "own", "halves"):
        splits = make_splits(tiny(own=9), config(holdout_mode=mode, duplicate=2.5, validation=0.3))
        assert ids(*(fold.scored for fold in splits.folds)) == ids(splits.train), mode
        for fold in splits.folds:
            shown = torch.cat([fold.fit.ids_N, fold.validation.ids_N])
            assert len(torch.unique(shown)) == len(shown)
            assert not torch.isin(fold.scored.origin_N, shown).any(), mode
            assert not torch.isin(shown, splits.test.ids_N).any()
        assert len(set(ids(splits.full))) == len(splits.full)


def test_halves_hold_everything_between_them_and_leave_nothing_out():
    splits = make_splits(tiny(), config(holdout_mode="halves", validation=0.2))
    one, other = splits.folds
    assert ids(one.fit, one.validation) == ids(other.scored)
    assert ids(other.fit, other.validation) == ids(one.scored)
    assert ids(splits.train) == splits.dataset.train_rows.tolist()
    assert [len(one.fit), len(one.validation)] == [20, 5]
    assert len(splits.holdout) == len(splits.validation) == 0
    assert splits.full is splits.train


def test_ids_of_halves_are_rows_of_the_store():
    splits = make_splits(tiny(), config(holdout_mode="halves"))
    for fold in splits.folds:
        for part in (fold.fit, fold.validation, fold.scored):
            pixels = part.fetch(torch.arange(len(part)))[:, 0, 0, 0]
            assert torch.equal(pixels.long(), part.ids_N)


def test_a_reused_holdout_set_is_part_of_the_training_set():
    splits = make_splits(tiny(), config(holdout_mode="reuse", holdout=0.4, validation=0.25))
    assert ids(splits.train) == splits.dataset.train_rows.tolist()
    assert len(splits.holdout) == 15
    assert len(splits.validation) == 5
    assert set(ids(splits.holdout, splits.validation)) < set(ids(splits.train))
    assert splits.full is splits.train
    assert ids(splits.folds[0].scored) == ids(splits.train)


def test_an_own_holdout_set_is_used_whole_and_only_where_asked_for():
    own = make_splits(tiny(own=9), config(validation=0.3))
    assert own.config.holdout_mode == "own"
    assert own.config.holdout is None
    assert ids(own.holdout, own.validation) == own.dataset.holdout_rows.tolist()
    assert ids(own.train) == own.dataset.train_rows.tolist()
    other = make_splits(tiny(own=9), config(holdout_mode="split"))
    assert not set(ids(other.full)) & set(own.dataset.holdout_rows.tolist())
    assert other.config.holdout == 0.5


def test_noise_is_the_same_in_every_mode():
    def labels(**changes):
        splits = make_splits(tiny(own=9), config(label_noise=0.5, validation=0.3, **changes))
        return dict(zip(splits.train.ids_N.tolist(), splits.train.targets_N.tolist(), strict=True))

    whole = labels()
    for mode in ("reuse", "halves"):
        assert labels(holdout_mode=mode) == whole
    part = labels(holdout_mode="split")
    assert part.items() < whole.items()


def test_the_holdout_set_can_be_clean():
    noisy = make_splits(tiny(), config(label_noise=0.5))
    clean = make_splits(tiny(), config(label_noise=0.5, holdout_noise=False))
    assert noisy.holdout.corrupted_N.any()
    for part in (clean.holdout, clean.validation, clean.folds[0].fit):
        assert not part.corrupted_N.any()
    assert clean.train.label_digest() == noisy.train.label_digest()


def test_modes_are_recorded():
    found = make_splits(tiny(), config(holdout_mode="halves")).describe()["holdout"]
    assert found["mode"] == "halves"
    assert [fold["scored"] for fold in found["folds"]] == [25, 25]
    digests = {fold["label_digest"] for fold in found["folds"]}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"holdout_mode": "own"}, "own: tiny was published without a holdout set; use split"),
        ({"holdout_mode": "halves", "holdout": 0.3}, "holdout 0.3 goes with .* not with halves"),
        ({"holdout_mode": "reuse", "holdout_noise": False}, "clean holdout set cannot be had"),
        ({"holdout_mode": "halves", "validation": 0.01}, "leaves the validation set empty"),
    ],
)
def test_modes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_splits(tiny(), config(**changes))


def test_a_row_is_in_one_part_of_a_data_set():
    images, labels = torch.zeros(6, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1] * 3)
    known = {"class_names": ["a", "b"], "source": "here"}
    with pytest.raises(DataError, match="in the test set and in the holdout set"):
        make_dataset("x", images, labels, torch.tensor([1]), holdout_rows=torch.arange(3), **known)
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(DataError, match="holdout set is empty"):
        make_dataset("x", images, labels, torch.tensor([1]), holdout_rows=none, **known)
    plain = make_dataset("x", images, labels, torch.tensor([1]), **known)
    own = make_dataset(
        "x", images, labels, torch.tensor([1]), holdout_rows=torch.tensor([2]), **known
    )
    assert plain.fingerprint != own.fingerprint
