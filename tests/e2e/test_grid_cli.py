"""``compare`` over models and hyperparameters, from the command line: one table, resuming."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from goldiprox.cli import main
from goldiprox.records.tables import ScoreTable


def grid(out: Path, *more: object) -> None:
    command = ("compare", "digits", "--methods", "uniform,rho-loss", "--seeds", 1, "--epochs", 1)
    sweep = ("--sweep", "batch=8", "--sweep", "lr=1e-3,3e-3", "--models", "mlp-128")
    settings = ("--label-noise", "0.1", "--il.epochs", 1, "--out", out)
    main([str(word) for word in (*command, *sweep, *settings, *more)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "out"
    grid(out, "--jobs", 2)
    return out


def cells_of(out: Path) -> list[Path]:
    return sorted((out / "cells").iterdir())


def test_all_cells_use_one_table_and_set_what_they_say(finished: Path) -> None:
    found = json.loads((finished / "comparison.json").read_text())
    assert found["grid"]["axes"] == [
        {"name": "model", "values": ["mlp-128"]},
        {"name": "lr", "values": [0.001, 0.003]},
        {"name": "batch", "values": [8]},
    ]
    table = ScoreTable.read(finished / "irreducible.parquet")
    assert [cell.name for cell in cells_of(finished)] == [
        "000-mlp-128-lr-0.001-batch-8",
        "001-mlp-128-lr-0.003-batch-8",
    ]
    for cell, rate in zip(cells_of(finished), (0.001, 0.003), strict=True):
        assert not (cell / "irreducible.parquet").exists()
        assert "3.0" not in cell.name
        manifest = json.loads((cell / "runs" / "rho-loss-0" / "manifest.json").read_text())
        train = manifest["config"]["train"]
        assert (train["lr"], train["batch"], train["model"]) == (rate, 8, "mlp-128")
        assert manifest["irreducible"]["ledger"] == table.provenance["ledger"]
        assert manifest["processes"] == 2
        assert (cell / "report.html").exists()
    entry = found["grid"]["cells"][1]["methods"][1]
    own = json.loads((cells_of(finished)[1] / "comparison.json").read_text())["methods"][1]
    assert entry["method"] == own["method"] == "rho-loss"
    assert entry["speedup_over_uniform"] == own["speedup_over_uniform"]


def test_links_of_the_page_lead_somewhere(finished: Path) -> None:
    links = re.findall(r'href="(cells/[^"]*)"', (finished / "report.html").read_text())
    assert len(links) == 2
    assert all((finished / link).exists() for link in links)


def test_a_grid_that_was_broken_off_goes_on(finished: Path) -> None:
    """In one process this time: what is finished is left alone, and steps come out the same."""
    before = json.loads((finished / "comparison.json").read_text())
    kept = cells_of(finished)[0] / "runs" / "uniform-0" / "result.json"
    stamp = kept.stat().st_mtime_ns
    lost = cells_of(finished)[1]
    (lost / "comparison.json").unlink()
    (lost / "runs" / "rho-loss-0" / "result.json").unlink()
    main(["report", str(finished)])
    partly = json.loads((finished / "comparison.json").read_text())
    assert [c["failed"] for c in partly["grid"]["cells"]] == [None, "not finished"]
    grid(finished, "--jobs", 1)
    after = json.loads((finished / "comparison.json").read_text())
    assert kept.stat().st_mtime_ns == stamp
    for one, other in zip(before["grid"]["cells"], after["grid"]["cells"], strict=True):
        for mine, theirs in zip(one["methods"], other["methods"], strict=True):
            assert mine["curve"] == theirs["curve"]
            assert mine["flops_to_target"] == theirs["flops_to_target"]


def test_a_cell_that_diverges_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks.py").write_text(
        "from goldiprox.models.vision import MLP\n"
        "class Breaks(MLP):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * (float('nan') if self.training else 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    command = "compare digits --methods uniform --seeds 1 --epochs 1 --jobs 1 --out out"
    main([*command.split(), "--models", "mlp-128,breaks:Breaks"])
    found = json.loads(Path("out/comparison.json").read_text())
    fine, broken = found["grid"]["cells"]
    assert fine["failed"] is None
    assert "NaN" in broken["failed"]
    assert broken["methods"] == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sweep", "epochs=3"], ["epochs", "lr, batch, weight-decay"]),
        (["--models", "mlp,mpl"], ["mpl", "package.module:factory"]),
        (["--sweep", "batch=8,800"], ["8000", "719"]),
        (["--share", "0"], ["--share"]),
        (["--share", "0.5", "--protocol", "budget", "--seconds", "1"], ["--protocol paper"]),
    ],
)
def test_an_impossible_cell_is_found_before_anything_is_trained(
    flags: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "digits", "--methods", "uniform", *flags, "--out", str(tmp_path / "o")])
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words)
    assert not (tmp_path / "o").exists()


def test_proxies_share_the_table_and_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path, proxy: str) -> None:
        command = ("compare", "digits", "--methods", "uniform", "--seeds", 1, "--epochs", 1)
        more = ("--sweep", "batch=8,16", "--jobs", 1, "--il.epochs", 1, "--model", "mlp-128")
        main([str(word) for word in (*command, *more, "--proxy", proxy, "--out", out)])

    with pytest.raises(SystemExit):
        run(tmp_path / "no", "mlp-129")
    assert "unknown model" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    run(tmp_path / "out", "mlp-128")
    assert [p.parent.name for p in tmp_path.glob("**/irreducible.parquet")] == ["out"]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["grid"]
    assert [cell["failed"] for cell in found["cells"]] == [None, None]
    assert [s["method"] for s in found["summary"]] == ["goldiprox"]
