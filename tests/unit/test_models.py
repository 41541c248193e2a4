"""Models by name: their sizes, their reproducible weights, their refusals."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from goldiprox.evidence.flops import parameter_count
from goldiprox.models.registry import build_model, model_factory
from goldiprox.models.scaled import ScaledOutput
from goldiprox.models.vision import MLP, VISION_MODELS, SmallCNN
from goldiprox.schema import ConfigError

COLOUR, GREY = (3, 32, 32), (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mlp-128", GREY, 134_794),
        ("mlp-512", GREY, 932_362),
        ("mlp", GREY, 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
        ("small-cnn", COLOUR, 537_610),
        ("resnet18", COLOUR, 11_173_962),
    ],
)
def test_parameter_counts_are_the_papers(name, shape, count):
    assert parameter_count(build_model(model_factory(name), shape, 10, 0)) == count


def test_narrow_resnets_are_narrow():
    full, half, quarter = (
        parameter_count(build_model(model_factory(name), COLOUR, 10, 0))
        for name in ("resnet18", "resnet18-32", "resnet18-16")
    )
    assert full / half == pytest.approx(4, rel=0.03)
    assert half / quarter == pytest.approx(4, rel=0.03)


def test_frozen_parameters_do_not_count():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    assert parameter_count(model) == 2


@pytest.mark.parametrize("name", [n for n in VISION_MODELS if n != "resnet18"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 33, 40)])
def test_every_model_gives_logits_and_gradients(name, shape):
    model = build_model(model_factory(name), shape, 7, 0)
    logits_BC = model(torch.randn(2, *shape))
    assert logits_BC.shape == (2, 7)
    logits_BC.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(99)
    before = torch.get_rng_state()

    def weights(seed):
        model = build_model(model_factory("mlp-128"), (1, 4, 4), 3, seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    one = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(weights(1), one)
    assert not torch.equal(weights(2), one)


def test_dropout_is_where_it_was_asked_for():
    kinds = [type(m).__name__ for m in MLP((1, 4, 4), 3, hidden=(8, 8), dropout=0.5)]
    assert kinds == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert not any(isinstance(m, nn.Dropout) for m in MLP((1, 4, 4), 3))
    model = SmallCNN((3, 22, 22), 3, dropout=0.5).train()
    images = torch.randn(2, 3, 22, 22)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_images_too_small_for_the_small_cnn_are_refused():
    SmallCNN((1, 22, 22), 3)(torch.zeros(1, 1, 22, 22))
    with pytest.raises(
        ConfigError, match=r"at least 22x22 pixels, these are 21x30; use --model mlp"
    ):
        SmallCNN((1, 21, 30), 3)
    for name in ("small-cnn", "resnet18-16"):
        with pytest.raises(ConfigError, match=r"not examples of shape \(40,\); use --model mlp"):
            build_model(model_factory(name), (40,), 3, 0)


def test_an_unknown_model_gets_a_hint_and_the_list():
    with pytest.raises(
        ConfigError, match=r'"resnet19" \(did you mean "resnet18"\?\); known: mlp, '
    ):
        model_factory("resnet19")


def test_a_factory_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def tiny(shape, classes):\n"
        "    return nn.Linear(shape[0], classes)\n"
        "def wrong(shape, classes):\n"
        "    return 3\n"
        "number = 4\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert build_model(model_factory("my_models:tiny"), (5,), 2, 0).weight.shape == (2, 5)
    with pytest.raises(ConfigError, match=r"returned a int; it must return an nn\.Module"):
        build_model(model_factory("my_models:wrong"), (5,), 2, 0)
    with pytest.raises(ConfigError, match="module my_models has no absent"):
        model_factory("my_models:absent")
    with pytest.raises(ConfigError, match="not callable"):
        model_factory("my_models:number")
    with pytest.raises(ConfigError, match="cannot import model"):
        model_factory("no_such_module_anywhere:tiny")


def test_scaled_outputs_begin_where_the_targets_are():
    targets_N = torch.tensor([[100.0, 1.0], [140.0, 1.0], [180.0, 1.0]])
    model = ScaledOutput.of(nn.Identity(), targets_N)
    deviation = float(np.std([100.0, 140.0, 180.0]))
    outputs = model(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    expected = torch.tensor([[140.0, 1.0], [140.0 + deviation, 3.0]])
    torch.testing.assert_close(outputs, expected)
    restored = ScaledOutput.of(nn.Identity(), torch.zeros(3, 2))
    restored.load_state_dict(model.state_dict())
    torch.testing.assert_close(restored(outputs), model(outputs))


class Fixed(nn.Linear):
    """Takes no arguments."""

    def __init__(self):
        super().__init__(64, 10)


@pytest.mark.parametrize(
    "factory",
    [Fixed, lambda num_classes: nn.Linear(64, num_classes), lambda shape, classes=10: Fixed()],
)
def test_a_factory_may_take_less_than_it_is_offered(factory):
    assert build_model(factory, (1, 8, 8), 10, seed=0)(torch.zeros(2, 64)).shape == (2, 10)


def test_a_factory_that_takes_other_things_is_told_what_it_must_take():
    with pytest.raises(ConfigError, match=r"\(width, depth, height\) cannot be called: it must"):
        build_model(three, (1, 8, 8), 10, seed=0)


def three(width, depth, height):
    raise AssertionError


def test_a_factory_that_fails_is_told_in_one_line_with_its_place():
    def broken(shape, classes):
        return nn.Linear(shape, classes)["weight"]

    with pytest.raises(ConfigError, match=r"failed for examples of shape .* line \d+\)") as caught:
        build_model(broken, (1, 8, 8), 10, seed=0)
    assert "\n" not in str(caught.value)
