"""Comparisons by other metrics than accuracy, from the command line to the page."""

from __future__ import annotations

import json
import random

import pytest
from command_line import fails, run

METHODS = ("--methods", "uniform,loss,rho-loss", "--epochs", "3", "--seeds", "2")
TOPICS = {"sport": ("goal", "team"), "money": ("bank", "tax"), "food": ("bread", "soup")}


def compared(out):
    return json.loads((out / "comparison.json").read_text())


def page(out):
    return (out / "report.html").read_text(encoding="utf-8")


def test_diabetes_is_compared_by_its_error(tmp_path, capsys):
    out = tmp_path / "out"
    run("compare", "diabetes", *METHODS, "--label-noise", "0.2", "--target", "200", "--out", out)
    shown = capsys.readouterr().out
    assert "RMSE" in shown
    assert "acc" not in shown.split("\n")[2]
    found = compared(out)
    assert found["metric"] == {
        "name": "rmse", "title": "RMSE", "higher_is_better": False, "unit": "target",
    }  # fmt: skip
    for entry in found["methods"]:
        assert entry["best"]["mean"] <= entry["final"]["mean"]
        assert entry["steps_to_target"]["reached"] == 2  # 200 is worse than knowing nothing
        assert {"best_mae", "best_r2", "final_rmse"} <= entry.keys()
        assert "final_accuracy" not in entry
        assert entry["selected_share"]["already_correct"] is None
    text = page(out)
    assert "Test RMSE against training steps" in text
    assert "RMSE (lower is better)" in text
    assert "targets exchanged: 20" in text
    assert "age: " in text  # rows of the table, as text
    assert "ccurac" not in text.split("What the words mean")[0]
    made = found["methods"]
    run("report", out)
    assert compared(out)["methods"] == made


def test_a_target_is_in_the_unit_of_the_metric(tmp_path, capsys):
    line = fails(capsys, "compare", "digits", "--target", "95", "--out", tmp_path / "out")
    assert line == "--target is 95.0; it is of the accuracy, a share between 0 and 1"


@pytest.fixture
def topics(tmp_path):
    """Texts with any number of topics."""
    chance = random.Random(0)
    path = tmp_path / "topics.jsonl"
    with path.open("w") as file:
        for _ in range(240):
            labels = [topic for topic in TOPICS if chance.random() < 0.4]
            words = [chance.choice(TOPICS[topic]) for topic in labels for _ in range(2)]
            words += [chance.choice(("the", "a", "we", "saw")) for _ in range(4)]
            file.write(json.dumps({"text": " ".join(words), "labels": labels}) + "\n")
    return path


def test_label_sets_are_compared_by_micro_f1(tmp_path, topics, capsys):
    out = tmp_path / "out"
    model = ("--model", "bag-of-embeddings", "--lr", "0.05", "--objective", "multilabel")
    run("compare", topics, *model, *METHODS, "--out", out)
    assert "micro F1" in capsys.readouterr().out
    found = compared(out)
    assert found["metric"]["name"] == "micro_f1"
    assert found["target"] == found["target_micro_f1"]
    for entry in found["methods"]:
        assert 0 < entry["best"]["mean"] <= 1
        assert "best_mean_average_precision" in entry
        assert entry["selected_share"]["already_correct"] is not None
    text = page(out)
    assert "Other metrics" in text
    assert "mean average precision, %" in text
    assert "sport" in text
    assert 'class="text"' in text


def test_a_grid_is_by_the_metric_too(tmp_path, capsys):
    out = tmp_path / "out"
    run("compare", "diabetes", "--methods", "uniform,loss", "--epochs", "2", "--seeds", "1",
        "--sweep", "lr=0.001,0.01", "--jobs", "1", "--out", out)  # fmt: skip
    assert "best RMSE in each cell" in " ".join(capsys.readouterr().out.split())
    found = compared(out)
    assert found["metric"]["name"] == "rmse"
    for cell in found["grid"]["cells"]:
        assert cell["target"] == cell["target_rmse"] > 1
    (summary,) = found["grid"]["summary"]
    better = [
        entry["loss"]["best"]["mean"] < entry["uniform"]["best"]["mean"]
        for cell in found["grid"]["cells"]
        for entry in [{one["method"]: one for one in cell["methods"]}]
    ]
    assert summary["better"] == sum(better)
    assert "Below: test RMSE against steps, lower values above" in page(out)
