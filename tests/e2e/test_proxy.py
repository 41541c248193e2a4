"""`compare --proxy`: the arm replays what the proxy recorded, pays for it, and is on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import fails, run
from scipy import stats
from torch import nn

from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable

SMALL = ("--model", "mlp", "--pool", 64, "--batch", 8, "--epochs", 2, "--il.epochs", 2)


def compare(out: Path, *more: object) -> None:
    run("compare", "digits", "--methods", "uniform,rho-loss", "--label-noise", 0.2, "--seeds", 2,
        "--proxy", "mlp-128", *SMALL, "--out", out, *more)  # fmt: skip


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proxy") / "out"
    compare(out)
    return out


def test_the_target_trains_on_what_the_proxy_chose(comparison: Path) -> None:
    for seed in (0, 1):
        target = comparison / "runs" / f"goldiprox-{seed}"
        proxy = comparison / "proxies" / f"goldiprox-{seed}"
        recorded = [
            s.ids_k.tolist() for s in BatchSequence.open(proxy / "sequence.parquet").steps()
        ]
        assert read_steps(target)["ids"].to_pylist() == recorded
        assert read_steps(proxy)["ids"].to_pylist() == recorded
        direct = read_steps(comparison / "runs" / f"rho-loss-{seed}")["ids"].to_pylist()
        assert direct != recorded
        config = RunFolder(proxy).manifest()["config"]["train"]
        assert (config["model"], config["method"]) == ("mlp-128", "rho-loss")
        assert RunFolder(target).manifest()["model"]["name"] == "mlp"


def test_the_proxy_is_charged_and_compared(comparison: Path) -> None:
    found = json.loads((comparison / "comparison.json").read_text())
    entries = {entry["method"]: entry for entry in found["methods"]}
    assert list(entries) == ["uniform", "rho-loss", "goldiprox"]
    last = entries["goldiprox"]["curve"][-1]
    proxy = [
        RunFolder(comparison / "proxies" / f"goldiprox-{seed}").evaluations()[-1] for seed in (0, 1)
    ]
    before = found["irreducible"]["flops"]
    mean = sum(p["flops"] for p in proxy) / 2
    assert last["flops_charged"] == pytest.approx(last["flops"] + before + mean)
    assert entries["goldiprox"]["ledger"]["phases"]["proxy"]["flops"] == pytest.approx(mean)
    # Replaying costs the target what uniform costs it.
    assert last["flops"] == pytest.approx(entries["uniform"]["curve"][-1]["flops"])
    assert found["proxy"]["model"] == "mlp-128"
    correlations = found["proxy"]["rank_correlations"]
    assert set(correlations) == {"replayed", "direct"}
    for points in correlations.values():
        assert [p["epoch"] for p in points] == [1, 2]
    for arm, name in (("goldiprox", "replayed"), ("rho-loss", "direct")):
        one, other = (
            ScoreTable.read(comparison / place / "probe.parquet").columns
            for place in ("proxies/goldiprox-1", f"runs/{arm}-1")
        )
        reducible = (t["epoch_2"] - t[IRREDUCIBLE_LOSS] for t in (one, other))
        expected = stats.spearmanr(*reducible).statistic
        assert correlations[name][1]["values"][1] == pytest.approx(expected, abs=1e-4)


def test_the_page_and_the_terminal_show_it(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (comparison / "report.html").read_text()
    assert 'id="table-proxy"' in page
    assert "the target that replays it" in page
    before = (comparison / "comparison.json").read_bytes()
    run("report", comparison)
    shown = capsys.readouterr().out
    assert "goldiprox" in shown
    assert (comparison / "comparison.json").read_bytes() == before
    compare(comparison)
    assert (comparison / "comparison.json").read_bytes() == before


def test_without_a_proxy_the_page_says_nothing_of_one(tmp_path: Path) -> None:
    run("compare", "digits", "--methods", "uniform", "--seeds", 1, *SMALL, "--out", tmp_path / "o")
    page = (tmp_path / "o" / "report.html").read_text()
    assert 'id="proxy"' not in page
    assert "the proxy" not in page.lower()


def test_a_proxy_shares_the_budget(tmp_path: Path) -> None:
    run("compare", "digits", "--methods", "uniform", "--seeds", 1, *SMALL, "--out", tmp_path / "o",
        "--proxy", "mlp-128", "--protocol", "budget", "--seconds", 1)  # fmt: skip
    found = json.loads((tmp_path / "o" / "comparison.json").read_text())
    spent = {e["method"]: e["curve"][-1]["seconds_charged"] for e in found["methods"]}
    assert spent["goldiprox"] <= 1
    assert spent["goldiprox"] == pytest.approx(spent["uniform"], rel=0.05)


def wrong_classes(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model that was made for other data."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes + 3))


def test_a_proxy_that_does_not_fit_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    command = ("compare", "digits", "--methods", "uniform", *SMALL, "--out", tmp_path / "o")
    line = fails(capsys, *command, "--proxy", "test_proxy:wrong_classes")
    assert "gives (13,) outputs an example, and digits has 10 classes" in line
    assert "unknown model" in fails(capsys, *command, "--proxy", "mlp-129")
    assert not (tmp_path / "o").exists()
