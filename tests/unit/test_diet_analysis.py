"""What a pruning study concludes, from numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from goldiprox.analysis.correlate import rank_correlation
from goldiprox.analysis.noise import cleanlab_suspicion, detection, histograms
from goldiprox.analysis.spread import above, jointly, paired, spread
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError
from goldiprox.studies.pruning.analysis import agreement, noise_study, readings
from goldiprox.studies.pruning.settings import DietConfig


def test_spread_and_pairs_by_hand():
    assert spread([0.1, 0.3]) == {
        "mean": 0.2,
        "std": pytest.approx(0.02**0.5),
        "values": [0.1, 0.3],
    }
    assert spread([0.5])["std"] is None
    assert spread([])["mean"] is None
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), so more than two errors.
    told = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (told["difference"], told["better"]) == (2.0, True)
    assert told["error"] == pytest.approx(3**-0.5)
    assert paired([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])["better"] is False
    assert paired([1.0, 3.0], [2.0, 2.0])["better"] is None
    assert paired([1.0], [0.0])["better"] is None


def test_a_mean_against_a_limit_and_claims_of_several_parts():
    assert above([0.5, 0.6, 0.7], 0.4) is True
    assert above([0.5, 0.6, 0.7], 0.8) is False
    assert above([0.1, 0.9, 0.8], 0.5) is None
    assert above([0.9], 0.1) is None
    assert jointly([True, True]) is True
    assert jointly([True, None]) is None
    assert jointly([None, False, True]) is False


def test_detection_of_a_known_order():
    corrupted = np.array([1, 0, 1, 0, 0, 0], dtype=bool)
    scores = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    found = detection(scores, corrupted, [scores, -scores])
    # Of the eight pairs of a wrong and a right label, one stands the wrong way round.
    assert found["auc"] == pytest.approx(7 / 8)
    assert found["precision_at_count"] == 0.5
    assert found["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    by_recall = {p["recall"]: p["precision"] for p in found["curve"]}
    assert by_recall[0.5] == 1.0
    assert by_recall[1.0] == pytest.approx(2 / 3)
    assert found["auc_of_replicas"]["values"] == pytest.approx([7 / 8, 1 / 8])


def test_detection_does_not_depend_on_the_place_in_the_file():
    """All tied: a score that knows nothing finds wrong labels at their own rate."""
    corrupted = np.array([1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    for order in (corrupted, corrupted[::-1]):
        found = detection(np.ones(8), order)
        assert found["auc"] == 0.5
        assert found["precision_at_count"] == pytest.approx(0.25)


def test_the_area_is_mann_whitneys():
    generator = np.random.default_rng(0)
    corrupted = generator.random(300) < 0.1
    scores = (generator.normal(size=300) + corrupted).round(1)
    statistic = mannwhitneyu(scores[corrupted], scores[~corrupted]).statistic
    wanted = statistic / (corrupted.sum() * (~corrupted).sum())
    assert detection(scores, corrupted)["auc"] == pytest.approx(wanted)


def test_histograms_share_their_bins_and_lose_nothing():
    found = histograms({"a": np.array([0.0, 1.0, 1.0]), "b": np.array([2.0])})
    assert found["edges"][0] == 0.0
    assert found["edges"][-1] == 2.0
    assert sum(found["shares"]["a"]) == pytest.approx(1.0)
    assert found["shares"]["b"][-1] == 1.0
    assert len(histograms({"a": np.zeros(3)})["shares"]["a"]) == len(found["edges"]) - 1


def test_cleanlab_finds_what_contradicts_the_prediction():
    pytest.importorskip("cleanlab")
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    suspicion = cleanlab_suspicion(probabilities, np.array([0, 1, 1]))
    assert suspicion.argmax() == 1
    assert suspicion[0] < suspicion[2] < suspicion[1]


def table(**columns):
    count = len(next(iter(columns.values())))
    return ScoreTable(
        ids_N=np.arange(count) * 2,
        columns={k: np.asarray(v, dtype=np.float32) for k, v in columns.items()},
        provenance={},
    )


def test_agreement_between_scores_epochs_and_replicas():
    up, down, flat = [1, 2, 3, 4], [9, 5, 2, 1], [7, 7, 7, 7]
    whole = table(el2n=up, el2n_std=down, el2n_epoch_2=down, el2n_epoch_10=up,
                  el2n_epoch_2_std=up, loss=down, norm=flat)  # fmt: skip
    replicas = [table(el2n=up, loss=up), table(el2n=up, loss=down), table(el2n=down, loss=up)]
    found = agreement(whole, replicas, ["el2n", "loss", "norm"], "el2n")
    assert found["scores"] == [[1.0, -1.0, None], [-1.0, 1.0, None], [None, None, None]]
    assert found["epochs"]["columns"] == ["el2n_epoch_2", "el2n_epoch_10", "el2n"]
    assert found["epochs"]["scores"][0] == [1.0, -1.0, -1.0]
    by = {entry["column"]: entry for entry in found["replicas"]}
    assert set(by) == {"el2n", "loss"}  # the norm is the same for every replica
    assert by["el2n"]["pairs"] == pytest.approx(-1 / 3)
    assert by["el2n"]["halves"] == 1.0  # the first against the second


def test_rank_correlation_with_ties_is_spearmans():
    assert rank_correlation(np.array([1, 1, 2, 3]), np.array([1, 2, 2, 3])) == pytest.approx(
        0.8333333
    )


def test_noise_study_sets_the_same_examples_before_and_after_side_by_side():
    corrupted = np.array([False, True, False, True])
    after = table(el2n=[0.1, 1.4, 0.2, 1.2], norm=[1, 2, 3, 4])
    before = ScoreTable(  # another order: joined by id
        ids_N=np.array([6, 4, 2, 0]),
        columns={"el2n": np.array([0.3, 0.2, 0.1, 0.0], dtype=np.float32)},
        provenance={},
    )
    found = noise_study(
        after, [after], corrupted, ["el2n", "norm"], by="el2n", before=before,
        more={"chance": np.array([4.0, 3.0, 2.0, 1.0])},
    )  # fmt: skip
    assert [entry["score"] for entry in found["detection"]] == ["el2n", "norm", "chance"]
    assert found["share"] == 0.5
    shares = found["histogram"]["shares"]
    edges = np.array(found["histogram"]["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    means = {group: float(middle @ np.array(values)) for group, values in shares.items()}
    assert means["corrupted before"] == pytest.approx(0.2, abs=0.05)
    assert means["corrupted"] == pytest.approx(1.3, abs=0.05)
    assert means["clean before"] == pytest.approx(0.1, abs=0.05)
    clean = np.zeros(4, dtype=bool)
    assert noise_study(after, [], clean, ["el2n"], by="el2n", before=None, more={}) is None


def study(el2n, random, short, full=(0.90, 0.91, 0.92), windows=()):
    def row(arm, share, values, offset=None):
        return {"arm": arm, "share": share, "offset": offset, "accuracy": spread(list(values))}

    curves = [row("full", 1.0, full)]
    for share, values in el2n.items():
        curves += [row("el2n", share, values), row("random", share, random[share])]
        curves.append(row("short-uniform", share, short[share]))
    curves += [row("el2n", 0.4, values, offset) for offset, values in windows]
    return {
        "curves": curves, "by": ["el2n"], "window_share": 0.4, "window_by": "el2n", "noise": None
    }  # fmt: skip


def judged(found):
    return [reading["holds"] for reading in readings(found)]


def test_readings_hold_fail_or_stay_open():
    low, high = (0.80, 0.81, 0.80), (0.90, 0.91, 0.918)
    mixed = (0.80, 0.95, 0.70)
    # little loss, better than random, better than a short schedule
    assert judged(study({0.5: high}, {0.5: low}, {0.5: low})) == [True, True, True]
    assert judged(study({0.5: low}, {0.5: high}, {0.5: high})) == [False, False, False]
    assert judged(study({0.5: mixed}, {0.5: low}, {0.5: low}))[1:] == [None, None]
    # Better at one share and worse at another decides nothing.
    both = study({0.5: high, 0.3: low}, {0.5: low, 0.3: high}, {0.5: low, 0.3: high})
    assert judged(both)[1:] == [None, None]
    one_seed = study({0.5: (0.9,)}, {0.5: (0.8,)}, {0.5: (0.8,)}, full=(0.9,))
    assert judged(one_seed) == [None, None, None]


def test_a_small_loss_that_may_be_chance_is_undecided():
    """0.7 points below all the data on average: one seed 3 points below, two half a point above."""
    torn = study({0.5: (0.87, 0.915, 0.925)}, {0.5: (0.8,) * 3}, {0.5: (0.8,) * 3})
    assert judged(torn)[0] is None
    just = study({0.5: (0.894, 0.905, 0.914)}, {0.5: (0.8,) * 3}, {0.5: (0.8,) * 3})
    assert judged(just)[0] is True


def test_a_short_schedule_that_is_better_at_one_share_and_never_worse_wins():
    low, high, wide = (0.80, 0.81, 0.80), (0.90, 0.91, 0.918), (0.70, 0.95, 0.80)
    mixed = study({0.5: low, 0.3: wide}, {0.5: high, 0.3: low}, {0.5: high, 0.3: low})
    assert judged(mixed)[1:] == [False, False]


def test_windows_tell_whether_the_top_hurts():
    low, high = (0.80, 0.81, 0.80), (0.90, 0.91, 0.918)
    base = ({0.5: high}, {0.5: low}, {0.5: low})
    hurts = study(*base, windows=[(0.0, low), (0.3, high), (0.6, low)])
    helps = study(*base, windows=[(0.0, low), (0.3, low), (0.6, high)])
    assert (judged(hurts)[-1], judged(helps)[-1]) == (True, False)
    one = study(*base, windows=[(0.0, (0.8,)), (0.3, (0.8,)), (0.6, (0.9,))])
    near = study(*base, windows=[(0.0, low), (0.3, (0.88, 0.93, 0.90)), (0.6, high)])
    assert (judged(one)[-1], judged(near)[-1]) == (None, None)  # the top is best, by chance perhaps


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"by": ("elan",)}, "elan"),
        ({"shares": ()}, "--shares is empty"),
        ({"by": ("grand-last-layer",)}, "not computed; add it to --scores"),
        ({"shares": (0.5, 0.0)}, "keep is 0.0"),
        ({"shares": (1.0,)}, "always trained on"),
        ({"by": ("el2n", "el2n")}, "--by names something twice: el2n,el2n"),
        ({"shares": (0.5, 0.5)}, "--shares names something twice"),
        ({"offsets": (0.1, 0.1)}, "--offsets names something twice"),
        ({"offsets": (0.7,)}, "0.7 does not fit"),
        ({"seeds": 0}, "seeds is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"replicas": 0}, "replicas is 0"),
    ],
)
def test_impossible_studies_are_refused(change, told):
    with pytest.raises(ConfigError, match=told):
        DietConfig(**change)


def test_every_run_of_a_share_takes_the_same_steps():
    config = DietConfig(batch=10, epochs=3)
    plain, short = config.fresh(1, 60, 10), config.fresh(1, 60, 10, 20)
    assert (plain.steps, short.steps) == (60, 60)
    assert plain.seed == short.seed == config.replicas + 1  # none of the replicas'
    assert (plain.method, short.method) == ("uniform", "rs2")
