"""Evaluation: every example's own result, in the examples' order, whatever the order of work."""

import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from torch.nn import functional as F

from goldiprox.objectives import CLASSIFICATION
from goldiprox.training import evaluate as module
from goldiprox.training.build import build
from goldiprox.training.evaluate import evaluate


def measured(predicted, targets):
    """Metrics of a classifier that predicts and is right as said."""
    predicted, targets = torch.as_tensor(predicted), torch.as_tensor(targets)
    results = {"predicted": predicted, "target": targets, "correct": predicted == targets}
    return CLASSIFICATION.measure(torch.zeros(len(targets)), results)


@pytest.mark.parametrize("seed", range(5))
def test_matthews_correlation_is_scikit_learns(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(97, generator=generator) < 0.7).long()
    predicted = torch.where(torch.rand(97, generator=generator) < 0.3, 1 - targets, targets)
    found = measured(predicted, targets)
    assert found["matthews"] == pytest.approx(matthews_corrcoef(targets, predicted))
    assert found["accuracy"] == pytest.approx(float((targets == predicted).double().mean()))


def test_matthews_correlation_at_its_ends():
    assert measured([0, 1, 1], [0, 1, 1])["matthews"] == 1
    assert measured([1, 0, 0], [0, 1, 1])["matthews"] == -1
    assert measured([1, 1, 1], [0, 1, 1])["matthews"] == 0
    assert "matthews" not in measured([2, 1, 1], [0, 1, 1])


@pytest.mark.parametrize("batch", [3, 512])
def test_texts_of_like_length_go_together_and_results_stay_in_order(
    make_text_task, monkeypatch, batch
):
    monkeypatch.setattr(module, "EVALUATION_BATCH", batch)
    task = make_text_task(count=20)
    model, feeder = build(
        "small-transformer", task.train, task.preprocess, 3, seed=0, device=torch.device("cpu")
    )
    assert len(torch.unique(feeder.lengths(task.train))) > 3
    found = evaluate(model, task.train, feeder)
    model.eval()
    for position in range(len(task.train)):
        _, inputs, target = feeder(task.train, torch.tensor([position]))
        logits = model(**inputs).detach()
        loss = F.cross_entropy(logits, target)
        assert float(found.loss_N[position]) == pytest.approx(float(loss), rel=1e-5)
        assert found.results["predicted"][position] == logits.argmax()
        assert found.results["target"][position] == task.train.targets_N[position]
