"""Mapped tables: the same answers as the ones in memory, without reading the file."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from goldiprox.chooser import Chooser
from goldiprox.records.mapped import MappedTable, open_table, write_mapped
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import TableError


@pytest.fixture
def both(tmp_path):
    """The same table in both forms: ids with gaps, two columns, one value NaN."""
    drawn = np.random.default_rng(0)
    ids = drawn.permutation(500)[:200].astype(np.int64)
    columns = {
        IRREDUCIBLE_LOSS: drawn.gamma(2.0, 0.4, 200).astype(np.float32),
        "el2n": drawn.random(200).astype(np.float32),
    }
    columns["el2n"][7] = np.nan
    table = ScoreTable(ids_N=ids, columns=columns, provenance={"fingerprint": "f", "a": [1]})
    write_mapped(table, tmp_path / "il.arrow")
    return table, MappedTable.open(tmp_path / "il.arrow")


def test_both_forms_give_the_same_values(both):
    table, mapped = both
    assert mapped.names == table.names == (IRREDUCIBLE_LOSS, "el2n")
    assert mapped.provenance == table.provenance
    assert len(mapped) == len(table) == 200
    ids = torch.from_numpy(np.random.default_rng(1).choice(table.ids_N, 64))
    for column in mapped.names:
        assert torch.equal(
            mapped.lookup(column)(ids).nan_to_num(-1), table.lookup(column)(ids).nan_to_num(-1)
        )
    one, other = (t.column_for(IRREDUCIBLE_LOSS, ids.view(8, 8), "r") for t in both)
    assert one.dtype == other.dtype == torch.float32
    assert torch.equal(one, other)


def test_ids_that_are_not_there_give_nan_in_both(both):
    inside = set(both[0].ids_N.tolist())
    absent = [i for i in range(500) if i not in inside][:3]
    ids = torch.tensor([-1, -(10**15), 500, 10**15, *absent, int(both[0].ids_N[3])])
    for table in both:
        found = table.lookup(IRREDUCIBLE_LOSS)(ids)
        assert found.isnan().tolist() == [True] * 7 + [False]
        assert found[-1].item() == both[0].columns[IRREDUCIBLE_LOSS][3]


def test_no_ids_and_no_rows(both, tmp_path):
    none = torch.empty(0, dtype=torch.int64)
    for table in both:
        assert table.lookup("el2n")(none).shape == (0,)
    empty = ScoreTable(
        ids_N=np.empty(0, np.int64), columns={"x": np.empty(0, np.float32)}, provenance={}
    )
    write_mapped(empty, tmp_path / "e")
    back = MappedTable.open(tmp_path / "e")
    assert len(back) == 0
    assert back.lookup("x")(torch.tensor([0, 5])).isnan().all()


def test_missing_ids_and_values_are_counted_and_named(both):
    _, mapped = both
    bad = int(both[0].ids_N[7])
    with pytest.raises(TableError, match=rf"lacks 2 of 3 ids.*\(first: {bad}, 900\); do this"):
        mapped.column_for("el2n", torch.tensor([bad, int(both[0].ids_N[0]), 900]), "do this")
    with pytest.raises(TableError, match="no column grand; it has: irreducible_loss, el2n"):
        mapped.lookup("grand")
    with pytest.raises(TableError, match="other data: f there, x here; do this"):
        mapped.require("do this", fingerprint="x")


def test_there_and_back(both):
    table, mapped = both
    back = mapped.in_memory()
    order = np.argsort(table.ids_N)
    assert back.ids_N.tolist() == table.ids_N[order].tolist()
    for name, values in table.columns.items():
        np.testing.assert_array_equal(back.columns[name], values[order])


def test_what_a_file_holds_decides_which_form_it_is(both, tmp_path):
    table, mapped = both
    table.write(tmp_path / "t.arrow")
    assert isinstance(open_table(tmp_path / "t.arrow"), ScoreTable)
    assert isinstance(open_table(mapped.path), MappedTable)
    with pytest.raises(TableError, match="does not exist"):
        open_table(tmp_path / "absent")
    with pytest.raises(TableError, match="it is a folder"):
        open_table(tmp_path)


def test_a_chooser_chooses_the_same_from_both(both, tmp_path):
    table, mapped = both
    model = nn.Linear(6, 3)
    drawn = torch.Generator().manual_seed(0)
    pool = (
        torch.from_numpy(table.ids_N[:60].copy()),
        torch.randn(60, 6, generator=drawn),
        torch.randint(0, 3, (60,), generator=drawn),
    )
    chosen = [
        Chooser(model, "rho-loss", irreducible=given).select(pool).ids_k.tolist()
        for given in (table, mapped, mapped.path)
    ]
    assert chosen[0] == chosen[1] == chosen[2]
    unknown = (torch.arange(1000, 1060), *pool[1:])
    with pytest.raises(TableError, match="lacks 60 of 60 ids of this pool"):
        Chooser(model, "rho-loss", irreducible=mapped).select(unknown)


def test_large_ids_are_addresses_only_where_they_are_dense(tmp_path):
    sparse = ScoreTable(
        ids_N=np.array([3, 2**53 + 1]), columns={"x": np.ones(2, np.float32)}, provenance={}
    )
    with pytest.raises(TableError, match=r"2 rows whose ids reach 9,007,199,254,740,993 would map"):
        write_mapped(sparse, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.99])
def test_a_cut_off_file_is_refused(kept, both):
    path = both[1].path
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(TableError, match=r"il\.arrow is (cut off or )?damaged"):
        open_table(path)


def test_a_flipped_bit_is_noticed_when_the_whole_is_checked(both):
    _, mapped = both
    mapped.require_intact()
    data = bytearray(mapped.path.read_bytes())
    at = data.index(mapped.values["el2n"][:50].tobytes())
    data[at + 9] ^= 1
    mapped.path.write_bytes(bytes(data))
    with pytest.raises(TableError, match=r"il\.arrow is damaged: the bytes of el2n"):
        MappedTable.open(mapped.path).require_intact()


@pytest.mark.parametrize("note", [None, {"kind": "other"}, {"kind": "mapped-table", "format": 1}])
def test_a_foreign_arrow_file_is_refused(note, tmp_path):
    metadata = None if note is None else {"goldiprox": json.dumps(note)}
    table = pa.table({"x": pa.array([1.0], pa.float32())}).replace_schema_metadata(metadata)
    with pa.ipc.new_file(str(tmp_path / "f"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TableError, match="is Arrow but not a mapped score table"):
        open_table(tmp_path / "f")


def test_another_format_is_refused(both):
    path = both[1].path
    data = path.read_bytes().replace(b'"format": 2', b'"format": 7')
    path.write_bytes(data)
    with pytest.raises(TableError, match="has format 7, this version reads 2"):
        open_table(path)


PROBE = """
import resource, sys, torch
from pathlib import Path
from goldiprox.records.mapped import open_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = open_table(Path(sys.argv[1]))
values = table.lookup("x")(torch.tensor([0, 5_000_000, 9_999_999]))
assert values.tolist() == [0.0, 5e6, 9999999.0], values
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_opening_and_looking_up_do_not_read_the_file(tmp_path):
    """40 MB on disk; a process that looks three values up grows by far less."""
    size = 10_000_000
    table = ScoreTable(
        ids_N=np.arange(size), columns={"x": np.arange(size, dtype=np.float32)}, provenance={}
    )
    write_mapped(table, tmp_path / "big")
    assert (tmp_path / "big").stat().st_size > 40e6
    command = [sys.executable, "-c", PROBE, str(tmp_path / "big")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    kibi = 1024 if sys.platform == "darwin" else 1
    assert grown / kibi < 10_000, f"{grown} KiB"


def test_another_process_is_handed_the_file_not_the_values(both):
    _, mapped = both
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert again.path == mapped.path
    assert again.digests == mapped.digests
