"""The study as a whole on tiny data: interrupted and resumed, equal steps, without noise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from goldiprox.cli import main
from goldiprox.config import IrreducibleConfig
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import CheckpointError, ConfigError
from goldiprox.studies.pruning.settings import DietConfig
from goldiprox.studies.pruning.study import diet
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.progress import Progress
from goldiprox.workflows.score import make_scores

CONFIG = DietConfig(
    model="mlp-128", scores=("el2n", "grand-init", "irreducible-loss"), by=("el2n",), replicas=2,
    epoch=(1,), shares=(0.5,), offsets=(), seeds=2, epochs=2, batch=16,
)  # fmt: skip
IL = IrreducibleConfig(epochs=1)
ALONE = Execution(workers=1)


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
    whole = diet(splits, CONFIG, tmp_path / "whole", irreducible=IL, execution=ALONE)
    for stage in ("replica 2/2", "[1/", "[4/"):
        with pytest.raises(Killed):
            diet(
                splits,
                CONFIG,
                tmp_path / "broken",
                irreducible=IL,
                execution=ALONE.watched_by(KillAt(stage)),
            )
    resumed = diet(splits, CONFIG, tmp_path / "broken", irreducible=IL, execution=ALONE)
    assert without_costs(resumed) == without_costs(whole)
    assert (tmp_path / "broken" / "report.html").exists()


def test_at_full_length_every_arm_takes_the_steps_of_all_the_data(make_tiny_splits, tmp_path):
    config = DietConfig(**{**CONFIG.__dict__, "length": "full", "scores": ("el2n",)})
    found = diet(make_tiny_splits(), config, tmp_path, execution=ALONE)
    assert {row["steps"] for row in found["curves"]} == {24}  # two passes over 192 by 16
    assert {row["arm"] for row in found["curves"]} == {"full", "el2n", "input_norm", "random"}
    assert found["noise"] is None
    assert "Finding the wrong labels" not in (tmp_path / "report.html").read_text()


def test_whatever_the_order_of_by_and_whatever_is_first(make_tiny_splits, tmp_path):
    """The control stands last; irreducible losses before the noise are of the published labels."""
    splits = make_tiny_splits(label_noise=0.3, duplicate=1.5)
    config = replace(
        CONFIG, by=("input-norm", "irreducible-loss"), scores=("irreducible-loss",), seeds=1
    )
    found = diet(splits, config, tmp_path / "noisy", irreducible=IL, execution=ALONE)
    assert found["by"] == ["irreducible_loss", "input_norm"]
    clean = make_tiny_splits(duplicate=1.5)
    make_scores(
        clean, config.scoring(("irreducible-loss",)), tmp_path / "clean.parquet", irreducible=IL
    )
    before = ScoreTable.read(tmp_path / "noisy" / "scores-before-noise.parquet")
    wanted = ScoreTable.read(tmp_path / "clean.parquet")
    assert np.array_equal(before.ids_N, wanted.ids_N)
    assert np.array_equal(before.columns["label"], wanted.columns["label"])
    assert np.array_equal(before.columns["irreducible_loss"], wanted.columns["irreducible_loss"])


def test_the_page_is_made_again_and_an_unfinished_study_has_none(
    make_tiny_splits, tmp_path, capsys
):
    out = tmp_path / "out"
    config = replace(CONFIG, scores=("el2n",), seeds=1)
    with pytest.raises(Killed):
        diet(make_tiny_splits(), config, out, execution=ALONE.watched_by(KillAt("[2/")))
    with pytest.raises(SystemExit):
        main(["report", str(out)])
    assert "not finished; go on with the command that began it" in capsys.readouterr().err
    diet(make_tiny_splits(), config, out, execution=ALONE)
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    main(["report", str(out)])
    assert (out / "report.html").read_bytes() == page
    assert "beats keeping as many at random" in capsys.readouterr().out


def test_texts_are_refused_before_anything_is_written(make_tiny_splits, tmp_path):
    splits = make_tiny_splits()
    texts = replace(splits.dataset, store=Texts())
    with pytest.raises(ConfigError, match="goldiprox compare with --subset"):
        diet(replace(splits, dataset=texts), CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Texts:
    """As far as is looked at."""

    example_shape = ()


def test_runs_exchanged_between_seeds_are_found(make_tiny_splits, tmp_path):
    config = replace(CONFIG, scores=("el2n",))
    diet(make_tiny_splits(), config, tmp_path, execution=ALONE)
    runs = tmp_path / "runs"
    (runs / "full-1-0").rename(tmp_path / "kept")
    (runs / "full-1-1").rename(runs / "full-1-0")
    (tmp_path / "kept").rename(runs / "full-1-1")
    with pytest.raises(
        CheckpointError, match=r"full-1-0 holds a run of another.*seed is 3 there, 2 now"
    ):
        diet(make_tiny_splits(), config, tmp_path, execution=ALONE)
