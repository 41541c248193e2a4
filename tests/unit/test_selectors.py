"""top_k against sorted(), random choice against chance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from goldiprox.schema import ConfigError, Evidence, MissingEvidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.functions import (
    negative_irreducible_loss,
    reducible_loss,
    training_loss,
)
from goldiprox.selection.selectors import (
    _GOLDEN,
    RandomChoice,
    TopK,
    _keyed_uniform_numpy,
    _logical_shift_right,
    _mix,
    how_many,
    keyed_uniform,
    keyed_uniforms,
    require_finite,
    top_k,
)

FEW_VALUES = st.sampled_from([-3.5, -1.0, -0.0, 0.0, 0.25, 7.0])
ANY_VALUE = st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False)


@st.composite
def pools(draw):
    scores = draw(st.lists(st.one_of(FEW_VALUES, ANY_VALUE), min_size=0, max_size=24))
    ids = draw(
        st.lists(
            st.one_of(st.integers(0, 40), st.integers(0, 2**62 - 1)),
            min_size=len(scores),
            max_size=len(scores),
            unique=True,
        )
    )
    return scores, ids, draw(st.integers(0, len(scores)))


def obvious_top_k(scores, ids, k):
    """The k first of a full sort by score downwards, then by id upwards."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[:k]


def tensors(scores, ids, dtype):
    return torch.tensor(scores, dtype=dtype), torch.tensor(ids, dtype=torch.int64)


@given(pools(), st.sampled_from([torch.float32, torch.float64]))
def test_top_k_is_the_head_of_a_full_sort(pool, dtype):
    scores, ids, k = pool
    scores_B, ids_B = tensors(scores, ids, dtype)
    found = top_k(scores_B, ids_B, k)
    assert found.dtype == torch.int64
    assert set(found.tolist()) == set(obvious_top_k(scores_B.tolist(), ids, k))
    assert len(found) == k


@given(pools(), st.randoms(use_true_random=False))
def test_top_k_does_not_depend_on_the_order_of_the_pool(pool, random):
    scores, ids, k = pool
    order = list(range(len(ids)))
    random.shuffle(order)
    scores_B, ids_B = tensors(scores, ids, torch.float32)
    there = torch.tensor(order, dtype=torch.int64)
    straight = ids_B[top_k(scores_B, ids_B, k)]
    shuffled = ids_B[there][top_k(scores_B[there], ids_B[there], k)]
    assert straight.tolist() == shuffled.tolist()  # in the same order, too


def test_top_k_says_those_above_the_edge_first_then_the_ties_each_by_id():
    scores_B = torch.tensor([1.0, 5.0, 1.0, 3.0, 1.0, 0.0])
    ids_B = torch.tensor([9, 8, 2, 1, 4, 0])
    assert ids_B[top_k(scores_B, ids_B, 4)].tolist() == [1, 8, 2, 4]


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_refuses_more_than_there_are(k):
    with pytest.raises(ConfigError, match=f"choose {k} of a pool of 3"):
        top_k(torch.zeros(3), torch.arange(3), k)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_refused_by_id(bad):
    loss_B = torch.tensor([0.5, bad, 0.1, bad])
    evidence = Evidence(ids_B=torch.tensor([7, 31, 2, 12]), loss_B=loss_B)
    with pytest.raises(NonFinite, match=r"training loss .* 2 of 4 .*ids 31, 12\)"):
        TopK(training_loss)(evidence, 1, stream(0))


def test_require_finite_hands_through_what_is_finite():
    values_B = torch.tensor([1.0, -2.0])
    assert require_finite(values_B, torch.arange(2), "it") is values_B


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


IDS = {
    "dense": torch.arange(4096),
    "every 1024th": torch.arange(4096) * 1024,
    "huge": 2**61 + torch.arange(4096) * 977,
}


@pytest.mark.parametrize("name", IDS)
def test_keyed_uniform_is_uniform(name):
    numbers = torch.cat([keyed_uniform(IDS[name], stream(s, name)) for s in range(8)])
    assert numbers.dtype == torch.float64
    assert float(numbers.min()) > 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=64, min=0, max=1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3


def test_keyed_uniform_belongs_to_the_id_not_to_the_place():
    ids_B = torch.arange(100) * 7
    order = torch.randperm(100, generator=stream(1))
    straight = keyed_uniform(ids_B, stream(0, "s"))
    assert torch.equal(straight[order], keyed_uniform(ids_B[order], stream(0, "s")))
    assert torch.equal(straight[30:60], keyed_uniform(ids_B[30:60], stream(0, "s")))
    assert len(torch.unique(straight)) == 100


def test_keyed_uniform_differs_from_call_to_call_and_repeats_with_the_generator():
    ids_B = torch.arange(4096)
    generator = stream(3, "s")
    first, second = keyed_uniform(ids_B, generator), keyed_uniform(ids_B, generator)
    assert abs(stats.spearmanr(first, second).statistic) < 0.06  # 4 standard errors
    again = stream(3, "s")
    assert torch.equal(keyed_uniform(ids_B, again), first)
    assert torch.equal(keyed_uniform(ids_B, again), second)


def test_neighbouring_ids_have_unrelated_numbers():
    numbers = keyed_uniform(torch.arange(8193), stream(5))
    assert abs(stats.spearmanr(numbers[:-1], numbers[1:]).statistic) < 0.05


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


def test_keyed_numbers_are_those_of_splitmix64_in_exact_integers():
    """Python's unbounded integers, reduced modulo 2**64, as the independent reference."""
    key = int(torch.randint(-(2**63), 2**63 - 1, (), generator=stream(5), dtype=torch.int64))
    ids = torch.tensor([0, 1, 17, 2**31, 2**40 + 3, 2**61])

    def reference(i):
        x = (i * 0x9E3779B97F4A7C15 + key) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        x ^= x >> 31
        return ((x >> 12) + 0.5) * 2.0**-52

    expected = [reference(i) for i in ids.tolist()]
    assert keyed_uniform(ids, stream(5)).tolist() == expected


def test_the_numbers_are_the_same_off_the_cpu():
    """The tensor arithmetic that other devices use, run on the CPU."""
    ids = torch.randint(0, 2**40, (1000,), generator=stream(6))
    top = _logical_shift_right(_mix(ids * _GOLDEN + 12345), 12).to(torch.float64)
    found = _keyed_uniform_numpy(ids.numpy(), np.array([[12345]]))
    assert torch.equal((top + 0.5) * 2.0**-52, torch.from_numpy(found)[0])


def test_numbers_of_several_turns_are_those_of_several_calls():
    one, many = stream(8), stream(8)
    ids = torch.arange(50) * 3
    expected = torch.stack([keyed_uniform(ids, one) for _ in range(4)])
    assert torch.equal(keyed_uniforms(ids, many, 4), expected)
    assert torch.equal(keyed_uniform(ids, one), keyed_uniform(ids, many))


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
