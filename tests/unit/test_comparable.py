"""Which runs may stand side by side, and under which names."""

from pathlib import Path

import pytest

from goldiprox.analysis.comparable import lines_of
from goldiprox.schema import ConfigError


def run(name, *, arm="uniform", seed=0, subset=None, train=None, data=None, **more):
    """A folder and its manifest; ``more`` goes into the configuration."""
    digests = {"train": "a" * 64, "test": "b" * 64}
    return Path("runs") / name, {
        "arm": arm,
        "config": {
            "train": {"method": arm, "seed": seed, "batch": 32, "model": "mlp", **(train or {})},
            "data": {"label_noise": 0.0, "data_seed": 0, **(data or {})},
            **more,
        },
        "config_hash": name,
        "data": {"fingerprint": "f" * 64, "subset": subset, "label_digests": digests},
    }


def names(*runs, **settings):
    return [line.name for line in lines_of(runs, **settings)]


def test_runs_that_differ_in_their_seed_are_one_line():
    assert names(run("a"), run("b", seed=1), run("c", arm="loss")) == ["uniform", "uniform", "loss"]


def test_a_run_counts_once_whatever_its_path():
    with pytest.raises(ConfigError, match="runs/a and runs/a are the same run"):
        names(run("a"), run("a"))
    path, manifest = run("a")
    with pytest.raises(ConfigError, match="runs/a and elsewhere/copy are the same run"):
        names((path, manifest), (Path("elsewhere/copy"), manifest))


def test_a_link_to_a_run_is_that_run(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="same run"):
        names((tmp_path / "a", run("a")[1]), (tmp_path / "b", run("b")[1]))


@pytest.mark.parametrize("different", [{"label_noise": 0.4}, {"data_seed": 1}])
def test_other_labels_are_refused_or_named_in_each_line(different):
    [(key, value)] = different.items()
    runs = run("a"), run("b", arm="loss", data=different)
    said = f"{key.replace('_', ' ')} is 0 in runs/a and {value} in runs/b"
    with pytest.raises(ConfigError, match=said):
        names(*runs)
    runs[1][1]["data"]["label_digests"]["train"] = "d" * 64  # says no more than the setting
    shown = key.replace("_", " ")
    found = names(*runs, allow_different_data=True)
    assert found == [f"uniform ({shown} 0)", f"loss ({shown} {value})"]


def test_another_test_set_is_other_data():
    path, manifest = run("b", seed=1)
    manifest["data"]["label_digests"] = {"train": "a" * 64, "test": "c" * 64}
    with pytest.raises(ConfigError, match="test set is bbbbbbbbbbbb in runs/a"):
        names(run("a"), (path, manifest))


def test_a_part_of_the_data_is_a_line_of_its_own():
    found = names(run("a"), run("b", subset="719 ids, sha256 0123456789abcdef"))
    assert found == ["uniform (all data)", "uniform (subset 719 ids)"]


def test_the_model_is_named_wherever_it_differs():
    found = names(run("a"), run("b", arm="loss", train={"model": "big"}))
    assert found == ["uniform (model mlp)", "loss (model big)"]


def test_settings_are_named_where_runs_of_one_method_differ_in_them():
    found = names(run("a", train={"lr": 0.01}), run("b", train={"lr": 0.1}))
    assert found == ["uniform (lr 0.01)", "uniform (lr 0.1)"]


def test_runs_of_one_seed_differ_in_what_they_replayed():
    found = names(
        run("a", arm="replay", sequence="1" * 64), run("b", arm="replay", sequence="2" * 64)
    )
    assert found == [f"replay (sequence {d * 12})" for d in "12"]
    with pytest.raises(ConfigError, match="nothing recorded tells them apart"):
        names(run("a"), run("b"))


def test_protocols_do_not_mix():
    path, manifest = run("b", seed=1)
    with pytest.raises(ConfigError, match="different protocols"):
        names(run("a"), (path, {**manifest, "protocol": "budget"}))


def test_a_setting_that_an_older_version_did_not_know_is_no_difference():
    assert names(run("a"), run("b", seed=1, data={"background": "white"})) == ["uniform"] * 2
