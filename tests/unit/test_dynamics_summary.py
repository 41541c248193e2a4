"""Whether a shape counts as seen, on numbers written by hand."""

from __future__ import annotations

import pytest

from goldiprox.analysis.dynamics_summary import readings
from goldiprox.report.dynamics_figures import barrier_figure, epoch_colors, velocity_figure

WINDOWS = 5


def arm(name, rows, corrupted=0.0):
    return {
        "name": name,
        "score": "el2n",
        "share_corrupted": corrupted,
        "windows": [
            {"start": 100 * n, "score_mean": 0.1 * n, "share_corrupted": corrupted}
            for n in range(WINDOWS)
        ],
        "velocity": [
            {"epoch": epoch, "windows": [{"mean": v, "std": None} for v in row]}
            for epoch, row in enumerate(rows)
        ],
    }


def study(clean, noisy=None, lowest=(0.2, 0.0), highest=(0.3, 0.25), random=(0.2, 0.1)):
    barrier = [
        {
            "spawned": spawned,
            "epoch": 8,
            "sets": {
                name: {"mean": values[number], "std": None}
                for name, values in (("lowest", lowest), ("highest", highest), ("random", random))
            },
        }
        for number, spawned in enumerate((0, 4))
    ]
    arms = [arm("clean", clean)]
    if noisy is not None:
        arms.append(arm("noisy", noisy, 0.9))
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
        # No faster drop than without noise: noise has not made it.
        (DROPPING, DROPPING, [True, False]),
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


def test_sentences_carry_the_numbers():
    first, second, low, high = (r["sentence"] for r in readings(study(RISING, DROPPING)))
    assert "is 1.00" in first
    assert "90 % of its labels" in second
    assert "50 % of the fastest" in second
    assert "20.0 points when spawned after epoch 0, 0.0 after epoch 4" in low
    assert "30.0 points when spawned after epoch 0, 25.0 after epoch 4" in high


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
