"""Selectors that draw: their frequencies are their probabilities, their weights undo the bias."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from goldiprox.schema import ConfigError, Evidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.functions import gradient_norm_bound, training_loss
from goldiprox.selection.groups import ClassBalanced
from goldiprox.selection.sampling import (
    Boltzmann,
    GumbelTopK,
    ImportanceSampling,
    RankBased,
    SoftWeights,
    draw_with_replacement,
    gumbel_top_k,
)

LOSSES = [0.1, 2.0, 0.7, 1.3, 0.7]
DRAWS = 4000


def pool(losses=LOSSES):
    ids_B = torch.arange(len(losses)) * 7 + 3
    values_B = torch.tensor(losses)
    return Evidence(ids_B=ids_B, loss_B=values_B, grad_norm_bound_B=values_B)


def counts(selector, k):
    """How often each candidate was chosen over many steps."""
    total = torch.zeros(len(LOSSES))
    for step in range(DRAWS):
        chosen = selector(pool(), k, stream(0, "selection", step)).positions_k
        total += torch.bincount(chosen, minlength=len(LOSSES))
    return total.numpy()


def without_replacement(weights, k):
    """Inclusion probabilities of drawing one after the other, by enumeration."""
    included = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), k):
        probability, left = 1.0, sum(weights)
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        for place in order:
            included[place] += probability
    return included


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gumbel_top_k_includes_as_sequential_drawing_does(k, temperature):
    expected = without_replacement([math.exp(x / temperature) for x in LOSSES], k)
    found = counts(GumbelTopK(training_loss, temperature), k)
    assert found.sum() == DRAWS * k
    # Inclusions of one step exclude each other only for k = 1; each alone is binomial.
    for seen, share in zip(found, expected, strict=True):
        assert stats.binomtest(int(seen), DRAWS, share).pvalue > 1e-4


def test_rank_based_probabilities_fall_exponentially_with_the_rank():
    # Ranks from the highest loss; which of the two equal losses is the higher, chance says.
    shares = [
        without_replacement([100 ** (-rank / 5) for rank in ranks], 2)
        for ranks in ([4, 0, 2, 1, 3], [4, 0, 3, 1, 2])
    ]
    found = counts(RankBased(training_loss, ratio=100.0), 2)
    for seen, *either in zip(found, *shares, strict=True):
        assert stats.binomtest(int(seen), DRAWS, sum(either) / 2).pvalue > 1e-4


def test_boltzmann_draws_with_replacement_in_proportion():
    expected = torch.tensor(LOSSES, dtype=torch.float64).div(0.7).softmax(0).numpy()
    found = counts(Boltzmann(training_loss, 0.7), 3)
    assert stats.chisquare(found, expected * DRAWS * 3).pvalue > 1e-4


def test_importance_sampling_draws_in_proportion_to_the_norm():
    expected = torch.tensor(LOSSES, dtype=torch.float64)
    found = counts(ImportanceSampling(gradient_norm_bound, gate=0.0), 3)
    assert stats.chisquare(found, (expected / expected.sum()).numpy() * DRAWS * 3).pvalue > 1e-4


def test_importance_weights_make_the_mean_unbiased():
    """The weighted mean of any quantity converges to the pool's plain mean."""
    quantity_B = torch.tensor([5.0, -1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    selector = ImportanceSampling(gradient_norm_bound, gate=0.0)
    means = []
    for step in range(DRAWS):
        chosen = selector(pool(), 3, stream(1, "selection", step))
        means.append(float((chosen.weights_k * quantity_B[chosen.positions_k]).mean()))
    error = torch.tensor(means).std() / math.sqrt(DRAWS)
    assert abs(sum(means) / DRAWS - float(quantity_B.mean())) < 4 * float(error)
    # Without the weights it would not be: the test can fail.
    biased = (quantity_B * torch.tensor(LOSSES)).sum() / sum(LOSSES)
    assert abs(float(biased) - float(quantity_B.mean())) > 20 * float(error)


def test_the_gate_opens_where_a_few_norms_dwarf_the_rest():
    even, steep = pool([1.0] * 50), pool([1e-3] * 49 + [10.0])
    selector = ImportanceSampling(gradient_norm_bound).start()
    chosen = selector(even, 5, stream(0))
    assert selector.gain == pytest.approx(1.0)
    assert not chosen.weighted
    assert len(set(chosen.ids_k.tolist())) == 5
    for _ in range(30):
        chosen = selector(steep, 5, stream(0))
    # p of the last is almost one: a uniform batch would have to be sqrt(50) times as large.
    assert selector.gain == pytest.approx(math.sqrt(50), rel=0.1)
    assert chosen.weighted
    assert chosen.positions_k.tolist().count(49) >= 4


def test_the_gate_s_memory_is_kept_in_checkpoints_and_not_shared_by_runs():
    registered = ImportanceSampling(gradient_norm_bound)
    one, other = registered.start(), registered.start()
    one(pool([1e-3] * 49 + [10.0]), 5, stream(0))
    assert other.gain is None
    assert registered.gain is None
    other.load_state_dict(one.state_dict())
    assert other.gain == one.gain > 1


def test_norms_that_are_all_zero_are_sampled_uniformly():
    chosen = ImportanceSampling(gradient_norm_bound, gate=0.0)(pool([0.0] * 8), 4, stream(0))
    assert chosen.weights_k.tolist() == [1.0] * 4


def test_soft_weights_average_one_and_follow_the_score():
    evidence = pool()
    chosen = SoftWeights(training_loss, temperature=0.5)(evidence, 4, stream(0))
    expected = 4 * torch.tensor([LOSSES[i] / 0.5 for i in chosen.positions_k.tolist()]).softmax(0)
    assert torch.allclose(chosen.weights_k, expected)
    assert float(chosen.weights_k.mean()) == pytest.approx(1.0)


def test_a_candidate_of_probability_zero_is_never_drawn():
    probs = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    ids = torch.tensor([5, 4, 3, 2, 1])
    drawn = draw_with_replacement(probs, ids, 10_000, stream(0))
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("make", [Boltzmann, ImportanceSampling, GumbelTopK, RankBased])
def test_more_than_the_pool_is_refused(make):
    evidence = pool()
    with pytest.raises(ConfigError, match="choose 0 to 5"):
        make(gradient_norm_bound)(evidence, 6, stream(0))


def test_gumbel_top_k_takes_weights_up_to_a_constant():
    weights = torch.tensor([0.3, -1.0, 2.0, 0.0])
    ids = torch.arange(4)
    one = gumbel_top_k(weights, ids, 2, stream(3))
    assert torch.equal(one, gumbel_top_k(weights + 40, ids, 2, stream(3)))


@pytest.mark.parametrize("selector", [GumbelTopK, Boltzmann, ClassBalanced, SoftWeights])
@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-320, 1e-200, 1e300, math.inf, math.nan])
def test_temperatures_that_overflow_or_vanish_are_refused(selector, temperature):
    with pytest.raises(ConfigError, match=r"temperature is .* from 1e-30 to 1e\+30"):
        selector(training_loss, temperature=temperature)


@pytest.mark.parametrize("selector", [GumbelTopK, Boltzmann, ClassBalanced])
def test_a_score_that_overflows_over_the_temperature_is_refused(selector):
    """Scores of the user's own in double precision."""
    huge = Evidence(
        ids_B=torch.arange(3),
        targets_B=torch.arange(3),
        loss_B=torch.tensor([1.0, 1e300, 2.0], dtype=torch.float64),
    )
    choose = selector(training_loss, temperature=1e-20)
    with pytest.raises(ConfigError, match=r"training loss over a temperature of 1e-20 overflows"):
        choose(huge, 2, stream(0))
    lost = replace(huge, loss_B=torch.tensor([1.0, math.nan, 2.0]))
    with pytest.raises(NonFinite, match=r"training loss .*ids 1\)"):
        choose(lost, 2, stream(0))


def test_at_a_low_temperature_the_highest_are_drawn_and_equal_ones_by_chance():
    evidence = Evidence(ids_B=torch.arange(50), loss_B=torch.arange(50) // 10 * 1.0)
    seen = torch.zeros(50)
    for step in range(500):
        chosen = GumbelTopK(training_loss, 1e-30)(evidence, 15, stream(0, step))
        seen[chosen.ids_k] += 1
    assert seen[40:].tolist() == [500.0] * 10
    assert seen[:30].tolist() == [0.0] * 30
    assert stats.chisquare(seen[30:40]).pvalue > 1e-3
