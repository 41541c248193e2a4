import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from goldiprox.data.datasets import with_ids
from goldiprox.schema import ConfigError, DataError


class Listed:
    """A map-style data set of whatever it is given."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


class Batched(Listed):
    calls = 0

    def __getitems__(self, positions):
        self.calls += 1
        return [self.items[position] for position in positions]


@pytest.mark.parametrize(
    "item, expected",
    [
        (("x", 1), (0, "x", 1)),
        (("x",), (0, "x")),
        ({"text": "x"}, {"id": 0, "text": "x"}),
        ("x", (0, "x")),
        ([1, 2], (0, [1, 2])),
    ],
)
def test_items_carry_their_id(item, expected):
    assert with_ids(Listed([item]))[0] == expected


def test_given_ids_are_used_and_negative_positions_work():
    wrapped = with_ids(Listed("abc"), ids=[30, 10, 20])
    assert [wrapped[i] for i in (0, 1, -1)] == [(30, "a"), (10, "b"), (20, "c")]
    assert len(wrapped) == 3


def test_the_base_fetches_whole_batches_where_it_can():
    base = Batched("abcd")
    wrapped = with_ids(base, ids=torch.tensor([4, 5, 6, 7]))
    assert wrapped.__getitems__([3, 0]) == [(7, "d"), (4, "a")]
    assert base.calls == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_survive_a_shuffling_loader_with_workers(workers):
    inputs = torch.arange(40.0)
    wrapped = with_ids(TensorDataset(inputs, inputs * 2), ids=torch.arange(100, 140))
    loader = DataLoader(wrapped, batch_size=7, shuffle=True, num_workers=workers)
    seen = []
    for ids, x, y in loader:
        assert ids.dtype == torch.int64
        assert torch.equal(ids - 100, x.long())
        assert torch.equal(y, 2 * x)
        seen += ids.tolist()
    assert sorted(seen) == list(range(100, 140))


def test_a_field_that_is_taken_is_refused():
    items = Listed([{"id": 5, "x": 1}])
    with pytest.raises(DataError, match="already have a field 'id'"):
        with_ids(items)[0]
    assert with_ids(items, key="row")[0] == {"row": 0, "id": 5, "x": 1}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1])


@pytest.mark.parametrize(
    "dataset, ids, message",
    [
        (Stream(), None, "Stream has no length"),
        (Listed("ab"), [1], "1 ids for 2 items"),
        (Listed("ab"), [1, 1], "only 1 of 2 ids are distinct"),
        (Listed("ab"), [0.5, 1.0], "must be a sequence of integers"),
        (Listed("ab"), [0, -1], "ids go from -1 to 0"),
        (Listed("ab"), [0, 2**62], r"below 2\*\*62"),
    ],
)
def test_impossible_ids_are_refused(dataset, ids, message):
    with pytest.raises(ConfigError, match=message):
        with_ids(dataset, ids)
