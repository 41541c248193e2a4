"""Orders of candidates: top_k against sorted(), ties and copies of an id against chance."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from goldiprox.schema import ConfigError, Evidence
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS, method
from goldiprox.selection.ranking import (
    best_mask,
    draw_key,
    fetch,
    keyed_uniform,
    keyed_uniforms,
    random_k,
    random_mask,
    ranked,
    require_finite,
    shuffled,
    tie_key,
    top_k,
)
from goldiprox.selection.selectors import StatefulSelector

KEY = 20261128


def reference(number, key):
    """SplitMix64 in Python's unbounded integers: 64 random bits."""
    x = (number * 0x9E3779B97F4A7C15 + key) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


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
    """The k first of a full sort by score downwards, then by the random number upwards."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], reference(ids[i], KEY) >> 1))[:k]


def tensors(scores, ids, dtype):
    return torch.tensor(scores, dtype=dtype), torch.tensor(ids, dtype=torch.int64)


@given(pools(), st.sampled_from([torch.float32, torch.float64]))
def test_top_k_is_the_head_of_a_full_sort(pool, dtype):
    scores, ids, k = pool
    scores_B, ids_B = tensors(scores, ids, dtype)
    found = top_k(scores_B, ids_B, k, KEY)
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
    straight = ids_B[top_k(scores_B, ids_B, k, KEY)]
    shuffled = ids_B[there][top_k(scores_B[there], ids_B[there], k, KEY)]
    assert straight.tolist() == shuffled.tolist()  # in the same order, too


def test_top_k_says_those_above_the_edge_first_by_id():
    scores_B = torch.tensor([1.0, 5.0, 1.0, 3.0, 1.0, 0.0])
    ids_B = torch.tensor([9, 8, 2, 1, 4, 0])
    for key in range(20):
        found = ids_B[top_k(scores_B, ids_B, 4, key)].tolist()
        assert found[:2] == [1, 8]
        assert set(found[2:]) < {9, 2, 4}


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_refuses_more_than_there_are(k):
    with pytest.raises(ConfigError, match=f"choose {k} of a pool of 3"):
        top_k(torch.zeros(3), torch.arange(3), k, KEY)


def test_require_finite_hands_through_what_is_finite():
    values_B = torch.tensor([1.0, -2.0])
    assert require_finite(values_B, torch.arange(2), "it") is values_B


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


def test_keyed_numbers_are_those_of_splitmix64_in_exact_integers():
    """Python's unbounded integers, reduced modulo 2**64, as the independent reference."""
    key = int(torch.randint(-(2**63), 2**63 - 1, (), generator=stream(5), dtype=torch.int64))
    ids = torch.tensor([0, 1, 17, 2**31, 2**40 + 3, 2**61])

    expected = [((reference(i, key) >> 12) + 0.5) * 2.0**-52 for i in ids.tolist()]
    assert keyed_uniform(ids, stream(5)).tolist() == expected


def test_numbers_of_several_turns_are_those_of_several_calls():
    one, many = stream(8), stream(8)
    ids = torch.arange(50) * 3
    expected = torch.stack([keyed_uniform(ids, one) for _ in range(4)])
    assert torch.equal(keyed_uniforms(ids, many, 4), expected)
    assert torch.equal(keyed_uniform(ids, one), keyed_uniform(ids, many))


def test_a_key_depends_on_the_seed_and_draws_nothing():
    generator = stream(3, "selection", 5)
    before = generator.get_state()
    assert tie_key(generator) == tie_key(stream(3, "selection", 5))
    assert torch.equal(generator.get_state(), before)
    keys = {tie_key(stream(seed, "selection", step)) for seed in range(10) for step in range(10)}
    assert len(keys) == 100
    assert draw_key(generator) != draw_key(generator)


def test_equal_scores_are_chosen_equally_often_and_independently():
    """Sixty ids in the order of their classes, all with one score."""
    ids, scores = torch.arange(60), torch.zeros(60)
    counts, together = torch.zeros(60), 0
    for step in range(2000):
        chosen = top_k(scores, ids, 6, tie_key(stream(0, "selection", step)))
        counts[chosen] += 1
        together += {3, 4} <= set(chosen.tolist())
    expected = 2000 * 6 / 60
    statistic = float(((counts - expected) ** 2 / expected).sum()) / (1 - 6 / 60)
    assert 0.001 < stats.chi2.sf(statistic * 59 / 60, 59) < 0.999
    assert abs(together - 2000 * 6 * 5 / (60 * 59)) < 4 * (2000 * 6 * 5 / (60 * 59)) ** 0.5


@pytest.mark.parametrize("seed", range(20))
def test_ranked_is_a_full_sort_whose_head_top_k_is(seed):
    scores = torch.randint(0, 5, (40,), generator=stream(seed)).float()
    ids = torch.randperm(90, generator=stream(seed, "ids"))[:40]
    found = ranked(scores, ids, KEY).tolist()
    assert found == obvious_top_k(scores.tolist(), ids.tolist(), 40)
    for k in (1, 7, 39):
        assert set(found[:k]) == set(top_k(scores, ids, k, KEY).tolist())


def test_the_first_of_equals_is_in_a_random_place_that_the_order_of_the_pool_is_not_in():
    ids = torch.arange(50)
    order = torch.randperm(50, generator=stream(1))
    assert torch.equal(ids[order][shuffled(ids[order], 5)], ids[shuffled(ids, 5)])
    first = torch.stack([shuffled(ids, tie_key(stream(0, step)))[0] for step in range(2000)])
    assert stats.chisquare(torch.bincount(first, minlength=50)).pvalue > 1e-3


def pool_with_copies(make_evidence, count, alike):
    """Half of the ids come two to four times, with scores of their own or the first one's."""
    few = make_evidence(count)
    times = torch.randint(1, 5, (count,), generator=stream(4)).masked_fill_(
        torch.arange(count) % 2 == 0, 1
    )
    which = torch.arange(count).repeat_interleave(times)
    same = few.at(which)
    if alike:
        return same
    return replace(make_evidence(len(which)), ids_B=same.ids_B, targets_B=same.targets_B)


SELECTORS = [
    *(name for name, entry in METHODS.items() if entry.each_step),
    *("loss@gumbel=0.3", "loss@boltzmann", "loss@class-balanced", "loss@gumbel@class-balanced"),
    *("loss@stratified", "uniform@filtered", "uniform@class-balanced"),
]


def chosen(name, evidence, k, step=0):
    selector = method(name).selector
    if isinstance(selector, StatefulSelector):
        selector = selector.start()
    return selector(evidence, k, stream(0, "selection", step))


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("name", SELECTORS)
def test_permuting_a_pool_with_copies_chooses_the_same(name, alike, make_evidence):
    evidence = pool_with_copies(make_evidence, 20, alike)
    # What draws by the ids alone cannot tell which of two different copies it draws.
    by_ids = method(name).needs <= {"irreducible_B", "targets_B"} and name != "irreducible"

    def content(pool):
        positions = chosen(name, pool, 9).positions_k
        ids, losses = pool.ids_B[positions].tolist(), pool.loss_B[positions].tolist()
        return sorted(ids if by_ids else zip(ids, losses, strict=True))

    straight = content(evidence)
    for seed in range(4):
        order = torch.randperm(len(evidence), generator=stream(seed))
        assert content(evidence.at(order)) == straight


def test_copies_of_an_id_are_drawn_apart():
    """16 ids, each twice; 8 of 32 drawn as from 32 different examples."""
    ids = torch.arange(16).repeat(2)
    both = 0
    for step in range(3000):
        drawn = random_k(ids, 8, stream(0, "selection", step))
        assert len(set(drawn.tolist())) == 8
        both += 8 - len(set(ids[drawn].tolist()))
    expected = 16 * (8 * 7) / (32 * 31)  # pairs of copies of which both are drawn
    assert both / 3000 == pytest.approx(expected, rel=0.05)


def test_a_copy_s_number_is_its_own_and_the_first_one_s_that_of_the_id_alone():
    ids = torch.tensor([7, 3, 7, 9, 7, 3])
    numbers = keyed_uniform(ids, stream(1))
    alone = keyed_uniform(torch.tensor([7, 3, 9]), stream(1))
    assert len(set(numbers.tolist())) == 6
    assert numbers[[0, 1, 3]].tolist() == alone.tolist()
    scores = torch.tensor([0.5, 0.0, 0.1, 0.0, 0.9, -1.0])
    by_score = keyed_uniform(ids, stream(1), scores)
    assert by_score[[2, 5, 3]].tolist() == alone.tolist()
    order = torch.randperm(6, generator=stream(2))
    assert torch.equal(keyed_uniform(ids[order], stream(1), scores[order]), by_score[order])


def test_copies_with_one_score_are_as_likely_as_other_candidates():
    ids, scores = torch.tensor([0, 0, 0, 1, 2, 3]), torch.zeros(6)
    counts = torch.zeros(4)
    for step in range(3000):
        counts += torch.bincount(ids[top_k(scores, ids, 2, step)], minlength=4)
    assert stats.chisquare(counts, torch.tensor([3000.0, 1000, 1000, 1000])).pvalue > 1e-3


def test_integers_come_over_whole():
    values = torch.tensor([2**62 + 1, -1, 0, 2**53 + 1])
    assert fetch(values, torch.ones(2))[0].tolist() == values.tolist()


def test_a_zero_head_prefers_no_class():
    """A thousand ids sorted by class, all scores equal: every method that ranks."""
    ids = torch.randperm(1000, generator=stream(0))[:320]
    evidence = Evidence(
        ids_B=ids,
        targets_B=ids // 100,
        loss_B=torch.full((320,), 2.3),
        irreducible_B=torch.ones(320),
        log_probs_BC=torch.full((320, 10), 0.1).log(),
        mc_log_probs_KBC=torch.full((3, 320, 10), 0.1).log(),
        features_BD=torch.zeros(320, 5),
        grad_norm_bound_B=torch.ones(320),
        grad_norm_last_layer_B=torch.ones(320),
        grad_norm_B=torch.ones(320),
        reference_B=torch.ones(320),
        pair_logits_BB=torch.zeros(320, 320),
        reference_pair_logits_BB=torch.zeros(320, 320),
    )
    for name in SELECTORS:
        ids_k = chosen(name, evidence, 32).ids_k
        assert int(torch.bincount(ids_k // 100).max()) <= 10, name


@pytest.mark.parametrize("k", [0, 1, 7, 150, 299, 300])
def test_masks_of_whole_data_sets_choose_what_pools_would(k):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 9, (300,), generator=generator).float()  # ties at every edge
    ids = torch.randperm(900, generator=generator)[:300] - 400

    def places(positions):
        return sorted(positions.tolist())

    highest, lowest = best_mask(scores, ids, k, 5), best_mask(scores, ids, k, 5, lowest=True)
    assert places(highest.nonzero().squeeze(1)) == places(top_k(scores, ids, k, 5))
    assert places(lowest.nonzero().squeeze(1)) == places(top_k(-scores, ids, k, 5))
    drawn = random_mask(ids, k, stream(2, "draw")).nonzero().squeeze(1)
    assert places(drawn) == places(random_k(ids, k, stream(2, "draw")))
