"""What scoring leaves behind: nothing; and which layers it may wake: none that the user froze."""

# ruff: noqa: NPY002 - the generators that the models of other people draw from
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from goldiprox.chooser import Chooser
from goldiprox.evidence.dropout import dropped
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.gradients import gradient_norms
from goldiprox.evidence.mode import scoring_mode, undisturbed
from goldiprox.irreducible import irreducible_losses
from goldiprox.schema import ConfigError
from goldiprox.seeds import stream

B, D, C = 24, 6, 4


@pytest.fixture
def pool():
    inputs = torch.randn(B, D, generator=stream(0)) * 3 + 1
    return torch.arange(B), inputs, torch.randint(0, C, (B,), generator=stream(1))


def normed(dropout=0.0):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout))
    two = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout))
    return nn.Sequential(one, two, nn.Linear(8, C)).train()


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1)])
def test_frozen_norms_are_scored_as_they_train(frozen, pool):
    model = normed()
    model(torch.randn(50, D) * 2)  # so that stored statistics are of something else
    for block in frozen:
        model[block].eval()
    with torch.no_grad():
        twin = copy.deepcopy(model)
        expected = F.cross_entropy(twin(pool[1]), pool[2], reduction="none")
    found = ScoringPass(model, batchnorm="batch")(pool, {"loss_B"}).loss_B
    assert torch.allclose(found, expected, atol=1e-6)
    assert [block[1].training for block in model[:2]] == [i not in frozen for i in range(2)]
    assert all(block[1].track_running_stats for block in model[:2])


@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_a_model_in_evaluation_mode_stays_in_it(batchnorm, pool):
    model = normed().eval()
    ScoringPass(model, batchnorm=batchnorm)(pool, {"loss_B"})
    assert not any(module.training for module in model.modules())


def test_a_pool_may_be_cut_where_all_norms_are_frozen(pool):
    model = normed()
    for block in model[:2]:
        block[1].eval()
    whole = ScoringPass(model, batchnorm="batch")(pool, {"loss_B"}).loss_B
    cut = ScoringPass(model, batchnorm="batch", micro_batch=5)(pool, {"loss_B"}).loss_B
    assert torch.allclose(cut, whole, atol=1e-6)
    model[1][1].train()
    with pytest.raises(ConfigError, match="statistics of a pool of 24"):
        ScoringPass(model, batchnorm="batch", micro_batch=5)(pool, {"loss_B"})


@pytest.mark.parametrize("shared", [True, False])
def test_frozen_dropout_drops_nothing(shared):
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model.train()[0].eval()
    ones = torch.ones(30, 200)
    with (
        scoring_mode(model, "running") as mode,
        dropped(model, 0, 0, consistent=shared, froze=mode.froze),
    ):
        assert torch.equal(model[0](ones), ones)
        assert set(model[1](ones).unique().tolist()) == {0.0, 2.0}
    assert [layer.training for layer in model] == [False, True]


def test_only_frozen_dropout_cannot_be_sampled(pool):
    model = normed(dropout=0.4)
    for block in model[:2]:
        block[3].eval()
    with pytest.raises(ConfigError, match="all dropout layers of the model are frozen"):
        Chooser(model, "bald")(pool)
    model.eval()  # a model that does not train at all is sampled as ever
    Chooser(model, "bald")(pool)


@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.FeatureAlphaDropout])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_shared_alpha_masks_do_what_torch_s_own_layer_does(kind, p):
    layer = kind(p)
    x = torch.full((40, 50, 3), 0.7)
    torch.manual_seed(0)
    own = layer.train()(x)
    seen = []
    with scoring_mode(layer, "running"):
        for sample in range(20):
            with dropped(layer, 7, sample, consistent=True):
                out = layer(x)
                assert torch.equal(out, out[:1].expand_as(out))
                seen.append(out[0])
    shared = torch.stack(seen)
    expected = own.unique()
    assert torch.allclose(shared.unique(), expected, atol=1e-6)
    low = (shared - expected[0]).abs() < 1e-3
    if p < 1:
        assert float(low.float().mean()) == pytest.approx(p, abs=0.06)
    by_channel = bool((low == low[..., :1]).all())
    assert by_channel == (kind is nn.FeatureAlphaDropout or p == 1)


class Stranger(nn.modules.dropout._DropoutNd):
    def forward(self, x):
        return x * (torch.rand_like(x) > self.p)


def test_masks_of_an_unknown_layer_are_not_guessed(pool):
    model = nn.Sequential(nn.Linear(D, 8), Stranger(0.5), nn.Linear(8, C))
    with pytest.raises(ConfigError, match="Stranger is no dropout layer of torch's"):
        Chooser(model, "bald")(pool)
    Chooser(model, "bald", dropout_shared=False)(pool)


class Untidy(nn.Module):
    """Draws from every generator; counts in place, replaces a buffer, keeps a cache that grows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, C)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(D))
        self.register_buffer("cache", torch.zeros(0), persistent=False)

    def forward(self, x):
        self.seen += len(x)
        self.last = x.mean(0).detach()
        if len(self.cache) < len(x):
            self.cache = torch.arange(float(len(x)))
        noise = np.random.randn() + random.gauss(0, 1) + float(torch.rand(()))
        return self.linear(self.drop(x)) * (1 + 0 * noise)


def states():
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()


@pytest.fixture
def disturbed():
    disturb()


def disturb():
    """Generators in the middle of something: a second normal number waits in two of them."""
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    random.gauss(0, 1), np.random.randn()


def losses_of_my_own(model, batch):
    np.random.rand(), random.random()
    return model(batch[1]).square().mean(1)


PASSES = {
    "losses": lambda model, pool: Chooser(model, "loss")(pool),
    "gradient norms": lambda model, pool: Chooser(model, "grad-norm")(pool),
    "last layer": lambda model, pool: Chooser(model, "grad-norm-last-layer")(pool),
    "shared masks": lambda model, pool: Chooser(model, "bald")(pool),
    "own masks": lambda model, pool: Chooser(model, "bald", dropout_shared=False)(pool),
    "irreducible": lambda model, pool: irreducible_losses(model, [pool]),
    "over": lambda model, pool: list(ScoringPass(model).over([pool, pool], {"loss_B"})),
    "own losses": lambda model, pool: Chooser(model, "loss", per_example_loss=losses_of_my_own)(
        pool
    ),
}


@pytest.mark.parametrize("what", PASSES)
def test_every_pass_leaves_buffers_and_random_states(what, pool, disturbed):
    model = Untidy().train()
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers() if name != "cache"}
    before = states()
    PASSES[what](model, pool)
    assert states() == before
    for name, (buffer, value) in buffers.items():
        assert getattr(model, name) is buffer
        assert torch.equal(buffer, value)
    assert len(model.cache) > 0, "a cache that grew is no counter"


@pytest.mark.parametrize("what", ["losses", "own losses", "gradient norms"])
def test_a_pass_that_fails_leaves_them_too(what, pool, disturbed):
    model, before = Untidy().train(), states()
    with pytest.raises(RuntimeError):
        PASSES[what](model, (pool[0], pool[1][:, 1:], pool[2]))
    assert states() == before
    assert model.seen == 0


def test_code_of_the_user_s_own_may_draw_beside_a_plain_model(pool, disturbed):
    plain, hooked = nn.Linear(D, C), nn.Linear(D, C)
    before = states()
    Chooser(plain, "loss", per_example_loss=losses_of_my_own)(pool)
    assert states() == before
    hooked.register_forward_hook(lambda *_: np.random.rand() and None)
    Chooser(hooked, "loss")(pool)
    assert states() == before


def test_numpy_s_state_is_not_looked_at_where_only_torch_draws(pool, monkeypatch):
    """It takes longer to save than a small model's scores to compute."""

    def never():
        raise AssertionError

    monkeypatch.setattr(np.random, "get_state", never)
    Chooser(normed(dropout=0.1), "loss")(pool)


def test_what_loading_draws_is_not_undone_between_batches(pool):
    model, drawn = Untidy(), []
    disturb()

    def loading():
        for _ in range(4):
            drawn.append((np.random.rand(), random.random(), float(torch.rand(()))))
            yield pool

    list(ScoringPass(model).over(loading(), {"loss_B"}))
    after = states()
    disturb()
    assert drawn == [(np.random.rand(), random.random(), float(torch.rand(()))) for _ in range(4)]
    assert after == states()


def test_an_irreducible_pass_gives_back_what_its_loader_drew(pool, disturbed):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pool), shuffle=True)
    model = Untidy()
    before = states()
    irreducible_losses(model, loader)
    assert states() == before


class OwnNorm(nn.BatchNorm1d):
    def forward(self, x):
        self.running_mean += 1
        return super().forward(x)


def test_norms_of_the_user_s_own_are_put_back(pool):
    model = nn.Sequential(nn.Linear(D, 8), OwnNorm(8), nn.Linear(8, C)).train()
    Chooser(model, "loss")(pool)
    assert model[1].running_mean.tolist() == [0.0] * 8
    with undisturbed(model):
        model(pool[1])
    assert model[1].running_mean.tolist() == [0.0] * 8
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize("spatial", [(), (3, 3)])
def test_a_pool_of_one_is_scored_with_stored_statistics(spatial):
    ids, labels = torch.tensor([5]), torch.tensor([1])
    inputs = torch.randn(1, D, *spatial, generator=stream(2))
    norm = nn.BatchNorm2d(D) if spatial else nn.BatchNorm1d(D)
    model = nn.Sequential(norm, nn.Flatten(), nn.LazyLinear(C)).train()
    model(torch.randn(7, D, *spatial))
    chosen = Chooser(model, "loss")((ids, inputs, labels))
    expected = F.cross_entropy(copy.deepcopy(model).eval()(inputs), labels, reduction="none")
    assert chosen.batch[0].tolist() == [5]
    assert torch.allclose(chosen.selection.scores_B, expected)
    [evidence] = ScoringPass(model, batchnorm="batch").over([(ids, inputs, labels)], {"loss_B"})
    assert torch.allclose(evidence.loss_B, expected)
    assert model[0].training


def test_a_norm_that_stores_nothing_cannot_score_a_pool_of_one(pool):
    model = nn.Sequential(nn.BatchNorm1d(D, track_running_stats=False), nn.Linear(D, C))
    Chooser(model, "loss")(pool)
    with pytest.raises(ConfigError, match="this pool has one example"):
        Chooser(model, "loss")(tuple(part[:1] for part in pool))


def test_gradient_norms_alone_leave_no_trace_either(pool, disturbed):
    model, before = Untidy().eval(), states()
    gradient_norms(model, pool[1], pool[2])
    assert states() == before
    assert model.seen == 0
