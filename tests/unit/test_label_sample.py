"""A table of other data is noticed by its examples' labels."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import goldiprox
from goldiprox.records.label_sample import KEPT, LABEL_SAMPLE, LabelSample, label_sample
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import TableError

INPUTS = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3
MODEL = nn.Linear(5, 3)


def table_of(labels=LABELS, ids=None):
    data = goldiprox.with_ids(TensorDataset(INPUTS, labels), ids)
    return goldiprox.irreducible_losses(MODEL, DataLoader(data, 16, shuffle=True))


def choose_from(table, data, **settings):
    choose = goldiprox.Chooser(MODEL, "rho-loss", share=0.5, irreducible=table, **settings)
    return [choose(pool).batch for pool in DataLoader(data, 16)]


def test_the_data_that_a_table_was_made_of_is_accepted(tmp_path):
    table_of().write(tmp_path / "il.parquet")
    table = ScoreTable.read(tmp_path / "il.parquet")
    whole = TensorDataset(INPUTS, LABELS)
    assert len(choose_from(table, goldiprox.with_ids(whole))) == 4
    assert len(choose_from(table, goldiprox.with_ids(Subset(whole, range(40, 60))))) == 2


@pytest.mark.parametrize(
    "data",
    [
        goldiprox.with_ids(TensorDataset(INPUTS, LABELS.roll(1))),
        goldiprox.with_ids(TensorDataset(INPUTS[10:], LABELS[10:])),  # numbered from 0 again
        goldiprox.with_ids(TensorDataset(INPUTS, LABELS.where(torch.arange(64) != 9, 2))),
    ],
    ids=["other order", "a part", "one label"],
)
def test_other_data_or_labels_are_refused(data):
    with pytest.raises(TableError, match=r"made of other data or labels: .* \(id \d+: \d there"):
        choose_from(table_of(), data)


def test_what_has_no_class_numbers_is_not_compared():
    def squares(model, batch):
        return (model(batch[1])[:, 0] - batch[2]) ** 2

    data = goldiprox.with_ids(TensorDataset(INPUTS, LABELS.float()))
    table = goldiprox.irreducible_losses(MODEL, DataLoader(data, 16), per_example_loss=squares)
    assert LABEL_SAMPLE not in table.provenance
    other = goldiprox.with_ids(TensorDataset(INPUTS, LABELS.float() + 1))
    assert choose_from(table, other, per_example_loss=squares)
    assert choose_from(table_of(), other, per_example_loss=squares)


def test_a_sample_is_small_and_spread_over_all_ids():
    ids = np.random.default_rng(0).permutation(50_000)
    sample = label_sample(ids, ids % 7)
    assert len(sample["ids"]) == KEPT
    assert (min(sample["ids"]), max(sample["ids"])) == (0, 49_999)
    assert max(np.diff(sample["ids"])) < 60
    assert sample["labels"] == [i % 7 for i in sample["ids"]]
    assert len(json.dumps(sample)) < 20_000
    assert label_sample(ids[:0], ids[:0]) == {"ids": [], "labels": []}


def test_comparing_ends():
    sample = LabelSample({LABEL_SAMPLE: {"ids": list(range(1024)), "labels": [0] * 1024}})
    sample.check(torch.arange(255), torch.zeros(255).long())
    assert sample.is_open
    sample.check(torch.arange(255, 260), torch.zeros(5).long())
    assert not sample.is_open
    elsewhere = LabelSample({LABEL_SAMPLE: {"ids": [5], "labels": [0]}})
    for _ in range(64):
        assert elsewhere.is_open
        elsewhere.check(torch.tensor([6]), torch.tensor([1]))
    assert not elsewhere.is_open


@pytest.mark.parametrize(
    "found", [None, 3, {}, {"ids": [1]}, {"ids": [1], "labels": ["a"]}, {"ids": 1, "labels": 2},
              {"ids": [2**70], "labels": [1]}, {"ids": [True], "labels": [1]}],
)  # fmt: skip
def test_a_sample_that_is_none_is_left_alone(found):
    assert not LabelSample({LABEL_SAMPLE: found}).is_open
