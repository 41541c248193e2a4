"""Exact gradient norms equal a float64 loop over single examples, whatever the model does."""

from __future__ import annotations

import pytest
import torch
from gradient_reference import (
    MLP,
    Pooled,
    ResNet18,
    SmallCNN,
    Transformer,
    check,
    settled,
    token_loss,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import gradient_norms

pytestmark = pytest.mark.usefixtures("seeded")


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
