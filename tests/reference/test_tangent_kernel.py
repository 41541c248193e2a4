"""The tangent kernel against the slow way: autograd for every example and logit, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from gradient_reference import MLP, Attention, ResNet18, SmallCNN, settled
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import gram, gram_products, tangent_kernel
from goldiprox.schema import ConfigError


def reference(model, inputs):
    """A Python loop: one gradient for each example and logit, laid out flat, multiplied."""
    model = copy.deepcopy(model).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for x in inputs:
        x = x.unsqueeze(0)
        logits_C = model(x.double() if x.is_floating_point() else x)[0]
        for logit in logits_C:
            gradients = torch.autograd.grad(
                logit, parameters, retain_graph=True, materialize_grads=True
            )
            found.append(torch.cat([g.to_dense().flatten() for g in gradients]))
    jacobian = torch.stack(found)
    return jacobian @ jacobian.T


def images(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Shared(nn.Module):
    """One layer twice, one of its weights also as ``x @ weight``, and a scale of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x)) * self.scale
        x = torch.tanh(self.first(x)) @ self.first.weight
        return self.last(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Words(nn.Module):
    """Embedding, positions, attention, LayerNorm: a small text classifier."""

    def __init__(self, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.place = nn.Parameter(torch.randn(7, 8) / 3)
        self.attention = Attention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11 if tied else 3, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.place
        return self.head(self.norm(x + self.attention(x)).mean(1))


class Convolutions(nn.Module):
    """Groups, strides, dilation, one kernel used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.twice(x[..., ::2, :])).mean((2, 3)))


def words(count):
    return torch.randint(0, 11, (count, 7), generator=torch.Generator().manual_seed(4))


def case(name):
    torch.manual_seed(0)
    return {
        "mlp": lambda: (MLP(), images(6, 20)),
        "cnn": lambda: (SmallCNN(classes=4, width=4), images(5, 3, 32, 32)),
        "resnet": lambda: (settled(ResNet18(classes=3, width=4)), images(4, 3, 32, 32)),
        "shared": lambda: (Shared(), images(5, 6)),
        "convolutions": lambda: (Convolutions(), images(5, 2, 9, 8)),
        "words": lambda: (Words(), words(5)),
        "tied": lambda: (Words(tied=True), words(4)),
        "recurrent": lambda: (Recurrent(), images(4, 6, 4)),
        "weight-norm": lambda: (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 3)),
            images(5, 6),
        ),
        "one-logit": lambda: (nn.Linear(5, 1), images(3, 5)),
    }[name]()


CASES = [
    *("mlp", "cnn", "resnet", "shared", "convolutions", "words", "tied", "recurrent"),
    *("weight-norm", "one-logit"),
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("block", [None, 2, 1])
def test_equals_a_loop_over_examples_and_logits(name, block):
    model, inputs = case(name)
    model.eval()
    wanted = reference(model, inputs)
    found = tangent_kernel(model, inputs, block=block)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), wanted, rtol=2e-5, atol=2e-5 * float(wanted.abs().max())
    )
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("name", ["mlp", "cnn", "words", "tied", "convolutions"])
def test_both_ways_of_multiplying_and_any_scratch_give_the_same(name, monkeypatch):
    """Neither which way is cheaper nor how memory is cut up may show."""
    model, inputs = case(name)
    model = model.double().eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    wanted = reference(model, inputs)
    for way in (gram_products._add_built, gram_products._add_pairwise):
        for scratch in (1 << 24, 50):
            with monkeypatch.context() as patch:
                patch.setattr(
                    gram_products,
                    "_add_products",
                    lambda total, factors, copies, way=way: way(total, factors, copies),
                )
                patch.setattr(gram_products, "SCRATCH_ELEMENTS", scratch)
                patch.setattr(gram_products, "ROW_BLOCK", 7)
                patch.setattr(gram, "COLUMN_ELEMENTS", 20 * scratch)
                found = tangent_kernel(model, inputs)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_blocks_come_by_themselves_where_activations_are_many(monkeypatch):
    model, inputs = case("cnn")
    passes = []
    run = gram._pass
    monkeypatch.setattr(gram, "_pass", lambda *a: passes.append(a[3:]) or run(*a))
    tangent_kernel(model, inputs)
    assert len(passes) == 1
    monkeypatch.setattr(gram, "HELD_ELEMENTS", 1 << 16)
    found = tangent_kernel(model, inputs)
    assert len(passes) > 4
    wanted = reference(model, inputs)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-5 * float(wanted.max()))


def test_frozen_parameters_do_not_count_and_the_model_is_left_alone():
    model, inputs = case("resnet")
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = tangent_kernel(model, inputs)
    wanted = reference(model, inputs)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-5 * float(wanted.max()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_linear_model_has_the_kernel_one_can_write_down():
    """For f(x) = W x + b the gradients meet only in the same logit: (x.x' + 1) on the diagonal."""
    x = images(4, 5)
    found = tangent_kernel(nn.Linear(5, 3), x)
    torch.testing.assert_close(found, torch.kron(x @ x.T + 1, torch.eye(3)))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.Linear(3, 2), torch.zeros(0, 3), "no examples"),
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.ones(2, 3), "dropout"),
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.ones(2, 3), "eval"),
        (nn.Flatten(0), torch.ones(2, 3), "no trainable parameter"),
        (nn.Sequential(nn.Linear(3, 2), nn.Flatten(0)), torch.ones(2, 3), r"shape \(2,\)"),
        (nn.Linear(3, 2).requires_grad_(False), torch.ones(2, 3), "no trainable parameter"),
    ],
)
def test_refusals_say_why(model, inputs, message):
    with pytest.raises(ConfigError, match=message):
        tangent_kernel(model, inputs)


def test_bf16_autocast_around_it_keeps_to_the_kernel_roughly():
    model, inputs = case("mlp")
    wanted = reference(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tangent_kernel(model, inputs).double()
    assert F.cosine_similarity(found.flatten(), wanted.flatten(), 0) > 0.999
