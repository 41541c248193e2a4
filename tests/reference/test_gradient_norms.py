"""Exact gradient norms equal a float64 loop over single examples, whatever the model does."""

from __future__ import annotations

import copy

import pytest
import torch
from gradient_reference import (
    MLP,
    Attention,
    Layer,
    ResNet18,
    SmallCNN,
    Transformer,
    reference_norms,
    settled,
    token_loss,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import gradient_norms


@pytest.fixture(autouse=True)
def _seeded_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only lose time to more
    torch.manual_seed(3)
    yield
    torch.set_num_threads(threads)


def check(model, inputs, targets=None, *, slow=(), rtol=1e-5, **settings):
    """Compare in float32 and in float64, and say which parameters took the slow way."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    if targets is None:
        targets = torch.arange(len(first)) % 3
    loss = settings.get("per_example_loss", F.cross_entropy)
    forward = settings.get("forward")
    expected_B = reference_norms(model, inputs, targets, loss=loss, forward=forward)
    assert expected_B.max() > 1e-4, "a vanishing gradient compares equal to anything"
    found = gradient_norms(model, inputs, targets, **settings)
    torch.testing.assert_close(found.grad_norm_B.double(), expected_B, rtol=rtol, atol=1e-9)
    assert found.grad_norm_B.dtype == torch.float32
    assert set(found.slow_parameters) == set(slow)
    wide_model = copy.deepcopy(model).double()
    wide_inputs = inputs
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        wide_inputs = inputs.double()
    wide = gradient_norms(wide_model, wide_inputs, targets, **settings)
    torch.testing.assert_close(wide.grad_norm_B, expected_B, rtol=1e-9, atol=1e-12)
    return found


class Pooled(nn.Module):
    """Any feature extractor, then the mean over positions and a linear layer."""

    def __init__(self, *layers, width, classes=3):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        y = self.layers(x)
        return self.head(y.flatten(2).mean(2) if y.dim() > 2 else y)


# --- whole models ----------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 4, 7])
def test_mlp(micro_batch):
    check(MLP(), torch.randn(7, 20), micro_batch=micro_batch)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_narrow_cnn(micro_batch):
    check(SmallCNN(width=8), torch.randn(5, 3, 32, 32), micro_batch=micro_batch)


@pytest.mark.slow
def test_small_cnn():
    check(SmallCNN(), torch.randn(7, 3, 32, 32), micro_batch=3)


def test_narrow_resnet_with_running_statistics():
    check(settled(ResNet18(width=4)), torch.randn(5, 3, 32, 32), micro_batch=3)


@pytest.mark.slow
def test_resnet18():
    check(settled(ResNet18()), torch.randn(9, 3, 32, 32), micro_batch=4)


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("batch", [5, 12])  # 12 examples of 12 tokens: axes of equal length
def test_transformer_with_tied_embeddings(batch, micro_batch):
    tokens = torch.randint(1, 50, (batch, 12))
    tokens[:, -3:] = 0  # padding
    tokens[0, 4:] = tokens[0, 4]  # a token that repeats
    check(Transformer(), tokens, tokens, per_example_loss=token_loss, micro_batch=micro_batch)


def test_losses_and_outputs_come_from_the_same_pass():
    model, inputs, targets = MLP(), torch.randn(7, 20), torch.arange(7) % 3
    found = gradient_norms(model, inputs, targets, micro_batch=3)
    torch.testing.assert_close(found.outputs, model(inputs).detach())
    expected = F.cross_entropy(model(inputs), targets, reduction="none").detach()
    torch.testing.assert_close(found.loss_B, expected)
    assert not found.loss_B.requires_grad
    assert not found.outputs.requires_grad


# --- convolutions ----------------------------------------------------------------------------

CONVS = [
    nn.Conv1d(4, 6, 3),
    nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2),
    nn.Conv1d(4, 4, 1, bias=False),
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 3), padding=(0, 2), dilation=(2, 1)),
    nn.Conv2d(4, 4, 3, padding="same", groups=4),
    nn.Conv2d(4, 6, 4, padding="same", dilation=1),
    nn.Conv2d(4, 6, (2, 5), padding="same", dilation=(3, 1), groups=2),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    nn.Conv2d(4, 6, 8),
    nn.Conv2d(4, 6, 4, stride=4),
    nn.Conv2d(4, 6, 1, stride=2),
    nn.Conv3d(4, 4, (1, 2, 3), stride=(1, 1, 2), padding=(0, 1, 1), groups=2),
    nn.Conv3d(4, 6, 2, dilation=2),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_convolution(conv):
    space = len(conv.kernel_size)
    size = (5, 4, *(9, 8, 8)[:space]) if space < 3 else (5, 4, 4, 5, 6)
    head = nn.Conv1d if space == 1 else nn.Conv2d if space == 2 else nn.Conv3d
    layers = [head(4, 4, 1), nn.ReLU(inplace=True), conv, nn.Tanh()]
    check(Pooled(*layers, width=conv.out_channels), torch.randn(size))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_convolution(data):
    space = data.draw(st.integers(1, 3), label="space axes")
    groups = data.draw(st.sampled_from([1, 1, 2, 3]), label="groups")
    fan_in = groups * data.draw(st.integers(1, 3))
    fan_out = groups * data.draw(st.integers(1, 4))

    def each(low, high, label):
        return tuple(data.draw(st.tuples(*[st.integers(low, high)] * space), label=label))

    kernel, stride = each(1, 3, "kernel"), each(1, 3, "stride")
    padding, dilation = each(0, 2, "padding"), each(1, 2, "dilation")
    extra = each(0, 5, "extra")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    shape = [max(1, r - 2 * p) + e for r, p, e in zip(reach, padding, extra, strict=True)]
    batch = data.draw(st.integers(1, 5), label="batch")
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[space - 1]
    bias = data.draw(st.booleans(), label="bias")
    conv = kind(fan_in, fan_out, kernel, stride, padding, dilation, groups, bias)
    torch.manual_seed(0)
    model = Pooled(kind(fan_in, fan_in, 1), conv, width=fan_out)
    micro_batch = data.draw(st.sampled_from([None, 1, 2, 3]), label="micro-batch")
    check(model, torch.randn(batch, fan_in, *shape), micro_batch=micro_batch)


def test_channels_last():
    model = SmallCNN(width=8).to(memory_format=torch.channels_last)
    images = torch.randn(3, 3, 32, 32).to(memory_format=torch.channels_last)
    check(model, images)


# --- other layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm((6, 5, 5)),
        nn.LayerNorm(5),
        nn.LayerNorm(5, bias=False),
        nn.RMSNorm((5, 5)),
        nn.RMSNorm(5, eps=1e-3),
        nn.GroupNorm(3, 6),
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, affine=False),
    ],
    ids=str,
)
def test_normalisation(norm):
    for p in norm.parameters():
        nn.init.normal_(p, 1.0, 0.3)
    model = Pooled(nn.Conv2d(3, 6, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(6, 4, 2), width=4)
    check(settled(model, (16, 3, 7, 7)), torch.randn(5, 3, 7, 7))


def test_batchnorm_far_from_zero_mean():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()
    model[1].running_mean.fill_(1000.0)
    model[0].bias.data.fill_(1000.0)
    # The inputs of the norm are exact to 6e-5 of its unit variance only, in any implementation.
    check(model, torch.randn(5, 4), rtol=1e-3)


@pytest.mark.parametrize("batch", [5, 6])  # 6 examples of 6 tokens
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx, batch):
    model = nn.Sequential(
        nn.Embedding(9, 4, padding_idx=padding_idx), nn.Flatten(), nn.Linear(24, 3)
    )
    nn.init.normal_(model[0].weight)
    tokens = torch.randint(0, 9, (batch, 6))
    tokens[0] = 8
    tokens[1] = 2
    check(model, tokens)


def test_plain_embedding_function_with_padding_counted_from_the_end():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Parameter(torch.randn(9, 4)), nn.Linear(4, 3)

        def forward(self, tokens):
            return self.head(F.embedding(tokens, self.table, padding_idx=-1).sum(1))

    tokens = torch.randint(0, 9, (5, 6))
    tokens[:, 2] = 8
    check(Functional(), tokens)


def test_linear_over_positions_with_few_and_with_many():
    for length in (2, 40):
        model = Pooled(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), width=length)
        check(model, torch.randn(5, length, 6))


def test_dict_inputs_and_a_forward_of_ones_own():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, tokens, mask):
            return self.head((self.embed(tokens) * mask.unsqueeze(2)).sum(1))

    inputs = {"tokens": torch.randint(0, 9, (5, 6)), "mask": torch.rand(5, 6) > 0.3}
    check(Text(), inputs)
    check(
        Text(),
        inputs,
        forward=lambda model, batch: 2 * model(batch["tokens"], batch["mask"]),
        micro_batch=2,
    )


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
            return self.head(x + self.scale * x.mean())

    found = gradient_norms(Scaled(), torch.randn(5, 4), torch.arange(5) % 3)
    assert "scale" in found.slow_parameters


def test_attention_alone_with_views_and_strides():
    check(Pooled(Attention(8, 2), width=6), torch.randn(5, 8, 6).mT)


# --- low precision ---------------------------------------------------------------------------


def test_autocast_sums_squares_in_float32():
    model, images, targets = SmallCNN(width=8), torch.randn(6, 3, 32, 32), torch.arange(6)
    exact = gradient_norms(model, images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = gradient_norms(model, images, targets)
        single = gradient_norms(model, images, targets, micro_batch=1)
    assert rough.grad_norm_B.dtype == torch.float32
    assert rough.outputs.dtype == torch.bfloat16
    torch.testing.assert_close(rough.grad_norm_B, exact.grad_norm_B, rtol=0.05, atol=0)
    torch.testing.assert_close(rough.grad_norm_B, single.grad_norm_B, rtol=0.02, atol=0)


def test_autocast_with_tied_embeddings():
    model, tokens = Transformer(), torch.randint(1, 50, (5, 12))
    exact = gradient_norms(model, tokens, tokens, per_example_loss=token_loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = gradient_norms(model, tokens, tokens, per_example_loss=token_loss)
    assert rough.slow_parameters == ()
    torch.testing.assert_close(rough.grad_norm_B, exact.grad_norm_B, rtol=0.05, atol=0)
