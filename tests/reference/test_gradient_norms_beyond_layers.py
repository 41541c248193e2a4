"""Exact gradient norms where weights are shared, stand alone, or are used as no rule knows."""

from __future__ import annotations

import pytest
import torch
from gradient_reference import (
    MLP,
    Attention,
    Layer,
    Pooled,
    check,
)
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import gradient_norms

pytestmark = pytest.mark.usefixtures("seeded")


# --- sharing ---------------------------------------------------------------------------------


class Reused(nn.Module):
    """A layer called several times, its weight used by another layer and in plain functions."""

    def __init__(self, middle, use=lambda middle, x: middle(x)):
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(6, 6), middle, nn.Linear(6, 3)
        self.use = use

    def forward(self, x):
        y = torch.tanh(self.first(x))
        for _ in range(3):
            y = torch.tanh(self.use(self.middle, y))
        return self.head(y)


def test_linear_called_three_times():
    check(Reused(nn.Linear(6, 6)), torch.randn(5, 6))


def test_layernorm_called_three_times():
    check(Reused(nn.LayerNorm(6)), torch.randn(5, 6))


def test_weight_shared_between_layers_and_functions():
    model = Reused(nn.Linear(6, 6), lambda m, x: F.linear(x, m.weight) + m(x @ m.weight) + m.bias)
    model.first.weight = model.middle.weight
    check(model, torch.randn(6, 6))


@pytest.mark.parametrize("width", [4, 24])  # 24 channels: pairs of pixels would be cheaper
def test_convolution_called_three_times_at_different_sizes(width):
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 3)

        def forward(self, x):
            for _ in range(3):
                x = F.max_pool2d(torch.relu_(self.conv(x)), 2)
            return self.head(x.flatten(2).mean(2))

    check(Pyramid(), torch.randn(5, width, 9, 9))


def test_one_use_of_a_shared_layer_gets_no_gradient():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head, self.unused = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            with torch.no_grad():
                x = self.layer(x)
            return self.head(self.layer(x) + self.layer(x).detach())

    check(Detached(), torch.randn(5, 6))


# --- parameters outside of layers ------------------------------------------------------------


class Vision(nn.Module):
    """A small vision transformer: class token, positions and layer scale are bare parameters."""

    def __init__(self, width=8, patches=4):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, patches + 5, width))
        self.scale = nn.Parameter(torch.randn(width))
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.block = Layer(width, 2)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.place[:, : x.shape[1]]
        x = self.gain * x + self.scale * self.block(x)
        x = x + self.place[:, 1 : 1 + x.shape[1]] * 0.5
        x += self.scale.unsqueeze(0)
        return self.head(x[:, 0] * self.scale)


@pytest.mark.parametrize("batch", [2, 5, 8, 9])
def test_bare_parameters(batch):
    check(Vision(), torch.randn(batch, 3, 8, 8))


def test_frozen_parameters_do_not_count():
    model = MLP()
    model[1].weight.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    model[5].requires_grad_(False)
    check(model, torch.randn(5, 20))


# --- what no rule covers ---------------------------------------------------------------------


def test_weight_used_in_an_unknown_way_is_found():
    model = Reused(nn.Linear(6, 6), lambda m, x: m(x) + torch.einsum("bi,ji->bj", x, m.weight))
    check(model, torch.randn(5, 6), slow={"middle.weight"})


def test_matrix_that_is_also_added_as_it_is():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head((torch.tanh(self.first(x)) * self.first.weight).sum(1))

    check(Mixed(), torch.randn(5, 6, 6), slow={"first.weight"})


def test_computed_weight():
    model = MLP()
    torch.nn.utils.parametrizations.weight_norm(model[3])
    slow = {f"3.parametrizations.weight.original{i}" for i in (0, 1)} | {"3.bias"}
    check(model, torch.randn(5, 20), slow=slow)


def test_multihead_attention():
    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.first(x)
            return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))

    model = Attentive().eval()
    slow = {f"attend.{name}" for name, _ in model.attend.named_parameters()}
    check(model, torch.randn(5, 4, 4), slow=slow)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    model = Recurrent()
    slow = {f"cell.{name}" for name, _ in model.cell.named_parameters()}
    check(model, torch.randn(5, 6, 4), slow=slow)


def test_positions_first():
    class PositionsFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.norm(torch.tanh(self.first(x.transpose(0, 1)))).mean(0))

    check(PositionsFirst(), torch.randn(5, 5, 4))


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("positions_first", [False, True])
def test_examples_and_positions_in_one_axis(positions_first, micro_batch):
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            batch, length, _ = x.shape
            rows = x.transpose(0, 1) if positions_first else x
            y = torch.tanh(self.first(rows.reshape(-1, 4)))
            y = (
                y.view(length, batch, 6).mean(0)
                if positions_first
                else y.view(*x.shape[:2], 6).mean(1)
            )
            return self.head(y)

    slow = {"first.weight", "first.bias"} if positions_first else set()
    check(Flattened(), torch.randn(6, 5, 4), slow=slow, micro_batch=micro_batch)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_examples_in_another_order(micro_batch):
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
            self.shift, self.scale = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

        def forward(self, x):
            x = x.flip(0) * self.scale
            x += self.shift
            return self.head(torch.tanh(self.first(x)).flip(0))

    slow = {"first.weight", "first.bias", "shift", "scale"}
    check(Reversed(), torch.randn(6, 4), slow=slow, micro_batch=micro_batch)


def test_value_of_constant_shape_that_depends_on_the_data_is_not_taken_for_shared():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

        def forward(self, x):
            # The same for each example, but for rounding's sake only.
            return self.head(x + self.scale * (1 + 1e-6 * x.mean()))

    found = gradient_norms(Scaled(), torch.randn(5, 4), torch.arange(5) % 3)
    assert "scale" in found.slow_parameters


def test_attention_alone_with_views_and_strides():
    check(Pooled(Attention(8, 2), width=6), torch.randn(5, 8, 6).mT)
