"""Scoring and pruning from the command line, on the embedded digits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from goldiprox.cli import main
from goldiprox.records.tables import ScoreTable


def run(*arguments: object) -> None:
    main([str(a) for a in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line on stderr; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 1
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("goldiprox:")
    ]
    return line.removeprefix("goldiprox: ")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    run(
        *("score", "digits", "--scores", "el2n,grand,forgetting,input-norm", "--replicas", 2),
        *("--epoch", "1,3", "--model", "mlp-128", "--label-noise", 0.1, "--out", path),
    )
    return path


def test_score_writes_one_table_for_everything_that_is_not_test(scores) -> None:
    table = ScoreTable.read(scores)
    assert len(table) == 1438
    assert {"el2n", "el2n_std", "el2n_epoch_1", "grand", "forgetting", "never_learnt"} <= set(
        table.columns
    )
    ranks = [np.argsort(np.argsort(table.columns[n])) for n in ("el2n", "el2n_epoch_1")]
    assert 0.3 < np.corrcoef(ranks[0], ranks[1])[0, 1] < 0.999
    # GraNd and EL2N agree, but GraNd is no EL2N in another unit.
    correlation = np.corrcoef(table.columns["el2n"], table.columns["grand"])[0, 1]
    assert 0.5 < correlation < 0.999


def test_prune_tells_each_class_and_writes_the_hardest(scores, tmp_path, capsys) -> None:
    out = tmp_path / "kept.parquet"
    run("prune", scores, "--by", "el2n", "--keep", "0.5", "--out", out)
    shown = capsys.readouterr().out
    assert "kept 719 of 1,438 examples" in shown
    assert "removed %" in shown
    assert "loses" in shown  # digits differ: some class loses far more than its share
    table, kept = ScoreTable.read(scores), ScoreTable.read(out)
    limit = np.sort(table.columns["el2n"])[-719]
    assert kept.columns["el2n"].min() == limit
    assert set(kept.ids_N.tolist()) <= set(table.ids_N.tolist())
    run("prune", scores, "--by", "el2n", "--balanced", "--keep", "0.5", "--out", out)
    assert "loses" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--by", "el2n", "--keep", "0"], "--keep is 0.0; give a share in (0, 1]"),
        (["--by", "aum"], "has no column aum; it has: el2n"),
        (["--by", "el2n", "--rule", "lowest", "--keep", "0.02"], "leaves nothing of class"),
        (["--by", "el2n", "--join", "nowhere.parquet"], "nowhere.parquet does not exist"),
    ],
)
def test_bad_pruning_is_one_line(scores, tmp_path, capsys, arguments, told) -> None:
    out = tmp_path / "kept.parquet"
    assert told in fails(capsys, "prune", scores, *arguments, "--out", out)
    assert not out.exists()


def test_a_score_table_of_other_labels_is_not_taken_for_this_one(scores, capsys) -> None:
    line = fails(
        capsys,
        *("score", "digits", "--scores", "el2n,grand,forgetting,input-norm", "--replicas", 2),
        *("--epoch", "1,3", "--model", "mlp-128", "--out", scores),
    )
    assert "made with other settings (labels is" in line


def test_what_is_kept_is_trained_on(scores, tmp_path, capsys) -> None:
    out = tmp_path / "kept.parquet"
    run("prune", scores, "--by", "el2n", "--keep", "0.5", "--out", out)
    small = ["--model", "mlp-128", "--batch", 8, "--pool", 64, "--epochs", 1, "--subset", out]
    data = ["digits", "--label-noise", "0.1", "--holdout-mode", "halves"]
    run("train", *data, "--method", "uniform", *small, "--out", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["data"]["sizes"]["train"] == 719
    # Without the noise of the scores the labels are others.
    line = fails(capsys, "train", "digits", "--method", "uniform", *small, "--out", tmp_path / "b")
    assert "other labels" in line
