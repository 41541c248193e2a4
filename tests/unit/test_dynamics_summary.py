"""Whether a shape counts as seen, on numbers written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from goldiprox.analysis.spread import spread
from goldiprox.studies.dynamics.analysis import readings
from goldiprox.studies.dynamics.figures import barrier_figure, epoch_colors, velocity_figure

WINDOWS = 5


def over_seeds(value, seeds, jitter=0.0):
    """A value with a spread around it, the same for every study."""
    return spread([float(value + jitter * (seed - (seeds - 1) / 2)) for seed in range(seeds)])


def arm(name, rows, corrupted=0.0, seeds=3):
    return {
        "name": name,
        "score": "el2n",
        "share_corrupted": corrupted,
        "windows": [
            {"start": 100 * n, "score_mean": 0.1 * n, "share_corrupted": corrupted}
            for n in range(WINDOWS)
        ],
        "velocity": [
            {
                "epoch": epoch,
                "windows": [over_seeds(v, seeds) if np.isscalar(v) else spread(v) for v in row],
            }
            for epoch, row in enumerate(rows)
        ],
    }


def study(
    clean,
    noisy=None,
    lowest=(0.2, 0.0),
    highest=(0.3, 0.25),
    random=(0.2, 0.1),
    seeds=3,
    jitter=0.0,
):
    barrier = [
        {
            "spawned": spawned,
            "epoch": 8,
            "sets": {
                "lowest": over_seeds(lowest[number], seeds),
                "highest": over_seeds(highest[number], seeds, jitter),
                "random": over_seeds(random[number], seeds),
            },
        }
        for number, spawned in enumerate((0, 4))
    ]
    arms = [arm("clean", clean, seeds=seeds)]
    if noisy is not None:
        arms.append(arm("noisy", noisy, 0.9, seeds=seeds))
    return {
        "arms": arms,
        "barrier": [*barrier, {**barrier[0], "epoch": 4}],
        "epochs": 8,
        "examples": 500,
        "window": 100,
        "velocity_epochs": [0, 1],
        "spawn_epochs": [0, 4],
    }


RISING = [[1, 2, 3, 4, 5], [0.01, 0.02, 0.03, 0.04, 0.05]]
FLAT = [[5, 4, 3, 4, 4], [0.05, 0.04, 0.03, 0.04, 0.04]]
DROPPING = [[1, 2, 3, 4, 2], [0.01, 0.02, 0.03, 0.04, 0.02]]


@pytest.mark.parametrize(
    ("clean", "noisy", "wanted"),
    [
        (RISING, None, [True]),
        (RISING, DROPPING, [True, True]),
        (FLAT, DROPPING, [False, True]),
        (RISING, RISING, [True, False]),
        # As fast a drop as without noise: nothing says that noise has made it.
        (DROPPING, DROPPING, [True, None]),
        ([[1, 1, 1, 1, 1]], None, [None]),
    ],
)
def test_velocity(clean, noisy, wanted):
    found = [reading["seen"] for reading in readings(study(clean, noisy))]
    assert found == [*wanted, True, True]


def test_an_early_epoch_does_not_outshout_the_others():
    """Velocities of the first epoch are a hundred times the later ones'; each epoch counts once."""
    mixed = [[100, 90, 80, 70, 60], *([[0.01, 0.02, 0.03, 0.04, 0.05]] * 3)]
    assert readings(study(mixed))[0]["seen"]


@pytest.mark.parametrize(
    ("barriers", "wanted"),
    [
        ({}, [True, True]),
        ({"lowest": (0.2, 0.02)}, [False, True]),
        ({"highest": (0.3, 0.005)}, [True, False]),
        ({"highest": (0.1, 0.25)}, [True, False]),
        (dict.fromkeys(("lowest", "highest", "random"), (0.0, 0.0)), [None, False]),
    ],
)
def test_barriers(barriers, wanted):
    found = readings(study(RISING, **barriers))
    assert [reading["seen"] for reading in found[1:]] == wanted


def test_one_seed_decides_nothing():
    """Numbers that are seen with three seeds, and that are not seen with three."""
    for summary in (study(RISING, DROPPING, seeds=1), study(FLAT, RISING, (0.2, 0.2), seeds=1)):
        found = readings(summary)
        assert [reading["seen"] for reading in found] == [None] * 4
        assert all("one seed does not tell" in reading["sentence"] for reading in found)
        assert not any("±" in reading["sentence"] for reading in found)


def test_a_mean_within_the_spread_of_the_seeds_decides_nothing():
    # Barriers of 3, 25 and 47 points: on average far above those of the lowest scores.
    assert readings(study(RISING, jitter=0.22))[-1]["seen"] is None
    assert readings(study(RISING, jitter=0.01))[-1]["seen"] is True
    # Two seeds rise, one falls: a rank correlation of 0.33 on average, anything from -1 to 1.
    torn = [[[1, 1, 5], [2, 2, 4], [3, 3, 3], [4, 4, 2], [5, 5, 1]]]
    reading = readings(study(torn))[0]
    assert reading["seen"] is None
    assert "is 0.33 ± 1.15" in reading["sentence"]


def test_sentences_carry_the_numbers():
    first, second, low, high = (r["sentence"] for r in readings(study(RISING, DROPPING)))
    assert "is 1.00" in first
    assert "90 % of its labels" in second
    assert "50 ± 0 % of the fastest" in second
    assert "20.0 ± 0.0 points when spawned after epoch 0, 0.0 ± 0.0 after epoch 4" in low
    assert "30.0 ± 0.0 points when spawned after epoch 0, 25.0 ± 0.0 after epoch 4" in high


def test_figures_have_a_line_for_everything_measured():
    summary = study(RISING, DROPPING)
    for one in summary["arms"]:
        svg = velocity_figure(summary, one, one["name"])
        assert [f'id="{one["name"]}-line-epoch-{e}"' in svg for e in (0, 1, 2)] == [1, 1, 0]
        assert ("wrong labels" in svg) == (one["name"] == "noisy")
    svg = barrier_figure(summary, "b")
    assert all(f'id="b-line-{name}"' in svg for name in ("lowest", "random", "highest"))
    assert len(set(epoch_colors([0, 1, 2, 4, 8]).values())) == 5


def test_numbers_beside_the_axis_are_not_rounded_away():
    small = [[0.001, 0.002, 0.003, 0.004, 0.005]]
    svg = velocity_figure(study(small), arm("clean", small), "v")
    assert ">0.002<" in svg
    assert ">0.005<" in svg
