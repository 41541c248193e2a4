"""Selectors that look at the set, against slow and obvious references."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from goldiprox.schema import ConfigError, Evidence
from goldiprox.seeds import stream
from goldiprox.selection.functions import training_loss
from goldiprox.selection.groups import (
    ClassBalanced,
    DiverseGradients,
    IrreducibleFilter,
    Stratified,
    round_robin,
)
from goldiprox.selection.ranking import shuffled
from goldiprox.selection.selectors import RandomChoice, TopK


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [0, 1, 6, 20])
def test_round_robin_serves_every_group_in_turn(seed, k):
    generator = stream(seed)
    groups = torch.randint(0, 4, (20,), generator=generator)
    scores = torch.randint(0, 6, (20,), generator=generator).float()
    ids = torch.randperm(100, generator=generator)[:20]
    tie = shuffled(ids, 3).argsort().tolist()
    queues = {g: [] for g in range(4)}
    for i in sorted(range(20), key=lambda i: (-float(scores[i]), tie[i])):
        queues[int(groups[i])].append(i)
    expected = []
    while any(queues.values()):
        served = [queue.pop(0) for queue in queues.values() if queue]
        expected += sorted(served, key=lambda i: (-float(scores[i]), tie[i]))
    found = round_robin(groups, scores, ids, k, 3).tolist()
    assert sorted(found) == sorted(expected[:k])


def test_class_balanced_takes_the_best_of_each_class():
    evidence = Evidence(
        ids_B=torch.arange(7),
        targets_B=torch.tensor([0, 0, 0, 0, 1, 1, 2]),
        loss_B=torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 0.5]),
    )
    chosen = ClassBalanced(training_loss)(evidence, 5, stream(0))
    assert sorted(chosen.ids_k.tolist()) == [0, 1, 4, 5, 6]


def test_stratified_takes_as_many_from_every_stratum():
    scores = torch.cat([torch.full((90,), 0.05), torch.full((5,), 5.0), torch.full((5,), 9.99)])
    scores[0], scores[-1] = 0.0, 10.0
    evidence = Evidence(ids_B=torch.arange(100), loss_B=scores)
    seen = Counter()
    for step in range(50):
        chosen = Stratified(training_loss)(evidence, 9, stream(0, step))
        seen.update((chosen.ids_k >= 90).long().add((chosen.ids_k >= 95).long()).tolist())
    assert seen == {0: 150, 1: 150, 2: 150}


def test_the_filter_leaves_out_what_is_implausible_and_fills_up_only_if_it_must():
    irreducible = torch.tensor([0.1, 5.0, 2.2, 2.4, 0.0, 7.0])
    evidence = Evidence(
        ids_B=torch.arange(6) + 10, irreducible_B=irreducible, loss_B=torch.arange(6.0)
    )
    plausible = {10, 12, 14}  # a label of probability 0.1 has a loss of 2.303 nats
    for step in range(20):
        chosen = IrreducibleFilter(RandomChoice())(evidence, 2, stream(0, step))
        assert set(chosen.ids_k.tolist()) <= plausible
    assert IrreducibleFilter(TopK(training_loss))(evidence, 1, stream(0)).ids_k.tolist() == [14]
    everything = IrreducibleFilter(RandomChoice())(evidence, 4, stream(0))
    assert set(everything.ids_k.tolist()) == plausible | {13}
    with pytest.raises(ConfigError, match="between 0 and 1"):
        IrreducibleFilter(RandomChoice(), implausible=1.0)


def greedy_reference(gradients, k):
    """DivBS on explicit gradients: Gram-Schmidt in float64, one candidate at a time."""
    residual = gradients.sum(0)
    basis, chosen = [], []
    for _ in range(k):
        best, best_gain, best_direction = -1, -1.0, None
        for i, gradient in enumerate(gradients):
            if i in chosen:
                continue
            rest = gradient - sum((gradient @ e) * e for e in basis)
            norm = np.linalg.norm(rest)
            gain = abs(rest @ residual) / norm if norm > 1e-5 * np.abs(gradients).max() else 0.0
            if gain > best_gain + 1e-12:
                best, best_gain = i, gain
                best_direction = rest / norm if gain > 0 else None
        chosen.append(best)
        if best_direction is not None:
            basis.append(best_direction)
            residual = residual - (residual @ best_direction) * best_direction
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_diverse_gradients_are_those_of_the_explicit_greedy_choice(seed):
    generator = stream(seed)
    logits = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (12,), generator=generator)
    evidence = Evidence(
        ids_B=torch.arange(12),
        targets_B=targets,
        log_probs_BC=logits.log_softmax(1),
        features_BD=features,
    )
    errors = logits.softmax(1).numpy() - np.eye(3)[targets.numpy()]
    with_bias = np.concatenate([features.numpy(), np.ones((12, 1))], axis=1)
    gradients = np.einsum("bc,bd->bcd", errors, with_bias).reshape(12, -1)
    chosen = DiverseGradients()(evidence, 6, stream(0)).positions_k.tolist()
    assert chosen == greedy_reference(gradients, 6)


def test_copies_add_nothing_to_a_diverse_choice():
    """Five copies of two examples and one other: the first three chosen are all different."""
    generator = stream(1)
    rows = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
    logits = torch.randn(3, 4, generator=generator)[rows]
    features = torch.randn(3, 5, generator=generator)[rows]
    evidence = Evidence(
        ids_B=torch.arange(11),
        targets_B=torch.tensor([0, 1, 2])[rows],
        log_probs_BC=logits.log_softmax(1),
        features_BD=features,
    )
    chosen = DiverseGradients()(evidence, 3, stream(0)).positions_k.tolist()
    assert {rows[i] for i in chosen} == {0, 1, 2}
    assert math.isfinite(float(evidence.features_BD.sum()))
