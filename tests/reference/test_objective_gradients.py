"""Gradient norms of every objective against one backward pass an example, in float64."""

import copy

import pytest
import torch
from torch import nn

from goldiprox.evidence.forward import ScoringPass
from goldiprox.objectives import OBJECTIVES
from goldiprox.seeds import stream
from objective_cases import cases, drawn

B, D = 9, 5
IDS = torch.arange(B) * 3 + 1


class Text(nn.Module):
    """A causal model: each token sees the mean of those before it."""

    def __init__(self, words):
        super().__init__()
        self.embedding = nn.Embedding(words, 8)
        self.body = nn.Linear(8, 10)
        self.head = nn.Linear(10, words)

    def forward(self, tokens):
        h = self.embedding(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1).view(-1, 1)
        return self.head(torch.tanh(self.body(h)))


class Recurrent(nn.Module):
    """Takes the slow path of exact norms."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, 6, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.rnn(x.unsqueeze(-1))[0][:, -1]).squeeze(-1)


def mlp(outputs, bias=True):
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, outputs, bias=bias))


def case(name):
    """A model, inputs and targets for an objective."""
    known = KNOWN[name]
    targets = known.TARGETS[:B]
    width = known.OUTPUT.shape[-1] if known.OUTPUT.dim() > 1 else 1
    if OBJECTIVES[name].per_token:
        return Text(width), torch.randint(0, width, targets.shape, generator=stream(6)), targets
    return mlp(width, bias=name != "multilabel"), VECTORS, targets


KNOWN = cases()
VECTORS = drawn(B, D, seed=3)


def wide(value):
    return value.double() if value.is_floating_point() else value


def norms_by_loop(model, inputs, targets, name):
    """Of each example: over all parameters, over the last layer, and over the output."""
    model = copy.deepcopy(model).double()
    *_, head = (m for m in model.modules() if isinstance(m, nn.Linear))
    found = []
    for i in range(B):
        model.zero_grad(set_to_none=True)
        output = model(wide(inputs[i : i + 1]))
        output.retain_grad()
        batch = (IDS[i : i + 1], None, wide(targets[i : i + 1]))
        OBJECTIVES[name].losses(output, batch).sum().backward()
        found.append(
            [
                sum(p.grad.square().sum() for p in of.parameters()).sqrt().item()
                for of in (model, head)
            ]
            + [output.grad.norm().item()]
        )
    return torch.tensor(found, dtype=torch.float64).T


FIELDS = ("grad_norm_B", "grad_norm_last_layer_B", "grad_norm_bound_B")


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("together", [True, False])
def test_norms_equal_one_backward_pass_an_example(name, together, seeded):
    model, inputs, targets = case(name)
    expected = norms_by_loop(model, inputs, targets, name)
    scoring = ScoringPass(model, objective=name)
    batch = (IDS, inputs, targets)
    evidence = scoring(batch, set(FIELDS) | {"loss_B"})
    for field, norm_B in zip(FIELDS, expected, strict=True):
        found = getattr(evidence if together else scoring(batch, {field}), field)
        assert torch.allclose(found.double(), norm_B, rtol=2e-4, atol=1e-6), field
    assert torch.allclose(
        evidence.loss_B.double(),
        OBJECTIVES[name].losses(copy.deepcopy(model).double()(wide(inputs)), batch),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_norms_do_not_depend_on_how_the_pool_is_cut(name, micro_batch, seeded):
    model, inputs, targets = case(name)
    batch = (IDS, inputs, targets)
    for fields in ({"grad_norm_B", "loss_B"}, {"grad_norm_bound_B", "grad_norm_last_layer_B"}):
        whole = ScoringPass(model, objective=name)(batch, fields)
        cut = ScoringPass(model, objective=name, micro_batch=micro_batch)(batch, fields)
        for field in fields:
            assert torch.allclose(getattr(cut, field), getattr(whole, field), rtol=1e-5), field


def test_the_slow_path_of_exact_norms_takes_any_objective(seeded):
    model, targets = Recurrent(), 3 * drawn(B, seed=7)
    expected = norms_by_loop(model, VECTORS, targets, "regression-huber")
    found = ScoringPass(model, objective="regression-huber")(
        (IDS, VECTORS, targets), {"grad_norm_B"}
    )
    assert torch.allclose(found.grad_norm_B.double(), expected[0], rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scoring_leaves_gradients_and_the_grad_mode_alone(name, seeded):
    model, inputs, targets = case(name)
    ScoringPass(model, objective=name)((IDS, inputs, targets), set(FIELDS) - {"grad_norm_B"})
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
