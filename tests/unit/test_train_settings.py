"""What goldiprox train makes of its options before anything is loaded."""

from pathlib import Path

import pytest

from goldiprox.commands.train import _TrainSettings, require_effect
from goldiprox.config import IrreducibleConfig, TrainConfig
from goldiprox.schema import ConfigError


def test_no_method_is_rho_loss_with_the_same_settings_as_before():
    assert _TrainSettings(lr=0.1).named("rho-loss") == TrainConfig(lr=0.1)
    assert _TrainSettings(method="loss").named("uniform").method == "loss"


def test_impossible_settings_are_refused_as_of_any_run():
    with pytest.raises(ConfigError, match="--lr is -1"):
        _TrainSettings(lr=-1.0)


@pytest.mark.parametrize("name", ["uniform-full", "goldiprox"])
def test_a_line_of_compare_is_no_method_of_train(name):
    with pytest.raises(ConfigError, match=f"--method {name} is .* of goldiprox compare"):
        TrainConfig(method=name)


@pytest.mark.parametrize(
    ("settings", "il", "irreducible", "replay", "says"),
    [
        ("uniform", {}, "il.parquet", None, "--irreducible il.parquet has no effect: method uni"),
        ("uniform", {"epochs": 3}, None, None, "--il.* have no effect: method uniform"),
        ("rho-loss", {"epochs": 3}, "il.parquet", None, "no effect: the losses come from"),
        ("rho-loss", {}, "il.parquet", "s.parquet", "no effect: a replay scores nothing"),
    ],
)
def test_options_that_nothing_uses_are_refused(settings, il, irreducible, replay, says):
    given = [None if name is None else Path(name) for name in (irreducible, replay)]
    with pytest.raises(ConfigError) as caught:
        require_effect(TrainConfig(method=settings), IrreducibleConfig(**il), *given)
    assert says in str(caught.value)


def test_options_that_are_used_are_accepted():
    rho = TrainConfig(method="rho-loss")
    require_effect(rho, IrreducibleConfig(epochs=3), None, None)
    require_effect(rho, IrreducibleConfig(), Path("il.parquet"), None)
    require_effect(TrainConfig(method="uniform"), IrreducibleConfig(), None, Path("s.parquet"))
