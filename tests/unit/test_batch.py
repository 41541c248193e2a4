"""Batches of any structure: ids, targets, taking and cutting."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from goldiprox.batch import (
    ids_of,
    lengths_of,
    micro_batches,
    model_output,
    require_targets,
    take,
    targets_of,
    to_device,
    trimmed,
)
from goldiprox.objectives import CLASSIFICATION
from goldiprox.schema import DataError

IDS = torch.tensor([50, 30, 10, 40, 20])
INPUTS = torch.arange(15.0).view(5, 3)
TARGETS = torch.tensor([0, 1, 2, 0, 1])
NAMES = ["e", "c", "a", "d", "b"]

TUPLE = (IDS, INPUTS, TARGETS, NAMES)
DICT = {"id": IDS, "x": INPUTS, "labels": TARGETS, "names": NAMES, "scale": torch.tensor(2.0)}
Named = namedtuple("Named", "ids inputs targets")


class Net(nn.Module):
    def forward(self, x, scale=None):
        return x if scale is None else x * scale


class Wrapped(nn.Module):
    def forward(self, x):
        return SimpleNamespace(logits=x + 1, loss=None)


def test_ids_and_targets_stand_where_they_should():
    assert torch.equal(ids_of(TUPLE), IDS)
    assert torch.equal(ids_of(DICT), IDS)
    assert ids_of((IDS.int(),)).dtype == torch.int64
    assert torch.equal(targets_of(TUPLE), TARGETS)
    assert targets_of((IDS, INPUTS)) is None
    for key in ("labels", "label", "targets", "target"):
        assert torch.equal(require_targets({"id": IDS, "x": INPUTS, key: TARGETS}), TARGETS)


@pytest.mark.parametrize(
    "batch", [(INPUTS, TARGETS), {"x": INPUTS}, (IDS.float(), INPUTS), (NAMES, INPUTS)]
)
def test_a_batch_without_ids_is_refused_with_the_remedy(batch):
    with pytest.raises(DataError, match=r"goldiprox\.with_ids"):
        ids_of(batch)


def test_a_batch_without_targets_is_refused_with_the_remedy():
    with pytest.raises(DataError, match="per_example_loss"):
        require_targets((IDS, INPUTS))
    with pytest.raises(DataError, match="labels, label, targets, target"):
        require_targets({"id": IDS, "x": INPUTS})


def test_taking_keeps_the_structure_and_the_order_asked_for():
    positions = torch.tensor([4, 0, 2])
    ids, inputs, targets, names = take(TUPLE, positions)
    assert ids.tolist() == [20, 50, 10]
    assert torch.equal(inputs, INPUTS[[4, 0, 2]])
    assert targets.tolist() == [1, 0, 2]
    assert names == ["b", "e", "a"]
    found = take(DICT, positions)
    assert list(found) == list(DICT)
    assert found["names"] == ["b", "e", "a"]
    assert found["scale"] is DICT["scale"]


def test_taking_goes_into_nested_structures():
    batch = {"id": IDS, "views": (INPUTS, {"mask": INPUTS > 3}), "labels": TARGETS}
    found = take(batch, torch.tensor([1]))
    assert torch.equal(found["views"][0], INPUTS[1:2])
    assert torch.equal(found["views"][1]["mask"], INPUTS[1:2] > 3)
    named = take(Named(IDS, INPUTS, TARGETS), torch.tensor([3, 3]))
    assert isinstance(named, Named)
    assert named.ids.tolist() == [40, 40]
    assert isinstance(take([IDS, INPUTS], torch.tensor([0])), list)


def test_a_tuple_with_as_many_parts_as_examples_is_still_a_batch():
    batch = (torch.tensor([7, 8, 9]), torch.eye(3), torch.tensor([0, 1, 2]))
    ids, inputs, targets = take(batch, torch.tensor([2]))
    assert (ids.tolist(), inputs.tolist(), targets.tolist()) == ([9], [[0, 0, 1]], [2])


def test_taking_nothing_leaves_an_empty_batch():
    ids, inputs, targets, names = take(TUPLE, torch.empty(0, dtype=torch.int64))
    assert (ids.shape, inputs.shape, targets.shape) == ((0,), (0, 3), (0,))
    assert names == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, None])
@pytest.mark.parametrize("batch", [TUPLE, DICT], ids=["tuple", "dict"])
def test_micro_batches_join_to_the_whole(batch, size):
    parts = list(micro_batches(batch, size))
    assert torch.equal(torch.cat([ids_of(p) for p in parts]), IDS)
    assert all(len(ids_of(p)) <= (size or 5) for p in parts)
    assert len(parts) == -(-5 // (size or 5))
    names = [p["names"] if isinstance(p, dict) else p[3] for p in parts]
    assert [name for part in names for name in part] == NAMES
    if size is None or size >= 5:
        assert parts[0] is batch


def test_logits_from_tuples_dicts_and_wrapped_outputs():
    assert torch.equal(model_output(Net(), TUPLE), INPUTS)
    only_inputs = {"id": IDS, "x": INPUTS, "labels": TARGETS, "scale": torch.tensor(2.0)}
    assert torch.equal(model_output(Net(), only_inputs), INPUTS * 2)
    assert torch.equal(model_output(Wrapped(), TUPLE), INPUTS + 1)


class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


def test_logits_are_unwrapped_where_it_is_said_which_they_are():
    for wrap in (
        lambda x: {"logits": x, "hidden": -x},
        lambda x: {"prediction": x},
        lambda x: (x,),
        lambda x: [x],
        lambda x: SimpleNamespace(logits=x),
        lambda x: namedtuple("Output", "logits aux_logits")(x, -x),
    ):
        assert torch.equal(model_output(Returning(wrap), TUPLE), INPUTS)


def test_which_of_several_tensors_is_meant_is_not_guessed():
    for wrap in (lambda x: (x, -x), lambda x: {"out": x, "aux": -x}):
        output = model_output(Returning(wrap), TUPLE)
        assert not isinstance(output, torch.Tensor)
        with pytest.raises(DataError, match=r'"logits".*logits='):
            CLASSIFICATION.losses(output, TUPLE)


def test_a_tuple_may_carry_a_dict_of_named_inputs():
    batch = (IDS, {"x": INPUTS, "scale": torch.tensor(2.0)}, TARGETS)
    assert torch.equal(model_output(Net(), batch), INPUTS * 2)
    ids, inputs, targets = take(batch, torch.tensor([3, 1]))
    assert (ids.tolist(), targets.tolist()) == ([40, 30], [0, 1])
    assert torch.equal(inputs["x"], INPUTS[[3, 1]])
    parts = list(micro_batches(batch, 2))
    assert torch.equal(torch.cat([part[1]["x"] for part in parts]), INPUTS)
    moved = to_device(batch, torch.device("meta"))
    assert moved[1]["x"].device.type == "meta"


def texts(*masks):
    mask_BL = torch.tensor(masks)
    tokens_BL = torch.arange(mask_BL.numel()).view_as(mask_BL)
    return (IDS[: len(masks)], {"input_ids": tokens_BL, "attention_mask": mask_BL}, TARGETS)


def test_padding_goes_only_where_no_text_needs_it():
    right = texts([1, 1, 0, 0], [1, 1, 1, 0])
    assert lengths_of(right).tolist() == [2, 3]
    assert trimmed(right)[1]["input_ids"].tolist() == [[0, 1, 2], [4, 5, 6]]
    # Before the text, as tokenizers of decoders put it: the last columns hold tokens.
    left = texts([0, 0, 1, 1], [0, 1, 1, 1])
    assert lengths_of(left).tolist() == [4, 4]
    assert torch.equal(trimmed(left)[1]["input_ids"], left[1]["input_ids"])
    assert trimmed(TUPLE) is TUPLE
    assert lengths_of((IDS, {"input_ids": INPUTS, "attention_mask": INPUTS[:0]}, TARGETS)) is None
