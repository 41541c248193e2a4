"""Settings: validated, hashed, turned into steps and learning rates."""

import dataclasses
import math

import pytest

from goldiprox.config import (
    CompareConfig,
    IrreducibleConfig,
    LearnerConfig,
    TrainConfig,
    config_hash,
    fitted_to,
)
from goldiprox.schema import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ({"steps": -1}, "--steps is -1"),
        ({"pool": 0}, "--pool is 0"),
        ({"scoring_micro_batch": 0}, "--scoring-micro-batch is 0"),
        ({"dropout_samples": 0}, "--dropout-samples is 0"),
        ({"lr": 0.0}, "--lr is 0.0"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"lr": math.inf}, "--lr is inf"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"batch": 0}, "--batch is 0"),
        ({"patience": 0}, "--patience is 0"),
        ({"evaluate_every": 0}, "--evaluate-every is 0"),
        ({"method": "rho"}, 'unknown method "rho"'),
        ({"batch": 33, "pool": 32}, "--batch 33 is larger than --pool 32"),
    ],
)
def test_impossible_settings_are_refused_by_name_and_value(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0
    with pytest.raises(TypeError):
        TrainConfig("mlp")


def test_the_pool_is_ten_batches_unless_given():
    assert TrainConfig().pool_size == 320
    assert TrainConfig(batch=64).pool_size == 640
    assert TrainConfig(batch=64, pool=64).pool_size == 64


@pytest.mark.parametrize("pool", range(1, 321))
def test_short_pools_are_chosen_from_in_proportion(pool):
    assert TrainConfig().chosen(pool) == max(1, math.floor(pool * 32 / 320))


def test_odd_ratios_round_down():
    config = TrainConfig(batch=7, pool=24)
    assert [config.chosen(n) for n in (24, 23, 7, 4, 3, 1)] == [7, 6, 2, 1, 1, 1]


@pytest.mark.parametrize(("examples", "steps"), [(320, 1), (321, 2), (640, 2), (50_000, 157)])
def test_an_epoch_is_one_pass_over_the_pools(examples, steps):
    config = TrainConfig(epochs=3)
    assert config.steps_per_epoch(examples) == steps
    assert config.total_steps(examples) == 3 * steps
    assert TrainConfig(steps=5).total_steps(examples) == 5


def test_a_pool_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="--pool 320 is larger than the 319 training examples"):
        TrainConfig().steps_per_epoch(319)


def test_learning_rates():
    def rates(schedule, total=20):
        config = TrainConfig(schedule=schedule, lr=0.2)
        return [config.learning_rate(step, total) for step in range(total)]

    assert rates("constant") == [0.2] * 20
    cosine = rates("cosine")
    assert cosine[0] == 0.2
    assert cosine[10] == pytest.approx(0.1)
    assert cosine == sorted(cosine, reverse=True)
    assert 0 < cosine[-1] < 0.2 / 100
    cycle = rates("one-cycle")
    assert cycle[0] == pytest.approx(0.2 / 3)  # 15 % of 20 steps: three steps up
    assert cycle[2] == pytest.approx(0.2)
    assert max(cycle) == cycle[2]
    assert cycle[10] == pytest.approx(0.2 * 0.5 / 0.85)
    assert cycle[19] == pytest.approx(0.2 * 0.05 / 0.85)
    for schedule in ("constant", "cosine", "one-cycle"):
        for total in (1, 2, 7):
            assert all(0 < rate <= 0.2 for rate in rates(schedule, total))


def test_the_hash_tells_settings_apart_and_nothing_else():
    one, other = (dataclasses.asdict(TrainConfig(lr=lr)) for lr in (1e-3, 1e-2))
    assert config_hash(one) == config_hash(dict(reversed(one.items())))
    assert config_hash(one) != config_hash(other)
    assert config_hash((1, 2)) == config_hash([1, 2])
    assert config_hash(1, 2) != config_hash(12)
    assert len(config_hash(one)) == 16
    # From sha256sum: a hash in an old manifest must stay readable by later versions.
    assert config_hash({"b": [1, 2.5], "a": None}) == "39780363607997b3"
    with pytest.raises(ValueError, match="JSON"):
        config_hash(math.nan)


def test_the_irreducible_model_is_trained_plainly():
    config = IrreducibleConfig(batch=64, epochs=7, lr=0.01, seed=3, patience=4)
    settings = config.training("mlp-128", 500)
    assert settings.method == "uniform"
    assert settings.pool_size == settings.batch == 64
    assert settings.chosen(50) == 50
    assert (settings.epochs, settings.lr, settings.seed, settings.patience) == (7, 0.01, 3, 4)
    assert settings.schedule == "constant"
    with pytest.raises(ConfigError, match="--patience is 0"):
        IrreducibleConfig(patience=0)


@pytest.mark.parametrize(
    ("batch", "holdout", "expected"),
    [(None, 647, 32), (None, 5000, 50), (None, 90_000, 512), (None, 20, 20), (64, 500, 64),
     (64, 40, 40)],
)  # fmt: skip
def test_the_irreducible_models_batch_fits_its_holdout(batch, holdout, expected):
    settings = IrreducibleConfig(batch=batch).training("mlp-128", holdout)
    assert settings.batch == settings.pool_size == expected


@pytest.mark.parametrize(
    ("target", "shape", "name"),
    [("mlp", (3, 32, 32), "mlp-128"), ("resnet18", (3, 32, 32), "small-cnn"),
     ("resnet18", (1, 28, 28), "mlp-128")],
)  # fmt: skip
def test_auto_is_small(target, shape, name):
    assert IrreducibleConfig().resolved_model(target, shape) == name
    assert IrreducibleConfig(model="mlp").resolved_model(target, shape) == "mlp"
    assert TrainConfig(model=target).resolved_companion(shape) == name
    assert TrainConfig(model=target, companion_model="mlp").resolved_companion(shape) == "mlp"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ()}, "--methods is empty"),
        ({"methods": ("loss", "loss")}, "--methods names something twice"),
        ({"batch": ()}, "--batch is empty"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"protocol": "budget"}, "needs --seconds"),
        ({"protocol": "budget", "seconds": 0.0}, "--seconds is 0.0"),
        ({"protocol": "budget", "seconds": math.inf}, "--seconds is inf"),
        ({"seconds": 3.0}, "--protocol budget only"),
        ({"protocol": "budget", "seconds": 3.0, "evaluate_every": 5}, "--protocol paper only"),
        ({"batch": (16, 32)}, "list under --protocol budget only"),
        ({"target": math.nan}, "--target is nan"),
    ],
)
def test_impossible_comparisons_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CompareConfig(**settings)


def test_every_run_of_a_comparison_shares_its_settings():
    config = CompareConfig(
        lr=0.5, epochs=2, pool=64, scoring_precision="bf16", batch=(16,), evaluate_every=5
    )
    run = config.run("loss", 16, 7)
    assert run.evaluate_every == 5
    assert (run.method, run.batch, run.seed) == ("loss", 16, 7)
    for field in dataclasses.fields(LearnerConfig):
        assert getattr(run, field.name) == getattr(config, field.name)


@pytest.mark.parametrize(
    ("settings", "examples", "sizes"),
    [
        ({}, 320, (32, None)),
        ({}, 319, (7, 70)),
        ({}, 177, (4, 40)),
        ({}, 30, (4, 30)),
        ({"batch": 20}, 100, (20, 100)),
        ({"batch": 20}, 10, (20, None)),
        ({"pool": 64}, 50, (32, 64)),
    ],
)
def test_default_sizes_are_lowered_for_small_data(settings, examples, sizes):
    for config in (TrainConfig(**settings), CompareConfig(**_listed(settings))):
        fitted, said = fitted_to(config, examples)
        batch = fitted.batch if isinstance(fitted, TrainConfig) else fitted.batch[0]
        assert (batch, fitted.pool) == sizes
        assert (said is None) == (fitted == config)
        if said:
            assert f"batches of {batch} from pools of {fitted.pool}" in said


def _listed(settings):
    return {key: (value,) if key == "batch" else value for key, value in settings.items()}
