"""Commands that an error offers make what is asked for."""

from goldiprox.data.datasets import load
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.precompute.irreducible import table_remedy


def test_advice_repeats_what_makes_the_data():
    """The command offered would otherwise make the very file that was refused."""
    source = load("digits", data_dir=None)
    plain = DataConfig(dataset="digits")
    assert table_remedy(make_splits(source, plain)).endswith(
        "goldiprox irreducible digits --out il.parquet"
    )
    config = DataConfig(
        dataset="digits", label_noise=0.1, redraw_original=False, data_seed=3, holdout=0.25,
        duplicate=2.0, augment=False,
    )  # fmt: skip
    command = table_remedy(make_splits(source, config)).partition("with: goldiprox irreducible ")[2]
    assert command.split() == [
        "digits", "--label-noise", "0.1", "--no-redraw-original", "--duplicate", "2.0",
        "--holdout", "0.25", "--data-seed", "3", "--no-augment", "--out", "il.parquet",
    ]  # fmt: skip
    halves = make_splits(source, DataConfig(dataset="digits", holdout_mode="halves"))
    assert "digits --holdout-mode halves --out" in table_remedy(halves)
    numbers = make_splits(load("diabetes"), DataConfig(dataset="diabetes"))
    assert "diabetes --objective regression --out" in table_remedy(numbers)
