"""From the records of a dynamics study to the numbers and sentences of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from goldiprox.records.files import read_json
from goldiprox.records.runs import RunFolder

__all__ = ["SETS", "readings", "summarise_dynamics"]

SETS = ("lowest", "random", "highest")

CLOSE_TO_ZERO = 0.01
"""An error barrier below one point counts as close to zero."""

RISING = 0.5
"""Rank correlation from which velocity counts as rising along the order."""

DROP = 0.25
"""Share of the fastest window's velocity that the last one must lack to count as a drop."""

Summary = dict[str, Any]


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
            "accuracy": _spread(
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
        rows = read_json(out / "velocity" / f"{arm['name']}-{seed}.json")
        by_start = {row["start"]: row["velocity"] for row in rows}
        tables.append([by_start[start] for start in starts])
    return [
        {
            "epoch": epoch,
            "windows": [
                _spread([table[window][number] for table in tables])
                for window in range(len(starts))
            ],
        }
        for number, epoch in enumerate(described["velocity_epochs"])
    ]


def _barriers(out: Path, described: Summary) -> list[Summary]:
    """One entry for each spawn epoch and each epoch at which it was measured."""
    found = []
    for spawned in described["spawn_epochs"]:
        per_seed = [
            read_json(out / "barrier" / f"{seed}-spawned-{spawned}.json")
            for seed in range(described["seeds"])
        ]
        for rows in zip(*per_seed, strict=True):
            sets = {
                name: {
                    **_spread([row["sets"][name]["barrier"] for row in rows]),
                    "errors": np.mean([row["sets"][name]["errors"] for row in rows], 0).tolist(),
                }
                for name in SETS
            }
            found.append({"spawned": spawned, "epoch": rows[0]["epoch"], "sets": sets})
    return found


def _spread(values: Sequence[float]) -> Summary:
    """Mean and standard deviation; one value has none."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": [float(value) for value in values],
    }


def readings(summary: Summary) -> list[Summary]:
    """Whether the shapes that Paul et al. 2021 describe are there: claim, seen, sentence."""
    arms = {arm["name"]: arm for arm in summary["arms"]}
    found = [_rising(arms["clean"])]
    if "noisy" in arms:
        found.append(_dropping(arms["clean"], arms["noisy"]))
    return [*found, *_falling(summary)]


def _profile(arm: Summary) -> np.ndarray[Any, Any]:
    """Velocity along the order, in shares of each epoch's fastest window, mean over epochs."""
    table = np.array([[w["mean"] for w in row["windows"]] for row in arm["velocity"]])
    highest = table.max(1, keepdims=True)
    return np.asarray((table / np.where(highest > 0, highest, 1)).mean(0))


def _rising(arm: Summary) -> Summary:
    profile = _profile(arm)
    claim = "The kernel moves faster on harder examples"
    if len(profile) < 3 or np.ptp(profile) == 0:
        return _reading(claim, None, "Too few windows differ to tell.")
    rank = float(spearmanr(np.arange(len(profile)), profile).statistic)
    return _reading(
        claim,
        rank >= RISING,
        f"Over {len(profile)} windows from the lowest to the highest scores, the rank correlation "
        f"of place and velocity is {rank:.2f} (mean over epochs and seeds, published labels). "
        f"The last window moves at {profile[-1] / profile[0]:.2g} times the first one's velocity.",
    )


def _dropping(clean: Summary, noisy: Summary) -> Summary:
    shares = {name: _profile(arm) for name, arm in (("clean", clean), ("noisy", noisy))}
    last = {name: float(profile[-1] / profile.max()) for name, profile in shares.items()}
    wrong = noisy["windows"][-1]["share_corrupted"]
    return _reading(
        "With label noise, velocity drops at the very highest scores",
        1 - last["noisy"] >= DROP and last["noisy"] < last["clean"],
        f"With noise the last window ({100 * wrong:.0f} % of its labels wrong) moves at "
        f"{100 * last['noisy']:.0f} % of the fastest window's velocity; with the published labels "
        f"at {100 * last['clean']:.0f} %.",
    )


def _falling(summary: Summary) -> list[Summary]:
    """Barriers at the end of training, against the spawn epoch."""
    ends = [row for row in summary["barrier"] if row["epoch"] == summary["epochs"]]
    spawned = [row["spawned"] for row in ends]
    barrier = {name: [row["sets"][name]["mean"] for row in ends] for name in SETS}
    low, high = barrier["lowest"], barrier["highest"]
    first = next((e for e, b in zip(spawned, low, strict=True) if b < CLOSE_TO_ZERO), None)
    when = (
        f"below {100 * CLOSE_TO_ZERO:.0f} point from spawn epoch {first} on"
        if first is not None and all(b < CLOSE_TO_ZERO for b in low[spawned.index(first) :])
        else "not below one point for good"
    )
    end = f"at the end of training (epoch {summary['epochs']})"
    # Where the twins never part there is no barrier to fall: nothing is confirmed by that.
    any_barrier = max(max(values) for values in barrier.values()) >= CLOSE_TO_ZERO
    return [
        _reading(
            "On the lowest scores the error barrier falls close to zero",
            low[-1] < CLOSE_TO_ZERO if any_barrier else None,
            f"Barrier {end}: {_points(low[0])} points when spawned after epoch {spawned[0]}, "
            f"{_points(low[-1])} after epoch {spawned[-1]}; {when}.",
        ),
        _reading(
            "On the highest scores it stays high",
            high[-1] >= CLOSE_TO_ZERO and all(h > x for h, x in zip(high, low, strict=True)),
            f"Barrier {end}: {_points(high[0])} points when spawned after epoch {spawned[0]}, "
            f"{_points(high[-1])} after epoch {spawned[-1]}; on random examples "
            f"{_points(barrier['random'][0])} and {_points(barrier['random'][-1])}.",
        ),
    ]


def _reading(claim: str, seen: bool | None, sentence: str) -> Summary:
    return {"claim": claim, "seen": None if seen is None else bool(seen), "sentence": sentence}


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
