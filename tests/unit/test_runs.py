"""Run folders: weights, checkpoints, manifests."""

import pytest
import torch

from goldiprox.records.circumstances import first_difference
from goldiprox.records.files import read_json, write_json
from goldiprox.records.runs import RunFolder
from goldiprox.schema import CheckpointError, GoldiproxError


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def manifest(**config):
    return {"config": config, "config_hash": str(sorted(config.items()))}


def test_opening_twice_is_going_on_and_changes_nothing(folder):
    folder.open(manifest(lr=0.1))
    before = (folder.path / "manifest.json").read_bytes()
    folder.open(manifest(lr=0.1))
    assert (folder.path / "manifest.json").read_bytes() == before
    assert folder.manifest()["config"] == {"lr": 0.1}
    assert folder.manifest()["format"] == 2
    assert {"goldiprox", "torch", "python", "threads"} <= folder.manifest()["versions"].keys()
    assert not folder.finished


@pytest.mark.parametrize(
    ("found", "wanted", "text"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}, "b.d is 3 there, 4 now"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a is 1 there, 2 now"),
        ({"a": 1}, {"a": 1, "z": 5}, "z is None there, 5 now"),
        ({"a": {"b": 1}}, {"a": 7}, "a is {'b': 1} there, 7 now"),
        ({}, {}, "its configuration is {} there, {} now"),
    ],
)
def test_the_first_difference_is_named_by_its_path(found, wanted, text):
    assert first_difference(found, wanted) == text


def test_weights_round_trip_tied_ones_too(folder):
    tied = torch.arange(6.0).view(2, 3)
    weights = {"a": tied, "b": tied, "c": torch.ones(2, 2).t(), "n": torch.tensor(3)}
    folder.save_weights("model", weights)
    back = folder.load_weights("model")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[k], weights[k]) for k in weights)
    path = folder.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        folder.load_weights("model")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is absent"):
        folder.load_weights("other")


def test_channels_last_weights_come_back_the_same(folder):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    folder.save_weights("model", {"w": weight})
    assert torch.equal(folder.load_weights("model")["w"], weight)


def test_only_the_last_checkpoint_is_kept(folder):
    assert folder.load_checkpoint() is None
    for step in (3, 20, 100):
        folder.save_checkpoint(step, {"step": step, "x": torch.full((3,), float(step))})
    assert len(list(folder.path.iterdir())) == 1
    state = folder.load_checkpoint()
    assert state["step"] == 100
    assert state["x"].tolist() == [100.0] * 3


def test_finishing_writes_the_result_and_drops_the_checkpoint(folder):
    folder.open(manifest())
    folder.save_checkpoint(1, {"step": 1})
    folder.finish(
        evaluations=[{"step": 1, "accuracy": 0.5}],
        ledger={"phases": {}},
        weights={"w": torch.ones(2)},
        result={"steps": 1},
    )
    assert folder.finished
    assert folder.result()["steps"] == 1
    assert len(folder.result()["weights_digest"]) == 64
    assert folder.evaluations() == [{"step": 1, "accuracy": 0.5}]
    assert folder.ledger() == {"phases": {}}
    assert not list(folder.path.glob("checkpoint*"))


def test_a_folder_that_is_no_run_is_said_to_be(tmp_path):
    with pytest.raises(CheckpointError, match="is this a goldiprox output folder"):
        RunFolder(tmp_path).manifest()


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 0.1, "ä", None]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": [1, 0.1, "ä", None]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("junk", [b"{", b"\xff\xfe", b""])
def test_damaged_json_is_refused_naming_the_file(junk, tmp_path):
    (tmp_path / "a.json").write_bytes(junk)
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(GoldiproxError, match=r"cannot write .*manifest\.json"):
        RunFolder(tmp_path / "taken").open(manifest())
