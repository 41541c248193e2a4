"""What is kept, whom that hits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, NonFinite, TableError
from goldiprox.selection.pruning import PruneRule, losses_by_group, prune
from goldiprox.workflows.prune import prune_scores


@pytest.fixture
def data():
    """Scores with ties, ids that are no positions, three classes of different sizes."""
    generator = torch.Generator().manual_seed(3)
    ids_N = torch.randperm(500, generator=generator)[:200]
    scores_N = (torch.rand(200, generator=generator) * 40).round() / 40
    classes_N = torch.tensor([0] * 20 + [1] * 60 + [2] * 120)
    return scores_N, ids_N, classes_N


@pytest.mark.parametrize("keep", [0.005, 0.1, 0.5, 0.335, 1.0])
def test_highest_lowest_and_windows_are_slices_of_the_order(data, keep):
    scores_N, ids_N, _ = data
    ascending, count = scores_N.sort().values, round(keep * 200)
    for offset in (0.0, (1 - keep) / 2, 1 - keep):
        kept = prune(PruneRule(rule="window", keep=keep, offset=offset), scores_N, ids_N, None)
        start = min(round(offset * 200), 200 - count)
        assert scores_N[kept].sort().values.tolist() == ascending[start : start + count].tolist()
        assert kept.tolist() == sorted(set(kept.tolist()))
    lowest = prune(PruneRule(rule="lowest", keep=keep), scores_N, ids_N, None)
    assert scores_N[lowest].sort().values.tolist() == ascending[:count].tolist()
    found = prune(PruneRule(keep=keep), scores_N, ids_N, None)
    assert scores_N[found].sort().values.tolist() == ascending[200 - count :].tolist()


def test_windows_side_by_side_part_the_data_even_through_ties(data):
    scores_N, ids_N, _ = data
    parts = [
        prune(PruneRule(rule="window", keep=0.1, offset=i / 10), scores_N, ids_N, None)
        for i in range(10)
    ]
    assert torch.cat(parts).sort().values.tolist() == list(range(200))


@pytest.mark.parametrize("rule", ["highest", "lowest", "window"])
def test_ties_do_not_go_to_the_class_that_comes_first(rule):
    classes_N = torch.arange(4).repeat_interleave(500)
    scores_N, ids_N = torch.zeros(2000), torch.arange(2000)
    kept = prune(PruneRule(rule=rule, keep=0.5), scores_N, ids_N, None)
    # Hypergeometric: 250 of each class, standard deviation 9.7.
    assert all(200 < count < 300 for count in torch.bincount(classes_N[kept]).tolist())
    other = prune(PruneRule(rule=rule, keep=0.5, seed=1), scores_N, ids_N, None)
    assert kept.tolist() != other.tolist()


@pytest.mark.parametrize("rule", ["highest", "lowest", "window", "stratified", "random"])
@pytest.mark.parametrize("balanced", [False, True])
def test_shuffling_the_table_keeps_the_same_ids(data, rule, balanced):
    scores_N, ids_N, classes_N = data
    setting = PruneRule(rule=rule, keep=0.3, balanced=balanced, seed=4)
    kept = set(ids_N[prune(setting, scores_N, ids_N, classes_N)].tolist())
    assert len(kept) == 60
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    moved = prune(setting, scores_N[order], ids_N[order], classes_N[order])
    assert set(ids_N[order][moved].tolist()) == kept


def test_balanced_keeps_the_hardest_of_each_class_in_proportion(data):
    scores_N, ids_N, classes_N = data
    kept = prune(PruneRule(keep=0.25, balanced=True), scores_N, ids_N, classes_N)
    assert torch.bincount(classes_N[kept]).tolist() == [5, 15, 30]
    for name in range(3):
        members = (classes_N == name).nonzero().squeeze(1)
        mine = members[torch.isin(members, kept)]
        others = members[~torch.isin(members, kept)]
        assert scores_N[mine].min() >= scores_N[others].max()


def test_balanced_quotas_add_up_where_shares_are_not_whole():
    classes_N = torch.tensor([0] * 5 + [1] * 5 + [2] * 5)
    scores_N, ids_N = torch.arange(15.0), torch.arange(15)
    kept = prune(PruneRule(keep=7 / 15, balanced=True), scores_N, ids_N, classes_N)
    assert sorted(torch.bincount(classes_N[kept]).tolist()) == [2, 2, 3]


def test_stratified_drops_the_hardest_then_covers_the_range_evenly():
    # Nearly all examples are easy; an even choice takes as many of the rare hard ones as it can.
    generator = torch.Generator().manual_seed(0)
    easy, hard = torch.rand(900, generator=generator) * 0.1, torch.linspace(0.1, 1.0, 100)
    scores_N, ids_N = torch.cat([easy, hard]), torch.arange(1000)
    rule = PruneRule(rule="stratified", keep=0.2, cutoff=0.02, strata=10)
    kept = prune(rule, scores_N, ids_N, None)
    assert len(kept) == 200
    dropped = scores_N.argsort()[-20:]
    assert not torch.isin(dropped, kept).any()
    counts = torch.histc(scores_N[kept], 9, 0.0, float(scores_N[kept].max()))
    assert counts[1:].min() >= 8  # every stratum of about ten is taken nearly whole
    plain = prune(PruneRule(rule="random", keep=0.2), scores_N, ids_N, None)
    assert (scores_N[kept] > 0.1).sum() > 2 * (scores_N[plain] > 0.1).sum()
    again = prune(PruneRule(**{**rule.__dict__, "seed": 1}), scores_N, ids_N, None)
    assert again.tolist() != kept.tolist()


def test_random_includes_every_example_equally_often():
    ids_N, scores_N = torch.arange(50), torch.arange(50.0)
    times = torch.zeros(50)
    for seed in range(400):
        times[prune(PruneRule(rule="random", keep=0.3, seed=seed), scores_N, ids_N, None)] += 1
    assert times.sum() == 400 * 15
    assert (times - 120).abs().max() < 4.5 * (400 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"keep": float("nan")}, "keep is nan"),
        ({"keep": 0.5, "rule": "best"}, "best"),
        ({"keep": 0.5, "offset": 0.2}, "--offset goes with --rule window"),
        ({"keep": 0.5, "rule": "window", "offset": 0.6}, "0.6"),
        ({"keep": 0.5, "rule": "stratified", "cutoff": 0.51}, "0.51"),
        ({"keep": 0.5, "rule": "stratified", "strata": 0}, "strata is 0"),
    ],
)
def test_impossible_rules_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        PruneRule(**settings)


def test_scores_that_are_not_finite_are_refused(data):
    scores_N, ids_N, _ = data
    scores_N[7] = torch.nan
    with pytest.raises(NonFinite, match=str(int(ids_N[7]))):
        prune(PruneRule(), scores_N, ids_N, None)


def test_losses_count_and_warn_only_of_what_chance_would_not_do():
    groups_N = torch.tensor([0] * 400 + [1] * 400 + [2] * 4)
    # Class 0 loses three quarters, class 1 a quarter, class 2 all of its four.
    kept = torch.cat([torch.arange(100), torch.arange(400, 700)])
    found = {loss.group: loss for loss in losses_by_group(groups_N, kept)}
    assert [(g, f.before, f.kept, f.removed) for g, f in found.items()] == [
        (0, 400, 100, 300), (1, 400, 300, 100), (2, 4, 0, 4)
    ]  # fmt: skip
    assert [f.excessive for f in found.values()] == [True, False, False]  # four are too few
    even = losses_by_group(groups_N, torch.arange(0, 804, 2))
    assert not any(loss.excessive for loss in even)


def table(**more):
    ids = np.arange(100, dtype=np.int64) * 3
    columns = {
        "label": (np.arange(100) % 4).astype(np.float32),
        "el2n": np.linspace(0, 1, 100, dtype=np.float32),
        "half": np.linspace(0, 1, 100, dtype=np.float32),
        "region": (np.arange(100) < 50).astype(np.float32),
    }
    note = {"fingerprint": "f", "label_digest": "l", "class_names": ["a", "b", "c", "d"]}
    return ScoreTable(ids_N=ids, columns=columns, provenance=note | more)


def test_prune_writes_what_is_kept_with_its_origin(tmp_path):
    out = tmp_path / "kept.parquet"
    told = prune_scores(table(), PruneRule(keep=0.4), out, by="el2n", group="region")
    kept = ScoreTable.read(out)
    assert kept.ids_N.tolist() == [3 * i for i in range(60, 100)]
    assert kept.columns["el2n"].min() > 0.59
    assert kept.provenance["fingerprint"] == "f"
    assert kept.provenance["label_digest"] == "l"
    assert kept.provenance["rule"]["keep"] == 0.4
    assert (told["kept"], told["of"]) == (40, 100)
    assert [row["name"] for row in told["losses"]["class"]] == ["a", "b", "c", "d"]
    regions = {row["name"]: row for row in told["losses"]["region"]}
    assert (regions["0"]["removed"], regions["1"]["removed"]) == (10, 50)
    assert regions["1"]["excessive"]
    assert not regions["0"]["excessive"]


def test_prune_joins_other_tables_by_id(tmp_path):
    other = ScoreTable(
        ids_N=np.arange(300, dtype=np.int64)[::-1].copy(),
        columns={"mine": np.arange(300, dtype=np.float32)},  # falls with the id
        provenance={"fingerprint": "f"},
    )
    out = tmp_path / "kept.parquet"
    prune_scores(table(), PruneRule(keep=0.1), out, by="mine", others=[other])
    assert ScoreTable.read(out).ids_N.tolist() == [3 * i for i in range(10)]


def test_a_joined_table_that_lacks_ids_is_refused_not_taken_for_pruning(tmp_path):
    ids = np.arange(300, dtype=np.int64)
    part = ScoreTable(
        ids_N=ids[ids != 6], columns={"mine": np.zeros(299, dtype=np.float32)},
        provenance={"fingerprint": "f"},
    )  # fmt: skip
    out = tmp_path / "kept.parquet"
    with pytest.raises(TableError, match=r"lacks 1 of 100 ids .first: 6.; give that table first"):
        prune_scores(table(), PruneRule(), out, by="mine", others=[part])
    prune_scores(part, PruneRule(), out, by="el2n", others=[wide()])
    assert len(ScoreTable.read(out)) == 150


def wide():
    """More than any other table."""
    return ScoreTable(
        ids_N=np.arange(400, dtype=np.int64),
        columns={"el2n": np.arange(400, dtype=np.float32)},
        provenance={"fingerprint": "f"},
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"by": "grand"}, "no column grand; it has: el2n"),
        ({"by": None}, "needs --by"),
        ({"rule": PruneRule(keep=0.02)}, 'nothing of class "a" .25 examples.; keep more'),
        ({"group": "half"}, "half does not number groups, it holds 0.010"),
        ({"group": "nowhere"}, "no column nowhere"),
    ],
)
def test_prune_refuses_in_one_line(tmp_path, change, told):
    settings = {"rule": PruneRule(), "by": "el2n"} | change
    rule = settings.pop("rule")
    with pytest.raises((ConfigError, TableError), match=told) as refused:
        prune_scores(table(), rule, tmp_path / "kept.parquet", **settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "kept.parquet").exists()


def test_join_keeps_common_ids_and_refuses_what_does_not_fit():
    one = ScoreTable(
        ids_N=np.array([5, 2, 9]),
        columns={"a": np.array([1, 2, 3], dtype=np.float32)},
        provenance={"fingerprint": "f"},
    )
    two = ScoreTable(
        ids_N=np.array([9, 7, 5]),
        columns={"b": np.array([10, 20, 30], dtype=np.float32)},
        provenance={"fingerprint": "f", "kind": "other"},
    )
    joined = one.join(two)
    assert joined.ids_N.tolist() == [5, 9]
    assert joined.columns["a"].tolist() == [1, 3]
    assert joined.columns["b"].tolist() == [30, 10]
    assert joined.provenance["joined"] == [{"fingerprint": "f", "kind": "other"}]
    with pytest.raises(TableError, match="both have a column a"):
        one.join(one)
    strange = ScoreTable(ids_N=two.ids_N, columns={}, provenance={"fingerprint": "g"})
    with pytest.raises(TableError, match="different data"):
        one.join(strange)
    far = ScoreTable(ids_N=np.array([100]), columns={}, provenance={})
    with pytest.raises(TableError, match="no id in common"):
        one.join(far)


@pytest.mark.parametrize("kind", ["scores", None])
def test_prune_says_which_end_it_kept_and_what_a_turned_sign_means(kind, tmp_path):
    values = np.arange(10, dtype=np.float32)
    found = ScoreTable(
        ids_N=np.arange(10), columns={"aum": values, "el2n": values},
        provenance={"kind": kind} if kind else {},
    )  # fmt: skip
    out = tmp_path / "kept.parquet"
    meaning = ", the hardest" if kind else ""
    told = prune_scores(found, PruneRule(keep=0.3), out, by="aum")["direction"]
    assert told[:2] == [f"kept the highest aum{meaning}: 7 to 9", "dropped 7 with aum 0 to 6"]
    assert "published sign turned" in told[2]
    assert ("--rule lowest" in told[2]) == (kind is None)
    meaning = ", the easiest" if kind else ""
    told = prune_scores(found, PruneRule(keep=0.3, rule="lowest"), out, by="el2n")["direction"]
    assert told == [f"kept the lowest el2n{meaning}: 0 to 2", "dropped 7 with el2n 3 to 9"]
    assert prune_scores(found, PruneRule(rule="random"), out)["direction"] == []


def test_what_rounding_leaves_over_goes_to_no_class_in_particular():
    """Ten classes of three, of which half are kept: five of them keep one more."""
    classes, ids = torch.arange(30) % 10, torch.arange(30)
    kept = torch.zeros(10)
    for seed in range(400):
        rule = PruneRule(keep=0.5, balanced=True, seed=seed)
        kept += torch.bincount(classes[prune(rule, torch.zeros(30), ids, classes)], minlength=10)
    assert kept.sum() == 400 * 15
    assert (kept / 400 - 1.5).abs().max() < 0.12  # 4 to 5 standard errors
