"""The study as a whole on tiny data: interrupted and resumed, equal steps, without noise."""

from __future__ import annotations

import json

import pytest

from goldiprox.config import IrreducibleConfig
from goldiprox.workflows.diet import diet
from goldiprox.workflows.diet_settings import DietConfig
from goldiprox.workflows.progress import Progress

CONFIG = DietConfig(
    model="mlp-128", scores=("el2n", "grand-init", "irreducible-loss"), by=("el2n",), replicas=2,
    epoch=(1,), shares=(0.5,), offsets=(), seeds=2, epochs=2, batch=16,
)  # fmt: skip
IL = IrreducibleConfig(epochs=1)


class Killed(Exception):  # noqa: N818 - no error: the test's own way to kill a study
    pass


class KillAt(Progress):
    """Dies when a stage begins."""

    def __init__(self, name):
        self.name = name

    def stage(self, name):
        if name.startswith(self.name):
            raise Killed
        return super().stage(name)


def without_costs(found):
    """What does not depend on the clock."""
    text = json.dumps(found)
    kept = json.loads(text)
    for row in kept["curves"]:
        del row["seconds"]
    del kept["replicas"]["ledger"]
    return kept


def test_killed_anywhere_it_goes_on_and_says_the_same(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(label_noise=0.3)
    whole = diet(splits, CONFIG, tmp_path / "whole", irreducible=IL, workers=1)
    for stage in ("replica 2/2", "[1/", "[4/"):
        with pytest.raises(Killed):
            diet(splits, CONFIG, tmp_path / "broken", irreducible=IL, workers=1,
                 progress=KillAt(stage))  # fmt: skip
    resumed = diet(splits, CONFIG, tmp_path / "broken", irreducible=IL, workers=1)
    assert without_costs(resumed) == without_costs(whole)
    assert (tmp_path / "broken" / "report.html").exists()


def test_at_full_length_every_arm_takes_the_steps_of_all_the_data(make_tiny_splits, tmp_path):
    config = DietConfig(**{**CONFIG.__dict__, "length": "full", "scores": ("el2n",)})
    found = diet(make_tiny_splits(), config, tmp_path, workers=1)
    assert {row["steps"] for row in found["curves"]} == {24}  # two passes over 192 by 16
    assert {row["arm"] for row in found["curves"]} == {"full", "el2n", "input_norm", "random"}
    assert found["noise"] is None
    assert "Finding the wrong labels" not in (tmp_path / "report.html").read_text()
