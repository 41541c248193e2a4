"""Core-sets against slow references: every distance at once, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from goldiprox.schema import ConfigError, Evidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.coreset import (
    PROXY_SCORES,
    k_center_greedy,
    keep_highest,
)
from goldiprox.selection.ranking import shuffled

KEY = 20261128


def greedy_reference(features, ids, count):
    """All N x N distances, one candidate looked at after the other."""
    distances = cdist(features, features)
    tie = shuffled(torch.tensor(ids), KEY).argsort().tolist()
    start = cdist(features, features.mean(0, keepdims=True))[:, 0]
    taken = [min(range(len(ids)), key=lambda i: (start[i], tie[i]))]
    while len(taken) < count:
        left = [i for i in range(len(ids)) if i not in taken]
        taken.append(min(left, key=lambda i: (-distances[i, taken].min(), tie[i])))
    return taken


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [7, 1000])
def test_k_center_takes_what_the_full_matrix_says(seed, chunk):
    generator = stream(seed)
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    features[50:] = features[:10]  # copies
    ids = torch.randperm(600, generator=generator)[:60]
    found = k_center_greedy(features, ids, 60, KEY, chunk=chunk).tolist()
    assert found == greedy_reference(features.numpy(), ids.tolist(), 60)
    assert set(ids[found[50:]].tolist()) <= set(ids[:10].tolist()) | set(ids[50:].tolist())
    assert k_center_greedy(features, ids, 20, KEY, chunk=chunk).tolist() == found[:20]
    single = k_center_greedy(features.float(), ids, 20, KEY, chunk=chunk).tolist()
    assert single == found[:20]


def test_k_center_does_not_depend_on_the_order():
    generator = stream(9)
    features = torch.randn(40, 3, generator=generator)
    ids = torch.randperm(100, generator=generator)[:40]
    straight = ids[k_center_greedy(features, ids, 15, KEY)]
    order = torch.randperm(40, generator=generator)
    assert torch.equal(ids[order][k_center_greedy(features[order], ids[order], 15, KEY)], straight)


def test_k_center_covers_far_clusters_first():
    features = torch.cat([torch.randn(90, 2, generator=stream(0)) * 0.1, torch.eye(2) * 50])
    taken = k_center_greedy(features, torch.arange(92), 3, KEY).tolist()
    assert {90, 91} <= set(taken)


def test_k_center_needs_no_matrix_of_all_pairs():
    """60 000 examples: all pairs would take 14 GB."""
    features = torch.randn(60_000, 4, generator=stream(1))
    taken = k_center_greedy(features, torch.arange(60_000), 5, KEY)
    assert len(set(taken.tolist())) == 5


def test_edges_of_k_center():
    one = torch.zeros(1, 3)
    assert k_center_greedy(one, torch.tensor([7]), 1, KEY).tolist() == [0]
    assert k_center_greedy(one, torch.tensor([7]), 0, KEY).tolist() == []
    with pytest.raises(ConfigError, match="cannot keep 2 of 1 examples"):
        k_center_greedy(one, torch.tensor([7]), 2, KEY)
    with pytest.raises(NonFinite, match=r"ids 7\)"):
        k_center_greedy(torch.tensor([[float("nan")]]), torch.tensor([7]), 1, KEY)


def test_uncertainties_by_hand_and_by_scipy():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    evidence = Evidence(ids_B=torch.arange(3), log_probs_BC=probs.log())
    found = {name: score(evidence).tolist() for name, score in PROXY_SCORES.items()}
    assert found["entropy"] == pytest.approx(stats.entropy(probs.numpy(), axis=1).tolist())
    assert found["least-confidence"] == pytest.approx([0.3, 0.6, 0.0])
    assert found["margin"] == pytest.approx([-0.5, -0.05, -1.0])
    alone = Evidence(ids_B=torch.arange(2), log_probs_BC=torch.zeros(2, 1))
    assert {n: s(alone).abs().tolist() for n, s in PROXY_SCORES.items()} == {
        "entropy": [0, 0], "least-confidence": [0, 0], "margin": [1, 1],
    }  # fmt: skip


def test_the_most_uncertain_are_kept_ties_by_chance():
    scores, ids = torch.tensor([1.0, 3.0, 1.0, 2.0]), torch.tensor([9, 5, 2, 7])
    kept = [keep_highest(scores, ids, 3, key).tolist() for key in range(20)]
    assert {tuple(positions) for positions in kept} == {(0, 1, 3), (1, 2, 3)}
    assert keep_highest(scores, ids, 0, KEY).tolist() == []
    with pytest.raises(NonFinite, match=r"proxy score.*ids 2\)"):
        keep_highest(torch.tensor([1.0, 3.0, np.nan, 2.0]), ids, 1, KEY)
