"""Sequences and tables on the command line: recorded, replayed, shown, cut, converted, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails, run
from safetensors.torch import load_file

from goldiprox.records.mapped import MappedTable
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable

NOISE = ("--label-noise", 0.2)
SMALL = ("--pool", 64, "--batch", 8, "--epochs", 2)
IL = ("--il.epochs", 2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mlp-dropout on noisy digits with its sequence and its irreducible losses."""
    home = tmp_path_factory.mktemp("recorded")
    run(
        *("train", "digits", *NOISE, "--model", "mlp-dropout", "--method", "rho-loss", *SMALL, *IL),
        *("--out", home / "run", "--record", home / "s.parquet"),
    )
    return home


@pytest.fixture
def sequence(recorded: Path) -> Path:
    return recorded / "s.parquet"


def test_the_same_model_and_seed_end_with_the_same_weights(
    recorded: Path, sequence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "replay"
    command = ("train", "digits", *NOISE, "--model", "mlp-dropout", "--out", out)
    run(*command, "--replay", sequence)
    one, other = (load_file(f / "model.safetensors") for f in (recorded / "run", out))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert "recorded by mlp-dropout with rho-loss" in capsys.readouterr().out
    assert RunFolder(out).manifest()["arm"] == "replay"
    phases = RunFolder(out).ledger()["phases"]
    assert phases["scoring"]["flops"] == 0
    assert phases["loading"]["examples"] == phases["training"]["examples"]
    run(*command, "--replay", sequence)  # finished: says the same and trains nothing
    refusal = fails(capsys, *command, *SMALL, *IL)
    assert "holds a run of another configuration" in refusal


def test_another_model_trains_on_the_recorded_ids(
    recorded: Path, sequence: Path, tmp_path: Path
) -> None:
    run("train", "digits", *NOISE, "--model", "mlp", "--seed", 4, "--lr", 3e-3,
        "--replay", sequence, "--out", tmp_path / "r")  # fmt: skip
    ours, theirs = (read_steps(f)["ids"].to_pylist() for f in (tmp_path / "r", recorded / "run"))
    assert ours == theirs
    assert len(ours) == len(BatchSequence.open(sequence))


def test_a_part_is_replayed(sequence: Path, tmp_path: Path) -> None:
    run("sequence", "cut", sequence, "--start", 3, "--stop", 9, "--out", tmp_path / "c")
    run("sequence", "thin", sequence, "--every", 5, "--out", tmp_path / "t")
    run("sequence", "join", tmp_path / "c", tmp_path / "t", "--out", tmp_path / "j")
    whole = [s.ids_k.tolist() for s in BatchSequence.open(sequence).steps()]
    run("train", "digits", *NOISE, "--model", "mlp-128", "--replay", tmp_path / "j",
        "--out", tmp_path / "r")  # fmt: skip
    assert read_steps(tmp_path / "r")["ids"].to_pylist() == whole[3:9] + whole[::5]


def test_recording_again_trains_nothing_and_keeps_the_file(recorded: Path, sequence: Path) -> None:
    before = sequence.read_bytes(), sequence.stat().st_mtime_ns
    run(
        *("train", "digits", *NOISE, "--model", "mlp-dropout", "--method", "rho-loss", *SMALL, *IL),
        *("--out", recorded / "run", "--record", sequence),
    )
    assert (sequence.read_bytes(), sequence.stat().st_mtime_ns) == before


def test_what_a_recording_would_lose_is_refused(
    recorded: Path, sequence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ("train", "digits", *NOISE, "--model", "mlp-dropout", "--method", "rho-loss", *SMALL)
    line = fails(capsys, *again, *IL, "--out", recorded / "run", "--record", tmp_path / "new")
    assert "is finished and its sequence" in line
    other = ("train", "digits", *NOISE, "--model", "mlp-128", "--method", "uniform", *SMALL)
    line = fails(capsys, *other, "--out", tmp_path / "o", "--record", sequence)
    assert "is the sequence of another run" in line
    line = fails(
        capsys, *other, "--out", tmp_path / "o", "--record", tmp_path / "x", "--replay", sequence
    )
    assert "exclude each other" in line


def test_show_says_what_a_sequence_is(sequence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sequence", "show", sequence, "--dataset", "digits", *NOISE)
    shown = capsys.readouterr().out
    steps = len(BatchSequence.open(sequence))
    for expected in (
        f"{steps:,} of {steps:,} steps of mlp-dropout with rho-loss, irreducible losses by mlp-128",
        "seed 0, 8 of each 64",
        "label noise 0.2",
        "over 2 epochs",
        "all one",
        "wrong labels",
        "fits  yes: digits",
    ):
        assert expected in shown
    run("sequence", "show", sequence)
    assert "fits" not in capsys.readouterr().out


def test_a_sequence_for_other_data_or_labels_is_refused(
    sequence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "r")
    line = fails(capsys, "train", "digits", "--replay", sequence, *out)
    assert "was recorded on other labels or another split" in line
    line = fails(capsys, "sequence", "show", sequence, "--dataset", "digits", "--data-seed", 1)
    assert "was recorded on other labels" in line
    path = sequence.with_name("cut-off")
    path.write_bytes(sequence.read_bytes()[:-30])
    line = fails(capsys, "train", "digits", *NOISE, "--replay", path, *out)
    assert "is damaged, cut off or not Parquet" in line
    line = fails(capsys, "train", "digits", *NOISE, "--replay", sequence, "--epochs", 5, *out)
    assert "--epochs 5 contradicts --replay" in line
    assert not (tmp_path / "r").exists()


def test_a_table_is_shown_and_checked(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded / "run" / "irreducible.parquet"
    run("table", "show", path, "--dataset", "digits", *NOISE)
    shown = capsys.readouterr().out
    table = ScoreTable.read(path)
    for expected in (
        "(Parquet, ",
        "irreducible-loss",
        f"rows  {len(table):,}",
        f"column {IRREDUCIBLE_LOSS}",
        "label noise 0.2",
        "mlp-128",
        "held-out accuracy",
        "FLOPs",
        "fits  yes: digits",
    ):
        assert expected in shown
    line = fails(capsys, "table", "show", path, "--dataset", "digits")
    assert "belongs to other labels" in line
    line = fails(capsys, "table", "show", path, "--dataset", "digits", *NOISE, "--data-seed", 3)
    assert "lacks " in line


def test_a_mapped_table_serves_as_well(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, mapped = recorded / "run" / "irreducible.parquet", tmp_path / "il.arrow"
    run("table", "convert", path, "--out", mapped)
    run("table", "show", mapped, "--dataset", "digits", *NOISE)
    assert "(mapped, " in capsys.readouterr().out
    one, other = ScoreTable.read(path), MappedTable.open(mapped)
    ids = torch.from_numpy(one.ids_N.copy())
    assert torch.equal(
        one.column_for(IRREDUCIBLE_LOSS, ids, ""), other.column_for(IRREDUCIBLE_LOSS, ids, "")
    )
    run("table", "convert", mapped, "--out", tmp_path / "back.parquet")
    back = ScoreTable.read(tmp_path / "back.parquet")
    order = np.argsort(one.ids_N)
    assert back.ids_N.tolist() == one.ids_N[order].tolist()
    assert "onto itself" in fails(capsys, "table", "convert", mapped, "--out", mapped)
    run("train", "digits", *NOISE, "--model", "mlp-dropout", "--method", "rho-loss", *SMALL,
        "--irreducible", mapped, "--out", tmp_path / "r")  # fmt: skip
    runs = (recorded / "run", tmp_path / "r")
    assert read_steps(runs[0])["ids"].to_pylist() == read_steps(runs[1])["ids"].to_pylist()


@pytest.mark.parametrize("group", ["sequence", "table"])
def test_groups_of_commands_explain_themselves(
    group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(group, "--help")
    assert stopped.value.code == 0
    assert "show" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        run(group)
    assert stopped.value.code != 0
