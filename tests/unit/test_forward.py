"""The scoring pass: right numbers, no traces."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence import forward, mode
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import scoring_mode
from goldiprox.objectives import log_probabilities
from goldiprox.schema import ConfigError, DataError

B, D, C = 30, 6, 4
BOTH = frozenset({"loss_B", "log_probs_BC"})


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(B, D, generator=generator)
    targets = torch.randint(0, C, (B,), generator=generator)
    return torch.arange(B) * 3 + 1, inputs, targets


@pytest.fixture
def linear():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, C))


@pytest.fixture
def normed():
    """Linear, BatchNorm with moved statistics, linear."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, C))
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 3)
        model[1].weight.uniform_(0.5, 2)
        model[1].bias.normal_()
    return model


def by_hand(logits_BC, targets_B):
    """Cross-entropy of each example from its definition, in float64."""
    losses = []
    for row, target in zip(logits_BC.double().tolist(), targets_B.tolist(), strict=True):
        highest = max(row)
        total = sum(math.exp(v - highest) for v in row)
        losses.append(math.log(total) + highest - row[target])
    return torch.tensor(losses, dtype=torch.float64)


def test_losses_and_log_probabilities_equal_the_float64_reference(linear, pool):
    evidence = ScoringPass(linear)(pool, BOTH)
    with torch.no_grad():
        logits_BC = copy.deepcopy(linear).double()(pool[1].double())
    assert evidence.loss_B.dtype == torch.float32
    assert torch.allclose(evidence.loss_B.double(), by_hand(logits_BC, pool[2]), atol=1e-6)
    assert torch.allclose(evidence.log_probs_BC.double(), logits_BC.log_softmax(1), atol=1e-6)
    assert torch.equal(evidence.ids_B, pool[0])
    assert torch.equal(evidence.targets_B, pool[2])


def test_only_what_is_asked_for_is_computed(linear, pool):
    assert ScoringPass(linear)(pool, {"loss_B"}).log_probs_BC is None
    assert ScoringPass(linear)(pool, {"log_probs_BC"}).loss_B is None

    def never(model, batch):
        raise AssertionError("no forward pass was needed")

    given = torch.rand(B)
    evidence = ScoringPass(linear, logits=never)(
        pool, {"irreducible_B"}, known={"irreducible_B": given}
    )
    assert evidence.irreducible_B is given
    assert evidence.loss_B is None


@pytest.mark.parametrize("micro_batch", [1, 7, 29, 30, 31, 500])
def test_micro_batches_give_the_same_evidence(linear, pool, micro_batch):
    whole = ScoringPass(linear)(pool, BOTH)
    cut = ScoringPass(linear, micro_batch=micro_batch)(pool, BOTH)
    assert torch.allclose(cut.loss_B, whole.loss_B, atol=1e-6)
    assert torch.allclose(cut.log_probs_BC, whole.log_probs_BC, atol=1e-6)


def test_micro_batches_bound_what_the_model_sees(linear, pool):
    seen = []
    linear.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    ScoringPass(linear, micro_batch=8)(pool, {"loss_B"})
    assert seen == [8, 8, 8, 6]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_batchnorm_uses_the_statistics_that_were_asked_for(normed, pool, batchnorm, training):
    normed.train(training)
    first, norm, _, last = copy.deepcopy(normed).double()
    with torch.no_grad():
        hidden = first(pool[1].double())
        if batchnorm == "batch":
            mean = hidden.mean(0)
            variance = ((hidden - mean) ** 2).mean(0)  # biased, as BatchNorm normalises
        else:
            mean, variance = norm.running_mean, norm.running_var
        scaled = (hidden - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
        expected = by_hand(last(scaled.relu()), pool[2])
    before = copy.deepcopy(normed.state_dict())
    found = ScoringPass(normed, batchnorm=batchnorm)(pool, {"loss_B"}).loss_B
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in normed.state_dict().items())


def test_batchnorm_of_the_pool_cannot_be_cut(normed, linear, pool):
    with pytest.raises(ConfigError, match=r"statistics of a pool of 30 .* 8 at a time.*running"):
        ScoringPass(normed, batchnorm="batch", micro_batch=8)(pool, {"loss_B"})
    ScoringPass(normed, batchnorm="running", micro_batch=8)(pool, {"loss_B"})
    ScoringPass(normed, batchnorm="batch", micro_batch=30)(pool, {"loss_B"})
    ScoringPass(linear, batchnorm="batch", micro_batch=8)(pool, {"loss_B"})  # no BatchNorm there


@pytest.mark.parametrize("micro_batch", [0, -3])
def test_a_micro_batch_of_nothing_is_refused(linear, micro_batch):
    with pytest.raises(ConfigError, match=f"micro_batch is {micro_batch}"):
        ScoringPass(linear, micro_batch=micro_batch)


def test_bf16_is_close_and_gives_float32(linear, pool):
    exact = ScoringPass(linear)(pool, BOTH)
    rough = ScoringPass(linear, precision="bf16")(pool, BOTH)
    assert rough.loss_B.dtype == rough.log_probs_BC.dtype == torch.float32
    assert not torch.equal(rough.loss_B, exact.loss_B)
    assert torch.allclose(rough.loss_B, exact.loss_B, atol=0.05)
    assert stats.spearmanr(rough.loss_B, exact.loss_B).statistic > 0.95
    # Probabilities add up to one in float32, not in bf16.
    assert torch.allclose(rough.log_probs_BC.exp().sum(1), torch.ones(B), atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_scoring_inside_the_users_own_autocast_keeps_the_gradients(linear, pool, precision):
    """A cast made without gradients must not be reused by the training pass."""
    scoring = ScoringPass(linear, precision=precision)
    plain = scoring(pool, {"loss_B"}).loss_B
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = scoring(pool, {"loss_B"}).loss_B
        loss = F.cross_entropy(linear(pool[1]).float(), pool[2])
    loss.backward()
    assert torch.equal(inside, plain)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in linear.parameters())


def test_dicts_wrapped_outputs_and_logits_of_ones_own(linear, pool):
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear

        def forward(self, features):
            return SimpleNamespace(logits=self.net(features))

    ids, inputs, targets = pool
    expected = ScoringPass(linear)(pool, {"loss_B"}).loss_B
    as_dict = {"id": ids, "features": inputs, "label": targets}
    assert torch.equal(ScoringPass(Keyword())(as_dict, {"loss_B"}).loss_B, expected)
    assert torch.equal(ScoringPass(linear)([ids, inputs, targets], {"loss_B"}).loss_B, expected)
    mine = ScoringPass(linear, logits=lambda model, batch: model(batch[1]) * 0)
    assert torch.allclose(mine(pool, {"loss_B"}).loss_B, torch.tensor(math.log(C)))


def square_error(model, batch):
    return (model(batch[1]).sum(1) - batch[2]) ** 2


@pytest.mark.parametrize("micro_batch", [None, 7])
def test_a_loss_of_ones_own(linear, pool, micro_batch):
    scoring = ScoringPass(linear, per_example_loss=square_error, micro_batch=micro_batch)
    evidence = scoring(pool, {"loss_B"})
    with torch.no_grad():
        expected = [float((linear(x[None]).sum() - y) ** 2) for x, y in zip(*pool[1:], strict=True)]
    assert torch.allclose(evidence.loss_B, torch.tensor(expected), rtol=1e-4)
    with pytest.raises(ConfigError, match=r"log_probs_BC.*logits="):
        scoring(pool, BOTH)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model, batch: square_error(model, batch).mean(),
        lambda model, batch: square_error(model, batch)[:, None],
        lambda model, batch: square_error(model, batch)[:3],
    ],
    ids=["mean", "column", "too few"],
)
def test_a_loss_that_is_not_per_example_is_refused(linear, pool, wrong):
    """A mean would otherwise broadcast in loss - irreducible and choose by the table alone."""
    with pytest.raises(ConfigError, match=r"per_example_loss.*30 examples.*reduction"):
        ScoringPass(linear, per_example_loss=wrong)(pool, {"loss_B"})


def test_labels_that_are_absent_are_said_to_be(linear, pool):
    with pytest.raises(DataError, match="no labels"):
        ScoringPass(linear)(pool[:2], {"loss_B"})
    assert ScoringPass(linear)(pool[:2], {"log_probs_BC"}).targets_B is None


class Odd(nn.Module):
    """BatchNorm, dropout, a frozen part in evaluation mode, a part that differs in its mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU())
        self.frozen = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.untracked = nn.BatchNorm1d(8, track_running_stats=False)
        self.slow = nn.BatchNorm1d(8, momentum=None)
        self.head = nn.Linear(8, C)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.head(self.slow(self.untracked(self.frozen(self.body(x)))))


def set_modes(model, how):
    model.train(how != "eval")
    if how == "frozen":
        model.frozen.eval()
    if how == "mixed":
        model.body[1].eval()
        model.training = False
    return model


def traces(model):
    return {
        "modes": [m.training for m in model.modules()],
        "tracking": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "state": copy.deepcopy(model.state_dict()),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "needs": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state(),
        "grad enabled": torch.is_grad_enabled(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("has_grads", [True, False])
@pytest.mark.parametrize("how", ["train", "eval", "frozen", "mixed"])
@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_the_scoring_pass_leaves_no_trace(pool, batchnorm, how, has_grads):
    model = Odd()
    if has_grads:
        F.cross_entropy(model(pool[1]), pool[2]).backward()
    set_modes(model, how)
    before = traces(model)
    evidence = ScoringPass(model, batchnorm=batchnorm)(pool, BOTH)
    assert same(traces(model), before)
    assert not evidence.loss_B.requires_grad
    # Dropout is off: scoring twice gives the same numbers.
    assert torch.equal(ScoringPass(model, batchnorm=batchnorm)(pool, BOTH).loss_B, evidence.loss_B)


@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_a_model_that_fails_is_restored_too(pool, batchnorm):
    model = set_modes(Odd(), "mixed")
    before = traces(model)

    def fails(model, batch):
        torch.rand(3)
        model(batch[1])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        ScoringPass(model, batchnorm=batchnorm, logits=fails)(pool, BOTH)
    assert same(traces(model), before)


def test_randomness_used_inside_is_given_back(linear):
    before = torch.get_rng_state()
    with scoring_mode(linear, "running"):
        torch.rand(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_given_back_is_that_of_the_model_s_own_device(linear, monkeypatch):
    """Which need not be the current one."""
    device, calls = torch.device("cuda", 1), []
    monkeypatch.setattr(mode, "_device_among", lambda modules: device)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda d: calls.append(("get", d)) or "state")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, d: calls.append((s, d)))
    with scoring_mode(linear, "running"):
        pass
    assert calls == [("get", device), ("state", device)]


def test_masks_of_each_example_s_own_leave_other_devices_alone(pool, monkeypatch):
    def never(seed):
        raise AssertionError("every device was seeded, and only the model's is given back")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", never)
    model = nn.Sequential(nn.Linear(D, C), nn.Dropout(0.5))
    before = torch.get_rng_state()
    scoring = ScoringPass(model, mc_samples=2, mc_consistent=False)
    found = scoring(pool, {"mc_log_probs_KBC"}, seed=3).mc_log_probs_KBC
    assert torch.equal(found, scoring(pool, {"mc_log_probs_KBC"}, seed=3).mc_log_probs_KBC)
    assert torch.equal(torch.get_rng_state(), before)


EVERYTHING = frozenset(forward.PLAIN_FIELDS)


def over_and_each(model, batches, needs, **settings):
    """Evidence of several batches together, and that of each batch joined by hand."""
    together = list(ScoringPass(model, **settings).over(iter(batches), needs))
    alone = [ScoringPass(model, **settings)(batch, needs) for batch in batches]
    fields = ("ids_B", "targets_B", *needs)
    return len(together), {
        field: tuple(torch.cat([getattr(e, field) for e in part]) for part in (together, alone))
        for field in fields
    }


@pytest.mark.parametrize("held", [1, 60, 1 << 18])
@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_several_batches_give_what_each_gives(normed, pool, monkeypatch, held, batchnorm):
    """However many batches are held back, and each with the BatchNorm statistics of its own."""
    monkeypatch.setattr(forward, "HELD_VALUES", held)
    batches = [tuple(t[at] for t in pool) for at in torch.arange(B).split(7)]
    count, fields = over_and_each(normed, batches, EVERYTHING, batchnorm=batchnorm)
    assert count == {1: 5, 60: 5, 1 << 18: 1}[held]
    for field, (together, alone) in fields.items():
        assert torch.allclose(together, alone, rtol=3e-7, atol=0), field  # an ulp of a sum
    assert torch.equal(fields["ids_B"][0], pool[0])


def test_held_batches_are_few_and_leave_the_model_alone(linear, pool, monkeypatch):
    """4 logits an example: of batches of 5, two hold 40 values."""
    monkeypatch.setattr(forward, "HELD_VALUES", 40)
    linear.train()
    batches = (tuple(t[at] for t in pool) for at in torch.arange(B).split(5))
    sizes = []
    for evidence in ScoringPass(linear).over(batches, {"loss_B"}):
        sizes.append(len(evidence))
        assert linear.training
        assert linear[0](pool[1]).requires_grad
    assert sizes == [10, 10, 10]


@pytest.mark.parametrize("needs", [{"grad_norm_B", "loss_B"}, {"mc_log_probs_KBC"}])
def test_several_batches_where_nothing_can_be_held_back(pool, needs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.Linear(8, C))
    batches = [tuple(t[at] for t in pool) for at in torch.arange(B).split(11)]
    together = list(ScoringPass(model).over(batches, needs))
    for evidence, batch in zip(together, batches, strict=True):
        for field in needs:
            assert torch.equal(
                getattr(evidence, field), getattr(ScoringPass(model)(batch, needs), field)
            )


def test_nothing_to_score_yields_nothing(linear):
    assert list(ScoringPass(linear).over([], {"loss_B"})) == []


@pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 40])
def test_log_probabilities_of_few_and_many_classes(classes):
    logits = 20 * torch.randn(50, classes, generator=torch.Generator().manual_seed(classes))
    found = log_probabilities(logits)
    assert found.is_contiguous()
    assert torch.allclose(found.double(), logits.double().log_softmax(1), rtol=1e-6, atol=1e-6)


def test_labels_may_be_probabilities(linear, pool):
    soft = torch.rand(B, C, generator=torch.Generator().manual_seed(3)).softmax(1)
    found = ScoringPass(linear)((pool[0], pool[1], soft), {"loss_B"}).loss_B
    with torch.no_grad():
        logits = copy.deepcopy(linear).double()(pool[1].double())
    assert torch.allclose(found.double(), -(soft.double() * logits.log_softmax(1)).sum(1))


def test_features_come_with_gradient_norms_that_are_materialised(pool):
    """What ran last for those norms is one example, or a map over all."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(D, 8)), nn.Tanh(), nn.Linear(8, C)
    )
    both = ScoringPass(model)(pool, {"grad_norm_B", "grad_norm_last_layer_B"})
    alone = ScoringPass(model)(pool, {"grad_norm_last_layer_B"})
    torch.testing.assert_close(both.grad_norm_last_layer_B, alone.grad_norm_last_layer_B)
    assert (both.grad_norm_B > both.grad_norm_last_layer_B).all()
