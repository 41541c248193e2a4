"""Ids by content, from the bytes to a table and back."""

import hashlib
import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goldiprox
from goldiprox.content import content_id, duplicates
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, TableError


def test_the_id_is_64_bits_of_blake2b_with_their_sign():
    for raw in (b"", b"abc", "b\u1ea1n".encode(), bytes(range(256)) * 100):
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        assert content_id(raw) == struct.unpack("<q", digest)[0]
        assert content_id(bytearray(raw)) == content_id(memoryview(raw)) == content_id(raw)
    known = bytes.fromhex("d8bb14d833d59559")  # printf abc | b2sum -l 64
    assert content_id(b"abc") == int.from_bytes(known, "little", signed=True)
    ids = [content_id(bytes([i, j])) for i in range(100) for j in range(100)]
    assert len(set(ids)) == 10_000
    assert 4_700 < sum(i < 0 for i in ids) < 5_300
    assert torch.tensor(ids).tolist() == ids


@pytest.mark.parametrize("raw, way", [("abc", "encode"), (np.zeros(3), "tobytes"), (7, "bytes")])
def test_anything_but_bytes_is_refused(raw, way):
    with pytest.raises(ConfigError, match=f"not a {type(raw).__name__}.*{way}"):
        content_id(raw)


def test_duplicates_are_counted():
    ids = [content_id(raw) for raw in (b"a", b"b", b"a", b"c", b"a", b"c")]
    expected = {ids[0]: 3, ids[3]: 2}
    for given in (ids, iter(ids), torch.tensor(ids), np.array(ids)):
        found = duplicates(given)
        assert (found.examples, found.distinct, found.counts) == (6, 3, expected)
    assert "6 examples with 3 different contents; 2 contents come more than once" in str(found)
    assert str(duplicates([])) == "0 examples with 0 different contents"


def test_ids_by_content_go_through_a_table_and_a_chooser(tmp_path):
    torch.manual_seed(0)
    inputs, labels, small = torch.randn(40, 4), torch.randint(0, 3, (40,)), nn.Linear(4, 3)
    ids = [content_id(row.numpy().tobytes()) for row in inputs]
    data = goldiprox.with_ids(TensorDataset(inputs, labels), ids)
    goldiprox.irreducible_losses(small, DataLoader(data, 16)).write(tmp_path / "il.parquet")
    table = ScoreTable.read(tmp_path / "il.parquet")
    assert table.ids_N.tolist() == ids
    losses = nn.functional.cross_entropy(small(inputs), labels, reduction="none").detach()
    order = torch.randperm(40)
    found = table.column_for("irreducible_loss", torch.tensor(ids)[order], "")
    assert torch.allclose(found, losses[order], atol=1e-6)
    choose = goldiprox.Chooser(nn.Linear(4, 3), "irreducible", share=0.25, irreducible=table)
    chosen = choose((torch.tensor(ids)[order], inputs[order], labels[order]))
    assert set(chosen.batch[0].tolist()) == {ids[i] for i in losses.topk(10, largest=False).indices}


def test_a_negative_id_among_row_numbers_is_still_a_mistake():
    with pytest.raises(TableError, match="negative id -1"):
        ScoreTable(ids_N=np.array([-1, 0, 1]), columns={}, provenance={})
