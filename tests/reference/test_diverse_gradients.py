"""DivBS as its authors' program draws, from explicit gradients, one candidate at a time."""

import numpy as np
import pytest
import torch
from scipy import stats

from goldiprox.schema import Evidence
from goldiprox.seeds import stream
from goldiprox.selection.groups import DiverseGradients
from goldiprox.selection.ranking import shuffled, tie_key


def pool(seed, size=24, classes=3, width=6):
    generator = stream(seed, "pool")
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64) * 2
    features = torch.randn(size, width, generator=generator, dtype=torch.float64).relu()
    return Evidence(
        ids_B=torch.randperm(100, generator=generator)[:size],
        targets_B=torch.randint(0, classes, (size,), generator=generator),
        log_probs_BC=logits.log_softmax(1),
        features_BD=features,
    )


def gradients_of(evidence):
    """Over the last layer's weights, without its bias: rows_BD, float64."""
    errors = evidence.log_probs_BC.exp().numpy()
    errors[np.arange(len(errors)), evidence.targets_B.numpy()] -= 1
    return np.einsum("bc,bd->bcd", errors, evidence.features_BD.numpy()).reshape(len(errors), -1)


def drawn_one_by_one(gradients, numbers):
    """Each turn draws in proportion to |<g, residual>|; then the residual loses what g spans."""
    residual, basis, chosen = gradients.mean(0), [], []
    for number in numbers:
        weights = np.abs(gradients @ residual)
        weights[chosen] = 0  # up to rounding they are anyway
        upper = weights.cumsum()
        pick = int(np.searchsorted(upper, number * upper[-1], side="right"))
        chosen.append(pick)
        rest = gradients[pick] - sum((gradients[pick] @ e) * e for e in basis)
        basis.append(rest / np.linalg.norm(rest))
        residual = residual - (residual @ basis[-1]) * basis[-1]
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_sampled_divbs_draws_as_explicit_gradients_do(seed):
    evidence = pool(seed)
    found = DiverseGradients(sampled=True)(evidence, 8, stream(seed, "choice"))
    order = shuffled(evidence.ids_B, tie_key(stream(seed, "choice"))).numpy()
    numbers = torch.rand(8, generator=stream(seed, "choice"), dtype=torch.float64).numpy()
    expected = order[drawn_one_by_one(gradients_of(evidence)[order], numbers)]
    assert found.positions_k.tolist() == expected.tolist()


def test_the_first_is_drawn_in_proportion_to_its_share_of_the_sum():
    evidence = pool(1, size=8)
    gradients = gradients_of(evidence)
    weights = np.abs(gradients @ gradients.sum(0))
    counts = np.zeros(8)
    for step in range(4000):
        chosen = DiverseGradients(sampled=True)(evidence, 3, stream(0, "selection", step))
        assert len(set(chosen.ids_k.tolist())) == 3
        counts[int(chosen.positions_k[0])] += 1
    assert stats.chisquare(counts, weights / weights.sum() * 4000).pvalue > 1e-3


def test_once_everything_is_spanned_the_rest_is_drawn_uniformly():
    """Twenty copies of two examples: after one of each nothing is left of the sum."""
    two = pool(3, size=2)
    evidence = two.at(torch.arange(20) % 2)
    evidence = Evidence(
        ids_B=torch.arange(20),
        targets_B=evidence.targets_B,
        log_probs_BC=evidence.log_probs_BC,
        features_BD=evidence.features_BD,
    )
    counts = torch.zeros(20)
    for step in range(1000):
        chosen = DiverseGradients(sampled=True)(evidence, 6, stream(0, "selection", step))
        assert set((chosen.ids_k[:2] % 2).tolist()) == {0, 1}
        counts[chosen.ids_k[2:]] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def spanned(gradients, chosen):
    """Length of the summed gradient's projection on the span of those chosen, as a share."""
    basis, _ = np.linalg.qr(gradients[chosen].T)
    total = gradients.sum(0)
    return np.linalg.norm(basis.T @ total) / np.linalg.norm(total)


def test_the_best_span_more_of_the_sum_than_the_drawn_and_these_more_than_random_ones():
    shares = {"best": [], "drawn": [], "random": []}
    for seed in range(60):
        evidence = pool(seed, size=64, classes=10, width=32)
        gradients = gradients_of(evidence)
        for name, sampled in (("best", False), ("drawn", True)):
            chosen = DiverseGradients(sampled)(evidence, 8, stream(seed, "c")).positions_k.numpy()
            shares[name].append(spanned(gradients, chosen))
        at_random = torch.randperm(64, generator=stream(seed, "r"))[:8].numpy()
        shares["random"].append(spanned(gradients, at_random))
    mean = {name: np.mean(values) for name, values in shares.items()}
    assert mean["best"] > mean["drawn"] + 0.02 > mean["random"] + 0.04
