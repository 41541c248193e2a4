"""Floating-point operations, counted and compared with hand computation."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from goldiprox import Chooser
from goldiprox.evidence.flops import PassFlops, count_flops, counting, flops_per_example
from goldiprox.evidence.gradients import without_checks
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


# --- by hand: what torch's own counter sees wrongly or not at all --------------------------------


def few_of(inputs):
    return torch.arange(len(inputs)), inputs, torch.zeros(len(inputs), dtype=torch.int64)


def assert_counts(model, inputs, forward, training=None, *, within=1e-9):
    flops = count_flops(model, few_of(inputs))
    assert flops.forward == pytest.approx(forward, rel=within)
    if training is not None:
        assert flops.training == pytest.approx(training, rel=within)
    assert flops.uncounted == ()


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_groups_count_in_both_directions(groups, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers = [kind(8, 8, 3, padding=1, groups=groups) for _ in range(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 25, 3))
    conv, head = 2 * 25 * 8 * (8 // groups) * 9, 2 * 8 * 25 * 3
    # The first layer's input needs no gradient.
    assert_counts(model, torch.randn(4, 8, 5, 5), 2 * conv + head, 5 * conv + 3 * head)


def test_strided_convolution_in_three_dimensions():
    model = nn.Sequential(nn.Conv3d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(),
                          nn.Linear(6 * 27, 3))  # fmt: skip
    conv, head = 2 * 27 * 6 * 2 * 27, 2 * 6 * 27 * 3
    assert_counts(model, torch.randn(4, 4, 6, 6, 6), conv + head, 2 * conv + 3 * head)


class Attending(nn.Module):
    def __init__(self, body, width):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 3)

    def forward(self, x):
        found = (
            self.body(x, x, x)[0] if isinstance(self.body, nn.MultiheadAttention) else self.body(x)
        )
        return self.head(found.mean(1))


def attention_by_hand(length, width):
    """Four projections, and the two products of all pairs."""
    return 2 * length * width * 4 * width + 4 * length * length * width


def test_the_fast_path_of_attention():
    model = Attending(nn.MultiheadAttention(16, 4, batch_first=True), 16)
    forward = attention_by_hand(20, 16) + 2 * 16 * 3
    # Queries, keys and values are the model's own inputs: no gradient.
    training = 3 * forward - 2 * 20 * 16 * 3 * 16
    assert_counts(model, torch.randn(4, 20, 16), forward, training)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_fast_path_of_encoders(norm_first):
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    model = Attending(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 16)
    forward = 2 * (attention_by_hand(20, 16) + 2 * 20 * 2 * 16 * 24) + 2 * 16 * 3
    assert_counts(model, torch.randn(4, 20, 16), forward)


def test_fused_operations_called_by_name():
    """Where a model calls the fused operation itself, its formula counts what its parts would."""
    x, layer = (
        torch.randn(4, 20, 16),
        nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval(),
    )
    a = layer.self_attn
    with torch.no_grad(), counting() as fused:
        torch._transformer_encoder_layer_fwd(
            x, 16, 4, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias, False,
            False, 1e-5, layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias,
            layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias,
        )  # fmt: skip
    assert fused.total == 4 * (attention_by_hand(20, 16) + 2 * 20 * 2 * 16 * 24)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_whose_kernel_the_model_chooses(backend):
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x).unflatten(2, (2, 4)).transpose(1, 2)
            with sdpa_kernel(backend):
                y = nn.functional.scaled_dot_product_attention(x, x, x)
            return self.head(y.transpose(1, 2).flatten(2).mean(1))

    linear, products = 2 * 20 * 8 * 8, 4 * 20 * 20 * 8
    training = 2 * linear + 3 * products + 3 * 2 * 8 * 3
    if backend is SDPBackend.FLASH_ATTENTION:
        training += products // 2  # the scores once more
    assert_counts(Choosing(), torch.randn(4, 20, 8), linear + products + 2 * 8 * 3, training)


class Recurrent(nn.Module):
    def __init__(self, cell, width, *, packed=False):
        super().__init__()
        self.cell, self.head, self.packed = cell, nn.Linear(width, 3), packed

    def forward(self, x):
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            return self.head(self.cell(x)[1][0][-1])
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize(
    ("kind", "gates", "packed"),
    [(nn.LSTM, 4, False), (nn.LSTM, 4, True), (nn.GRU, 3, False), (nn.RNN, 1, False)],
)
def test_recurrent_layers(kind, gates, packed, ways):
    cell = kind(6, 8, num_layers=2, batch_first=True, bidirectional=ways == 2)
    first = ways * 2 * 10 * gates * 8 * (6 + 8)
    second = ways * 2 * 10 * gates * 8 * (ways * 8 + 8)
    width = 8 if packed else 8 * ways
    forward = first + second + 2 * width * 3
    inputs = ways * 2 * 10 * gates * 8 * 6  # of the first layer: no gradient
    model = Recurrent(cell, width, packed=packed)
    # The first state is not trained, so a step's share of a gradient is missing.
    assert_counts(model, torch.randn(4, 10, 6), forward)
    assert count_flops(model, few_of(torch.randn(4, 10, 6))).training == pytest.approx(
        3 * forward - inputs, rel=0.05
    )


def test_recurrent_operations_called_by_name():
    """Those of oneDNN on CPUs, which run where the counter does not switch them off."""
    x, cell = torch.randn(10, 4, 6), nn.LSTM(6, 8, bias=True)
    state = torch.zeros(1, 4, 8)
    with torch.no_grad(), counting() as found:
        torch.ops.aten.mkldnn_rnn_layer(
            x,
            *cell.all_weights[0],
            state[0],
            state[0],
            False,
            [],
            2,
            8,
            1,
            True,
            False,
            False,
            False,
        )
    assert found.total == 4 * 2 * 10 * 32 * (6 + 8)


class Plain(nn.Module):
    """Any function of the inputs, then a linear layer, which needs no gradient of its input."""

    def __init__(self, function, width=6):
        super().__init__()
        self.function, self.head = function, nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.function(x))


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: torch.fft.fft(x.to(torch.complex64)).real, 5 * 8 * 3),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=8), 2 * 5 * 8 * 3 / 2),
        (lambda x: torch.mv(torch.eye(8), x[0]).expand(len(x), 8), 2 * 64 / 4),
        (lambda x: torch.addmv(x[0], torch.eye(8), x[0]).expand(len(x), 8), 2 * 64 / 4),
        (lambda x: x.clone().addmm_(x, torch.eye(8)), 2 * 64),
        (lambda x: torch.einsum("bi,ij->bj", x, torch.eye(8)), 2 * 64),
        (lambda x: torch.sparse.mm(torch.eye(8).to_sparse(), x.T).T, 2 * 8),
        (lambda x: torch.cdist(x, torch.eye(8)), 2 * 8 * 8),
        (lambda x: nn.functional.bilinear(x, x, torch.ones(8, 8, 8)), 2 * 8 * 8 * 8),
        (lambda x: torch.sort(x.relu() + 1).values, 0),
    ],
)
def test_other_operations(function, flops):
    assert_counts(Plain(function, 8), torch.randn(4, 8), flops + 2 * 8 * 3)


def test_looking_up_is_free():
    model = nn.Sequential(nn.EmbeddingBag(9, 8), nn.Linear(8, 3))
    assert_counts(model, torch.randint(0, 9, (4, 5)), 2 * 8 * 3, 3 * 2 * 8 * 3)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x @ torch.linalg.inv(torch.eye(6)), "aten.linalg_inv_ex"),
        (lambda x: x @ torch.linalg.qr(torch.eye(6)).Q, "aten.linalg_qr"),
        (lambda x: torch.ops.goldiprox_test.doubled(x), "goldiprox_test.doubled"),
    ],
)
def test_what_is_not_counted_is_named(function, name):
    assert count_flops(Plain(function), few_of(torch.randn(4, 6))).uncounted == (name,)


@torch.library.custom_op("goldiprox_test::doubled", mutates_args=())
def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:.*(weight_norm|torch.jit).*")
@pytest.mark.parametrize("change", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_models_that_cannot_be_copied(change):
    model = small()
    change(model[0])
    model(torch.randn(2, 6))
    assert_counts(model, torch.randn(4, 6), 2 * 72, 3 * 2 * 72 - 2 * 48)
    assert model.training


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(
    "made",
    [torch.jit.script, lambda model: torch.compile(model, backend="eager"),
     lambda model: model.bfloat16(), nn.utils.parametrizations.spectral_norm],
    ids=["scripted", "compiled", "half", "spectral"],
)  # fmt: skip
def test_models_of_other_forms(made):
    model = small()
    if made is nn.utils.parametrizations.spectral_norm:
        made(model[0])
        extra = count_flops(model, few_of(torch.randn(4, 6))).forward - 2 * 72
        assert 0 < extra < 2 * 72
        return
    model = made(model)
    inputs = torch.randn(4, 6).to(next(model.parameters()).dtype)
    assert_counts(model, inputs, 2 * 72, 3 * 2 * 72 - 2 * 48)


def test_gradients_are_left_alone():
    model, inputs = small(), torch.randn(4, 6)
    model(inputs).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    count_flops(model, few_of(inputs))
    assert all(map(torch.equal, before, (p.grad for p in model.parameters())))


# --- gradient norms are charged for the passes that they take -------------------------------------


def pooled_cells():
    return Recurrent(nn.LSTM(6, 8, batch_first=True), 8)


@pytest.mark.parametrize("micro_batch", [None, 8, 1])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (small, (6,)),
        (pooled_cells, (10, 6)),
        (lambda: Attending(nn.MultiheadAttention(8, 2, batch_first=True), 8), (10, 8)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.PReLU(6), nn.Flatten(),
                               nn.Linear(6 * 36, 3)), (4, 4, 4)),
    ],
)  # fmt: skip
def test_gradient_norms_are_charged_what_they_take(make, shape, micro_batch):
    torch.manual_seed(0)
    model, pool = make(), few_of(torch.randn(40, *shape))
    chooser = Chooser(model, "grad-norm", micro_batch=micro_batch, batchnorm="running")
    charged = chooser.count_gradients(pool).of(40, micro_batch)
    with without_checks(), counting() as taken:
        chooser.select(pool)
    assert charged == pytest.approx(taken.total, rel=0.02)
    training = 40 * count_flops(model, pool).training
    assert charged < 1.25 * training  # no layer here needs a second pass


def test_plain_methods_are_not_charged_for_gradients():
    assert Chooser(small(), "loss").count_gradients(few_of(torch.randn(8, 6))) == PassFlops()
