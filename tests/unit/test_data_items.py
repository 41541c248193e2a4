"""Map-style data sets whose inputs and targets are tensors already."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from goldiprox.data import items
from goldiprox.data.datasets import from_items
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import DataError

INPUTS = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASKS = (INPUTS.sum(1) > 0).long()


class Pairs(Dataset):
    """Whatever a function gives."""

    def __init__(self, give, count=40):
        self.give = give
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return self.give(number)


def test_inputs_and_targets_of_any_shape_are_kept_as_they_are():
    dataset = from_items("masks", TensorDataset(INPUTS, MASKS))
    assert dataset.targets == "tensors"
    assert torch.equal(dataset.store.fetch(torch.tensor([5, 2])), INPUTS[[5, 2]])
    assert torch.equal(dataset.labels_N, MASKS)
    assert len(dataset.test_rows) == 8
    splits = make_splits(dataset, DataConfig(dataset="masks", label_noise=0.5))
    wrong = splits.train.corrupted_N
    assert wrong.shape == (len(splits.train),)
    changed = (splits.train.targets_N != splits.train.true_targets_N).flatten(1).any(1)
    assert torch.equal(wrong, changed)
    assert wrong.any()
    assert dataset.store.thumbnail(0)[:4] == b"\x89PNG"


def test_named_inputs_and_numbers():
    data = Pairs(lambda i: ({"a": INPUTS[i], "b": np.array([i, 2], dtype=np.int64)}, 0.5 * i))
    dataset = from_items("named", data, targets="numbers")
    found = dataset.store.fetch(torch.tensor([3, 1]))
    assert found["b"].tolist() == [[3, 2], [1, 2]]
    assert dataset.preprocess(found, device="cpu")["a"].shape == (2, 3, 4, 4)
    assert dataset.labels_N.tolist() == [0.5 * i for i in range(40)]


def test_class_numbers_beside_tensors_are_classes():
    dataset = from_items("rows", TensorDataset(torch.randn(40, 7), torch.arange(40) % 2))
    assert dataset.targets == "classes"
    assert dataset.store.example_shape == (7,)
    assert dataset.class_names == ("0", "1")


def test_parts_follow_each_other():
    part = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
    dataset = from_items("parts", part, part, holdout=part)
    assert dataset.test_rows.tolist() == list(range(20, 40))
    assert dataset.holdout_rows.tolist() == list(range(40, 60))
    assert torch.equal(dataset.store.fetch(torch.tensor([47]))[0], part[7][0])


def test_what_is_not_kept_in_memory_is_the_same(monkeypatch):
    data = TensorDataset(INPUTS, MASKS)
    kept = from_items("masks", data)
    monkeypatch.setattr(items, "IN_MEMORY", 0)
    lazy = from_items("masks", data)
    rows = torch.tensor([7, 7, 0])
    assert torch.equal(kept.store.fetch(rows), lazy.store.fetch(rows))
    assert lazy.store.fetch(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 4, 4)
    other = INPUTS.clone()
    other[0] += 1
    assert from_items("masks", TensorDataset(other, MASKS)).fingerprint != lazy.fingerprint


def test_other_inputs_or_targets_are_other_data():
    first = from_items("masks", TensorDataset(INPUTS, MASKS)).fingerprint
    inputs, masks = INPUTS.clone(), MASKS.clone()
    inputs[3, 0, 0, 0] += 1e-6
    masks[3, 0, 0] = 1 - masks[3, 0, 0]
    assert from_items("masks", TensorDataset(inputs, MASKS)).fingerprint != first
    assert from_items("masks", TensorDataset(INPUTS, masks)).fingerprint != first


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda i: (torch.randn(3 + i), i % 2), "inputs differ in shape"),
        (lambda i: (torch.randn(3), torch.zeros(1 + i)), "targets differ in shape"),
        (lambda i: ({"a" if i < 9 else "b": torch.randn(3)}, i % 2), "unlike the first"),
    ],
)
def test_items_that_differ_are_refused(give, said):
    with pytest.raises(DataError, match=said):
        from_items("odd", Pairs(give))
