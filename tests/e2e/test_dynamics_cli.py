"""The dynamics study from end to end on tiny data: records, resuming, the page, bad input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from goldiprox.cli import main
from goldiprox.data.datasets import load
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.models.registry import build_model, model_factory
from goldiprox.records.files import read_rows
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import GoldiproxError
from goldiprox.studies.dynamics.settings import DynamicsConfig
from goldiprox.studies.dynamics.study import dynamics
from goldiprox.training.feed import Feeder
from goldiprox.training.trajectory import weights_at
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.progress import Progress

SMALL = {
    "model": "mlp-128",
    "epochs": 3,
    "seeds": 2,
    "batch": 64,
    "windows": 3,
    "window": 6,
    "set_size": 150,
    "interpolations": 5,
    "device": "cpu",
}
FLAGS = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]


def run(*arguments: object) -> None:
    main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dynamics") / "out"
    run("dynamics", "digits", "--label-noise", 0.2, *FLAGS, "--out", out)
    return out


def summary_of(out: Path):
    return json.loads((out / "dynamics.json").read_text())


def splits_of(noise: float):
    return make_splits(load("digits"), DataConfig(dataset="digits", label_noise=noise))


def model_of(out: Path, run_name: str, epoch: int, splits):
    model = build_model(model_factory("mlp-128"), (1, 8, 8), 10, 0)
    model.load_state_dict(weights_at(RunFolder(out / "runs" / run_name), epoch))
    return model.eval(), Feeder.of(model, splits.preprocess, torch.device("cpu"))


def all_of(feeder, examples):
    _, inputs, targets = feeder(examples, torch.arange(len(examples)))
    return inputs, targets


def el2n(out: Path, arm: str, splits):
    """By its formula, in float64."""
    found = []
    for seed in (0, 1):
        model, feeder = model_of(out, f"{arm}-{seed}", 1, splits)
        inputs, targets = all_of(feeder, splits.full)
        wrong = model.double()(inputs.double()).softmax(1).detach()
        wrong -= torch.nn.functional.one_hot(targets, 10)
        found.append(wrong.norm(dim=1))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize(("arm", "noise"), [("clean", 0.0), ("noisy", 0.2)])
def test_order_is_that_of_el2n(study: Path, arm: str, noise: float) -> None:
    splits = splits_of(noise)
    wanted = el2n(study, arm, splits)
    table = ScoreTable.read(study / f"scores-{arm}.parquet")
    assert np.array_equal(table.ids_N, splits.full.ids_N.numpy())
    np.testing.assert_allclose(table.columns["el2n"], wanted.numpy(), atol=1e-5)
    assert table.provenance["label_digest"] == splits.full.label_digest()
    (found,) = [a for a in summary_of(study)["arms"] if a["name"] == arm]
    order = wanted.argsort()
    assert [w["start"] for w in found["windows"]] == [0, 716, 1432]
    for window in found["windows"]:
        some = order[window["start"] : window["start"] + 6]
        assert window["score_mean"] == pytest.approx(float(wanted[some].mean()), abs=1e-5)
    shares = [window["share_corrupted"] for window in found["windows"]]
    assert shares == [0, 0, 0] if arm == "clean" else shares[2] > 0.6 > shares[0]


def test_velocity_is_the_distance_of_kernels_from_kept_weights(study: Path) -> None:
    """One number done again: every gradient by itself, in float64."""
    splits = splits_of(0.2)
    table = ScoreTable.read(study / "scores-noisy.parquet")
    some = np.argsort(table.columns["el2n"], kind="stable")[716:722]
    kernels = []
    for epoch in (2, 3):
        model, feeder = model_of(study, "noisy-1", epoch, splits)
        _, inputs, _ = feeder(splits.full, torch.from_numpy(some))
        model = model.double()
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(logit, list(model.parameters()))])
            for x in inputs.double()
            for logit in [model(x[None])[0, c] for c in range(10)]
        ]
        jacobian = torch.stack(rows)
        kernels.append(jacobian @ jacobian.T)
    wanted = 1 - float((kernels[0] * kernels[1]).sum() / kernels[0].norm() / kernels[1].norm())
    noisy = summary_of(study)["arms"][1]
    (row,) = [row for row in noisy["velocity"] if row["epoch"] == 2]
    assert row["windows"][1]["values"][1] == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1e-5


def test_barriers_are_those_of_parent_and_child(study: Path) -> None:
    splits = splits_of(0.0)
    order = np.argsort(ScoreTable.read(study / "scores-clean.parquet").columns["el2n"])
    parent, feeder = model_of(study, "clean-0", 3, splits)
    child, _ = model_of(study, "child-0-spawned-0", 3, splits)
    between, _ = model_of(study, "clean-0", 3, splits)
    inputs, targets = (t[torch.from_numpy(order[-150:])] for t in all_of(feeder, splits.full))
    errors = []
    for alpha in (0, 0.25, 0.5, 0.75, 1):
        mixed = {
            k: alpha * v + (1 - alpha) * child.state_dict()[k]
            for k, v in parent.state_dict().items()
        }
        between.load_state_dict(mixed)
        errors.append(float((between(inputs).argmax(1) != targets).double().mean()))
    records = read_rows(study / "barrier" / "0-spawned-0.json")
    assert [row["epoch"] for row in records] == [1, 2, 3]
    found = records[-1]["sets"]["highest"]
    assert found["errors"] == pytest.approx(errors)
    straight = np.linspace(errors[0], errors[-1], 5)
    assert found["barrier"] == pytest.approx(max(np.array(errors) - straight))
    spawned = {(row["spawned"], row["epoch"]) for row in summary_of(study)["barrier"]}
    assert spawned == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_children_part_from_their_parents_but_start_there(study: Path) -> None:
    for spawned in (0, 1, 2):
        parent = weights_at(RunFolder(study / "runs" / "clean-1"), 3)
        child = weights_at(RunFolder(study / "runs" / f"child-1-spawned-{spawned}"), 3)
        apart = sum(float((parent[k] - child[k]).square().sum()) for k in parent) ** 0.5
        size = sum(float(parent[k].square().sum()) for k in parent) ** 0.5
        assert 0 < apart < 0.7 * size


class Whole(HTMLParser):
    """What the page opens it closes; and it loads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "br", "path", "use", "rect"}:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"src", "href", "xlink:href"}:
                assert value.startswith(("#", "data:")), value

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in {"path", "use", "rect"}:
            assert self.open.pop() == tag


def test_page_is_whole_and_says_what_was_measured(study: Path) -> None:
    text = (study / "report.html").read_text()
    page = Whole()
    page.feed(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert text.count("<svg") == 6
    for reading in summary_of(study)["readings"]:
        assert reading["claim"] in text
    (row, *_) = summary_of(study)["barrier"]
    assert f"{100 * row['sets']['highest']['mean']:.1f} ±" in text
    assert "goldiprox dynamics" in text


def test_again_changes_nothing_and_report_makes_the_page_again(study: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file()}
    page, summary = (study / "report.html").read_text(), summary_of(study)
    run("dynamics", "digits", "--label-noise", 0.2, *FLAGS, "--out", study)
    changed = {p.name for p, at in before.items() if p.stat().st_mtime_ns != at}
    assert changed <= {"dynamics.json", "report.html"}
    assert summary_of(study) == summary
    (study / "report.html").unlink()
    run("report", study)
    assert (study / "report.html").read_text() == page


class Interrupting(Progress):
    """Interrupts the study at its n-th report."""

    def __init__(self, reports: int) -> None:
        self._left = reports

    def stage(self, name):
        def report(*_):
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

        return report


def test_interrupted_anywhere_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    splits = splits_of(0.0)
    config = DynamicsConfig(**{**SMALL, "seeds": 1, "spawn": (1,), "at": (0, 2)})
    whole = dynamics(splits, config, tmp_path / "whole")
    interruptions = 0
    for reports in (2, 4, 6, 100):
        try:
            watched = Execution(progress=Interrupting(reports))
            found = dynamics(splits, config, tmp_path / "cut", execution=watched)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == 3
    assert found == whole
    assert {reading["seen"] for reading in found["readings"]} == {None}  # one seed does not tell
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "0 of 3 seen, 3 undecided. One seed does not tell" in page
    assert page.count('<li class="undecided">') == 3


def test_a_given_table_orders_the_examples_it_was_made_for(tmp_path: Path) -> None:
    splits = splits_of(0.2)
    mine = np.random.default_rng(0).random(len(splits.full)).astype(np.float32)
    table = ScoreTable(
        ids_N=splits.full.ids_N.numpy(),
        columns={"mine": mine},
        provenance={
            "fingerprint": splits.dataset.fingerprint,
            "label_digest": splits.full.label_digest(),
        },
    )
    config = DynamicsConfig(**{**SMALL, "seeds": 1, "epochs": 1, "interpolations": 3, "by": "mine"})
    found = dynamics(splits, config, tmp_path / "out", scores=table)
    clean, noisy = found["arms"]
    assert (clean["score"], clean["score_from"]) == ("el2n", "own runs")
    assert (noisy["score"], noisy["score_from"]) == ("mine", "table")
    means = [window["score_mean"] for window in noisy["windows"]]
    assert means == pytest.approx(
        [float(np.sort(mine)[start : start + 6].mean()) for start in (0, 716, 1432)]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "other data"),
        ({"label_digest": "other"}, "other labels"),
        ({"column": "loss"}, "no column el2n"),
        ({"drop": 3}, "lacks 3 of"),
    ],
)
def test_tables_that_do_not_fit_are_refused_before_training(tmp_path, change, message) -> None:
    splits = splits_of(0.0)
    given = {
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.full.label_digest(),
        "column": "el2n",
        "drop": 0,
        **change,
    }
    ids = splits.full.ids_N.numpy()[given["drop"] :]
    table = ScoreTable(
        ids_N=ids,
        columns={given["column"]: np.zeros(len(ids), dtype=np.float32)},
        provenance={key: given[key] for key in ("fingerprint", "label_digest")},
    )
    with pytest.raises(GoldiproxError, match=message):
        dynamics(splits, DynamicsConfig(**SMALL), tmp_path / "out", scores=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window=2000"], "--window 2000"),
        (["--set-size=800"], "--set-size 800"),
        (["--at=0,3"], "--at 0,3 leaves 0 to 2"),
        (["--spawn=1,1"], "--spawn names an epoch twice"),
        (["--score-epoch=4"], "--score-epoch 4"),
        (["--interpolations=2"], "--interpolations is 2"),
        (["--seeds=0"], "--seeds is 0"),
        (["--by=loss"], "--by loss is a column of a score table; name the table with --scores"),
        (["--model=nonsense"], "nonsense"),
        (["--batch=100000"], "--pool 100000"),
        (["--scores=absent.parquet"], "absent.parquet does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, tmp_path, flags, message) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("dynamics", "digits", *FLAGS, *flags, "--out", tmp_path / "out")
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert re.match("goldiprox: ", lines[0])
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_study_is_refused(capsys, study: Path) -> None:
    with pytest.raises(SystemExit):
        run("dynamics", "digits", "--label-noise", 0.2, *FLAGS, "--windows=4", "--out", study)
    assert "dynamics.windows is 3 there, 4 now" in capsys.readouterr().err
