"""Sequence files: what is written comes back in bounded pieces; what is damaged is named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from goldiprox.records import sequences
from goldiprox.records.sequences import (
    SCHEMA,
    BatchSequence,
    Part,
    cut,
    join,
    pool_digest,
    thin,
    write_sequence,
)
from goldiprox.schema import GoldiproxError, SequenceError


def rows_of(steps, batch=3, weighted=False, seed=0):
    """Rows whose every number depends on the step, so that a shifted list is noticed."""
    rows = []
    for step in steps:
        drawn = np.random.default_rng((seed, step))
        rows.append(
            {
                "step": step,
                "epoch": step // 5,
                "pool": f"{step:016x}",
                "ids": drawn.integers(0, 2**60, batch).tolist(),
                "positions": drawn.integers(0, 30, batch).tolist(),
                "weights": (
                    (step + drawn.random(batch).astype(np.float32)).astype(np.float32).tolist()
                    if weighted and step % 2
                    else None
                ),
            }
        )
    return rows


def table_of(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def part(rows, batch=3, **provenance):
    known = {"fingerprint": "f", "label_digest": "l", "batch": batch, **provenance}
    return Part(rows=rows, provenance=known)


@pytest.fixture
def small_groups(monkeypatch):
    """Row groups of four steps, so that a few rows span several."""
    monkeypatch.setattr(sequences, "GROUP_PICKS", 12)


@pytest.fixture
def write(tmp_path):
    def make(name="s.parquet", count=11, **settings):
        rows = rows_of(range(count), weighted=True, seed=settings.pop("seed", 0))
        write_sequence(tmp_path / name, [table_of(rows)], [part(count, **settings)])
        return BatchSequence.open(tmp_path / name), rows

    return make


def as_rows(steps):
    return [
        {
            "step": s.step,
            "epoch": s.epoch,
            "pool": s.pool,
            "ids": s.ids_k.tolist(),
            "positions": s.positions_k.tolist(),
            "weights": None if s.weights_k is None else s.weights_k.tolist(),
        }
        for s in steps
    ]


def test_round_trip(write, small_groups):
    sequence, rows = write(seed=3, method="rho-loss")
    assert len(sequence) == 11
    assert as_rows(sequence.steps()) == rows
    assert sequence.provenance["method"] == "rho-loss"
    assert sequence.part_of(10).rows == 11
    with pytest.raises(IndexError):
        sequence.part_of(11)
    first = next(sequence.steps())
    assert (first.ids_k.dtype, first.positions_k.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize("start", range(12))
def test_reading_begins_anywhere(start, write, small_groups):
    sequence, rows = write()
    assert as_rows(sequence.steps(start)) == rows[start:]


def test_large_ids_stay_exact(tmp_path):
    ids = [2**53 + 1, 2**62 + 1, 2**24 + 1]
    rows = [{**rows_of([0])[0], "ids": ids}]
    write_sequence(tmp_path / "s", [table_of(rows)], [part(1)])
    assert next(BatchSequence.open(tmp_path / "s").steps()).ids_k.tolist() == ids


def test_only_one_row_group_is_read_at_a_time(write, small_groups, monkeypatch):
    sequence, _ = write()
    read = []
    real = pq.ParquetFile.read_row_group

    def counting(self, number, *rest, **more):
        read.append(number)
        return real(self, number, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    steps = sequence.steps(5)
    next(steps)
    assert read == [1]
    assert [s.step for s in steps] == [6, 7, 8, 9, 10]
    assert read == [1, 2]


def test_writing_holds_one_row_group_at_a_time(tmp_path, small_groups):
    """Rows are asked for as they are written, not collected first."""
    path = tmp_path / "s.parquet"
    sizes = []

    def rows():
        for step in range(40):
            if step % 8 == 0:
                temporary = next(iter(tmp_path.glob(".s.parquet*")), None)
                sizes.append(temporary.stat().st_size if temporary else 0)
            yield table_of(rows_of([step]))

    write_sequence(path, rows(), [part(40)])
    assert sizes == sorted(set(sizes))
    assert pq.ParquetFile(path).metadata.num_row_groups == 10
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


@pytest.mark.parametrize("cuts", [[11], [1] * 11, [4, 4, 3], [7, 0, 4], [3, 6, 2]])
def test_the_bytes_do_not_depend_on_how_the_rows_came(cuts, tmp_path, small_groups):
    rows = rows_of(range(11), weighted=True)
    write_sequence(tmp_path / "whole", [table_of(rows)], [part(11)])
    tables, at = [], 0
    for size in cuts:
        tables.append(table_of(rows[at : at + size]))
        at += size
    write_sequence(tmp_path / "parts", tables, [part(11)])
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_rows_that_do_not_add_up_leave_the_old_file(write, tmp_path):
    sequence, rows = write()
    with pytest.raises(SequenceError, match=r"3 steps for .*, not the 4 that the run had"):
        write_sequence(sequence.path, [table_of(rows[:3])], [part(4)])
    assert as_rows(sequence.steps()) == rows
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


def test_a_full_disk_leaves_the_old_file_too(write, tmp_path):
    sequence, rows = write()

    def full():
        yield table_of(rows[:5])
        raise OSError(28, "No space left on device")

    with pytest.raises(GoldiproxError, match=r"cannot write .*s\.parquet: No space left"):
        write_sequence(sequence.path, full(), [part(9)])
    assert as_rows(sequence.steps()) == rows
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


@pytest.mark.parametrize("bounds", [(0, 11), (0, 1), (3, 4), (3, 9), (4, 8), (10, 11)])
def test_cutting(bounds, write, small_groups, tmp_path):
    sequence, rows = write()
    start, stop = bounds
    cut(sequence, tmp_path / "c", start, stop)
    back = BatchSequence.open(tmp_path / "c")
    assert as_rows(back.steps()) == rows[start:stop]
    assert back.history == ({"operation": "cut", "start": start, "stop": stop},)
    assert [p.rows for p in back.parts] == [stop - start]


@pytest.mark.parametrize("bounds", [(-1, 3), (3, 3), (5, 4), (0, 12), (11, None)])
def test_cutting_what_is_not_there_is_refused(bounds, write, tmp_path):
    sequence, _ = write()
    with pytest.raises(SequenceError, match="has steps 0 to 10: cannot cut from"):
        cut(sequence, tmp_path / "c", *bounds)
    assert not (tmp_path / "c").exists()


def test_a_cut_of_a_damaged_file_names_the_source(write, small_groups, tmp_path):
    sequence, _ = write()
    data = bytearray(sequence.path.read_bytes())
    data[100:300] = bytes(b ^ 0x20 for b in data[100:300])
    sequence.path.write_bytes(bytes(data))
    with pytest.raises(SequenceError, match=r"s\.parquet is damaged between its steps 0 and 3"):
        cut(sequence, tmp_path / "c", 0, 5)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("every", [1, 2, 3, 5, 10, 11, 50])
def test_taking_every_nth(every, write, small_groups, tmp_path):
    one, first = write("one", 11)
    other, second = write("other", 6, seed=9)
    join([one, other], tmp_path / "joined")
    joined = BatchSequence.open(tmp_path / "joined")
    thin(joined, tmp_path / "thin", every)
    back = BatchSequence.open(tmp_path / "thin")
    assert as_rows(back.steps()) == (first + second)[::every]
    kept = [len(range(0, 11, every)), len(range(0, 17, every)) - len(range(0, 11, every))]
    assert [p.rows for p in back.parts] == [k for k in kept if k]
    assert [note["operation"] for note in back.history] == ["join", "thin"]


def test_taking_every_zeroth_is_refused(write, tmp_path):
    with pytest.raises(SequenceError, match="every 0-th"):
        thin(write()[0], tmp_path / "t", 0)


def test_joining_keeps_each_rows_own_provenance(write, small_groups, tmp_path):
    one, first = write("one", 5)
    other, second = write("other", 6, seed=9, method="loss")
    join([one, other, one], tmp_path / "j")
    back = BatchSequence.open(tmp_path / "j")
    assert as_rows(back.steps()) == first + second + first
    methods = [back.part_of(row).provenance.get("method") for row in range(16)]
    assert methods == [None] * 5 + ["loss"] * 6 + [None] * 5
    cut(back, tmp_path / "c", 4, 8)
    parts = BatchSequence.open(tmp_path / "c").parts
    assert [(p.rows, p.provenance.get("method")) for p in parts] == [(1, None), (3, "loss")]


def test_joining_other_data_or_nothing_is_refused(write, tmp_path):
    one, _ = write("one")
    for key, what in (("fingerprint", "other data"), ("label_digest", "other labels")):
        other, _ = write("other", **{key: "x"})
        with pytest.raises(SequenceError, match=f"{what}.*: x there, . here; only sequences of"):
            join([one, other], tmp_path / "j")
    with pytest.raises(SequenceError, match="at least one"):
        join([], tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_requirements_are_asked_of_every_part(write, tmp_path):
    one, _ = write("one", seed_of="a")
    other, _ = write("other", seed_of="b")
    join([one, other], tmp_path / "j")
    joined = BatchSequence.open(tmp_path / "j")
    joined.require("r", fingerprint="f", label_digest="l")
    with pytest.raises(SequenceError, match="b there, a here; do this"):
        joined.require("do this", seed_of="a")


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "folder"])
def test_what_is_no_whole_parquet_file_is_refused(how, write):
    path = write()[0].path
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("step,ids\n0,1\n")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(
        SequenceError,
        match=r"s\.parquet (is damaged, cut off or not Parquet|cannot be read: it is a folder)",
    ):
        BatchSequence.open(path)


def test_an_absent_sequence_is_refused(tmp_path):
    with pytest.raises(SequenceError, match="does not exist; record it again with"):
        BatchSequence.open(tmp_path / "s.parquet")


def test_a_flipped_bit_in_a_step_is_noticed(write, small_groups):
    sequence, rows = write()
    data = sequence.path.read_bytes()
    first_page = data.index(b"\x28\xb5\x2f\xfd")  # zstd
    last = len(data) - 8 - pq.ParquetFile(sequence.path).metadata.serialized_size
    noticed = 0
    for place in range(first_page, last, 11):
        sequence.path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = as_rows(sequence.steps())
        except SequenceError:
            noticed += 1
        else:
            assert found == rows  # a bit of a page's header that means nothing
    assert noticed > 0.4 * len(range(first_page, last, 11)), noticed


GOOD = {"kind": "sequence", "format": 1, "parts": [{"rows": 2, "provenance": {}}], "history": []}


@pytest.mark.parametrize(
    "note",
    [
        None,
        "no json",
        json.dumps([1]),
        json.dumps({"format": 1, "provenance": {}}),  # a score table's
        json.dumps({**GOOD, "parts": []}),
        json.dumps({**GOOD, "parts": None}),
        json.dumps({k: v for k, v in GOOD.items() if k != "history"}),
        json.dumps({k: v for k, v in GOOD.items() if k != "format"}),
    ],
)
def test_foreign_parquet_is_refused(note, tmp_path):
    table = table_of(rows_of(range(2)))
    metadata = None if note is None else {b"goldiprox": note}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "s")
    with pytest.raises(SequenceError, match="is Parquet but not a sequence"):
        BatchSequence.open(tmp_path / "s")


def test_other_columns_or_another_format_are_refused(tmp_path):
    table = table_of(rows_of(range(2)))
    note = {b"goldiprox": json.dumps(GOOD)}
    pq.write_table(table.drop_columns("pool").replace_schema_metadata(note), tmp_path / "s")
    with pytest.raises(SequenceError, match="not a sequence"):
        BatchSequence.open(tmp_path / "s")
    note = {b"goldiprox": json.dumps({**GOOD, "format": 9})}
    pq.write_table(table.replace_schema_metadata(note), tmp_path / "s")
    with pytest.raises(SequenceError, match="has format 9, this version reads 2"):
        BatchSequence.open(tmp_path / "s")
    note = {b"goldiprox": json.dumps({**GOOD, "parts": [{"rows": 3, "provenance": {}}]})}
    pq.write_table(table.replace_schema_metadata(note), tmp_path / "s")
    with pytest.raises(SequenceError, match="holds 2 steps but says it holds 3"):
        BatchSequence.open(tmp_path / "s")


@pytest.mark.parametrize(
    "wrong", [{"positions": [1]}, {"weights": [0.5]}, {"ids": [], "positions": []}]
)
def test_lists_that_do_not_match_are_refused_naming_the_step(wrong, tmp_path, small_groups):
    rows = rows_of(range(11))
    rows[6] |= wrong
    write_sequence(tmp_path / "s", [table_of(rows)], [part(11)])
    with pytest.raises(SequenceError, match="its step 6 has"):
        list(BatchSequence.open(tmp_path / "s").steps())


def test_the_pool_digest_depends_on_ids_and_order_alone():
    ids = torch.tensor([3, 1, 2])
    assert pool_digest(ids) == pool_digest(ids.to(torch.int32).long())
    assert len(pool_digest(ids)) == 16
    others = [ids.flip(0), ids[:2], ids + 1]
    assert len({pool_digest(ids), *map(pool_digest, others)}) == 4
