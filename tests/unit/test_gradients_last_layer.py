"""The last layer's norm and the logit bound: exact where they say so, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import (
    gradient_norms,
    last_layer_gradient_norms,
    logit_gradient_norms,
    penultimate_features,
)
from goldiprox.schema import ConfigError


def net(bias=True):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=bias))


def pool():
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(3)), torch.arange(7) % 3


@pytest.mark.parametrize("bias", [True, False])
def test_last_layer_norm_is_the_full_norm_with_all_else_frozen(bias):
    model, (inputs, targets) = net(bias), pool()
    with torch.no_grad(), penultimate_features(model) as caught:
        log_probs = model(inputs).log_softmax(1)
    assert caught.bias == bias
    found = last_layer_gradient_norms(log_probs, targets, caught.features_BD, bias=caught.bias)
    everything = gradient_norms(model, inputs, targets).grad_norm_B
    model[0].requires_grad_(False)
    torch.testing.assert_close(found, gradient_norms(model, inputs, targets).grad_norm_B)
    assert (everything > found).all()


def test_logit_norm_is_the_gradient_of_the_logits():
    model, (inputs, targets) = net(), pool()
    logits = model(inputs).detach().requires_grad_()
    F.cross_entropy(logits, targets, reduction="sum").backward()
    found = logit_gradient_norms(logits.detach().log_softmax(1), targets)
    torch.testing.assert_close(found, logits.grad.norm(dim=1))


@pytest.mark.parametrize("margin", [0.0, 5.0, 20.0, 60.0])
def test_logit_norm_of_confident_examples_keeps_its_digits(margin):
    logits = torch.tensor([[margin, 0.0], [0.0, margin]])
    found = logit_gradient_norms(logits.log_softmax(1), torch.tensor([0, 0]))
    right = math.sqrt(2) / (1 + math.exp(margin))
    wrong = math.sqrt(2) / (1 + math.exp(-margin))
    torch.testing.assert_close(found, torch.tensor([right, wrong]), rtol=1e-5, atol=0)


def test_impossible_classes_do_not_give_nan():
    log_probs = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    found = logit_gradient_norms(log_probs, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.sqrt(2)]))


def test_the_layer_that_runs_last_is_caught_not_the_one_defined_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(6, 3, bias=False), nn.Linear(4, 6)

        def forward(self, x):
            return self.head(torch.tanh(self.body(x)))

    model, (inputs, _) = Backwards(), pool()
    with torch.no_grad():
        with penultimate_features(model) as caught:
            model(inputs)
        torch.testing.assert_close(caught.features_BD, torch.tanh(model.body(inputs)))
        assert not caught.bias
        with penultimate_features(model, layer="body") as caught:
            model(inputs)
        assert torch.equal(caught.features_BD, inputs)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_hooks_are_removed_after_an_error():
    model = net()
    with pytest.raises(KeyError), penultimate_features(model):
        raise KeyError
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_caught_is_refused():
    with pytest.raises(ConfigError, match=r"no nn\.Linear"), penultimate_features(nn.ReLU()):
        pass
    with (
        pytest.raises(ConfigError, match=r'"1" is no linear.*0, 2'),
        penultimate_features(net(), "1"),
    ):
        pass
    with penultimate_features(net()) as caught, pytest.raises(ConfigError, match="run the model"):
        _ = caught.features_BD
    with pytest.raises(ConfigError, match="one vector for each"):
        last_layer_gradient_norms(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(2, 5, 4))
