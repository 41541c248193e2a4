"""Floating-point operations, counted and compared with hand computation."""

import copy

import pytest
import torch
from torch import nn

from goldiprox.evidence.flops import flops_per_example
from goldiprox.models.registry import build_model, model_factory

COLOUR, GREY = (3, 32, 32), (1, 28, 28)


def counted(model, shape, classes=10, count=8):
    batch = (torch.arange(count), torch.zeros(count, *shape), torch.zeros(count, dtype=torch.int64))
    return flops_per_example(model, batch)


def test_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    forward, training = counted(model, (1, 4, 4), 3)
    assert forward == 2 * (16 * 5 + 5 * 3)
    # Backward: both layers' weights, and the inputs of the second only.
    assert training == forward + 2 * (16 * 5 + 5 * 3) + 2 * (5 * 3)


def test_a_convolution_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 3))
    forward, _ = counted(model, (3, 8, 8), 3)
    assert forward == 2 * (6 * 6 * 4 * 3 * 9 + 4 * 36 * 3)


@pytest.mark.parametrize(
    ("name", "shape", "giga"),
    [("small-cnn", COLOUR, 0.019), ("resnet18", COLOUR, 0.556)],
)
def test_multiply_adds_are_the_posters(name, shape, giga):
    forward, training = counted(build_model(model_factory(name), shape, 10, 0), shape, count=2)
    assert forward / 2 == pytest.approx(giga * 1e9, abs=0.001e9)
    assert training / forward == pytest.approx(3, rel=0.06)


@pytest.mark.parametrize("name", ["mlp-128", "mlp-512"])
def test_training_costs_about_three_forward_passes(name):
    forward, training = counted(build_model(model_factory(name), GREY, 10, 0), GREY)
    # The first layer's inputs need no gradient, and on 784 pixels it is a large part.
    assert 2 < training / forward < 3


def test_the_count_does_not_depend_on_the_batch():
    model = build_model(model_factory("mlp-128"), GREY, 10, 0)
    assert counted(model, GREY, count=1) == counted(model, GREY, count=3)
    assert counted(model, GREY, count=3) == counted(model, GREY, count=100)


def test_counting_leaves_no_trace():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
                          nn.Linear(8, 3))  # fmt: skip
    model[2].eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    counted(model, (1, 4, 4), 3)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_attention_is_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            attended = nn.functional.scaled_dot_product_attention(x, x, x)
            return self.head(attended.mean((1, 2)))

    forward, _ = counted(Attention(), (2, 6, 8), 3)
    assert forward == 2 * (2 * 2 * 6 * 6 * 8 + 8 * 3)
