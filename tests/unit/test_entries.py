"""What of a batch is cut by example, kept or refused, in every structure that users bring."""

import dataclasses
import pickle
from collections import OrderedDict, UserDict, namedtuple
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import default_collate as collate

from goldiprox.batch import (
    IdKey,
    ids_of,
    micro_batches,
    model_output,
    take,
    targets_of,
    to_device,
)
from goldiprox.entries import Layout, fits
from goldiprox.schema import DataError

B = 6
IDS = torch.arange(10, 10 + B)
ROWS = torch.arange(3.0 * B).view(B, 3)
AT = torch.tensor([4, 1])
Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Fields:
    x: torch.Tensor
    names: list
    scale: float = 2.0
    width: int = dataclasses.field(init=False, default=0)

    def __post_init__(self):
        object.__setattr__(self, "width", -1)

    @cached_property
    def doubled(self):
        return self.x * 2


@dataclasses.dataclass
class Images:
    ids: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor


@dataclasses.dataclass
class Keyed:
    x: torch.Tensor
    labels: torch.Tensor
    id: torch.Tensor


def taken(value, layout=None):
    return take({"id": IDS, "x": value}, AT, layout)["x"]


def test_what_has_an_entry_for_each_example_is_cut():
    assert taken(np.arange(B) * 10).tolist() == [40, 10]
    assert taken(np.array(list("abcdef"), dtype=object)).tolist() == ["e", "b"]
    assert taken(list("abcdef")) == ["e", "b"]
    assert taken(tuple("abcdef")) == ("e", "b")
    assert taken([None] * B) == [None, None]
    assert taken(torch.eye(B, dtype=torch.bool)[:, :2]).tolist() == [[False, False], [False, True]]
    # One entry each of lists and tensors of any length: tokens, boxes.
    tokens = [[0] * n for n in range(B)]
    assert taken(tokens) == [[0] * 4, [0]]
    boxes = [torch.full((n, 4), float(n)) for n in range(B)]
    assert [len(found) for found in taken(boxes)] == [4, 1]
    targets = [{"boxes": torch.zeros(1, 4), "image_id": i} for i in range(B)]
    assert [found["image_id"] for found in taken(targets)] == [4, 1]


def test_what_belongs_to_the_whole_batch_is_kept():
    for value in (None, 2.0, 7, True, "en", b"abc", Path("a"), torch.float16, np.float32(1.5)):
        assert taken(value) is value
    assert taken(torch.tensor(2.0)).shape == ()
    assert taken(np.array(2.0)).shape == ()
    assert taken(torch.zeros(1, 3)).shape == (1, 3)  # broadcasts
    assert taken([]) == []
    assert taken({}) == {}


def test_structures_keep_their_kind():
    columns = Pair(ROWS, {"names": list("abcdef")})
    found = taken(columns)
    assert isinstance(found, Pair)
    assert torch.equal(found.left, ROWS[AT])
    assert found.right == {"names": ["e", "b"]}
    assert torch.equal(taken([ROWS, ROWS + 1])[1], ROWS[AT] + 1)
    for kind in (OrderedDict, UserDict):
        found = take(kind(id=IDS, x=ROWS), AT)
        assert type(found) is kind
        assert torch.equal(found["x"], ROWS[AT])


def test_a_dataclass_is_cut_without_running_its_constructor_or_keeping_what_it_cached():
    whole = Fields(ROWS, list("abcdef"))
    object.__setattr__(whole, "width", 3)
    assert len(whole.doubled) == B
    found = taken(whole)
    assert torch.equal(found.x, ROWS[AT])
    assert (found.names, found.scale, found.width) == (["e", "b"], 2.0, 3)
    assert torch.equal(found.doubled, ROWS[AT] * 2)


def test_a_batch_may_be_a_dataclass():
    for batch in (Images(IDS, ROWS, IDS % 3), Keyed(ROWS, IDS % 3, IDS)):
        found = take(batch, AT)
        assert type(found) is type(batch)
        assert ids_of(found).tolist() == [14, 11]
        assert targets_of(found).tolist() == [2, 2]
    assert torch.equal(model_output(nn.Identity(), Images(IDS, ROWS, IDS)), ROWS)


def test_a_batch_of_transformers_keeps_its_class_and_not_the_encodings_of_others():
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding(
        {"id": IDS, "input_ids": ROWS.long()}, encoding=[SimpleNamespace(n_sequences=1)] * B
    )
    found = take(batch, AT)
    assert isinstance(found, transformers.BatchEncoding)
    assert torch.equal(found.input_ids, ROWS[AT].long())
    assert not found.encodings


@pytest.mark.parametrize(
    "value, message",
    [
        (torch.zeros(7, B, 5), r'field "x" has the shape \(7, 6, 5\) beside 6 ids.*transpose'),
        (torch.zeros(1, B, 5), r"transpose\(1, 0\)"),
        (torch.zeros(2 * B, 5), r"each example has 2 rows, give it the shape \(6, 2, ...\)"),
        (torch.zeros(10), r"the shape \(10,\) beside 6 ids: give it one entry"),
        (torch.zeros(0, 3), r"\(0, 3\) beside 6 ids"),
        (np.zeros((7, B)), r"transpose\(1, 0\)"),
        ({"deep": [ROWS, {"mask": torch.zeros(7)}]}, r'field "x"\[\'deep\'\]\[1\]\[\'mask\'\] has'),
        (["cat", "dog"], "is a list of 2 things beside 6 ids"),
        ((28, 28), "is a tuple of 2 things beside 6 ids"),
        ([list("abc"), list("abc")], r'"x"\[0\] is a list of 3 things'),
        (torch.eye(B).to_sparse(), "is a sparse_coo tensor"),
        (pack_sequence([ROWS] * B), "PackedSequence.*pack them in the model"),
        (range(B), "is of type range, of which it is not known"),
        ({"a", "b"}, "is of type set"),
        (iter("abcdef"), "iterator"),
        (nn.Identity(), "Identity"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_and_named(value, message):
    with pytest.raises(DataError, match=message):
        taken(value)
    with pytest.raises(DataError, match=message):
        list(micro_batches({"id": IDS, "x": value}, 4))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(layout):
    value = torch.nested.nested_tensor([torch.zeros(n + 1) for n in range(B)], layout=layout)
    with pytest.raises(DataError, match=r"is a nested tensor.*padded"):
        taken(value)


def texts(count):
    """What torch's collate function makes of pairs of texts: columns."""
    items = [(torch.tensor(i), torch.zeros(3), 0, ("en", f"s{i}")) for i in range(count)]
    return collate(items)


def test_places_in_tuples_are_named_too():
    with pytest.raises(DataError, match=r"part 1\['mask'\] of the batch has the shape \(7,\)"):
        take((IDS, {"mask": torch.zeros(7)}), AT)


def test_a_list_with_as_many_columns_as_examples_needs_another_pool_to_be_read():
    both = texts(2)
    with pytest.raises(DataError, match="part 3 of the batch can be read in two ways"):
        take(both, torch.tensor([1]))
    layout = Layout()
    assert take(texts(5), torch.tensor([1]), layout)[3] == [("en",), ("s1",)]
    assert take(both, torch.tensor([1]), layout)[3] == [("en",), ("s1",)]
    # The other way round: one entry for each example, each with two.
    rows = Layout()
    many = {"id": IDS, "x": [("en", f"s{i}") for i in range(B)]}
    assert take(many, AT, rows)["x"] == [("en", "s4"), ("en", "s1")]
    few = {"id": IDS[:2], "x": [("en", "s0"), ("en", "s1")]}
    assert take(few, torch.tensor([1]), rows)["x"] == [("en", "s1")]
    # With one example there is nothing to mix up.
    assert take(texts(1), torch.tensor([0]))[3] == [("en",), ("s0",)]


def test_a_layout_remembers_which_tensors_had_their_examples_first():
    layout = Layout()
    taken(torch.zeros(B, B, 2), layout)
    assert layout.names() == 'the batch\'s field "x"'
    layout.settle()
    taken(torch.zeros(B, B, 2), layout)
    assert not layout.doubtful
    other = Layout()
    taken(torch.zeros(B, 4), other)
    taken(torch.zeros(B, B), other)
    assert not other.doubtful


def test_fitting_says_whether_there_are_entries():
    assert fits(ROWS, B)
    assert fits({"x": ROWS, "scale": 1.0}, B)
    assert fits({"scale": 1.0, "none": None}, B) is None
    assert fits({"x": ROWS, "y": ROWS[:2]}, B) is False
    assert fits(torch.zeros(1, 3), B) is None
    assert fits(torch.zeros(1, 3), 1) is True
    assert fits(object(), B) is False


@pytest.mark.parametrize("ids", [[3, 5], (3, 5), np.array([3, 5]), np.array([3, 5], "u2"),
                                 torch.tensor([3, 5], dtype=torch.uint64)])  # fmt: skip
def test_ids_may_be_any_whole_numbers(ids):
    found = ids_of({"id": ids, "x": ROWS[:2]})
    assert found.dtype == torch.int64
    assert found.tolist() == [3, 5]


@pytest.mark.parametrize(
    "batch, message",
    [
        ({"index": IDS, "x": ROWS}, r'under the key "id" \(it has: index, x\).*collate function'),
        ({"id": ["a", "b"], "x": ROWS}, "but a list of str.*with_ids"),
        ({"id": np.array(["a", "b"])}, "but a ndarray"),
        ({"id": IDS.view(2, 3)}, r"but int64 of shape \(2, 3\)"),
        ({"id": IDS > 3}, "but bool of shape"),
        ({"id": [2**63]}, "no integer ids"),
        ({"id": torch.tensor([2**63], dtype=torch.uint64)}, "2\\*\\*63 or more"),
        ((), "as its first element"),
        (IDS, "is a Tensor, not a tuple or dict"),
        (ROWS.long(), "is a Tensor, not a tuple or dict"),
        ("abc", "is a str"),
    ],
)
def test_a_batch_without_ids_is_refused_with_what_may_have_dropped_them(batch, message):
    with pytest.raises(DataError, match=message):
        ids_of(batch)


def test_ids_under_another_key_are_recognised_beside_a_column_called_id():
    key = pickle.loads(pickle.dumps(IdKey("uid")))  # through a loader's worker
    assert key == "uid"
    batch = {"id": IDS + 5, "x": ROWS, key: IDS}
    assert torch.equal(ids_of(batch), IDS)
    found = take(batch, AT)
    assert ids_of(found).tolist() == [14, 11]
    assert found["id"].tolist() == [19, 16]
    assert ids_of(to_device(batch, torch.device("meta"))).device.type == "meta"


def test_a_key_that_a_collate_function_spelt_out_is_recognised_or_refused():
    IdKey("spelt")
    assert torch.equal(ids_of({"spelt": IDS, "x": ROWS}), IDS)
    with pytest.raises(DataError, match=r'may stand under "spelt", .* or under "id"'):
        ids_of({"id": IDS + 5, "x": ROWS, "spelt": IDS})


class Keyword(nn.Module):
    def forward(self, x, name=None):
        return x if name is None else x * len(name)


def test_texts_go_only_to_models_that_name_them():
    batch = {
        "id": IDS,
        "x": ROWS,
        "text": list("abcdef"),
        "note": None,
        "meta": {"path": ("a",) * B},
    }
    assert torch.equal(model_output(Keyword(), batch), ROWS)
    assert torch.equal(model_output(Keyword(), {**batch, "name": list("abcdef")}), ROWS * B)
    wrapped = nn.DataParallel(Keyword())
    assert torch.equal(model_output(wrapped, batch), ROWS)
    with pytest.raises(DataError, match=r"unexpected keyword argument 'length': leave that column"):
        model_output(Keyword(), {**batch, "length": IDS})
    with pytest.raises(DataError, match="no inputs beside its ids"):
        model_output(Keyword(), (IDS,))


class Listed(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, position):
        return {"x": ROWS[position], "labels": position, "pair": ("en", f"s{position}")}


def test_columns_of_a_real_loader_follow_their_ids_to_the_last_pool():
    from goldiprox import with_ids

    layout = Layout()
    for pool in DataLoader(with_ids(Listed(), key="number"), batch_size=3):
        found = take(pool, torch.tensor([1, 0]), layout)
        ids = ids_of(found).tolist()
        assert found["pair"] == [("en", "en"), tuple(f"s{i}" for i in ids)]
        assert found["labels"].tolist() == ids
