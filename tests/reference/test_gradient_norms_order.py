"""Exact gradient norms of models that reorder or mix their examples, or cannot be looked into."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from gradient_reference import Pooled, check
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import fallback, gradient_norms
from goldiprox.schema import ConfigError

pytestmark = pytest.mark.usefixtures("seeded")

EVERYTHING = {"first.weight", "first.bias", "head.weight", "head.bias"}


class Two(nn.Module):
    """Two layers, brought together by any function of both and the inputs."""

    def __init__(self, join, width=6):
        super().__init__()
        self.first, self.head = nn.Linear(width, 8), nn.Linear(8, 3)
        self.join = join

    def forward(self, x):
        return self.join(lambda x: torch.tanh(self.first(x)), self.head, x)


# --- another order inside ------------------------------------------------------------------------


def by_length(first, head, x):
    order = x[:, 0].argsort()
    return head(first(x[order]))[order.argsort()]


def swapped(first, head, x):
    """Rows 1 and 2; the first row, which a probe can compare, stays."""
    order = torch.tensor([0, 2, 1, *range(3, len(x))])[: len(x)]
    return head(first(x[order]))[order.argsort()]


def last_two(first, head, x):
    y = head(first(torch.cat([x[:-2], x[-2:].flip(0)])))
    return torch.cat([y[:-2], y[-2:].flip(0)])


def rolled(first, head, x):
    """All rows but the first."""
    y = head(first(torch.cat([x[:1], x[1:].roll(1, 0)])))
    return torch.cat([y[:1], y[1:].roll(-1, 0)])


def between_layers(first, head, x):
    order = torch.tensor([0, *range(len(x) - 1, 0, -1)])
    return head(first(x)[order])[order]


def doubled_rows(first, head, x):
    """Two views of each example, one half behind the other."""
    y = head(first(torch.cat([x, x])))
    return y[: len(x)] * y[len(x) :]


def time_first(first, head, x):
    count, length, width = x.shape
    y = head(first(x.transpose(0, 1).reshape(-1, width)))
    return y.view(length, count, -1).mean(0)


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("join", [by_length, swapped, last_two, rolled])
def test_rows_in_another_order_are_noticed(join, micro_batch):
    inputs = torch.randn(9, 6)
    inputs[0, 0] = -9.0  # shortest, so that sorting leaves it where it is
    model, again = Two(join), torch.randn(9, 6)
    check(model, inputs, slow=EVERYTHING, micro_batch=micro_batch)
    check(model, again, slow=EVERYTHING, micro_batch=micro_batch)  # as it was learnt


def test_only_the_layer_behind_is_in_another_order():
    check(Two(between_layers), torch.randn(9, 6), slow=EVERYTHING)


@pytest.mark.parametrize("same", [False, True])
def test_doubled_rows(same):
    inputs = torch.randn(9, 6)
    if same:
        inputs[1] = inputs[0]  # as the probe sees it, examples-first and views-first are the same
    check(Two(doubled_rows), inputs, slow=EVERYTHING)


@pytest.mark.parametrize("alike", [1, 5])
def test_time_first_with_examples_that_are_alike(alike):
    inputs = torch.randn(9, 1, 6).repeat(1, 4, 1)
    inputs[:alike] = inputs[:1].clone()
    check(Two(time_first), inputs, slow=EVERYTHING)


def test_an_order_that_begins_later_is_refused():
    """Sorted pools come first: nothing is moved, until one is not sorted."""
    model, targets = Two(by_length), torch.arange(9) % 3
    inputs = torch.randn(9, 6)
    tidy = inputs[inputs[:, 0].argsort()]
    for _ in range(3):
        assert gradient_norms(model, tidy, targets).slow_parameters == ()
    untidy = torch.cat([tidy[:1], tidy[1:].flip(0)])
    with pytest.raises(ConfigError, match=r"begins to bring its examples.*micro_batch=1"):
        gradient_norms(model, untidy, targets)


def test_an_order_is_noticed_after_a_pool_that_left_nothing_to_check():
    """Where the first example is moved, no rule covers a layer; where it stays, all seem to."""
    model, first, moved = Two(by_length), torch.randn(6, 6), torch.randn(9, 6)
    first[:, 0] = torch.tensor([1.0, 2.0, 0.0, 5.0, 4.0, 3.0])
    moved[:, 0] = torch.tensor([0.0, 2.0, 1.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0])
    check(model, first)
    check(model, moved, slow=EVERYTHING)


def test_an_order_is_checked_with_dropout_too():
    model = nn.Sequential(Two(swapped), nn.Dropout(0.5))
    with pytest.raises(ConfigError, match="second pass"):
        gradient_norms(model, torch.randn(9, 6), torch.arange(9) % 3)


def test_the_check_costs_nothing_later(monkeypatch):
    passes = []
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda *args, **kwargs: passes.append(0) or original(*args, **kwargs),
    )
    model = Two(lambda first, head, x: head(first(x)))
    counts = []
    for _ in range(17):
        passes.clear()
        gradient_norms(model, torch.randn(9, 6), torch.arange(9) % 3)
        counts.append(len(passes))
    assert [i + 1 for i, count in enumerate(counts) if count == 2] == [1, 4, 16]
    assert set(counts) == {1, 2}


# --- mixing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "join",
    [
        lambda first, head, x: (lambda y: y - y.mean(0))(head(first(x))),
        lambda first, head, x: (lambda y: y - 0.01 * y.mean(0))(head(first(x))),
        lambda first, head, x: (lambda h: head(h - h.mean(0).detach()))(first(x)),
        lambda first, head, x: head(first(x / (1 + x.std(0, unbiased=False)))),
        lambda first, head, x: (lambda h: head((h @ h.T).softmax(1) @ h))(first(x)),
        lambda first, head, x: head(first(x.flip(0))),
    ],
    ids=["mean", "a little", "detached", "inputs", "attention", "never put back"],
)
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_models_that_mix_their_examples_are_refused(join, micro_batch):
    with pytest.raises(ConfigError, match="mixes the examples"):
        gradient_norms(Two(join), torch.randn(9, 6), torch.arange(9) % 3, micro_batch=micro_batch)


def test_attention_with_the_axes_confused_is_refused():
    attention = nn.MultiheadAttention(8, 2).eval()  # batch_first is forgotten

    def join(first, head, x):
        y = first(x)
        return head(attention(y, y, y)[0].mean(1))

    model = Two(join)
    model.attention = attention
    with pytest.raises(ConfigError, match="mixes the examples"):
        gradient_norms(model, torch.randn(9, 4, 6), torch.arange(9) % 3)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, t: F.cross_entropy(y @ y.T, torch.arange(len(y)), reduction="none"),
        lambda y, t: F.cross_entropy(y, t, reduction="none") / len(y),
    ],
    ids=["contrastive", "divided"],
)
def test_losses_that_depend_on_the_batch_are_refused(loss):
    model = Two(lambda first, head, x: head(first(x)))
    with pytest.raises(ConfigError, match="mixes the examples"):
        gradient_norms(model, torch.randn(9, 6), torch.arange(9) % 3, per_example_loss=loss)


# --- what cannot be looked into, and what costs more ---------------------------------------------


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_scripted_models_and_their_copies(whole, copied):
    """The parameters of a scripted module's copy are results, not leaves."""
    source = plain()
    scripted = torch.jit.script(source)
    model = scripted if whole else nn.Sequential(scripted)
    model = copy.deepcopy(model) if copied else model
    inputs, targets = torch.randn(9, 6), torch.arange(9) % 3
    found = gradient_norms(model, inputs, targets)
    expected = gradient_norms(source, inputs, targets)
    torch.testing.assert_close(found.grad_norm_B, expected.grad_norm_B)
    torch.testing.assert_close(found.outputs, expected.outputs)
    torch.testing.assert_close(found.loss_B, expected.loss_B)
    assert len(found.slow_parameters) == 4


def test_compiled_models_run_in_their_plain_form():
    inputs, targets, source = torch.randn(9, 6), torch.arange(9) % 3, plain()
    found = gradient_norms(torch.compile(source, backend="eager"), inputs, targets)
    assert found.slow_parameters == ()
    torch.testing.assert_close(
        found.grad_norm_B, gradient_norms(source, inputs, targets).grad_norm_B
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.T @ grad


def test_functions_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.tanh(_Product.apply(x, self.weight)))

    check(Own(), torch.randn(9, 6), slow={"weight"})


@pytest.mark.parametrize("space", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 2, "groups": 2, "dilation": 2},
        {"kernel_size": 4, "stride": 3, "bias": False},
    ],
)
def test_transposed_convolutions_need_no_second_pass(space, settings):
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[space - 1]
    layers = [kind(4, 4, 1), nn.Tanh(), kind(4, 6, **settings), nn.Tanh()]
    check(Pooled(*layers, width=6), torch.randn(5, 4, *[4] * space))


def test_a_kernel_used_both_ways():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x):
            y = F.conv_transpose2d(torch.tanh(self.conv(x)), self.conv.weight, padding=1)
            return self.head(torch.tanh(y).mean((2, 3)))

    check(Tied(), torch.randn(5, 4, 6, 6))


@pytest.mark.parametrize("weights", [1, 6])
def test_prelu(weights):
    check(Pooled(nn.Conv2d(3, 6, 3), nn.PReLU(weights), width=6), torch.randn(5, 3, 6, 6))


@pytest.mark.parametrize("looped", [False, True])
def test_both_ways_to_materialise_give_everything(looped, monkeypatch):
    """Norms, losses and outputs, in one pass and not in two."""
    monkeypatch.setattr(fallback, "LOOPED_ELEMENTS", 0 if looped else 1 << 30)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3))
    inputs, targets = torch.randn(9, 6), torch.arange(9) % 3
    calls = []
    model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    for turn in range(2):
        calls.clear()
        found = gradient_norms(model, inputs, targets)
        rehearsal = [1, 2] if turn == 0 else []
        assert calls == rehearsal + ([1] * 9 if looped else [1])  # a map shows one example
        torch.testing.assert_close(found.outputs, model(inputs).detach())
        torch.testing.assert_close(
            found.loss_B, F.cross_entropy(model(inputs), targets, reduction="none").detach()
        )
        alone = gradient_norms(model, inputs, targets, micro_batch=1)
        torch.testing.assert_close(found.grad_norm_B, alone.grad_norm_B)


def test_recurrent_layers_are_looped_over_on_a_cpu():
    """A map would hold the gradients of all weights at each of the steps."""
    cell = nn.LSTM(6, 8, batch_first=True)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = cell, nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    model, sizes = Last(), []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    gradient_norms(model, torch.randn(9, 7, 6), torch.arange(9) % 3)
    assert sizes == [1, 2, *[1] * 9]


def test_what_is_remembered_does_not_keep_a_model():
    model = Two(lambda first, head, x: head(first(x)))

    def loss(outputs, targets, model=model):
        return F.cross_entropy(outputs + 0 * model.head.bias, targets, reduction="none")

    gradient_norms(model, torch.randn(9, 6), torch.arange(9) % 3, per_example_loss=loss)
    gone = weakref.ref(model)
    del model, loss
    gc.collect()
    assert gone() is None
