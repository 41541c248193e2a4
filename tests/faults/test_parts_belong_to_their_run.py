"""Every part of a run is tied to it: lost, doubled, flipped or foreign ones are refused by name."""

import json
import logging
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from goldiprox.records import runs
from goldiprox.records.files import read_json, write_json
from goldiprox.records.mapped import open_table, write_mapped
from goldiprox.records.parts import Parts
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable
from goldiprox.records.weights import weights_bytes
from goldiprox.schema import CheckpointError, TableError
from goldiprox.workflows.tables import describe_table


def manifest(seed=0, **more):
    return {"config": {"seed": seed}, "config_hash": f"hash of {seed}", **more}


def started(path, seed=0):
    folder = RunFolder(path)
    folder.open(manifest(seed))
    parts = Parts(path, "steps", "step log", "delete it")
    for first in (0, 2, 4):
        parts.write(pa.table({"step": [first, first + 1]}))
    folder.save_checkpoint(6, {"step": 6})
    return folder, parts


def finished(path, seed=0):
    folder = RunFolder(path)
    folder.open(manifest(seed))
    folder.finish(
        evaluations=[{"step": 1, "accuracy": 0.5}],
        ledger={"phases": {}},
        weights={"w": torch.ones(64)},
        result={"steps": 1},
    )
    return folder


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_parts_of_this_run_are_taken(tmp_path):
    _, parts = started(tmp_path / "run")
    parts.cut(0, 6)
    assert pa.concat_tables(parts.tables())["step"].to_pylist() == list(range(6))


@pytest.mark.parametrize("how", ["lost", "doubled", "flipped", "foreign", "renamed", "all lost"])
def test_a_part_that_is_not_as_it_was_written_is_refused(how, tmp_path):
    _, parts = started(tmp_path / "run")
    first, second, _ = sorted(parts.folder.iterdir())
    words = {"lost": "no part with step 2", "all lost": "no part with step 0"}
    if how == "lost":
        second.unlink()
    elif how == "all lost":
        shutil.rmtree(parts.folder)
    elif how == "doubled":
        shutil.copy(first, second.with_name(second.name.replace("000002-", "000001-", 1)))
        words[how] = "another part holds too"
    elif how == "flipped":
        flip(second)
    elif how == "foreign":
        _, others = started(tmp_path / "other", seed=1)
        second.unlink()
        shutil.copy(sorted(others.folder.iterdir())[1], parts.folder)
    else:
        digest = first.name[-24:]
        second.unlink()
        first.rename(second.with_name(second.name[:-24] + digest))
        shutil.copy(second.with_name(second.name[:-24] + digest), first)
    with pytest.raises(CheckpointError, match=words.get(how, "damaged or of another run")):
        parts.cut(0, 6)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    folder, _ = started(tmp_path / "run")
    other, _ = started(tmp_path / "other", seed=1)
    [own] = folder.path.glob("checkpoint-*.pt")
    [foreign] = other.path.glob("checkpoint-*.pt")
    own.unlink()
    shutil.copy(foreign, folder.path)
    with pytest.raises(CheckpointError, match="damaged or of another run"):
        folder.load_checkpoint()


NAMES = ["manifest.json", "evaluations.json", "ledger.json", "model.safetensors", "files.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["lost", "flipped", "foreign"])
def test_a_finished_run_is_verified_when_it_is_used_again(how, name, tmp_path):
    folder = finished(tmp_path / "run")
    folder.use_again(manifest())
    path = folder.path / name
    if how == "lost":
        path.unlink()
    elif how == "flipped":
        flip(path)
    else:
        other = finished(tmp_path / "other", seed=1)
        write_json(other.path / "evaluations.json", [{"step": 2}])
        write_json(other.path / "ledger.json", {"phases": {}, "peak_memory_bytes": 3})
        (other.path / "model.safetensors").write_bytes(weights_bytes({"w": torch.zeros(9)}))
        shutil.copy(other.path / name, path)
    with pytest.raises(CheckpointError, match=f"{name}|of another run"):
        folder.use_again()


def test_weights_kept_along_a_run_are_its_own(tmp_path):
    folder, _ = started(tmp_path / "run")
    other, _ = started(tmp_path / "other", seed=1)
    for one in (folder, other):
        one.save_weights("weights/epoch-0001", {"w": torch.ones(8)})
    folder.load_weights("weights/epoch-0001")
    path = "weights/epoch-0001.safetensors"
    shutil.copy(other.path / path, folder.path / path)
    with pytest.raises(CheckpointError, match="of another run"):
        folder.load_weights("weights/epoch-0001")


def test_other_threads_are_said_noted_and_refused_where_exactness_is_asked_for(
    tmp_path, monkeypatch, caplog
):
    folder, _ = started(tmp_path / "run")
    known = runs.versions()
    monkeypatch.setattr(runs, "versions", lambda: {**known, "threads": "99"})
    with pytest.raises(CheckpointError, match=r"other threads .*99 now.*--exact"):
        folder.open(manifest(), exact=True)
    with caplog.at_level(logging.WARNING):
        folder.open(manifest())
    assert "threads" in caplog.text
    [note] = folder.manifest()["resumed"]
    assert (note["step"], note["versions"]["threads"]) == (6, "99")
    folder.open(manifest(), exact=True)  # as it was gone on with the last time


def test_a_finished_folder_of_version_0_1_0_is_read_and_an_unfinished_one_left_alone(tmp_path):
    old = {**manifest(), "format": 1, "versions": {"goldiprox": "0.1.0"}}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match="unfinished run of an earlier version"):
        RunFolder(tmp_path).open(manifest())
    (tmp_path / "result.json").write_text(json.dumps({"steps": 1, "weights_digest": "d"}))
    (tmp_path / "evaluations.json").write_text('[{"step": 1}]')
    folder = RunFolder(tmp_path)
    folder.open(manifest())
    assert not folder.verified
    assert folder.evaluations() == [{"step": 1}]
    assert folder.result()["steps"] == 1


@pytest.mark.parametrize("text", ["[]", '"x"', "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "{",
                                  '{"a": ' + "9" * 5000 + "}"])  # fmt: skip
def test_odd_json_is_one_line(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"a\.json is damaged") as refused:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(refused.value)
    assert "space" not in str(refused.value)


def test_no_digit_of_a_json_file_of_ours_can_be_changed(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 0.875, "name": "x"})
    path.write_text(path.read_text().replace("0.875", "0.975"))
    with pytest.raises(CheckpointError, match="digest does not match"):
        read_json(path)


def test_a_mapped_table_compares_a_block_when_it_is_first_looked_at(tmp_path):
    rows = 3 << 18
    table = ScoreTable(ids_N=range(rows), columns={"x": torch.rand(rows)}, provenance={})
    write_mapped(table, tmp_path / "t.arrow")
    raw = bytearray((tmp_path / "t.arrow").read_bytes())
    at = raw.index(table.columns["x"][:8].tobytes()) + 4 * ((2 << 18) + 5)
    raw[at] ^= 1
    (tmp_path / "t.arrow").write_bytes(raw)
    look = open_table(tmp_path / "t.arrow").lookup("x")
    assert (
        look(torch.tensor([0, 5, 1 << 18])).tolist() == table.columns["x"][[0, 5, 1 << 18]].tolist()
    )
    with pytest.raises(TableError, match="the bytes of x for the ids 524288 to 786431"):
        look(torch.tensor([0, rows - 1]))


def test_a_finished_part_made_under_other_threads_is_refused_where_exactness_is_asked_for(
    tmp_path, monkeypatch
):
    folder = finished(tmp_path / "run")
    folder.use_again(manifest(), exact=True)
    known = runs.versions()
    monkeypatch.setattr(runs, "versions", lambda: {**known, "threads": "99"})
    folder.use_again(manifest())
    for wanted in (manifest(), None):
        with pytest.raises(CheckpointError, match=r"finished with other threads .*--exact"):
            folder.use_again(wanted, exact=True)


def test_a_digest_under_another_name_is_a_damaged_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 0.875})
    path.write_text(path.read_text().replace('"goldiprox"', '"goldipsox"'))
    with pytest.raises(CheckpointError, match="digest stands under another name"):
        read_json(path)


def test_some_rows_of_a_large_table_are_written_as_a_table_of_them_is(tmp_path, monkeypatch):
    monkeypatch.setattr("goldiprox.records.sealed.PART", 7)
    ids = torch.arange(40)
    table = ScoreTable(ids_N=ids, columns={"x": torch.rand(40)}, provenance={"a": 1})
    rows = (ids % 3 == 0).numpy()
    table.write(tmp_path / "t.parquet", rows)
    found = ScoreTable.read(tmp_path / "t.parquet")  # in several row groups, digest compared
    assert found.ids_N.tolist() == table.ids_N[rows].tolist()
    assert found.columns["x"].tolist() == table.columns["x"][rows].tolist()


def test_a_table_of_version_0_1_0_is_said_to_be_unverified(tmp_path):
    note = json.dumps({"format": 1, "provenance": {"kind": "scores"}})
    table = pa.table({"id": [0, 1], "x": pa.array([0.5, 1.0], pa.float32())})
    pq.write_table(table.replace_schema_metadata({"goldiprox": note}), tmp_path / "old.parquet")
    ScoreTable.read(tmp_path / "old.parquet").write(tmp_path / "new.parquet")
    assert "0.1.0" in describe_table(tmp_path / "old.parquet")["unverified"]
    assert "unverified" not in describe_table(tmp_path / "new.parquet")
