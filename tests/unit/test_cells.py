"""What a grid varies: which cells there are, and what each of them sets."""

import pytest

from goldiprox.config import CompareConfig
from goldiprox.schema import ConfigError
from goldiprox.studies.grid.settings import GridConfig, cells

BASE = CompareConfig(methods=("uniform", "rho-loss"), model="mlp", lr=0.5, weight_decay=0.25)


def test_every_combination_once_and_the_last_axis_fastest():
    grid = GridConfig(models=("mlp-128", "mlp"), sweep=("lr=1e-4,1e-3", "batch=8,16"))
    found = cells(BASE, grid)
    settings = [(c.config.model, c.config.lr, c.config.batch) for c in found]
    assert settings == [
        (model, lr, (batch,))
        for model in ("mlp-128", "mlp")
        for lr in (1e-4, 1e-3)
        for batch in (8, 16)
    ]
    assert all(c.config.weight_decay == 0.25 and c.config.pool is None for c in found)
    assert found[3].title == "mlp-128, lr 0.001, batch 16"
    assert found[3].at == {"model": "mlp-128", "lr": 0.001, "batch": 16}
    assert len({c.name for c in found}) == 8
    assert all("/" not in c.name and " " not in c.name for c in found)


@pytest.mark.parametrize(
    "sweep",
    [
        ("lr=1e-4,1e-3", "batch=8", "weight-decay=0,0.1"),
        ("lr=1e-4,1e-3,batch=8,weight-decay=0,0.1",),
        ("weight-decay=0,0.1", "batch=8,lr=1e-4", "lr=1e-3"),
    ],
)
def test_an_axis_may_be_given_by_itself_or_with_others(sweep):
    found = GridConfig(sweep=sweep).axes
    assert found == [("lr", (1e-4, 1e-3)), ("batch", (8,)), ("weight-decay", (0.0, 0.1))]


def test_share_keeps_the_batch_and_varies_the_pool():
    found = cells(BASE, GridConfig(sweep=("batch=32,64",), share=(0.05, 0.25, 0.3, 1.0)))
    planned = [c.config.run("uniform", c.config.batch[0], 0) for c in found]
    assert [(run.batch, run.pool_size) for run in planned] == [
        (32, 640), (32, 128), (32, 107), (32, 32), (64, 1280), (64, 256), (64, 213), (64, 64)
    ]  # fmt: skip
    assert all(run.chosen(run.pool_size) == run.batch for run in planned)


def test_names_of_ones_own_models_are_fit_for_folders():
    (cell,) = cells(BASE, GridConfig(models=("my.models:Net",)))
    assert cell.config.model == "my.models:Net"
    assert cell.name == "000-my.models-Net"


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"sweep": ("epochs=3",)}, 'cannot vary "epochs"'),
        ({"sweep": ("weight_decay=3",)}, "did you mean"),
        ({"sweep": ("0.1,lr=3",)}, "write NAME=VALUE"),
        ({"sweep": ("lr=fast",)}, '"fast" is no value'),
        ({"sweep": ("batch=1.5",)}, '"1.5" is no value'),
        ({"sweep": ("lr=1e-3,0.001",)}, "twice"),
        ({"models": ("mlp", "mlp")}, "model is to take a value twice"),
        ({"share": (0.0,)}, "--share has 0"),
        ({"share": (1.5,)}, "--share has 1.5"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
)
def test_what_cannot_vary_is_refused(grid, words):
    with pytest.raises(ConfigError, match=words):
        _ = GridConfig(**grid).axes


@pytest.mark.parametrize(
    ("base", "grid", "words"),
    [
        ({}, {}, "nothing is varied"),
        ({"protocol": "budget", "seconds": 1.0}, {"models": ("mlp",)}, "--protocol budget"),
        ({"pool": 64}, {"share": (0.5,)}, "--pool 64"),
        ({}, {"sweep": ("lr=-1",)}, "--lr is -1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(base, grid, words):
    with pytest.raises(ConfigError, match=words):
        cells(CompareConfig(**{"methods": ("uniform",), **base}), GridConfig(**grid))
