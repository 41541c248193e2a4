"""Score functions against hand-computed values and an independent float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from goldiprox.evidence.dropout import dropped
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import scoring_mode
from goldiprox.schema import ConfigError, Evidence
from goldiprox.seeds import stream
from goldiprox.selection import functions as score


def evidence_of(samples, targets=None):
    """Probabilities [K][B][C] as evidence."""
    return Evidence(
        ids_B=torch.arange(len(samples[0])),
        targets_B=None if targets is None else torch.tensor(targets),
        mc_log_probs_KBC=torch.tensor(samples).log(),
    )


def test_entropies_by_hand():
    """One sure of each class: the mean is a coin, each sample is certain."""
    evidence = evidence_of([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]], [0, 1])
    two = math.log(2)
    assert score.predictive_entropy(evidence).tolist() == pytest.approx([two, two])
    assert score.conditional_entropy(evidence).tolist() == pytest.approx([0.0, two])
    assert score.bald(evidence).tolist() == pytest.approx([two, 0.0], abs=1e-7)
    assert score.loss_minus_conditional_entropy(evidence).tolist() == pytest.approx(
        [two, 0.0], abs=1e-7
    )


def test_entropies_equal_scipy_s_on_random_predictions():
    samples = torch.randn(7, 20, 5, generator=stream(0), dtype=torch.float64).mul(3).softmax(2)
    targets = torch.randint(0, 5, (20,), generator=stream(1))
    evidence = Evidence(ids_B=torch.arange(20), targets_B=targets, mc_log_probs_KBC=samples.log())
    mean = samples.mean(0).numpy()
    total = stats.entropy(mean, axis=1)
    inside = stats.entropy(samples.numpy(), axis=2).mean(0)
    assert score.predictive_entropy(evidence).numpy() == pytest.approx(total, rel=1e-10)
    assert score.conditional_entropy(evidence).numpy() == pytest.approx(inside, rel=1e-10)
    assert score.bald(evidence).numpy() == pytest.approx(total - inside, rel=1e-8)
    losses = -torch.log(samples.mean(0))[torch.arange(20), targets].numpy()
    found = score.loss_minus_conditional_entropy(evidence).numpy()
    assert found == pytest.approx(losses - inside, rel=1e-8)


def test_bald_agrees_with_an_independent_library():
    """With baal's (Atighehchian et al. 2020), zero probabilities included."""
    heuristics = pytest.importorskip(
        "baal.active.heuristics", reason="baal is not installed", exc_type=ImportError
    )
    samples = torch.randn(7, 200, 5, generator=stream(2), dtype=torch.float64).mul(4).softmax(2)
    samples[:, :20] = torch.nn.functional.one_hot(
        torch.randint(0, 5, (7, 20), generator=stream(3)), 5
    ).double()
    evidence = Evidence(ids_B=torch.arange(200), mc_log_probs_KBC=samples.log())
    theirs = samples.permute(1, 2, 0).numpy()  # examples, classes, samples
    found = score.bald(evidence).numpy()
    assert found == pytest.approx(heuristics.BALD().compute_score(theirs), rel=1e-9, abs=1e-12)
    entropy = score.predictive_entropy(evidence).numpy()
    assert entropy == pytest.approx(heuristics.Entropy().compute_score(theirs), rel=1e-9)


def test_a_probability_of_zero_is_not_nan():
    evidence = evidence_of([[[0.0, 1.0]], [[0.0, 1.0]]])
    for function in (score.predictive_entropy, score.conditional_entropy, score.bald):
        assert function(evidence).tolist() == [0.0]


def test_the_cap_is_the_loss_of_a_guess():
    probs = torch.tensor([[0.01, 0.98, 0.005, 0.005], [0.4, 0.2, 0.2, 0.2]])
    evidence = Evidence(
        ids_B=torch.arange(2),
        targets_B=torch.tensor([0, 0]),
        log_probs_BC=probs.log(),
        irreducible_B=torch.tensor([3.0, 0.2]),
    )
    found = score.capped_reducible_loss(evidence).tolist()
    assert found == pytest.approx([math.log(4) - 3.0, -math.log(0.4) - 0.2])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 3)
        self.drop2d = nn.Dropout2d(0.5)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, images):
        x = self.norm(self.drop2d(self.conv(images)).relu())
        return self.head(self.drop(x.flatten(1)))


@pytest.fixture
def pool():
    images = torch.randn(12, 1, 4, 4, generator=stream(3))
    return torch.arange(12), images, torch.randint(0, 3, (12,), generator=stream(4))


def test_samples_share_their_masks_over_the_pool_and_differ_from_each_other(pool):
    """Equal inputs get equal predictions within a sample, other ones in another sample."""
    ids, images, targets = pool
    same = ids, images[:1].expand(12, -1, -1, -1).contiguous(), targets
    found = ScoringPass(Net(), mc_samples=5)(same, {"mc_log_probs_KBC"}, seed=1).mc_log_probs_KBC
    assert found.shape == (5, 12, 3)
    assert torch.allclose(found, found[:, :1].expand(-1, 12, -1), atol=1e-6)
    assert len({tuple(row) for row in found[:, 0].tolist()}) == 5
    apart = ScoringPass(Net(), mc_samples=5, mc_consistent=False)
    found = apart(same, {"mc_log_probs_KBC"}, seed=1).mc_log_probs_KBC
    assert not torch.allclose(found, found[:, :1].expand(-1, 12, -1), atol=1e-3)


@pytest.mark.parametrize("consistent", [True, False])
def test_units_are_dropped_as_often_as_p_says_and_the_rest_scaled(consistent):
    model = nn.Sequential(nn.Dropout(0.3))
    ones = torch.ones(50, 400)
    outputs = []
    with scoring_mode(model, "running"):
        for sample in range(20):
            with dropped(model, 7, sample, consistent=consistent):
                outputs.append(model(ones))
    values = torch.stack(outputs)
    assert values.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    draws = values[:, 0] if consistent else values
    assert float((draws == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    model.eval()
    assert torch.equal(model(ones), ones), "hooks and modes are gone"


def test_sampling_is_reproducible_and_leaves_everything_as_it_was(pool):
    model = Net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    scoring = ScoringPass(model, mc_samples=3, micro_batch=5)
    one = scoring(pool, {"mc_log_probs_KBC"}, seed=2).mc_log_probs_KBC
    whole = ScoringPass(model, mc_samples=3)(pool, {"mc_log_probs_KBC"}, seed=2).mc_log_probs_KBC
    assert torch.allclose(one, whole, atol=1e-6)
    other = scoring(pool, {"mc_log_probs_KBC"}, seed=3).mc_log_probs_KBC
    assert not torch.allclose(one, other, atol=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_dropout_and_no_samples_are_refused(pool):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ConfigError, match="dropout"):
        ScoringPass(plain)(pool, {"mc_log_probs_KBC"})
    with pytest.raises(ConfigError, match="0 dropout samples"):
        ScoringPass(Net(), mc_samples=0)


def test_one_pass_serves_all_that_share_it(pool):
    """Everything asked of one pass equals what passes of their own tell; gradients too."""
    model = Net().eval()
    fields = {"loss_B", "log_probs_BC", "features_BD", "grad_norm_bound_B"}
    fields |= {"grad_norm_last_layer_B", "grad_norm_B"}
    together = ScoringPass(model)(pool, fields)
    for field in fields:
        alone = ScoringPass(model)(pool, {field})
        assert torch.allclose(alone.need(field), together.need(field), rtol=1e-5, atol=1e-6), field
    ids, images, targets = pool
    for i in range(len(ids)):
        model.zero_grad()
        nn.functional.cross_entropy(model(images[i : i + 1]), targets[i : i + 1]).backward()
        squares = [float(p.grad.double().square().sum()) for p in model.parameters()]
        assert float(together.grad_norm_B[i]) == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
        last = sum(float(p.grad.double().square().sum()) for p in model.head.parameters())
        found = float(together.grad_norm_last_layer_B[i])
        assert found == pytest.approx(math.sqrt(last), rel=1e-5)
