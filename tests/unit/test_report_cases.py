"""Small comparisons made by hand, which the tests of the report share."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.gallery import SCHEMA
from goldiprox.analysis.verdict import verdicts
from goldiprox.records.files import write_json
from goldiprox.report.html import write_report
from goldiprox.report.tables import method_table
from goldiprox.report.terminal import terminal_table

METHODS = ("uniform", "uniform-full", "loss", "rho-loss", "something-new")
HOSTILE = "<script>alert('shoe')</script>"


def spread(*values: float) -> dict[str, Any]:
    mean = sum(values) / len(values)
    std = None
    if len(values) > 1:
        std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return {"mean": mean, "std": std, "values": list(values)}


def to_target(value: float | None, seeds: int) -> dict[str, Any]:
    values = [None if value is None else value * (1 + 0.1 * i) for i in range(seeds)]
    return {
        "mean": value,
        "std": None,
        "reached": 0 if value is None else seeds,
        "values": values,
        "mean_curve": value,
    }


def both(value: float | None, before: float, seeds: int) -> dict[str, Any]:
    charged = None if value is None else value + before
    return {"charged": to_target(charged, seeds), "amortised": to_target(value, seeds)}


def method(name: str, at: float | None, top: float, seeds: int) -> dict[str, Any]:
    """A method that reaches the target after ``at`` steps, 0.01 s and 2 GFLOPs each."""
    before = 4.5 if name == "rho-loss" else 0.0
    curve = [
        {
            "step": 50.0 * i,
            "epoch": float(i),
            "seconds": 0.5 * i,
            "flops": 1e11 * i,
            "seconds_charged": 0.5 * i + before,
            "flops_charged": 1e11 * i + 1e11 * before,
            "loss": 1.0,
            "corrupted": 0.08,
            "already_correct": 0.3,
            "accuracy": spread(*[top - 0.3 / i - 0.01 * s for s in range(seeds)]),
        }
        for i in range(1, 6)
    ]
    last = curve[-1]["accuracy"]
    ratio = None if at is None else 200.0 / at
    cost = {"examples": 1600, "steps": 50, "flops": 5e11, "seconds": 2.25}
    phases = {"loading": cost, "training": cost, "evaluation": cost}
    if before:
        phases = {"irreducible-training": {**cost, "seconds": before}, **phases}
    return {
        "method": name,
        "seeds": seeds,
        "seed_numbers": list(range(seeds)),
        "batch": 32,
        "pool": 320,
        "steps": 250,
        "final_accuracy": last,
        "best_accuracy": last,
        "epochs_to_target": to_target(None if at is None else at / 50, seeds),
        "steps_to_target": to_target(at, seeds),
        "seconds_to_target": both(None if at is None else at / 100, before, seeds),
        "flops_to_target": both(None if at is None else 2e9 * at, 1e11 * before, seeds),
        "selected_share": {
            "corrupted": 0.0812,
            "already_correct": 0.3131,
            "redundant": None,
            "low_relevance": None,
        },
        "ledger": {"phases": phases, "peak_memory_bytes": 976_441_344},
        "curve": curve,
        "speedup_over_uniform": {
            "steps": ratio,
            "seconds_charged": None if at is None else 2.0 / (at / 100 + before),
            "seconds_amortised": ratio,
            "flops_charged": ratio,
            "flops_amortised": ratio,
        },
    }


def judged(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [asdict(verdict) for verdict in verdicts(Comparison.from_json(made))]


def comparison(seeds: int = 2, **changes: Any) -> dict[str, Any]:
    """A comparison under the paper's protocol; ``loss`` never reaches the target."""
    steps = {"uniform": 200.0, "uniform-full": 300.0, "rho-loss": 50.0, "something-new": 123.0}
    tops = {"loss": 0.6, "rho-loss": 0.93}
    sizes = {"train": 30000, "holdout": 27000, "validation": 3000, "test": 10000}
    settings = {"compare": {"seconds": None, "target": None, "lr": 0.001, "batch": [32]}}
    made = {
        "dataset": "shoes",
        "protocol": "paper",
        "budget_seconds": None,
        "target_given": False,
        "target_accuracy": 0.8148,
        "settings": settings,
        "data": {
            "dataset": "shoes",
            "source": "/data/shoes",
            "fingerprint": "f9d4f8ca",
            "example_shape": [1, 8, 8],
            "num_classes": 2,
            "class_names": [HOSTILE, "boot"],
            "sizes": sizes,
            "originals": sizes,
            "label_noise": {
                "share_drawn": 0.1,
                "original_may_be_redrawn": True,
                "wrong": {"train": 2753, "holdout": 2452, "validation": 247, "test": 0},
            },
        },
        "model": {"name": "mlp", "parameters": 669706, "device": "cpu"},
        "versions": {"goldiprox": "0.1.0", "torch": "2.9", "threads": "2"},
        "share_corrupted_in_data": 2753 / 30000,
        "weakest_final_accuracy": 0.54,
        "processes": 1,
        "irreducible": {
            "model": "mlp-128",
            "made_by": None,
            "best": {"epoch": 5.0, "loss": 0.7564, "accuracy": 0.806},
            "models": [
                {
                    "name": "",
                    "trained_on": 27000,
                    "validated_on": 3000,
                    "scored": 30000,
                    "best": {"epoch": 5.0, "loss": 0.7564, "accuracy": 0.806},
                    "epochs_trained": 7.0,
                    "evaluations": 7,
                    "training_steps": 1477,
                    "weights_digest": "ab" * 32,
                }
            ],
            "config_hash": "235c",
            "seconds": 4.5,
            "flops": 4.5e11,
        },
        "methods": [method(m, steps.get(m), tops.get(m, 0.87), seeds) for m in METHODS],
    }
    made.update(changes)
    made["verdicts"] = judged(made)
    return made


def budget() -> dict[str, Any]:
    made = comparison()
    made["protocol"] = "budget"
    made["budget_seconds"] = 30.0
    made["settings"]["compare"].update(seconds=30.0, batch=[32, 128])
    for entry in made["methods"]:
        by_batch = {"32": entry["final_accuracy"], "128": spread(0.41, 0.42)}
        entry["final_accuracy_by_batch"] = by_batch
    made["verdicts"] = judged(made)
    return made


def nobody() -> dict[str, Any]:
    """The target was set too high, and no label is wrong."""
    made = comparison(target_accuracy=0.999, irreducible=None, share_corrupted_in_data=0.0)
    made["data"]["label_noise"]["share_drawn"] = 0.0
    made["methods"] = [method(m, None, 0.8, 2) for m in METHODS]
    for entry in made["methods"]:
        entry["selected_share"]["corrupted"] = 0.0
        for point in entry["curve"]:
            point["corrupted"] = 0.0
    made["verdicts"] = judged(made)
    return made


def no_uniform() -> dict[str, Any]:
    made = comparison(target_accuracy=None, settings={}, dataset=HOSTILE)
    made["methods"] = [method("loss", None, 0.6, 2)]
    made["methods"][0]["speedup_over_uniform"] = dict.fromkeys(
        made["methods"][0]["speedup_over_uniform"]
    )
    made["verdicts"] = judged(made)
    return made


CASES = {
    "paper": comparison,
    "budget": budget,
    "one-seed": lambda: comparison(seeds=1),
    "nobody": nobody,
    "no-uniform": no_uniform,
}


def examples() -> list[dict[str, Any]]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 77).save(buffer, format="PNG")
    shared = {"png": buffer.getvalue(), "irreducible_loss": 1.2345}
    groups = [
        ("rho-loss", "most-chosen"),
        ("rho-loss", "least-chosen"),
        ("", "highest-irreducible"),
    ]
    return [
        {
            **shared,
            "method": name,
            "group": group,
            "id": 7 + wrong,
            "label": HOSTILE,
            "true_label": "boot" if wrong else HOSTILE,
            "corrupted": wrong,
            "times_chosen": 2.5 if name else None,
        }
        for name, group in groups
        for wrong in (False, True)
    ]


def write(out: Path, made: dict[str, Any], *, gallery: bool = True, manifest: bool = True) -> str:
    out.mkdir(exist_ok=True)
    write_json(out / "comparison.json", made)
    if manifest:
        command = "goldiprox compare shoes --out 'a & b'"
        write_json(out / "manifest.json", {"settings": made["settings"], "command": command})
    if gallery:
        pq.write_table(pa.Table.from_pylist(examples(), SCHEMA), out / "examples.parquet")
    page = write_report(out)
    assert page == out / "report.html"
    return page.read_text(encoding="utf-8")


def test_matthews_correlation_has_columns_where_every_method_has_it() -> None:
    made = comparison()
    assert "best_matthews" not in [c.key for c in method_table(Comparison.from_json(made))[0]]
    for number, entry in enumerate(made["methods"]):
        entry["final_matthews"] = spread(0.5 + number / 100, 0.52 + number / 100)
        entry["best_matthews"] = spread(0.6, 0.6)
    columns, rows = method_table(Comparison.from_json(made))
    assert [c.key for c in columns[:4]] == [
        "best_accuracy", "final_accuracy", "best_matthews", "final_matthews"
    ]  # fmt: skip
    assert rows[1].cells[3].value == pytest.approx(0.52)
    assert rows[1].cells[3].text == "52.0 ± 1.4"
    made["methods"][0]["final_matthews"] = None
    assert "best_matthews" not in [c.key for c in method_table(Comparison.from_json(made))[0]]


def test_matthews_correlation_is_drawn_where_every_point_has_it(tmp_path):
    made = comparison()
    assert 'id="matthews-step-title"' not in write(tmp_path, made)
    for entry in made["methods"]:
        entry["best_matthews"] = entry["final_matthews"] = spread(0.3, 0.32)
        for number, point in enumerate(entry["curve"]):
            point["matthews"] = spread(0.1 * number, 0.1 * number + 0.02)
    text = write(tmp_path, made)
    for cost in ("epoch", "step", "seconds_charged", "flops_charged"):
        assert f'id="matthews-{cost}-title"' in text
    assert "Best Matthews correlation: uniform 31.0 ± 1.4 %" in text
    del made["methods"][-1]["curve"][-1]["matthews"]
    assert 'id="matthews-step-title"' not in write(tmp_path, made)


def test_shares_of_low_relevance_and_ambiguity_fit_into_the_terminals_table():
    made = comparison()
    for entry in made["methods"]:
        entry["selected_share"] |= {"low_relevance": 0.125, "ambiguous": 0.0625}
    table = terminal_table(Comparison.from_json(made))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    assert "ambig. %" in shown
    assert "/12/6" in shown
    for entry in made["methods"]:
        assert entry["method"] in shown
    assert "…" not in shown
