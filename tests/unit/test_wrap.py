import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)

from goldiprox.batch import ids_of
from goldiprox.content import content_id
from goldiprox.schema import ConfigError, DataError
from goldiprox.wrap import carried_ids, with_ids


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
        ([1, 2], (0, 1, 2)),
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


class Measured(Stream):
    def __len__(self):
        return 1


class Endless:
    def __getitem__(self, position):
        return position


@pytest.mark.parametrize(
    "dataset, ids, message",
    [
        (Stream(), None, "Stream is read as a stream.*an id of its own"),
        (Measured(), None, "Measured is read as a stream"),
        ({1, 2}, None, "set is read as a stream"),
        ({"train": [1]}, None, "dict is not indexed by .* wrap one of its values"),
        (Endless(), None, "Endless has no length"),
        (Listed("ab"), [1], "1 ids for 2 items"),
        (Listed("ab"), [1, 1], "only 1 of 2 ids are distinct"),
        (Listed("ab"), [0.5, 1.0], "must be a sequence of integers"),
        (Listed("ab"), [0, -1], "ids go from -1 to 0"),
        (Listed("ab"), np.array([0, 2**63], dtype="u8"), r"below 2\*\*63"),
        (Listed("ab"), ["a.png", "b.png"], "'a.png' is none"),
        (Listed("ab"), [True, False], "not bool"),
        (Listed("ab"), [0, 2**70], "1180591620717411303424 is none"),
        (Listed("ab"), [0, None], "None is none: leave ids out"),
        (Listed("ab"), 5, r"of shape \(\)"),
        (Listed("ab"), torch.zeros(2, 1).long(), r"of shape \(2, 1\)"),
        (Listed("ab"), [[0], [1, 2]], "must be a sequence of integers"),
    ],
)
def test_impossible_ids_are_refused(dataset, ids, message):
    with pytest.raises(ConfigError, match=message):
        with_ids(dataset, ids)


WHOLE = TensorDataset(torch.arange(10.0))


def ids_and_values(dataset):
    """Ids that a loader's batches carry, and the values beside them."""
    ids, values = zip(*DataLoader(dataset, batch_size=None), strict=True)
    return [int(i) for i in ids], [int(x) for x in values]


def test_ids_of_numpy_and_ranges_are_taken():
    for ids in (
        np.array([7, 9], dtype="u2"),
        range(7, 11, 2),
        (i for i in (7, 9)),
        np.array([7, 9], dtype=object),
        torch.tensor([7, 9]).int(),
    ):
        assert with_ids(Listed("ab"), ids).ids_N.tolist() == [7, 9]


@pytest.mark.parametrize(
    "part",
    [
        Subset(WHOLE, range(4, 8)),
        Subset(Subset(WHOLE, [1, 3, 5, 7]), [3, 0, -1]),
        random_split(WHOLE, [6, 4], torch.Generator().manual_seed(0))[1],
        ConcatDataset([Subset(WHOLE, [8, 2]), Subset(WHOLE, [3])]),
        Subset(with_ids(WHOLE), [8, 2]),
        Subset(ConcatDataset([WHOLE]), torch.tensor([5, 6])),
    ],
)  # fmt: skip
def test_a_subset_keeps_the_ids_of_the_whole(part):
    ids, values = ids_and_values(with_ids(part))
    assert ids == values
    assert with_ids(part).ids_N.tolist() == values


class Transformed(Listed):
    """A data set of the user's own that changes the items of another."""

    def __getitem__(self, position):
        return [value * 1.0 for value in self.items[position]]


def test_a_subset_inside_a_data_set_of_ones_own_keeps_the_ids_of_the_whole():
    assert ids_and_values(with_ids(Transformed(Subset(WHOLE, [8, 2])))) == ([8, 2], [8, 2])
    rows = datasets.Dataset.from_dict({"x": list(range(10))}).shuffle(seed=3)
    assert with_ids(Listed(rows)).ids_N.tolist() == rows["x"]
    assert with_ids(Transformed(WHOLE)).ids_N.tolist() == list(range(10))


def test_hashes_may_be_any_64_bits():
    hashes = [content_id(bytes([i])) for i in range(8)]
    assert min(hashes) < 0
    assert with_ids(Listed("abcdefgh"), hashes).ids_N.tolist() == hashes
    with pytest.raises(ConfigError, match=r"ids go from -1 to 0.*unless they are hashes"):
        with_ids(Listed("ab"), [0, -1])


def test_ids_given_for_a_subset_are_taken_as_they_are():
    part = Subset(WHOLE, [8, 2])
    assert ids_and_values(with_ids(part, ids=[0, 1])) == ([0, 1], [8, 2])


def test_parts_of_hugging_face_data_sets_keep_the_ids_of_the_whole():
    whole = datasets.Dataset.from_dict({"x": list(range(10))})
    for part in (whole.shuffle(seed=1), whole.train_test_split(0.3, seed=0)["test"],
                 whole.select([7, 2]), whole.shuffle(seed=2).select(range(4))):  # fmt: skip
        wrapped = with_ids(part)
        assert [item["id"] for item in wrapped] == [item["x"] for item in wrapped]
    assert [item["id"] for item in with_ids(whole)] == list(range(10))


def test_what_carries_ids_is_not_given_any_again():
    wrapped = with_ids(WHOLE, ids=range(100, 110))
    assert with_ids(wrapped) is wrapped
    part = Subset(wrapped, [3, 4])
    assert with_ids(part)[1] == (104, torch.tensor(4.0))
    assert carried_ids(part).tolist() == [103, 104]
    assert carried_ids(Subset(WHOLE, [1])) is None
    with pytest.raises(ConfigError, match="carry ids already"):
        with_ids(part, ids=[0, 1])


def test_joined_data_sets_are_numbered_as_a_whole_or_refused():
    assert ids_and_values(with_ids(ConcatDataset([WHOLE, WHOLE])))[0] == list(range(20))
    apart = ConcatDataset([with_ids(WHOLE), with_ids(WHOLE, ids=range(10, 20))])
    assert carried_ids(apart).tolist() == list(range(20))
    assert with_ids(apart)[13] == (13, torch.tensor(3.0))
    with pytest.raises(ConfigError, match=r"share 10 ids \(first: 0, 1, 2, ...\).*wrap the whole"):
        with_ids(ConcatDataset([with_ids(WHOLE), with_ids(WHOLE)]))
    with pytest.raises(ConfigError, match="1 of 2 joined data sets carry ids"):
        with_ids(ConcatDataset([with_ids(WHOLE), WHOLE]))
    other = TensorDataset(torch.zeros(3))
    mixed = ConcatDataset([Subset(WHOLE, [4]), other])
    with pytest.raises(ConfigError, match=r"say which ids are meant.*range\(4\)"):
        with_ids(mixed)
    assert with_ids(mixed, ids=range(4)).ids_N.tolist() == [0, 1, 2, 3]


def test_a_data_set_that_makes_whole_batches_gets_all_their_ids():
    wrapped = with_ids(WHOLE, ids=range(100, 110))
    ids, values = wrapped[[3, 8]]
    assert (ids.tolist(), values.tolist()) == ([103, 108], [3, 8])
    assert wrapped[2:4][0].tolist() == [102, 103]
    rows = datasets.Dataset.from_dict({"x": list(range(5))})
    assert with_ids(rows)[[4, 1]]["id"].tolist() == [4, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_another_key_is_recognised_in_batches(workers):
    items = Listed([{"id": 5 + i, "x": float(i)} for i in range(4)])
    loader = DataLoader(with_ids(items, key="uid"), batch_size=2, num_workers=workers)
    for batch in loader:
        assert ids_of(batch).tolist() == batch["uid"].tolist()
        assert batch["id"].tolist() == [5 + i for i in batch["uid"].tolist()]
