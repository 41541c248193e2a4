"""goldiprox.compare: the laboratory from Python, on a task that the command line does not know."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import goldiprox
from goldiprox.batch import targets_of
from goldiprox.schema import ConfigError

PIXELS = 6


class Segmentation(goldiprox.Objective):
    """A class for each pixel: mean cross-entropy over the pixels."""

    name = "segmentation"
    metrics = (
        goldiprox.Metric(
            name="pixel_accuracy", title="pixel accuracy", higher_is_better=True, unit="share"
        ),
        goldiprox.Metric(name="loss", title="cross-entropy", higher_is_better=False, unit="nats"),
    )

    def losses(self, output, batch):
        return F.cross_entropy(output, targets_of(batch), reduction="none").mean((1, 2))

    def results(self, output, batch):
        right = output.argmax(1) == targets_of(batch)
        return {"share": right.double().mean((1, 2))}

    def measure(self, loss_N, results):
        return {
            "pixel_accuracy": float(results["share"].mean()),
            "loss": float(loss_N.double().mean()),
        }


class Net(nn.Sequential):
    """Two convolutions over the image."""

    def __init__(self, width=4):
        super().__init__(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 1))


def images(count, seed):
    images_NCHW = torch.randn(
        count, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed)
    )
    return TensorDataset(images_NCHW, (images_NCHW[:, 0] > 0.2).long())


def run(out, **settings):
    return goldiprox.compare(
        train=images(160, 0),
        test=images(40, 1),
        model=Net,
        objective=Segmentation(),
        irreducible_model=lambda: Net(2),
        il_epochs=2,
        methods=["uniform", "loss", "grad-norm", "rho-loss"],
        out=out,
        **{"epochs": 2, "seeds": 2, "lr": 0.01, **settings},
    )


def test_segmentation_is_compared(tmp_path):
    run(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [entry["method"] for entry in found["methods"]] == [
        "uniform", "loss", "grad-norm", "rho-loss",
    ]  # fmt: skip
    assert found["metric"]["name"] == "pixel_accuracy"
    for entry in found["methods"]:
        assert 0 < entry["final"]["mean"] <= 1
        assert entry["steps_to_target"]["values"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "pixel accuracy" in page
    run(tmp_path / "out")  # goes on where it stopped: nothing is left to do
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


def test_settings_are_those_of_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match="no setting epoch; did you mean epochs"):
        run(tmp_path / "out", epoch=3)
    with pytest.raises(ConfigError, match=r"no setting il_epoch; did you mean il_epochs"):
        run(tmp_path / "out", il_epoch=3)
    with pytest.raises(ConfigError, match="class"):
        goldiprox.compare(train=images(80, 0), model=Net, methods=["bald"],
                          objective=Segmentation(), out=tmp_path / "x")  # fmt: skip


def test_targets_that_are_no_classes_need_an_objective(tmp_path):
    with pytest.raises(ConfigError, match="objective="):
        goldiprox.compare(train=images(80, 0), model=Net, out=tmp_path / "x")
