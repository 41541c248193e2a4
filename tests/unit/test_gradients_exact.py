"""Gradient norms leave nothing behind and refuse what has no per-example gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from goldiprox.evidence.gradients import fallback, gradient_norms, products
from goldiprox.schema import ConfigError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


def model_with_everything():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)
    )
    return model.eval()


def batch(count=5):
    return torch.randn(count, 3, 6, 6), torch.arange(count) % 3


def hooks_of(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(m, name)) for m in model.modules() for name in names]


def snapshot(model):
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return (
        grads,
        state,
        [m.training for m in model.modules()],
        hooks_of(model),
        torch.get_rng_state(),
    )


def assert_same(before, after):
    for a, b in zip(before[0], after[0], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4], after[4])


class Counting(nn.Module):
    """Changes a buffer in place, replaces another and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean().detach()
        return x


@pytest.mark.parametrize("with_grads", [False, True])
def test_nothing_is_left_behind(with_grads):
    model = nn.Sequential(Counting(), model_with_everything(), nn.Dropout(0.5))
    model[2].train()
    inputs, targets = batch()
    if with_grads:
        F.cross_entropy(model(inputs), targets).backward()
    with torch.no_grad():
        model[0].calls.zero_()
    calls = model[0].calls
    before = snapshot(model)
    gradient_norms(model, inputs, targets, micro_batch=2)
    assert_same(before, snapshot(model))
    assert model[0].calls is calls


@pytest.mark.parametrize("where", ["forward", "loss"])
def test_nothing_is_left_behind_after_an_error(where):
    model, (inputs, targets) = nn.Sequential(Counting(), model_with_everything()), batch()
    before = snapshot(model)
    runs = 0

    def forward(model, inputs):
        nonlocal runs
        runs += 1
        outputs = model(inputs)
        if where == "forward" and runs == 2:
            raise KeyError("broken")
        return outputs

    def loss(outputs, targets):
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        gradient_norms(model, inputs, targets, forward=forward, per_example_loss=loss)
    assert_same(before, snapshot(model))
    torch.ones(2) + torch.ones(2)  # no function mode is still active


def test_works_inside_no_grad_and_leaves_it_on():
    model = model_with_everything()
    with torch.no_grad():
        found = gradient_norms(model, *batch())
        assert not torch.is_grad_enabled()
    assert (found.grad_norm_B > 0).all()


def test_dropout_draws_as_the_next_training_step_would():
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    inputs, targets = torch.randn(6, 4), torch.arange(6) % 3
    first = gradient_norms(model, inputs, targets)
    again = gradient_norms(model, inputs, targets)
    assert torch.equal(first.grad_norm_B, again.grad_norm_B)
    torch.testing.assert_close(first.outputs, model(inputs).detach())


@pytest.mark.parametrize("stateless", [False, True])
def test_batch_statistics_are_refused(stateless):
    model = model_with_everything()
    if stateless:
        model[1] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    else:
        model[1].train()
    inputs, targets = batch()
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"1: .*model\.eval"):
        gradient_norms(model, inputs, targets)
    assert_same(before, snapshot(model))


def test_batch_statistics_in_a_plain_function_are_refused():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return F.batch_norm(self.layer(x), None, None, training=True)

    for micro_batch in (None, 1):
        with pytest.raises(ConfigError, match="statistics of the batch"):
            gradient_norms(
                Functional(), torch.randn(5, 4), torch.arange(5) % 3, micro_batch=micro_batch
            )


def test_dropout_with_a_layer_that_needs_a_second_pass_is_refused():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.drop, self.head = nn.GRU(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.drop(self.cell(x.transpose(0, 1))[0][-1]))

    model, inputs, targets = Recurrent(), torch.randn(5, 6, 4), torch.arange(5) % 3
    with pytest.raises(ConfigError, match=r"cell\.weight_ih_l0.*dropout"):
        gradient_norms(model, inputs, targets)
    found = gradient_norms(model.eval(), inputs, targets)
    assert "cell.weight_hh_l0" in found.slow_parameters


def test_dropout_where_examples_and_positions_share_an_axis_is_refused():
    """Without values to compare, examples-first and positions-first look the same."""

    class PositionsFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.first, self.head = nn.Dropout(0.5), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            rows = self.drop(x.transpose(0, 1)).reshape(-1, 4)
            return self.head(torch.tanh(self.first(rows)).view(-1, len(x), 6).mean(0))

    with pytest.raises(ConfigError, match=r"first\.weight"):
        gradient_norms(PositionsFirst(), torch.randn(5, 6, 4), torch.arange(5) % 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"per_example_loss": F.cross_entropy}, r"shape \(\) for 5 examples"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"targets": torch.zeros(4, dtype=torch.long)}, r"first axes are \[5, 4\]"),
        ({"targets": torch.tensor(1)}, r"first axes are"),
        ({"inputs": torch.zeros(0, 3, 6, 6), "targets": torch.zeros(0).long()}, "empty"),
    ],
)
def test_impossible_arguments(changes, message):
    inputs, targets = batch()
    arguments = {"inputs": inputs, "targets": targets} | changes
    with pytest.raises(ConfigError, match=message):
        gradient_norms(model_with_everything(), **arguments)


def test_models_without_norms_are_refused():
    frozen = model_with_everything().requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        gradient_norms(frozen, *batch())
    with pytest.raises(ConfigError, match="no shape yet"):
        gradient_norms(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), *batch())


@pytest.mark.parametrize("setting", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embeddings_that_depend_on_the_batch_are_refused(setting):
    model = nn.Sequential(nn.Embedding(9, 4, **setting), nn.Flatten(), nn.Linear(8, 3))
    weight = model[0].weight.detach().clone()
    with pytest.raises(ConfigError, match=next(iter(setting))):
        gradient_norms(model, torch.randint(0, 9, (5, 2)), torch.arange(5) % 3)
    assert torch.equal(model[0].weight, weight)


def test_output_without_any_gradient_gives_zero():
    model = nn.Sequential(nn.Linear(4, 3))
    found = gradient_norms(
        model,
        torch.randn(5, 4),
        torch.arange(5) % 3,
        forward=lambda model, inputs: model(inputs).detach(),
    )
    assert torch.equal(found.grad_norm_B, torch.zeros(5))


@pytest.mark.parametrize("elements", [1, 1 << 6, 1 << 21])
@pytest.mark.parametrize("pass_cost", [0, 24, 10**9])
def test_every_product_and_chunk_size_agrees(monkeypatch, elements, pass_cost):
    """The choice of product is one of speed alone."""
    layers = [nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 5, 2, stride=2)]
    model = nn.Sequential(*layers, nn.Flatten(2), nn.Linear(9, 6), nn.Flatten(), nn.Linear(30, 3))
    inputs, targets = torch.randn(7, 2, 6, 6), torch.arange(7) % 3
    expected = gradient_norms(model, inputs, targets, micro_batch=1).grad_norm_B
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(products, "PASS_COST", pass_cost)
    found = gradient_norms(model, inputs, targets).grad_norm_B
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


class Scaled(nn.Module):
    """A scale that is used as no rule knows, and a layer."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.einsum("bi,i->bi", x, self.scale))


@pytest.mark.parametrize("held", [1, 200, 1 << 24])
def test_materialised_gradients_in_chunks(monkeypatch, held):
    monkeypatch.setattr(fallback, "HELD_ELEMENTS", held)
    model = Scaled()
    inputs, targets = torch.randn(7, 4), torch.arange(7) % 3
    found = gradient_norms(model, inputs, targets)
    assert found.slow_parameters == ("scale",)
    expected = gradient_norms(model, inputs, targets, micro_batch=1)
    assert expected.slow_parameters == ()
    torch.testing.assert_close(found.grad_norm_B, expected.grad_norm_B)


def test_model_that_cannot_be_vectorised_is_looped_over():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

        def forward(self, x):
            rows = [row @ self.scale if row.sum() > 0 else -row @ self.scale for row in x]
            return self.head(torch.stack(rows))

    model, inputs, targets = Branching(), torch.randn(7, 4), torch.arange(7) % 3
    found = gradient_norms(model, inputs, targets)
    assert found.slow_parameters == ("scale", "head.weight", "head.bias")
    expected = gradient_norms(model, inputs, targets, micro_batch=1)
    torch.testing.assert_close(found.grad_norm_B, expected.grad_norm_B)


def test_permuting_the_batch_permutes_the_norms():
    model, (inputs, targets) = model_with_everything(), batch(9)
    order = torch.randperm(9)
    whole = gradient_norms(model, inputs, targets).grad_norm_B
    mixed = gradient_norms(model, inputs[order], targets[order]).grad_norm_B
    torch.testing.assert_close(mixed, whole[order])


def test_plain_gradients_are_still_taken_afterwards():
    model, (inputs, targets) = model_with_everything(), batch()
    twin = copy.deepcopy(model)
    gradient_norms(model, inputs, targets)
    for each in (model, twin):
        F.cross_entropy(each(inputs), targets).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_squares_of_long_rows_keep_their_digits():
    """One pass over two million elements would lose four digits."""
    rows = torch.randn(2, 512, 4608)
    expected = rows.double().square().flatten(1).sum(1).float()
    torch.testing.assert_close(products.square_sums(rows), expected, rtol=1e-6, atol=0)


def test_checkpointed_activations_are_refused():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False).tanh().mean(1))

    with pytest.raises(ConfigError, match="cannot be taken through activation checkpointing"):
        gradient_norms(Checkpointed(), torch.randn(5, 3, 4), torch.zeros(5, dtype=torch.int64))


class Weighted(nn.Module):
    """A layer that no rule covers, and inputs beside the tensor."""

    def __init__(self, seen):
        super().__init__()
        self.body, self.seen = nn.Sequential(nn.Linear(5, 5), nn.PReLU(), nn.Linear(5, 3)), seen

    def forward(self, x, factor, scale=1.0):
        self.seen.append((len(x), len(factor)))
        return self.body(x) * torch.as_tensor(factor).view(-1, 1).to(x) * scale


@pytest.mark.parametrize(
    "factor",
    [[1.0, 2.0, 3.0, 4.0], (1.0, 2.0, 3.0, 4.0), np.arange(1.0, 5.0), torch.arange(1.0, 5.0)],
    ids=["list", "tuple", "array", "tensor"],
)
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_every_call_gets_the_entries_of_its_own_examples(factor, micro_batch):
    torch.manual_seed(0)
    seen = []
    model, x, targets = Weighted(seen), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    inputs = {"x": x, "factor": factor, "scale": torch.tensor(0.5)}
    found = gradient_norms(model, inputs, targets, micro_batch=micro_batch)
    assert all(rows == entries for rows, entries in seen)
    for i in range(4):
        one = model(x[i : i + 1], factor[i : i + 1], 0.5)
        gradients = torch.autograd.grad(
            F.cross_entropy(one, targets[i : i + 1]), model.parameters()
        )
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        assert found.grad_norm_B[i] == pytest.approx(float(norm), rel=1e-4)


def test_inputs_with_the_time_first_are_refused():
    gru = nn.GRU(5, 6)
    with pytest.raises(ConfigError, match=r"first axes are \[7, 4\]"):
        gradient_norms(gru, torch.randn(7, 4, 5), torch.zeros(4, dtype=torch.long))
    inputs = {"x": torch.randn(7, 4, 5), "y": torch.randn(4, 5)}
    with pytest.raises(ConfigError, match=r"first axes are \[7, 4, 4\]"):
        gradient_norms(gru, inputs, torch.zeros(4, dtype=torch.long))
