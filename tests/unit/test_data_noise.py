import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goldiprox.data.noise import (
    LabelNoise,
    corrupt_by_matrix,
    corrupt_pairs,
    corrupt_uniform,
    duplicate,
)
from goldiprox.schema import ConfigError, DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    count=st.integers(1, 200),
    share=st.floats(0, 0.99),
    classes=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_without_redraw_exactly_the_share_is_wrong(count, share, classes, seed):
    labels = torch.randint(0, classes, (count,), generator=generator(seed))
    before = labels.clone()
    noisy = corrupt_uniform(labels, share, classes, False, generator(seed))
    assert torch.equal(labels, before)
    assert int((noisy != labels).sum()) == round(share * count)
    assert noisy.dtype == torch.int64
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < classes


def test_with_redraw_about_one_in_c_draws_changes_nothing():
    labels = torch.arange(50_000) % 10
    wrong = [
        int((corrupt_uniform(labels, 0.1, 10, True, generator(seed)) != labels).sum())
        for seed in range(20)
    ]
    deviation = math.sqrt(5000 * 0.9 * 0.1)
    assert all(abs(count - 4500) < 4.5 * deviation for count in wrong)
    assert abs(sum(wrong) / 20 - 4500) < 4 * deviation / math.sqrt(20)


@pytest.mark.parametrize("redraw", [True, False])
def test_drawn_labels_are_uniform(redraw):
    labels = torch.full((90_000,), 3)
    noisy = corrupt_uniform(labels, 0.9, 10, redraw, generator())
    counts = torch.bincount(noisy[noisy != 3], minlength=10).double()
    counts = counts[torch.arange(10) != 3]
    expected = 81_000 / (10 if redraw else 9)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 32  # 9 cells: p < 0.0005


def test_noise_is_spread_over_all_examples():
    noisy = corrupt_uniform(torch.zeros(10_000, dtype=torch.int64), 0.5, 10, False, generator())
    first_half = int((noisy[:5000] != 0).sum())
    assert abs(first_half - 2500) < 5 * 36


def test_a_smaller_share_is_contained_in_a_larger_one():
    labels = torch.arange(1000) % 10
    small = corrupt_uniform(labels, 0.1, 10, False, generator(7)) != labels
    large = corrupt_uniform(labels, 0.4, 10, False, generator(7)) != labels
    assert bool(large[small].all())


def test_the_same_seed_means_the_same_noise_and_another_seed_other_noise():
    labels = torch.arange(1000) % 10
    once, again, other = (
        corrupt_uniform(labels, 0.2, 10, True, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ConfigError, match=f"label noise {share} is impossible"):
        LabelNoise(share=share)


def test_one_class_leaves_no_wrong_label():
    with pytest.raises(ConfigError, match="no wrong label"):
        corrupt_uniform(torch.zeros(10, dtype=torch.int64), 0.5, 1, False, generator())


@given(count=st.integers(1, 50), factor=st.floats(1, 6), seed=st.integers(0, 9))
def test_duplicates_have_distinct_ids_and_lead_back_to_their_originals(count, factor, seed):
    ids = torch.randperm(100, generator=generator(seed))[:count]
    copies = duplicate(ids, factor, generator(seed), stride=100)
    whole = math.floor(factor)
    assert len(copies) == whole * count + round((factor - whole) * count)
    assert len(torch.unique(copies)) == len(copies)
    occurrences = torch.bincount(copies % 100, minlength=100)
    assert set(occurrences[ids].tolist()) <= {whole, whole + 1}
    assert int(occurrences.sum()) == int(occurrences[ids].sum())
    assert torch.equal(copies[:count], ids)


def test_five_copies_of_each():
    copies = duplicate(torch.tensor([2, 0]), 5, generator(), stride=3)
    assert copies.tolist() == [2, 0, 5, 3, 8, 6, 11, 9, 14, 12]


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0, math.inf, math.nan])
def test_an_impossible_factor_is_refused(factor):
    with pytest.raises(ConfigError, match=f"duplicate {factor} is impossible"):
        duplicate(torch.arange(3), factor, generator(), stride=3)


def test_a_copy_cannot_be_duplicated_again():
    with pytest.raises(DataError, match=r"ids 0\.\.7 are not all originals of a store of 5"):
        duplicate(torch.tensor([0, 7]), 2, generator(), stride=5)


def test_pairs_flip_exactly_the_share_of_their_first_class():
    labels = torch.arange(300) % 3
    noisy = corrupt_pairs(labels, 0.5, [(0, 1), (2, 0)], generator())
    assert [int((noisy[labels == c] != c).sum()) for c in range(3)] == [50, 0, 50]
    assert set(noisy[labels == 0].tolist()) == {0, 1}
    assert set(noisy[labels == 2].tolist()) == {2, 0}
    more = corrupt_pairs(labels, 0.7, [(0, 1), (2, 0)], generator())
    assert ((noisy != labels) <= (more != labels)).all()
    assert torch.equal(noisy, corrupt_pairs(labels, 0.5, [(0, 1), (2, 0)], generator()))
    assert not torch.equal(noisy, corrupt_pairs(labels, 0.5, [(0, 1), (2, 0)], generator(1)))


def test_a_matrix_gives_labels_with_its_probabilities():
    labels = torch.arange(60_000) % 3
    matrix = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]], dtype=torch.double)
    noisy = corrupt_by_matrix(labels, matrix, generator())
    for row in range(3):
        shares = torch.bincount(noisy[labels == row], minlength=3) / 20_000
        assert (shares - matrix[row]).abs().max() < 0.012
    assert not (noisy[labels == 0] == 2).any()
    with pytest.raises(ConfigError, match="row 1 of the noise matrix adds up to"):
        corrupt_by_matrix(labels, matrix + torch.diag(torch.tensor([0, 0.5, 0])), generator())
