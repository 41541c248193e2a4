"""The summary of a comparison, from run folders written by hand with answers computed by hand.

Every run here has pools of 40 and batches of 4; evaluations at steps 10, 20, 30, 40; a training
step costs 2 seconds and 100 FLOPs, scoring (where there is any) 1 second and 50 FLOPs.
"""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from goldiprox.analysis import compare as analysis
from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.verdict import verdicts
from goldiprox.config import CompareConfig, TrainConfig
from goldiprox.objectives import ACCURACY, Metric
from goldiprox.records.files import read_json, write_json
from goldiprox.records.ledger import Cost, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import StepLog, StepRecord
from goldiprox.schema import CheckpointError, ConfigError, Selection
from goldiprox.workflows.compare import evaluation_interval, require_target

K = 4
CHARGED = ("irreducible", "rho-loss", "goldiprox")
DATA = {
    "dataset": "hand",
    "fingerprint": "f" * 64,
    "sizes": {"train": 200, "holdout": 100, "validation": 10, "test": 50},
    "label_noise": {"wrong": {"train": 30}},
}
SETTINGS = {"compare": {"target": None, "seconds": 60.0}}
IRREDUCIBLE = {
    "model": "mlp-128",
    "best": {"epoch": 3, "loss": 0.4, "accuracy": 0.8},
    "epochs_trained": 5,
    "training_steps": 50,
    "holdout": {"examples": 100, "validation": 10},
    "config_hash": "abc",
    "ledger": {
        "phases": {
            "irreducible-training": {"examples": 500, "steps": 50, "flops": 700.0, "seconds": 9.0},
            "irreducible-scoring": {"examples": 200, "steps": 1, "flops": 300.0, "seconds": 1.0},
        },
        "peak_memory_bytes": 7,
    },
}


@pytest.fixture
def write_run(tmp_path):
    """A finished run: accuracies at each evaluation, counts of the chosen between them."""

    def write(
        arm,
        seed,
        accuracies,
        *,
        corrupted=None,
        correct=None,
        batch=K,
        reference=None,
        protocol="paper",
        data=DATA,
        every=10,
        proxy=None,
        model="mlp",
        metric=None,
    ):
        scored = arm in ("loss", "rho-loss")
        method = "uniform" if arm == "uniform-full" else arm
        folder = RunFolder(tmp_path / f"{arm}-b{batch}-{seed}")
        folder.open(
            {
                "arm": arm,
                "protocol": protocol,
                "config": {
                    "train": {
                        "method": method,
                        "seed": seed,
                        "batch": batch,
                        "pool": None,
                        "model": model,
                    }
                },
                "config_hash": f"{arm} {batch} {seed} {data['fingerprint']}",
                "data": data,
                "irreducible": IRREDUCIBLE if arm in CHARGED else None,
                "proxy": proxy,
                "reference": reference,
                "model": {"name": model, "parameters": 5},
            }
        )
        intervals = len(accuracies)
        corrupted = corrupted or [0] * intervals
        correct = correct or [0] * intervals
        # Ids tell how many of a step's examples count as wrong; steps are alike in an interval.
        log = StepLog(folder.path, lambda ids: {"corrupted": ids >= 1000})
        for step in range(every * intervals):
            wrong, right = corrupted[step // every], correct[step // every]
            ids_k = torch.arange(batch) + 1000 * (torch.arange(batch) < wrong)
            log.add(
                StepRecord(
                    step=step,
                    epoch=0,
                    lr=0.1,
                    selection=Selection.of(ids_k, torch.arange(batch)),
                    pool_size=10 * batch,
                    loss_k=torch.ones(batch),
                    correct_k=torch.arange(batch) < right,
                )
            )
        log.merge()
        log.drop_parts()
        per_step = (3.0, 150.0) if scored else (2.0, 100.0)
        steps = [every * (i + 1) for i in range(intervals)]
        evaluations = [
            {
                "step": step,
                "epoch": step / 20,
                "examples": step * batch,
                "accuracy": accuracy if metric is None else None,
                "loss": 1 - accuracy if metric is None else None,
                "metrics": {} if metric is None else {metric.name: accuracy, "r2": -accuracy},
                "seconds": step * per_step[0],
                "flops": step * per_step[1],
            }
            for step, accuracy in zip(steps, accuracies, strict=True)
        ]
        last = steps[-1]
        ledger = Ledger(
            {
                "training": Cost(examples=last * batch, steps=last, flops=100.0 * last,
                                 seconds=2.0 * last),
                "evaluation": Cost(examples=50 * intervals, steps=intervals, seconds=100.0),
            }
        )  # fmt: skip
        if scored:
            ledger.add("scoring", Cost(examples=10 * last * batch, steps=last, flops=50.0 * last,
                                       seconds=1.0 * last))  # fmt: skip
        folder.finish(
            evaluations=evaluations,
            ledger=ledger.to_json(),
            weights={"w": torch.ones(1)},
            result={"steps": last, "final_accuracy": accuracies[-1]}
            if metric is None
            else {"steps": last, "metric": asdict(metric), "metrics": described(metric)},
        )
        return folder

    return write


@pytest.fixture
def paper(write_run):
    return [
        write_run("uniform", 0, [0.5, 0.7, 0.78, 0.8], corrupted=[0, 1, 1, 0],
                  correct=[1, 2, 3, 4]),
        write_run("rho-loss", 0, [0.6, 0.8, 0.9, 0.9], corrupted=[0, 0, 1, 0],
                  correct=[0, 1, 1, 2]),
        write_run("loss", 0, [0.3, 0.4, 0.5, 0.6], corrupted=[2, 4, 4, 4]),
        write_run("uniform", 1, [0.5, 0.7, 0.8, 0.76], corrupted=[1, 1, 1, 1],
                  correct=[1, 2, 2, 4]),
        write_run("rho-loss", 1, [0.5, 0.7, 0.84, 0.88], correct=[0, 1, 2, 2]),
        write_run("loss", 1, [0.3, 0.4, 0.79, 0.6], corrupted=[4, 4, 4, 2]),
    ]  # fmt: skip


def described(metric):
    """All that a run's objective reports: the metric and R²."""
    return [asdict(metric), {"name": "r2", "title": "R²", "higher_is_better": True, "unit": ""}]


def summarise(folders, settings, **given):
    """What ``comparison.json`` holds, as a dictionary."""
    return analysis.summarise(folders, settings, **given).to_json()


def by_name(comparison):
    return {entry["method"]: entry for entry in comparison["methods"]}


def test_the_target_is_the_best_of_uniforms_mean_curve(paper):
    comparison = summarise(paper, SETTINGS)
    # Means: 0.5, 0.7, 0.79, 0.78. Neither the last, nor the mean of the two bests (0.8).
    assert comparison["target_accuracy"] == pytest.approx(0.79)
    assert summarise(paper, SETTINGS, target=0.6)["target_accuracy"] == 0.6


def test_costs_to_target(paper):
    entries = by_name(summarise(paper, SETTINGS))
    uniform, rho, loss = entries["uniform"], entries["rho-loss"], entries["loss"]
    # uniform: seed 0 gets to 0.79 at step 40, seed 1 at 30; the mean curve at 30.
    assert uniform["steps_to_target"] == {
        "mean": 35.0, "std": pytest.approx(statistics.stdev([40, 30])), "reached": 2,
        "values": [40.0, 30.0], "mean_curve": 30.0,
        "values_before": [30.0, 20.0], "mean_curve_before": 20.0,
    }  # fmt: skip
    assert uniform["epochs_to_target"]["values"] == [2.0, 1.5]
    for kind in ("charged", "amortised"):
        assert uniform["seconds_to_target"][kind]["values"] == [80.0, 60.0]
        assert uniform["flops_to_target"][kind]["mean_curve"] == 3000.0
    # rho-loss: seed 0 at step 20, seed 1 at 30; mean curve 0.55, 0.75, 0.87 at 30.
    assert rho["steps_to_target"]["values"] == [20.0, 30.0]
    assert rho["steps_to_target"]["mean_curve"] == 30.0
    assert rho["seconds_to_target"]["amortised"]["values"] == [60.0, 90.0]
    assert rho["seconds_to_target"]["charged"]["values"] == [70.0, 100.0]  # 9 + 1 before
    assert rho["seconds_to_target"]["charged"]["mean"] == 85.0
    assert rho["seconds_to_target"]["charged"]["mean_curve"] == 100.0
    assert rho["flops_to_target"]["amortised"]["values"] == [3000.0, 4500.0]
    assert rho["flops_to_target"]["charged"]["values"] == [4000.0, 5500.0]
    # loss: seed 1 touches exactly 0.79 at step 30; the mean curve never does.
    assert loss["steps_to_target"] == {
        "mean": 30.0, "std": None, "reached": 1, "values": [None, 30.0], "mean_curve": None,
        "values_before": [None, 20.0], "mean_curve_before": None,
    }  # fmt: skip


def test_speedups_are_of_mean_curves(paper):
    entries = by_name(summarise(paper, SETTINGS))
    assert entries["uniform"]["speedup_over_uniform"] == dict.fromkeys(
        ["steps", "seconds_charged", "seconds_amortised", "flops_charged", "flops_amortised"], 1.0
    )
    assert entries["rho-loss"]["speedup_over_uniform"] == {
        "steps": 1.0,
        "seconds_charged": pytest.approx(60 / 100),
        "seconds_amortised": pytest.approx(60 / 90),
        "flops_charged": pytest.approx(3000 / 5500),
        "flops_amortised": pytest.approx(3000 / 4500),
    }
    assert set(entries["loss"]["speedup_over_uniform"].values()) == {None}


def test_a_target_is_reached_between_two_evaluations(paper):
    entries = by_name(summarise(paper, SETTINGS))
    # uniform between 20 and 30 steps of 2 s; rho-loss too, of 3 s, after 10 s for its table.
    assert entries["rho-loss"]["speedup_between"] == {
        "steps": [pytest.approx(20 / 30), pytest.approx(30 / 20)],
        "seconds_charged": [pytest.approx(40 / 100), pytest.approx(60 / 70)],
        "flops_charged": [pytest.approx(2000 / 5500), pytest.approx(3000 / 4000)],
    }
    assert entries["loss"]["speedup_between"]["steps"] is None
    # At 80 s, where uniform ends: rho-loss has paid 70 s at step 20, and stands at 0.75.
    assert entries["rho-loss"]["at_equal_cost"] == {
        "cost": "seconds_charged", "at": 80.0, "accuracy": pytest.approx(0.75),
        "value": pytest.approx(0.75),
        "uniform": pytest.approx(0.78), "ahead": None,
    }  # fmt: skip


def test_what_was_paid_before_the_first_step_bounds_the_first_evaluation(write_run):
    runs = [write_run("uniform", 0, [0.8, 0.8]), write_run("rho-loss", 0, [0.9, 0.9])]
    rho = by_name(summarise(runs, SETTINGS))["rho-loss"]
    # uniform: in its first 20 s; rho-loss: after 10 s for the table, in the 30 s that follow.
    assert rho["speedup_between"]["seconds_charged"] == [0.0, pytest.approx(20 / 10)]


def test_a_lead_at_equal_cost_is_never_called_a_loss_by_a_coarse_curve(write_run):
    """Evaluations an epoch apart: both reach the target within the first, one 13 points ahead."""
    runs = [write_run("uniform", 0, [0.60, 0.60]), write_run("loss", 0, [0.73, 0.74])]
    [verdict] = summarise(runs, SETTINGS)["verdicts"]
    assert verdict["paid"] is None
    assert "was evaluated too rarely to tell whether it paid" in verdict["sentence"]
    assert "--evaluate-every" in verdict["sentence"]
    said = verdict["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert "After the same 40 seconds, everything charged, loss stood at 73.0 % and uniform" in said


def test_two_models_are_two_lines_and_no_baseline(write_run):
    runs = [write_run("uniform", 0, [0.5, 0.6]), write_run("loss", 0, [0.5, 0.7])]
    other = write_run("uniform", 1, [0.7, 0.8], model="big")
    comparison = summarise([*runs, other], SETTINGS)
    names = ["uniform (model mlp)", "uniform (model big)", "loss (model mlp)"]
    assert [entry["method"] for entry in comparison["methods"]] == names
    assert comparison["models"] == ["big", "mlp"]
    assert comparison["target_accuracy"] is None
    [verdict] = comparison["verdicts"]
    assert verdict["paid"] is None
    assert "none is the baseline" in verdict["sentence"]


def test_different_data_are_named_in_each_line_and_not_judged(write_run):
    runs = [
        write_run("uniform", 0, [0.5, 0.6]),
        write_run("loss", 0, [0.7, 0.8], data={**DATA, "fingerprint": "0" * 64}),
    ]
    comparison = summarise(runs, SETTINGS, allow_different_data=True)
    names = [entry["method"] for entry in comparison["methods"]]
    assert names == ["uniform (fingerprint ffffffffffff)", "loss (fingerprint 000000000000)"]
    assert set(comparison["methods"][1]["speedup_over_uniform"].values()) == {None}
    [verdict] = comparison["verdicts"]
    assert verdict["paid"] is None
    assert "its data are not" in verdict["sentence"]


def test_speedups_at_a_target_of_ones_own(paper):
    rho = by_name(summarise(paper, SETTINGS, target=0.78))["rho-loss"]["speedup_over_uniform"]
    assert rho["steps"] == 1.0
    rho = by_name(summarise(paper, SETTINGS, target=0.74))["rho-loss"]["speedup_over_uniform"]
    assert rho["steps"] == pytest.approx(30 / 20)
    assert rho["seconds_charged"] == pytest.approx(60 / 70)
    assert rho["flops_amortised"] == pytest.approx(3000 / 3000)


def test_accuracies(paper):
    entries = by_name(summarise(paper, SETTINGS))
    assert entries["uniform"]["final_accuracy"] == {
        "mean": pytest.approx(0.78), "std": pytest.approx(0.04 / 2**0.5), "values": [0.8, 0.76],
    }  # fmt: skip
    assert entries["uniform"]["best_accuracy"]["values"] == [0.8, 0.8]
    assert entries["loss"]["best_accuracy"]["mean"] == pytest.approx((0.6 + 0.79) / 2)
    assert [e["method"] for e in summarise(paper, SETTINGS)["methods"]] == [
        "uniform", "rho-loss", "loss",
    ]  # fmt: skip
    assert entries["rho-loss"]["seeds"] == 2
    assert entries["rho-loss"]["pool"] == 40


def test_shares_of_what_was_chosen(paper):
    comparison = summarise(paper, SETTINGS)
    entries = by_name(comparison)
    assert comparison["share_corrupted_in_data"] == 30 / 200
    # (0+1+1+0 + 1+1+1+1) x 10 steps of 2 seeds x 40 steps x 4 examples
    assert entries["uniform"]["selected_share"]["corrupted"] == pytest.approx(60 / 320)
    assert entries["rho-loss"]["selected_share"]["corrupted"] == pytest.approx(10 / 320)
    assert entries["loss"]["selected_share"]["corrupted"] == pytest.approx(280 / 320)
    assert entries["uniform"]["selected_share"]["already_correct"] == pytest.approx(190 / 320)
    assert entries["rho-loss"]["selected_share"]["already_correct"] == pytest.approx(90 / 320)


def test_redundancy_counts_only_while_below_the_weakest_final_accuracy(paper):
    comparison = summarise(paper, SETTINGS)
    assert comparison["weakest_final_accuracy"] == pytest.approx(0.6)  # loss
    shares = {n: e["selected_share"]["redundant"] for n, e in by_name(comparison).items()}
    # uniform is below 0.6 at its first evaluation only (1 of 4 in both seeds).
    assert shares["uniform"] == pytest.approx(1 / 4)
    # rho-loss: seed 0 never is (0.6 is not below 0.6), seed 1 at its first.
    assert shares["rho-loss"] == pytest.approx(0.0)
    assert shares["loss"] == 0.0


def test_redundancy_is_unknown_where_no_evaluation_was_below(write_run):
    runs = [write_run("uniform", 0, [0.5, 0.9]), write_run("loss", 0, [0.9, 0.95])]
    shares = {n: e["selected_share"]["redundant"] for n, e in by_name(summarise(runs, {})).items()}
    assert shares == {"uniform": 0.0, "loss": None}


def test_the_mean_ledger_includes_the_irreducible_model(paper):
    entries = by_name(summarise(paper, SETTINGS))
    phases = entries["rho-loss"]["ledger"]["phases"]
    assert list(phases) == ["irreducible-training", "irreducible-scoring", "scoring", "training",
                            "evaluation"]  # fmt: skip
    assert phases["irreducible-training"]["seconds"] == 9.0
    assert phases["training"]["seconds"] == 80.0
    assert phases["training"]["steps"] == 40
    assert phases["scoring"]["examples"] == 1600
    assert "irreducible-training" not in entries["uniform"]["ledger"]["phases"]


def test_the_mean_curve_for_figures(paper):
    comparison = summarise(paper, SETTINGS)
    curve = by_name(comparison)["rho-loss"]["curve"]
    assert [p["step"] for p in curve] == [10, 20, 30, 40]
    assert curve[1]["accuracy"]["mean"] == pytest.approx(0.75)
    assert curve[1]["accuracy"]["values"] == [0.8, 0.7]
    assert curve[1]["seconds"] == 60.0
    assert curve[1]["seconds_charged"] == 70.0
    assert curve[1]["flops_charged"] == 4000.0
    assert [p["corrupted"] for p in curve] == pytest.approx([0, 0, 1 / 8, 0])
    assert [p["already_correct"] for p in curve] == pytest.approx([0, 2 / 8, 3 / 8, 4 / 8])
    assert comparison["irreducible"]["seconds"] == 10.0
    assert comparison["irreducible"]["flops"] == 1000.0
    assert comparison["irreducible"]["model"] == "mlp-128"


def test_seeds_of_unequal_length_are_averaged_over_what_they_share(write_run):
    runs = [write_run("uniform", 0, [0.2, 0.4, 0.9]), write_run("uniform", 1, [0.4, 0.6])]
    entry = by_name(summarise(runs, {}))["uniform"]
    assert [p["accuracy"]["mean"] for p in entry["curve"]] == pytest.approx([0.3, 0.5])


def test_one_seed_has_no_spread(write_run):
    entry = by_name(summarise([write_run("uniform", 0, [0.2, 0.4])], {}))["uniform"]
    assert entry["final_accuracy"] == {"mean": 0.4, "std": None, "values": [0.4]}


def reference(step, before=0.0):
    return {"step_seconds": step, "irreducible_seconds": before}


@pytest.fixture
def budget(write_run):
    """60 reference seconds for everything; every arm with two batch sizes."""

    def run(arm, seed, accuracies, batch, step, before=0.0):
        return write_run(arm, seed, accuracies, batch=batch, protocol="budget",
                         reference=reference(step, before))  # fmt: skip

    return [
        run("uniform", 0, [0.5, 0.70], 4, 3.0), run("uniform", 1, [0.5, 0.72], 4, 3.0),
        run("uniform", 0, [0.6, 0.80], 8, 3.0), run("uniform", 1, [0.6, 0.82], 8, 3.0),
        run("rho-loss", 0, [0.7, 0.90], 4, 2.0, 20.0),
        run("rho-loss", 1, [0.7, 0.92], 4, 2.0, 20.0),
        run("rho-loss", 0, [0.9, 0.88], 8, 2.0, 20.0),
        run("rho-loss", 1, [0.9, 0.91], 8, 2.0, 20.0),
    ]  # fmt: skip


def test_under_a_budget_every_method_is_judged_by_its_best_batch(budget):
    comparison = summarise(budget, SETTINGS)
    entries = by_name(comparison)
    assert comparison["protocol"] == "budget"
    assert entries["uniform"]["batch"] == 8
    assert entries["uniform"]["pool"] == 80
    assert entries["uniform"]["final_accuracy"]["mean"] == pytest.approx(0.81)
    assert entries["rho-loss"]["batch"] == 4  # by the final accuracy, not by the best
    assert entries["rho-loss"]["final_accuracy_by_batch"]["8"]["mean"] == pytest.approx(0.895)
    assert entries["rho-loss"]["final_accuracy_by_batch"]["4"]["values"] == [0.9, 0.92]


def test_under_a_budget_seconds_are_reference_seconds(budget):
    entries = by_name(summarise(budget, SETTINGS))
    assert [p["seconds"] for p in entries["rho-loss"]["curve"]] == [20.0, 40.0]
    assert [p["seconds_charged"] for p in entries["rho-loss"]["curve"]] == [40.0, 60.0]
    assert [p["seconds_charged"] for p in entries["uniform"]["curve"]] == [30.0, 60.0]
    # Target 0.81: rho-loss gets there at step 20.
    to_target = entries["rho-loss"]["seconds_to_target"]
    assert to_target["amortised"]["mean_curve"] == 40.0
    assert to_target["charged"]["mean_curve"] == 60.0


def test_runs_of_different_data_are_not_compared(write_run):
    runs = [
        write_run("uniform", 0, [0.5]),
        write_run("loss", 0, [0.5], data={**DATA, "fingerprint": "0" * 64}),
    ]
    with pytest.raises(ConfigError, match=r"different data: fingerprint is f+ in .* and 0+ in"):
        summarise(runs, {})
    with pytest.raises(ConfigError, match="no finished runs"):
        summarise([], {})


def test_a_damaged_record_is_named(write_run):
    folder = write_run("uniform", 0, [0.5, 0.6])
    (folder.path / "evaluations.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"evaluations\.json is damaged"):
        summarise([folder], {})
    folder = write_run("loss", 0, [0.5, 0.6])
    (folder.path / "steps.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"steps\.parquet is absent"):
        summarise([folder], {})


def test_without_uniform_there_is_no_target_but_still_a_summary(write_run):
    comparison = summarise([write_run("loss", 0, [0.5, 0.6])], {})
    assert comparison["target_accuracy"] is None
    entry = comparison["methods"][0]
    assert entry["steps_to_target"]["reached"] == 0
    assert set(entry["speedup_over_uniform"].values()) == {None}
    [verdict] = comparison["verdicts"]
    assert verdict["paid"] is None
    assert "no uniform run" in verdict["sentence"]


def test_arms_are_listed_baselines_first_however_the_folders_come(paper):
    names = [e["method"] for e in summarise(paper[::-1], SETTINGS)["methods"]]
    assert names[0] == "uniform"
    assert by_name(summarise(paper[::-1], SETTINGS))["loss"]["final_accuracy"]["values"] == [
        0.6,
        0.6,
    ]
    forwards, backwards = (summarise(p, SETTINGS) for p in (paper, paper[::-1]))
    assert by_name(forwards) == by_name(backwards)
    assert by_name(backwards)["uniform"]["seed_numbers"] == [0, 1]


def test_the_budget_is_read_back_from_the_runs(budget):
    assert summarise(budget, {})["budget_seconds"] == 60.0


def test_without_a_budget_there_is_none_to_read(paper):
    assert summarise(paper, {})["budget_seconds"] is None


def test_matthews_correlation_is_summarised_where_it_was_recorded(write_run):
    folder = write_run("uniform", 0, [0.5, 0.8, 0.7])
    (entry,) = summarise([folder], SETTINGS)["methods"]
    assert entry["final_matthews"] is None
    assert "matthews" not in entry["curve"][0]
    rows = read_json(folder.path / "evaluations.json", list)
    for row, value in zip(rows, [0.1, 0.6, 0.5], strict=True):
        row["matthews"] = value
    write_json(folder.path / "evaluations.json", rows)
    folder._list_files({})
    entry = summarise([folder], SETTINGS)["methods"][0]
    assert entry["final_matthews"] == {"mean": 0.5, "std": None, "values": [0.5]}
    assert entry["best_matthews"]["mean"] == 0.6
    assert [point["matthews"]["mean"] for point in entry["curve"]] == [0.1, 0.6, 0.5]


def proxy_note(seed, scale=1):
    """A proxy evaluated every 20 steps: 0.5 seconds and 7 FLOPs a step, in the first 20 twice."""
    return {
        "model": "mlp-128",
        "method": "rho-loss",
        "ledger": Ledger({"proxy": Cost(flops=420.0 * scale, seconds=30.0 * scale)}).to_json(),
        "curve": [
            {"step": 20, "seconds": 20.0 * scale, "flops": 280.0 * scale},
            {"step": 40, "seconds": 30.0 * scale, "flops": 420.0 * scale},
        ],
        "run": f"../../proxies/goldiprox-{seed}",
    }


@pytest.fixture
def proxied(write_run):
    return [
        write_run("uniform", 0, [0.3, 0.4, 0.5, 0.6]),
        write_run("rho-loss", 0, [0.3, 0.6, 0.7, 0.7]),
        write_run("goldiprox", 0, [0.3, 0.5, 0.6, 0.7], proxy=proxy_note(0)),
    ]


def test_a_proxy_is_charged_step_by_step_with_the_irreducible_losses(proxied):
    entries = by_name(summarise(proxied, {}))
    goldiprox = entries["goldiprox"]
    # Training alone: 2 seconds and 100 FLOPs a step. Before it: 10 seconds and 1000 FLOPs.
    assert [p["seconds"] for p in goldiprox["curve"]] == pytest.approx([20, 40, 60, 80])
    assert [p["seconds_charged"] for p in goldiprox["curve"]] == pytest.approx([40, 70, 95, 120])
    assert [p["flops_charged"] for p in goldiprox["curve"]] == pytest.approx(
        [1000 + 1000 + 140, 2000 + 1000 + 280, 3000 + 1000 + 350, 4000 + 1000 + 420]
    )
    # The target, 0.6, comes at step 30.
    assert goldiprox["seconds_to_target"]["charged"]["mean_curve"] == pytest.approx(95)
    assert goldiprox["seconds_to_target"]["amortised"]["mean_curve"] == pytest.approx(60)
    assert goldiprox["seconds_to_target"]["charged"]["values"] == pytest.approx([95])
    assert goldiprox["speedup_over_uniform"]["seconds_charged"] == pytest.approx(80 / 95)
    assert goldiprox["speedup_over_uniform"]["seconds_amortised"] == pytest.approx(80 / 60)
    assert goldiprox["ledger"]["phases"]["proxy"]["seconds"] == 30.0
    assert "proxy" not in entries["rho-loss"]["ledger"]["phases"]


def test_a_comparison_says_what_the_proxy_was(proxied):
    comparison = summarise(proxied, {})
    assert comparison["proxy"] == {
        "model": "mlp-128", "method": "rho-loss", "seconds": 30.0, "flops": 420.0,
        "rank_correlations": {},
    }  # fmt: skip
    assert summarise(proxied[:2], {})["proxy"] is None
    # Within its first 10 steps, after the table: from 8 x fewer seconds than uniform to far more.
    assert "evaluated too rarely" in verdict_of(comparison, "goldiprox")["sentence"]


def verdict_of(comparison, name):
    return next(v for v in comparison["verdicts"] if v["method"] == name)


def test_under_a_budget_the_proxys_steps_are_reference_seconds_too(write_run):
    known = {**reference(2.0, 20.0), "proxy_step_seconds": 0.25}
    run = write_run("goldiprox", 0, [0.5, 0.6], protocol="budget", reference=known,
                    proxy=proxy_note(0))  # fmt: skip
    comparison = summarise([run], SETTINGS)
    (entry,) = comparison["methods"]
    assert [p["seconds"] for p in entry["curve"]] == [20.0, 40.0]
    assert [p["seconds_charged"] for p in entry["curve"]] == [42.5, 65.0]
    assert comparison["budget_seconds"] == 65.0


def test_of_several_batch_sizes_the_proxy_that_is_shown_is_described(write_run):
    known = {**reference(2.0, 20.0), "proxy_step_seconds": 0.25}
    runs = [
        write_run("goldiprox", 0, accuracies, protocol="budget", reference=known, batch=batch,
                  proxy=proxy_note(0, scale))
        for batch, accuracies, scale in ((8, [0.5, 0.6], 1), (16, [0.5, 0.9], 3))
    ]  # fmt: skip
    found = summarise(runs, SETTINGS)
    assert found["methods"][0]["batch"] == 16
    assert found["proxy"]["flops"] == 3 * 420.0


@pytest.mark.parametrize(
    ("batch", "pool", "examples", "evaluated", "steps"),
    [
        # 1,000,000 examples in pools of 320: 3,125 steps. 5 % of 3 x 32 x 3,125 = 15,000.
        (32, 320, 1_000_000, 1_000, 209),  # 15 times
        (32, 320, 1_000_000, 10, 157),  # 20 times at most
        (32, 320, 1_000_000, 10_000, None),  # 1.5 times: once an epoch
        (32, 320, 1_000_000, 7_500, 1563),  # twice
        (32, 320, 30_000, 10_000, None),
    ],
)
def test_evaluations_are_more_frequent_where_that_is_cheap(batch, pool, examples, evaluated, steps):
    run = TrainConfig(method="uniform", batch=batch, pool=pool)
    assert evaluation_interval(run, examples, evaluated) == steps


RMSE = Metric(name="rmse", title="RMSE", higher_is_better=False, unit="target")


@pytest.fixture
def errors(write_run):
    """The lower the better: uniform at best 55, rho-loss there in half of the steps."""
    return [
        write_run("uniform", 0, [80.0, 60.0, 57.0, 56.0], metric=RMSE),
        write_run("uniform", 1, [80.0, 62.0, 53.0, 56.0], metric=RMSE),
        write_run("rho-loss", 0, [70.0, 54.0, 50.0, 52.0], metric=RMSE),
        write_run("rho-loss", 1, [70.0, 53.0, 51.0, 52.0], metric=RMSE),
        write_run("loss", 0, [90.0, 85.0, 80.0, 80.0], metric=RMSE),
        write_run("loss", 1, [90.0, 85.0, 80.0, 81.0], metric=RMSE),
    ]


def test_a_metric_that_is_better_lower_is_reached_from_above(errors):
    comparison = summarise(errors, SETTINGS)
    assert comparison["metric"] == asdict(RMSE)
    assert comparison["target"] == comparison["target_rmse"] == 55.0
    assert "target_accuracy" not in comparison
    entries = by_name(comparison)
    assert entries["uniform"]["steps_to_target"]["values"] == [None, 30.0]
    assert entries["uniform"]["steps_to_target"]["mean_curve"] == 30.0
    assert entries["rho-loss"]["steps_to_target"]["values"] == [20.0, 20.0]
    assert entries["rho-loss"]["speedup_over_uniform"]["steps"] == 1.5
    assert entries["loss"]["steps_to_target"]["reached"] == 0
    assert entries["rho-loss"]["final"]["mean"] == 52.0
    assert entries["rho-loss"]["best"]["values"] == [50.0, 51.0]
    assert entries["rho-loss"]["final_rmse"] == entries["rho-loss"]["final"]
    assert entries["rho-loss"]["best_r2"]["values"] == [-50.0, -51.0]
    assert entries["rho-loss"]["curve"][1]["value"]["mean"] == 53.5
    assert entries["rho-loss"]["curve"][1]["rmse"]["values"] == [54.0, 53.0]
    assert entries["rho-loss"]["curve"][1]["loss"] is None
    assert comparison["weakest_final"] == 80.5
    same = entries["rho-loss"]["at_equal_cost"]
    assert (same["value"], same["uniform"], same["ahead"]) == (53.5, 56.0, True)


def test_verdicts_on_a_metric_that_is_better_lower(errors):
    comparison = summarise(errors, SETTINGS)
    said = {
        verdict["method"]: verdict["sentence"].replace("\N{NO-BREAK SPACE}", " ")
        for verdict in comparison["verdicts"]
    }
    assert "it reached RMSE 55.00 in 1.5× fewer steps than uniform" in said["rho-loss"]
    assert "rho-loss stood at RMSE 53.50 and uniform at RMSE 56.00" in said["rho-loss"]
    assert said["loss"].startswith("loss did not pay: at best RMSE 80.00 on average, it does not")
    assert verdict_of(comparison, "loss")["paid"] is False


def test_of_several_batch_sizes_the_lowest_error_is_shown_and_judged(write_run):
    def run(arm, seed, values, batch):
        return write_run(arm, seed, values, batch=batch, protocol="budget", metric=RMSE,
                         reference=reference(2.0))  # fmt: skip

    runs = [
        *(run("uniform", seed, [60.0, 58.0 + seed], 4) for seed in (0, 1)),
        *(run("uniform", seed, [60.0, 55.0 + seed], 8) for seed in (0, 1)),
        *(run("rho-loss", seed, [60.0, 50.0 + seed], 4) for seed in (0, 1)),
    ]
    comparison = summarise(runs, SETTINGS)
    uniform = by_name(comparison)["uniform"]
    assert uniform["batch"] == 8
    assert uniform["final_rmse_by_batch"]["4"]["mean"] == 58.5
    verdict = verdict_of(comparison, "rho-loss")
    assert verdict["paid"] is True
    assert "ended at RMSE\N{NO-BREAK SPACE}50.50" in verdict["sentence"]


def test_runs_judged_by_different_metrics_are_refused(write_run):
    runs = [write_run("uniform", 0, [0.5]), write_run("loss", 0, [50.0], metric=RMSE)]
    with pytest.raises(ConfigError, match=r"different metrics: accuracy in .* and RMSE in"):
        summarise(runs, SETTINGS)


@pytest.mark.parametrize("value, text", [
    (57.3124, "57.31"), (0.45124, "0.4512"), (152340.0, "152,340"), (0.0, "0.000"),
    (1.2e-5, "1.200e-05"), (-3.2, "-3.200"),
])  # fmt: skip
def test_numbers_have_four_digits_and_shares_are_percent(value, text):
    assert RMSE.number(value) == text
    assert RMSE.number_spread(57.3124, 1.25) == "57.31 ± 1.25"
    assert ACCURACY.number_spread(0.5731, 0.012) == "57.3 ± 1.2"
    assert ACCURACY.written(0.5731) == "57.3%"


KEPT = sorted(Path(__file__).parents[2].glob("docs/results/*/comparison.json"))


def lost(old, new, where=""):
    """Places where a JSON value lacks what another one holds."""
    if isinstance(old, dict):
        for key, value in old.items():
            yield from lost(value, new.get(key), f"{where}.{key}")
    elif isinstance(old, list) and len(old) == len(new or ()):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from lost(*pair, f"{where}[{number}]")
    elif old != new:
        yield where


def test_kept_comparisons_are_read_and_written_as_they_are_and_judged_alike():
    kept = [json.loads(path.read_text()) for path in KEPT]
    assert len(kept) > 10
    for found in kept:
        if "grid" in found:
            continue
        comparison = Comparison.from_json(found)
        written = json.loads(json.dumps(comparison.to_json()))
        assert list(lost(found, written)) == []
        assert Comparison.from_json(written) == comparison
        assert verdicts(comparison) == comparison.verdicts


def test_what_is_no_comparison_is_one_line(tmp_path):
    write_json(tmp_path / "comparison.json", {"dataset": "x", "methods": [{"method": "uniform"}]})
    with pytest.raises(CheckpointError, match=r"a comparison is damaged: it lacks"):
        Comparison.read(tmp_path / "comparison.json")


@pytest.mark.parametrize("target", [0.0, 90.0, -1.0])
def test_a_target_that_the_metric_cannot_have_is_refused(target):
    with pytest.raises(ConfigError, match=f"--target is {target}; it is of the accuracy, a share"):
        require_target(CompareConfig(target=target))
    require_target(CompareConfig(target=target, objective="regression"))
    require_target(CompareConfig(target=0.9))
