"""Selectors: which way scores point, what is refused, random choice against chance."""

import math

import pytest
import torch
from scipy import stats

from goldiprox.schema import Evidence, MissingEvidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.functions import (
    negative_irreducible_loss,
    reducible_loss,
    training_loss,
)
from goldiprox.selection.selectors import RandomChoice, TopK, how_many


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_refused_by_id(bad):
    loss_B = torch.tensor([0.5, bad, 0.1, bad])
    evidence = Evidence(ids_B=torch.tensor([7, 31, 2, 12]), loss_B=loss_B)
    with pytest.raises(NonFinite, match=r"training loss .* 2 of 4 .*ids 31, 12\)"):
        TopK(training_loss)(evidence, 1, stream(0))


def test_scores_point_the_way_they_should():
    evidence = Evidence(
        ids_B=torch.tensor([10, 11, 12, 13]),
        loss_B=torch.tensor([3.0, 2.0, 1.0, 0.5]),
        irreducible_B=torch.tensor([2.9, 0.1, 0.9, 0.2]),
    )

    def first(score):
        return TopK(score)(evidence, 1, stream(0)).ids_k.tolist()

    assert first(training_loss) == [10]
    assert first(negative_irreducible_loss) == [11]
    assert first(reducible_loss) == [11]
    assert torch.allclose(reducible_loss(evidence), torch.tensor([0.1, 1.9, 0.1, 0.3]))


def test_top_k_selector_logs_its_scores_and_weighs_all_alike():
    evidence = Evidence(ids_B=torch.tensor([5, 6, 7]), loss_B=torch.tensor([1.0, 3.0, 2.0]))
    chosen = TopK(training_loss)(evidence, 2, stream(0))
    assert chosen.scores_B.tolist() == [1.0, 3.0, 2.0]
    assert chosen.weights_k.tolist() == [1.0, 1.0]
    assert chosen.ids_k.tolist() == [6, 7]
    assert evidence.ids_B[chosen.positions_k].tolist() == [6, 7]


@pytest.mark.parametrize("score", [training_loss, negative_irreducible_loss, reducible_loss])
def test_absent_evidence_is_named_with_its_supplier(score):
    with pytest.raises(MissingEvidence, match=r"(loss_B|irreducible_B) is needed .*: supplied by"):
        score(Evidence(ids_B=torch.arange(2)))


def test_random_choice_takes_every_id_equally_often():
    ids_B = torch.tensor([3, 1, 4, 15, 9, 2, 6, 535, 8, 97])
    draws, k = 2000, 3
    counts = dict.fromkeys(ids_B.tolist(), 0)
    pairs = 0
    for draw in range(draws):
        selection = RandomChoice()(Evidence(ids_B=ids_B), k, stream(0, "selection", draw))
        chosen = selection.ids_k.tolist()
        assert len(set(chosen)) == k
        for id_ in chosen:
            counts[id_] += 1
        pairs += {3, 1} <= set(chosen)
    # Drawn without replacement, counts vary less than chi-squared assumes by (1 - k/B).
    expected = draws * k / len(ids_B)
    statistic = sum((c - expected) ** 2 / expected for c in counts.values()) / (1 - k / len(ids_B))
    statistic *= (len(ids_B) - 1) / len(ids_B)
    assert 0.0005 < stats.chi2.sf(statistic, len(ids_B) - 1) < 0.9995
    together = draws * (k * (k - 1)) / (10 * 9)
    assert abs(pairs - together) < 4 * math.sqrt(together)


def test_random_choice_needs_nothing_but_ids_and_repeats_with_the_seed():
    evidence = Evidence(ids_B=torch.arange(50))
    first = RandomChoice()(evidence, 5, stream(1, "selection", 0)).ids_k
    assert torch.equal(first, RandomChoice()(evidence, 5, stream(1, "selection", 0)).ids_k)
    assert not torch.equal(first, RandomChoice()(evidence, 5, stream(1, "selection", 1)).ids_k)
    assert not torch.equal(first, RandomChoice()(evidence, 5, stream(2, "selection", 0)).ids_k)


@pytest.mark.parametrize(
    ("candidates", "share", "expected"),
    [
        (320, 0.1, 32),
        (320, 32 / 320, 32),
        (319, 32 / 320, 31),
        (1000, 0.3, 300),
        (3, 0.1, 1),
        (0, 0.1, 0),
        (7, 1, 7),
        (29, 1 / 29, 1),
    ],
)
def test_a_share_is_rounded_down_but_never_to_nothing(candidates, share, expected):
    assert how_many(candidates, share) == expected
