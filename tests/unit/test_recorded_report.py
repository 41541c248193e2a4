"""The page of runs that a Recorder wrote: what they do not know is left out of it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import goldiprox
from goldiprox.recorder import Recorder
from goldiprox.schema import ConfigError
from goldiprox.workflows.report import report_runs

EXAMPLES = 80


def record(out, method, seed, *, objective="classification", **settings):
    """A short loop of one's own."""
    torch.manual_seed(seed)
    inputs = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(9))
    targets = inputs[:, :3].argmax(1) if objective == "classification" else inputs.sum(1)
    data = goldiprox.with_ids(TensorDataset(inputs, targets))
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3 if targets.dtype == torch.int64 else 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    table = None
    if method == "rho-loss":
        table = goldiprox.irreducible_losses(nn.Linear(4, 3), DataLoader(data, batch_size=20))
    choose = goldiprox.Chooser(
        model, method, share=0.25, seed=seed, objective=objective, irreducible=table
    )
    given = {"data": "toy", "examples": EXAMPLES, **settings}
    with Recorder(out / f"{method}-{seed}", choose, **given) as recorder:
        for epoch in range(3):
            for pool in DataLoader(data, batch_size=20):
                with recorder.phase("scoring", pool):
                    chosen = choose(pool)
                with recorder.phase("training", chosen):
                    _, inputs_k, targets_k = chosen.batch
                    output = model(inputs_k)
                    losses = (
                        F.cross_entropy(output, targets_k, reduction="none")
                        if objective == "classification"
                        else (output.squeeze(1) - targets_k) ** 2
                    )
                    optimizer.zero_grad()
                    (losses * chosen.weights).mean().backward()
                    optimizer.step()
                recorder.step(chosen, losses)
            value = 0.5 + 0.1 * epoch if objective == "classification" else 9.0 - epoch
            recorder.evaluate({choose.objective.headline.name: value})
    return out / f"{method}-{seed}"


def test_runs_of_a_loop_of_ones_own_are_compared(tmp_path):
    wrong = {"wrong_ids": range(8)}
    runs = [
        record(tmp_path, method, seed, **wrong) for method in ("uniform", "loss") for seed in (0, 1)
    ]
    comparison, page = report_runs(runs, tmp_path / "out")
    assert [(entry.method, entry.seeds) for entry in comparison.methods] == [
        ("uniform", 2), ("loss", 2),
    ]  # fmt: skip
    assert comparison.target == pytest.approx(0.7)
    assert comparison.share_corrupted == 0.1
    assert comparison.methods[1].selected_share["already_correct"] is None
    assert comparison.methods[1].curve[0].loss is None
    text = page.read_text(encoding="utf-8")
    assert "10.0\u00a0% of the labels known to be wrong" in text
    for method in ("uniform", "loss"):
        assert f'id="chosen-corrupted-line-{method}"' in text
    assert "chosen-already_correct" not in text
    assert "None" not in text.replace("None of these", "")


def test_a_table_of_ones_own_does_not_say_what_it_cost(tmp_path):
    runs = [record(tmp_path, method, 0) for method in ("uniform", "rho-loss")]
    _, page = report_runs(runs, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "a table that does not say what it cost" in text
    assert "What was paid for it elsewhere is not known and not charged" in text
    assert "whether methods saw the same pools" in text


def test_errors_of_a_loop_of_ones_own_are_compared(tmp_path):
    runs = [record(tmp_path, method, 0, objective="regression") for method in ("uniform", "loss")]
    comparison, page = report_runs(runs, tmp_path / "out")
    assert comparison.metric.name == "rmse"
    assert comparison.target == 7.0
    assert comparison.share_corrupted is None
    text = page.read_text(encoding="utf-8")
    assert "Test RMSE against training steps" in text
    assert "label noise" not in text
    classes = record(tmp_path / "more", "loss", 0)
    with pytest.raises(ConfigError, match=r"different metrics: RMSE in .* and accuracy in"):
        report_runs([*runs, classes], tmp_path / "out")


def test_a_loop_that_times_and_counts_nothing_is_reported_all_the_same(tmp_path):
    for method, best in (("uniform", 0.5), ("mine", 0.9)):
        with Recorder(tmp_path / method, method=method, data="toy", examples=4) as recorder:
            for value in (0.4, best):
                recorder.step(torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), pool_size=4)
                recorder.evaluate(accuracy=value)
    comparison, page = report_runs([tmp_path / "uniform", tmp_path / "mine"], tmp_path / "out")
    [verdict] = comparison.verdicts
    assert verdict.paid is None
    assert verdict.sentence.endswith("How many seconds was not recorded.")
    text = page.read_text(encoding="utf-8")
    assert "FLOPs, everything charged" not in text
    assert "unknown" in text  # the model
