"""From the records of a dynamics study to the numbers and sentences of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldiprox.analysis.correlate import rank_correlation
from goldiprox.analysis.spread import above, jointly, paired, spread
from goldiprox.records.files import read_rows
from goldiprox.records.runs import RunFolder

__all__ = ["SETS", "readings", "summarise_dynamics"]

SETS = ("lowest", "random", "highest")

CLOSE = 0.01
"""An error barrier below one point counts as close to zero."""

RISING = 0.5
"""Rank correlation from which velocity counts as rising along the order."""

DROP = 0.25
"""Share of the fastest window's velocity that the last one must lack to count as a drop."""

Summary = dict[str, Any]
Floats = npt.NDArray[np.float64]


def summarise_dynamics(out: Path, described: Summary) -> Summary:
    """Put together what a study measured.

    Args:
        out: its output folder, holding ``velocity/``, ``barrier/`` and ``runs/``.
        described: settings and the arms' windows, as the study knows them.

    Returns:
        What ``dynamics.json`` holds.

    Raises:
        CheckpointError: if a record is absent or damaged.
    """
    seeds = range(described["seeds"])
    arms = [
        {
            **arm,
            "accuracy": spread(
                [_run(out, f"{arm['name']}-{seed}")["final_accuracy"] for seed in seeds]
            ),
            "velocity": _velocities(out, arm, described),
        }
        for arm in described["arms"]
    ]
    summary = {**described, "arms": arms, "barrier": _barriers(out, described)}
    return {**summary, "readings": readings(summary)}


def _run(out: Path, name: str) -> dict[str, Any]:
    return RunFolder(out / "runs" / name).result()


def _velocities(out: Path, arm: Summary, described: Summary) -> list[Summary]:
    """For each epoch, the velocity of each window over seeds."""
    starts = [window["start"] for window in arm["windows"]]
    tables = []
    for seed in range(described["seeds"]):
        rows = read_rows(out / "velocity" / f"{arm['name']}-{seed}.json")
        by_start = {row["start"]: row["velocity"] for row in rows}
        tables.append([by_start[start] for start in starts])
    return [
        {
            "epoch": epoch,
            "windows": [
                spread([table[window][number] for table in tables]) for window in range(len(starts))
            ],
        }
        for number, epoch in enumerate(described["velocity_epochs"])
    ]


def _barriers(out: Path, described: Summary) -> list[Summary]:
    """One entry for each spawn epoch and each epoch at which it was measured."""
    found = []
    for spawned in described["spawn_epochs"]:
        per_seed = [
            read_rows(out / "barrier" / f"{seed}-spawned-{spawned}.json")
            for seed in range(described["seeds"])
        ]
        for rows in zip(*per_seed, strict=True):
            sets = {
                name: {
                    **spread([row["sets"][name]["barrier"] for row in rows]),
                    "errors": np.mean([row["sets"][name]["errors"] for row in rows], 0).tolist(),
                }
                for name in SETS
            }
            found.append({"spawned": spawned, "epoch": rows[0]["epoch"], "sets": sets})
    return found


def readings(summary: Summary) -> list[Summary]:
    """Whether the shapes that Paul et al. 2021 describe are there: claim, seen, sentence.

    Every shape is taken of each seed by itself. ``seen`` is None where the seeds do not tell: fewer
    than two, or a mean within two standard errors of its limit.
    """
    arms = {arm["name"]: arm for arm in summary["arms"]}
    found = [_rising(arms["clean"])]
    if "noisy" in arms:
        found.append(_dropping(arms["clean"], arms["noisy"]))
    return [*found, *_falling(summary)]


def _profiles(arm: Summary) -> Floats:
    """For each seed, velocity along the order in shares of each epoch's fastest window.

    Mean over epochs: [seeds, windows].
    """
    table_EWS = np.array([[w["values"] for w in row["windows"]] for row in arm["velocity"]])
    highest = table_EWS.max(1, keepdims=True)
    return np.asarray((table_EWS / np.where(highest > 0, highest, 1)).mean(0).T)


def _rising(arm: Summary) -> Summary:
    profiles = _profiles(arm)
    claim = "The kernel moves faster on harder examples"
    ranks = [rank_correlation(np.arange(len(one), dtype=float), one) for one in profiles]
    known = [rank for rank in ranks if rank is not None]
    if profiles.shape[1] < 3 or len(known) < len(ranks):
        return _reading(claim, None, "Too few windows differ to tell.")
    profile = profiles.mean(0)
    return _reading(
        claim,
        above(known, RISING),
        f"Over {len(profile)} windows from the lowest to the highest scores, the rank correlation "
        f"of place and velocity is {_pm(known)} (mean over epochs and seeds, published labels). "
        f"The last window moves at {profile[-1] / profile[0]:.2g} times the first one's velocity"
        f"{_one_seed(known)}.",
    )


def _dropping(clean: Summary, noisy: Summary) -> Summary:
    last = {
        name: [float(profile[-1] / profile.max()) for profile in _profiles(arm)]
        for name, arm in (("clean", clean), ("noisy", noisy))
    }
    wrong = noisy["windows"][-1]["share_corrupted"]
    seen = jointly(
        [
            above([1 - share for share in last["noisy"]], DROP),
            paired(last["clean"], last["noisy"])["better"],
        ]
    )
    return _reading(
        "With label noise, velocity drops at the very highest scores",
        seen,
        f"With noise the last window ({100 * wrong:.0f} % of its labels wrong) moves at "
        f"{_pm(last['noisy'], 100, 0)} % of the fastest window's velocity; with the published "
        f"labels at {_pm(last['clean'], 100, 0)} %{_one_seed(last['noisy'])}.",
    )


def _falling(summary: Summary) -> list[Summary]:
    """Barriers at the end of training, against the spawn epoch."""
    ends = [row for row in summary["barrier"] if row["epoch"] == summary["epochs"]]
    spawned = [row["spawned"] for row in ends]
    barrier = {name: [row["sets"][name]["values"] for row in ends] for name in SETS}
    means = {name: [float(np.mean(values)) for values in barrier[name]] for name in SETS}
    low, high = barrier["lowest"], barrier["highest"]
    first = next((e for e, b in zip(spawned, means["lowest"], strict=True) if b < CLOSE), None)
    when = (
        f"below {_points(CLOSE)} point from spawn epoch {first} on"
        if first is not None and all(b < CLOSE for b in means["lowest"][spawned.index(first) :])
        else "not below one point for good"
    )
    end = f"at the end of training (epoch {summary['epochs']})"
    # Where the twins never part there is no barrier to fall: nothing is confirmed by that.
    any_barrier = max(map(max, means.values())) >= CLOSE
    close = above([-value for value in low[-1]], -CLOSE)
    parts = [above(high[-1], CLOSE)]
    parts += [paired(h, x)["better"] for h, x in zip(high, low, strict=True)]
    one = _one_seed(low[-1])
    return [
        _reading(
            "On the lowest scores the error barrier falls close to zero",
            close if any_barrier else None,
            f"Barrier {end}: {_pm(low[0], 100, 1)} points when spawned after epoch {spawned[0]}, "
            f"{_pm(low[-1], 100, 1)} after epoch {spawned[-1]}; {when}{one}.",
        ),
        _reading(
            "On the highest scores it stays high",
            jointly(parts),
            f"Barrier {end}: {_pm(high[0], 100, 1)} points when spawned after epoch {spawned[0]}, "
            f"{_pm(high[-1], 100, 1)} after epoch {spawned[-1]}; on random examples "
            f"{_pm(barrier['random'][0], 100, 1)} and {_pm(barrier['random'][-1], 100, 1)}{one}.",
        ),
    ]


def _reading(claim: str, seen: bool | None, sentence: str) -> Summary:
    return {"claim": claim, "seen": seen, "sentence": sentence}


def _pm(values: Sequence[float], factor: float = 1, digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    found = spread(values)
    extra = "" if found["std"] is None else f" ± {factor * found['std']:.{digits}f}"
    return f"{factor * found['mean']:.{digits}f}{extra}"


def _one_seed(values: Sequence[float]) -> str:
    return " (one seed does not tell)" if len(values) < 2 else ""


def _points(share: float) -> str:
    return f"{100 * share:g}"
