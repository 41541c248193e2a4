"""REDUCR, JEST and temperature scaling against slow references in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from goldiprox.schema import ConfigError, Evidence
from goldiprox.seeds import stream
from goldiprox.selection.calibrated import CalibratedReducibleLoss, fit_sharpness
from goldiprox.selection.functions import reducible_loss
from goldiprox.selection.joint import JointChoice, _AddedSigmoid, _AddedSoftmax, sigmoid_pair_losses
from goldiprox.selection.methods import method
from goldiprox.selection.ranking import keyed_uniform
from goldiprox.selection.robust import ClassRobust, class_irreducible_losses
from goldiprox.selection.selectors import TopK

# --- REDUCR ---


def pool_of(size, classes, seed):
    generator = stream(seed)
    log_probs = torch.randn(size, classes, generator=generator).mul(2).log_softmax(1)
    targets = torch.randint(0, classes, (size,), generator=generator)
    return Evidence(
        ids_B=torch.randperm(10 * size, generator=generator)[:size],
        targets_B=targets,
        log_probs_BC=log_probs,
        loss_B=-log_probs[torch.arange(size), targets],
        irreducible_B=torch.rand(size, generator=generator) * 2,
    )


def expert_loss(irreducible, label, expert, classes, emphasis):
    """-log of the label's probability once p(expert | x) is raised and all are normalised again."""
    probs = [(1 - math.exp(-irreducible)) / (classes - 1)] * classes
    probs[label] = math.exp(-irreducible)
    probs[expert] *= 1 + emphasis
    return -math.log(probs[label] / sum(probs))


def reducr_reference(pools, k, rate, emphasis, smoothing, classes):
    """Algorithm 1, one example and one class at a time; the chosen ids and the weights."""
    weights = [1 / classes] * classes
    sums, counts = [0.0] * classes, [0.0] * classes
    history = []
    for pool in pools:
        losses = (-pool.log_probs_BC.double()).tolist()
        labels, irreducible = pool.targets_B.tolist(), pool.irreducible_B.double().tolist()
        excess = [
            [
                max(
                    0.0,
                    losses[i][labels[i]]
                    - expert_loss(irreducible[i], labels[i], c, classes, emphasis),
                )
                for c in range(classes)
            ]
            for i in range(len(labels))
        ]
        scores = [sum(w * e for w, e in zip(weights, row, strict=True)) for row in excess]
        order = sorted(range(len(labels)), key=lambda i: (-scores[i], int(pool.ids_B[i])))[:k]
        own = [losses[i][labels[i]] for i in range(len(labels))]
        for c in range(classes):
            mine = [own[i] for i in range(len(labels)) if labels[i] == c]
            sums[c] = smoothing * sums[c] + sum(mine)
            counts[c] = smoothing * counts[c] + len(mine)
        gains = []
        for c in range(classes):
            class_loss = sums[c] / counts[c] if counts[c] else sum(own) / len(own)
            gains.append(sum(excess[i][c] - class_loss for i in order))
        weights = [w * math.exp(-rate * g) for w, g in zip(weights, gains, strict=True)]
        weights = [w / sum(weights) for w in weights]
        history.append(({int(pool.ids_B[i]) for i in order}, weights))
    return history


@pytest.mark.parametrize("rate", [1e-4, 0.2])
def test_reducr_is_its_algorithm(rate):
    classes, k = 5, 6
    pools = [pool_of(40, classes, seed) for seed in range(8)]
    # The second pool lacks class 0, the first lacks class 4.
    for place, lacking in ((0, 4), (1, 0)):
        there = (pools[place].targets_B != lacking).nonzero().squeeze(1)
        pools[place] = pools[place].at(there)
    selector = ClassRobust(rate=rate).start()
    expected = reducr_reference(pools, k, rate, 9.0, 0.9, classes)
    for pool, (ids, weights) in zip(pools, expected, strict=True):
        chosen = selector(pool, k, stream(0))
        assert set(chosen.ids_k.tolist()) == ids
        assert selector.log_weights_C.exp().tolist() == pytest.approx(weights, rel=1e-6)
    other = ClassRobust(rate=rate).start()
    other.load_state_dict(selector.state_dict())
    again = [s(pools[3], k, stream(0)).ids_k.tolist() for s in (selector, other)]
    assert again[0] == again[1]


def test_a_class_expert_is_the_best_model_under_its_weights():
    """Weighted cross-entropy on one input, minimised numerically, gives the closed form."""
    true = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    gamma = 9.0
    for expert in range(3):
        weights = torch.ones(3, dtype=torch.float64)
        weights[expert] += gamma

        def loss(logits, weights=weights):
            log_probs = torch.tensor(logits).log_softmax(0)
            return float(-(true * weights * log_probs).sum())

        best = torch.tensor(optimize.minimize(loss, [0.0] * 3, tol=1e-12).x).log_softmax(0)
        closed = true * weights / (true * weights).sum()
        assert best.exp().tolist() == pytest.approx(closed.tolist(), abs=1e-4)
    # For the label's own class no spreading is needed: the table gives it exactly.
    found = class_irreducible_losses(-true.log(), torch.arange(3), 3, gamma)
    for label in range(3):
        p = float(true[label])
        expected = -math.log((1 + gamma) * p / (1 + gamma * p))
        assert float(found[label, label]) == pytest.approx(expected)


def test_reducr_turns_to_the_class_that_stays_bad():
    """Two classes with equal excess; class 1 keeps the higher loss on what is not chosen."""
    selector = ClassRobust(rate=0.05).start()
    probs = torch.tensor([[0.9, 0.1]] * 10 + [[0.9, 0.1]] * 10)
    pool = Evidence(
        ids_B=torch.arange(20),
        targets_B=torch.tensor([0] * 10 + [1] * 10),
        log_probs_BC=probs.log(),
        irreducible_B=torch.full((20,), 3.0),
    )
    for _ in range(80):
        selector(pool, 1, stream(0))
    assert selector.log_weights_C.exp()[1] > 0.9


# --- JEST ---


def joint_loss(logits, chosen, kind):
    """Contrastive loss of a batch by its definition, summed over examples."""
    total = 0.0
    for i in chosen:
        for j in chosen if kind == "sigmoid" else ():
            sign = 1.0 if i == j else -1.0
            total += math.log1p(math.exp(-sign * float(logits[i, j])))
        if kind == "softmax":
            row = math.log(sum(math.exp(float(logits[i, j])) for j in chosen))
            column = math.log(sum(math.exp(float(logits[j, i])) for j in chosen))
            total += 0.5 * (row + column) - float(logits[i, i])
    return total


def joint_learnability(learner, reference, chosen, kind):
    return joint_loss(learner, chosen, kind) - joint_loss(reference, chosen, kind)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_what_a_candidate_adds_is_the_growth_of_the_joint_loss(kind):
    logits = torch.randn(9, 9, generator=stream(0), dtype=torch.float64) * 2
    reference = torch.randn(9, 9, generator=stream(1), dtype=torch.float64) * 2
    if kind == "sigmoid":
        pairs = sigmoid_pair_losses(logits) - sigmoid_pair_losses(reference)
        added = _AddedSigmoid(pairs.diagonal(), pairs + pairs.T)
    else:
        added = _AddedSoftmax(logits, reference)
    chosen = []
    for drawn in ([], [4], [0, 7], [2]):
        if drawn:
            added.take(np.array(drawn))
        chosen += drawn
        before = joint_learnability(logits, reference, chosen, kind)
        for i in range(9):
            if i in chosen:
                assert added.given_B[i] == -np.inf
                continue
            growth = joint_learnability(logits, reference, [*chosen, i], kind) - before
            assert added.given_B[i] == pytest.approx(growth, abs=1e-10)


def contrastive_pool(size, seed):
    generator = stream(seed)
    return Evidence(
        ids_B=torch.randperm(5 * size, generator=generator)[:size],
        pair_logits_BB=torch.randn(size, size, generator=generator) * 2,
        reference_pair_logits_BB=torch.randn(size, size, generator=generator) * 2,
    )


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("k", "chunks"), [(7, 3), (5, 16), (6, 1), (12, 4)])
def test_jest_is_its_algorithm(kind, k, chunks):
    pool = contrastive_pool(12, k)
    learner, reference = pool.pair_logits_BB.double(), pool.reference_pair_logits_BB.double()
    generator = stream(3, "selection")
    chosen, turns = [], min(k, chunks)
    for turn in range(turns):
        left = sorted(set(range(12)) - set(chosen), key=lambda i: int(pool.ids_B[i]))
        numbers = keyed_uniform(pool.ids_B[left], generator).tolist()
        before = joint_learnability(learner, reference, chosen, kind)
        keys = {}
        for i, u in zip(left, numbers, strict=True):
            adds = joint_learnability(learner, reference, [*chosen, i], kind) - before
            keys[i] = adds - math.log(-math.log(u))
        count = (turn + 1) * k // turns - turn * k // turns
        chosen += sorted(left, key=lambda i: -keys[i])[:count]
    found = JointChoice(loss=kind, chunks=chunks)(pool, k, stream(3, "selection"))
    assert sorted(found.positions_k.tolist()) == sorted(chosen)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_jest_includes_as_drawing_one_after_the_other_does(kind):
    pool = contrastive_pool(4, 1)
    learner, reference = pool.pair_logits_BB.double(), pool.reference_pair_logits_BB.double()
    included = [0.0] * 4
    for first, second in itertools.permutations(range(4), 2):

        def weight(taken, i):
            both = joint_learnability(learner, reference, [*taken, i], kind)
            return math.exp(both - joint_learnability(learner, reference, taken, kind))

        probability = weight([], first) / sum(weight([], i) for i in range(4))
        rest = [i for i in range(4) if i != first]
        probability *= weight([first], second) / sum(weight([first], i) for i in rest)
        for i in (first, second):
            included[i] += probability
    draws = 3000
    counts = torch.zeros(4)
    for step in range(draws):
        chosen = JointChoice(loss=kind, chunks=2)(pool, 2, stream(0, "selection", step))
        counts += torch.bincount(chosen.positions_k, minlength=4)
    for seen, share in zip(counts.tolist(), included, strict=True):
        assert stats.binomtest(int(seen), draws, share).pvalue > 1e-4


def test_jest_settings_are_checked():
    with pytest.raises(ConfigError, match='knows no loss "hinge"'):
        JointChoice(loss="hinge")
    with pytest.raises(ConfigError, match="0 chunks"):
        JointChoice(chunks=0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        JointChoice(temperature=0.0)


# --- temperature ---


@pytest.mark.parametrize("true", [0.1, 0.7, 1.0, 8.0])
def test_the_fitted_sharpness_is_the_likeliest(true):
    logits = torch.randn(400, 6, generator=stream(0), dtype=torch.float64) * 2
    targets = torch.multinomial((true * logits).softmax(1), 1, generator=stream(1)).squeeze(1)

    def loss(log_sharpness):
        scaled = (math.exp(log_sharpness) * logits).log_softmax(1)
        return float(-scaled.gather(1, targets[:, None]).mean())

    best = math.exp(optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    start = torch.ones((), dtype=torch.float64)
    found = fit_sharpness(logits.log_softmax(1), targets, start, steps=20)
    assert float(found) == pytest.approx(best, rel=1e-4)
    near = fit_sharpness(logits.log_softmax(1), targets, 1.2 * found, steps=2)
    assert float(near) == pytest.approx(best, rel=1e-2)


def test_labels_that_are_all_right_do_not_make_it_run_away():
    log_probs = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64).log()
    found = torch.ones((), dtype=torch.float64)
    for _ in range(20):
        found = fit_sharpness(log_probs, torch.tensor([0, 1]), found, steps=2)
    assert 20 < float(found) <= 50


def over_confident(seed, size=320, classes=10, wrong=0.2):
    """A learner that is right about the truth and five times too sure; a calibrated small model."""
    generator = stream(seed)
    truth = torch.randint(0, classes, (size,), generator=generator)
    is_wrong = torch.rand(size, generator=generator) < wrong
    shift = torch.randint(1, classes, (size,), generator=generator)
    labels = torch.where(is_wrong, (truth + shift) % classes, truth)
    logits = torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), truth] += 5.0
    calm = (0.8 * logits + 0.5 * torch.randn(size, classes, generator=generator)).log_softmax(1)
    log_probs = (5 * logits).log_softmax(1)
    rows = torch.arange(size)
    evidence = Evidence(
        ids_B=torch.arange(size) + seed * size,
        targets_B=labels,
        log_probs_BC=log_probs,
        loss_B=-log_probs[rows, labels],
        irreducible_B=-calm[rows, labels],
    )
    return evidence, is_wrong


def test_wrong_labels_stop_scoring_high_at_the_fitted_temperature():
    selector = CalibratedReducibleLoss().start()
    plain = TopK(reducible_loss)
    shares = {"plain": [], "calibrated": []}
    for seed in range(10):
        evidence, is_wrong = over_confident(seed)
        for name, choose in (("plain", plain), ("calibrated", selector)):
            chosen = choose(evidence, 32, stream(0)).positions_k
            shares[name].append(float(is_wrong[chosen].float().mean()))
    assert sum(shares["plain"]) / 10 > 0.9
    assert sum(shares["calibrated"]) / 10 < 0.6
    # Five times too sure, and 20 % of the labels are wrong: a temperature well above five.
    assert float((-selector.log_sharpness).exp()) > 5
    other = CalibratedReducibleLoss().start()
    other.load_state_dict(selector.state_dict())
    evidence, _ = over_confident(11)
    once = [s(evidence, 32, stream(0)).ids_k.tolist() for s in (selector, other)]
    assert once[0] == once[1]


def test_a_pool_is_scored_at_the_temperature_of_those_before():
    selector = CalibratedReducibleLoss(smoothing=0.5).start()
    first, _ = over_confident(0)
    selector(first, 1, stream(0))
    before = float(selector.log_sharpness)
    second, _ = over_confident(1)
    chosen = selector(second, 32, stream(0))
    scaled = (math.exp(before) * second.log_probs_BC.double()).log_softmax(1)
    assert before == pytest.approx(float(torch.tensor(before).float()))
    expected = -scaled.gather(1, second.targets_B[:, None])[:, 0] - second.irreducible_B
    assert torch.allclose(chosen.scores_B.double(), expected, atol=1e-5)


# --- learnability ---


def test_learnability_is_drawn_in_proportion_to_its_exponential():
    losses, reference = torch.tensor([2.0, 0.3, 1.0]), torch.tensor([0.5, 0.1, 1.5])
    pool = Evidence(ids_B=torch.tensor([4, 9, 2]), loss_B=losses, reference_B=reference)
    selector = method("learnability").selector
    counts = torch.zeros(3)
    for step in range(3000):
        chosen = selector(pool, 1, stream(0, "selection", step)).positions_k
        counts += torch.bincount(chosen, minlength=3)
    weights = [math.exp(a - b) for a, b in zip(losses.tolist(), reference.tolist(), strict=True)]
    expected = [3000 * w / sum(weights) for w in weights]
    assert stats.chisquare(counts.double().numpy(), expected).pvalue > 1e-4
