"""Scoring, pruning and the study of both from the command line, on the embedded digits."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from goldiprox.cli import main
from goldiprox.records.steplog import read_steps
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


STUDY = (
    *("diet", "digits", "--label-noise", "0.2", "--model", "mlp-128", "--batch", 32),
    *("--scores", "el2n,forgetting,irreducible-loss", "--by", "el2n", "--replicas", 2),
    *("--epoch", "1,2", "--epochs", 2, "--shares", "0.4", "--offsets", "0,0.6", "--seeds", 2),
    *("--il.epochs", 2),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("diet") / "out"
    run(*STUDY, "--out", out)
    return out


def test_the_study_says_what_its_records_say(study) -> None:
    found = json.loads((study / "diet.json").read_text())
    rows = {(r["arm"], r["share"], r["offset"]): r for r in found["curves"]}
    assert set(rows) == {
        ("full", 1.0, None), ("el2n", 0.4, None), ("input_norm", 0.4, None),
        ("random", 0.4, None), ("short-uniform", 0.4, None), ("el2n", 0.4, 0.0), ("el2n", 0.4, 0.6),
    }  # fmt: skip
    for (arm, share, offset), row in rows.items():
        window = "" if offset is None else f"-from-{offset:g}"
        folders = [study / "runs" / f"{arm}-{share:g}{window}-{seed}" for seed in range(2)]
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        assert row["accuracy"]["values"] == [r["final_accuracy"] for r in results]
        assert row["examples"] == (1438 if arm in ("full", "short-uniform") else 575)
    steps = {r["steps"] for r in rows.values() if r["arm"] != "full"}
    assert len(steps) == 1  # equal compute, the short schedule included
    # What was trained on is what the score says.
    table = ScoreTable.read(study / "scores.parquet")
    log = read_steps(study / "runs" / "el2n-0.4-0")["ids"].combine_chunks().flatten().to_numpy()
    limit = np.sort(table.columns["el2n"])[-575]
    assert table.columns["el2n"][table.rows(np.unique(log), "")].min() >= limit
    # Noise is known, so every score is held against it; a random order finds nothing.
    noise = {entry["score"]: entry["auc"] for entry in found["noise"]["detection"]}
    assert {"el2n", "forgetting", "irreducible_loss", "input_norm", "random"} <= set(noise)
    assert noise["el2n"] > 0.9
    assert abs(noise["random"] - 0.5) < 0.1
    assert {"corrupted before", "corrupted"} <= set(found["noise"]["histogram"]["shares"])
    # The wrong labels stand at the top, so the top window is worse than the bottom one.
    top, bottom = rows["el2n", 0.4, 0.6]["accuracy"], rows["el2n", 0.4, 0.0]["accuracy"]
    assert top["mean"] < bottom["mean"]


def test_the_page_shows_the_numbers_and_loads_nothing(study) -> None:
    found = json.loads((study / "diet.json").read_text())
    page = (study / "report.html").read_text()
    for row in found["curves"]:
        if row["offset"] is None and row["arm"] != "full":
            assert f'<data value="{row["accuracy"]["mean"]}">' in page
    for entry in found["noise"]["detection"]:
        assert f'<data value="{entry["auc"]}">' in page
    for reading in found["readings"]:
        assert reading["claim"] in page
    assert page.count("<svg") == 4
    assert page.count("data:image/png") == 10 * 2 * 6
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)


def test_the_study_again_trains_nothing(study, capsys) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.glob("runs/*/result.json")}
    page = (study / "report.html").read_bytes()
    run(*STUDY, "--out", study)
    assert {p: p.stat().st_mtime_ns for p in study.glob("runs/*/result.json")} == before
    assert (study / "report.html").read_bytes() == page
    line = fails(capsys, *STUDY, "--lr", "0.01", "--out", study)
    assert "another study (diet.lr is 0.001 there, 0.01 now)" in line
