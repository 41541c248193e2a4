"""Score tables: what is written comes back, and what does not fit is refused."""

import errno
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from goldiprox.records import sealed
from goldiprox.records.mapped import open_table
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import GoldiproxError, TableError


def table(ids, **columns):
    return ScoreTable(
        ids_N=np.asarray(ids, dtype=np.int64),
        columns={name: np.asarray(values, dtype=np.float32) for name, values in columns.items()},
        provenance={
            "fingerprint": "abc",
            "label_digest": "def",
            "seeds": [0, 1],
            "nested": {"a": 1},
        },
    )


@pytest.fixture
def small():
    return table([5, 2, 90], irreducible_loss=[0.5, 0.25, 4.0], el2n=[1, 2, 3])


def test_round_trip(small, tmp_path):
    path = tmp_path / "new" / "il.parquet"
    small.write(path)
    back = ScoreTable.read(path)
    assert back.ids_N.dtype == np.int64
    assert back.ids_N.tolist() == [5, 2, 90]
    assert list(back.columns) == ["irreducible_loss", "el2n"]
    assert all(c.dtype == np.float32 for c in back.columns.values())
    assert back.columns["irreducible_loss"].tolist() == [0.5, 0.25, 4.0]
    assert back.provenance == small.provenance
    assert back.path == path
    assert len(back) == 3
    assert [p.name for p in path.parent.iterdir()] == ["il.parquet"]


def test_writing_twice_gives_the_same_bytes(small, tmp_path):
    small.write(tmp_path / "a")
    small.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_table_is_a_table(tmp_path):
    table([], x=[]).write(tmp_path / "t")
    back = ScoreTable.read(tmp_path / "t")
    assert len(back) == 0
    with pytest.raises(TableError, match="lacks 1 of 1"):
        back.column_for("x", torch.tensor([0]), "remedy")


def test_a_folder_named_like_a_setting_adds_no_column(small, tmp_path):
    path = tmp_path / "seed=3" / "il.parquet"
    small.write(path)
    assert list(ScoreTable.read(path).columns) == ["irreducible_loss", "el2n"]


def test_values_come_in_the_order_of_the_ids_asked_for(small):
    found = small.column_for("irreducible_loss", torch.tensor([90, 5, 5, 2]), "remedy")
    assert found.dtype == torch.float32
    assert found.tolist() == [4.0, 0.5, 0.5, 0.25]
    assert small.column_for("el2n", torch.tensor([[2], [90]]), "r").tolist() == [[2.0], [3.0]]


def test_ids_that_are_hashes_are_searched_for_not_addressed():
    ids = torch.randint(2**61, (500,), generator=torch.Generator().manual_seed(0))
    values = torch.arange(500, dtype=torch.float32)
    sparse = table(ids.numpy(), irreducible_loss=values.numpy())
    asked = torch.tensor([3, 499, 0, 3])
    look_up = sparse.lookup("irreducible_loss")
    assert torch.equal(look_up(ids[asked]), values[asked])
    assert torch.equal(sparse.column_for("irreducible_loss", ids[asked], ""), values[asked])
    strange = torch.tensor([0, int(ids.min()) + 1, int(ids.max()) + 1, 2**61 + 5])
    assert look_up(strange).isnan().all()
    with pytest.raises(TableError, match="lacks 4 of 4 ids"):
        sparse.column_for("irreducible_loss", strange, "")


def test_missing_ids_are_counted_and_named_with_the_remedy(small):
    with pytest.raises(TableError, match=r"lacks 4 of 5 ids \(first: 0, 91, -1, \.\.\.\); do this"):
        small.column_for("el2n", torch.tensor([0, 91, 5, -1, 10**15]), "do this")


def test_a_missing_column_is_named_with_those_there_are(small):
    with pytest.raises(TableError, match="no column grand; it has: irreducible_loss, el2n"):
        small.column_for("grand", torch.tensor([5]), "remedy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_only_where_they_are_asked_for(bad):
    some = table([1, 2, 3], x=[0.0, bad, 1.0])
    assert some.column_for("x", torch.tensor([3, 1]), "r").tolist() == [1.0, 0.0]
    with pytest.raises(TableError, match=r"x is NaN or infinite for 1 ids \(first: 2\); make it"):
        some.column_for("x", torch.tensor([3, 2]), "make it")


def test_ids_must_be_different_and_not_negative():
    with pytest.raises(TableError, match=r"2 ids more than once \(first: 3, 7\)"):
        table([7, 3, 7, 3, 3, 1], x=range(6))
    with pytest.raises(TableError, match="negative id -4"):
        table([0, -4], x=[1, 2])
    with pytest.raises(TableError, match="do not match"):
        table([0, 1], x=[1, 2, 3])


def test_provenance_is_compared_in_the_order_asked_for(small):
    small.require("r", fingerprint="abc", label_digest="def")
    with pytest.raises(TableError, match="other data: abc there, xyz here; do this"):
        small.require("do this", fingerprint="xyz", label_digest="other")
    with pytest.raises(TableError, match=r"other labels .*: def there, other here"):
        small.require("do this", fingerprint="abc", label_digest="other")
    with pytest.raises(TableError, match="weights: None there, w here"):
        small.require("r", weights="w")


def test_a_flipped_bit_anywhere_is_noticed(small, tmp_path):
    """In the pages by their checksum, else because Parquet or the provenance falls apart."""
    path = tmp_path / "il.parquet"
    small.write(path)
    data = path.read_bytes()
    unnoticed = 0
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            back = ScoreTable.read(path)
        except TableError:
            continue
        for name, column in small.columns.items():
            assert name not in back.columns or back.columns[name].tolist() == column.tolist()
        assert back.ids_N.tolist() == small.ids_N.tolist()
        unnoticed += 1
    assert unnoticed < len(data) // 5


def spoil(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("id,irreducible_loss\n1,0.5\n")
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "folder"])
def test_what_is_damaged_or_no_parquet_is_refused_naming_the_file(how, small, tmp_path):
    path = tmp_path / "il.parquet"
    small.write(path)
    spoil(path, how)
    with pytest.raises(
        TableError, match=r"il\.parquet (is damaged or not Parquet|cannot be read: it is a folder)"
    ):
        ScoreTable.read(path)


def test_an_absent_table_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"il\.parquet does not exist"):
        ScoreTable.read(tmp_path / "il.parquet")


GOOD_NOTE = {"format": 1, "provenance": {}}


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        ({"id": [1, 2], "x": [0.5, 1.5]}, None),
        ({"x": [0.5, 1.5]}, json.dumps(GOOD_NOTE)),
        ({"id": [1, 2], "x": [0.5, 1.5]}, "no json"),
        ({"id": [1, 2], "x": [0.5, 1.5]}, json.dumps([1])),
        ({"id": [1, 2], "x": [0.5, 1.5]}, json.dumps({"format": 1})),
        ({"id": [1, None], "x": [0.5, 1.5]}, json.dumps(GOOD_NOTE)),
        ({"id": [1.5, 2.0], "x": [0.5, 1.5]}, json.dumps(GOOD_NOTE)),
        ({"id": ["a", "b"], "x": [0.5, 1.5]}, json.dumps(GOOD_NOTE)),
        ({"id": [1, 2], "x": ["a", "b"]}, json.dumps(GOOD_NOTE)),
    ],
)
def test_foreign_parquet_is_refused(columns, note, tmp_path):
    metadata = None if note is None else {b"goldiprox": note}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"t\.parquet is Parquet but not a score table"):
        ScoreTable.read(tmp_path / "t.parquet")


def test_another_format_is_refused(tmp_path):
    note = json.dumps({"format": 99, "provenance": {}})
    content = pa.table({"id": [1]}).replace_schema_metadata({b"goldiprox": note})
    pq.write_table(content, tmp_path / "t.parquet")
    with pytest.raises(TableError, match="format 99"):
        ScoreTable.read(tmp_path / "t.parquet")


def test_a_full_disk_leaves_the_old_table_and_no_rubbish(small, tmp_path, monkeypatch):
    path = tmp_path / "il.parquet"
    small.write(path)
    before = path.read_bytes()

    def full(content, where, **settings):
        where.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sealed.pq, "write_table", full)
    with pytest.raises(GoldiproxError, match=r"cannot write .*il\.parquet: No space left.*Free"):
        table([1], x=[1]).write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["il.parquet"]


def test_an_interrupted_write_leaves_the_old_table_too(small, tmp_path, monkeypatch):
    path = tmp_path / "il.parquet"
    small.write(path)

    def interrupted(content, where, **settings):
        where.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed.pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table([1], x=[1]).write(path)
    monkeypatch.undo()
    assert ScoreTable.read(path).ids_N.tolist() == [5, 2, 90]
    assert [p.name for p in tmp_path.iterdir()] == ["il.parquet"]


def test_a_file_in_the_way_of_the_folder_is_said_to_be(small, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(GoldiproxError, match=r"cannot write .*another --out"):
        small.write(tmp_path / "taken" / "il.parquet")


IDS = [2, 0, 5]


@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        tuple(IDS),
        torch.tensor(IDS),
        torch.tensor(IDS, dtype=torch.uint8),
        np.array(IDS, np.uint32),
        np.array(IDS, np.uint64),
        np.array(IDS, object),
        pa.array(IDS),
    ],
    ids=["list", "tuple", "tensor", "uint8", "uint32", "uint64", "object", "arrow"],
)
@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], torch.tensor([1.0, 2.0, 3.0]), [1, 2, 3]])
def test_ids_and_scores_of_any_whole_and_real_numbers(tmp_path, ids, values):
    table = ScoreTable(ids_N=ids, columns={"a": values}, provenance={})
    assert table.ids_N.dtype == np.int64
    assert table.columns["a"].dtype == np.float32
    assert table.lookup("a")(torch.tensor([0, 5, 2])).tolist() == [2.0, 3.0, 1.0]
    table.write(str(tmp_path / "t.parquet"))
    assert open_table(str(tmp_path / "t.parquet")).lookup("a")(torch.tensor([5])).tolist() == [3.0]


@pytest.mark.parametrize(
    "ids, match",
    [
        (np.array([0.0, 1.5]), r"ids are of type float64 \(such as 0\.0\)"),
        (np.array([0.0, 1.0]), "ids are of type float64"),
        (["a", "b"], r"such as a\); they must be whole numbers"),
        ([True, False], "ids are of type bool"),
        ([0, None], "ids are of type object"),
        (np.array([0, 2**63], np.uint64), f"such as {2**63}"),
        ([0, 2**64], "no array of whole numbers"),
        ([[0], [1, 2]], "no array of whole numbers"),
    ],
)
def test_ids_of_another_type_are_refused(ids, match):
    with pytest.raises(TableError, match=match):
        ScoreTable(ids_N=ids, columns={"a": np.zeros(2, np.float32)}, provenance={})


@pytest.mark.parametrize(
    "values, match",
    [
        (["x", "y"], "the column a holds no numbers"),
        ([None, 1.0], "the column a holds no numbers"),
        ([1e60, 1.0], "too large for 32 bits"),
        ([1.0], "do not match"),
    ],
)
def test_scores_that_are_no_numbers_are_refused(values, match):
    with pytest.raises(TableError, match=match):
        ScoreTable(ids_N=[0, 1], columns={"a": values}, provenance={})


def test_a_file_with_ids_beyond_64_bits_with_sign_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {"id": pa.array([0, 2**63], pa.uint64()), "a": pa.array([1.0, 2.0])}
    sealed.write_sealed(path, pa.table(columns), {"format": 2, "provenance": {}})
    with pytest.raises(TableError, match=f"{path}: the ids are of type uint64"):
        ScoreTable.read(path)
