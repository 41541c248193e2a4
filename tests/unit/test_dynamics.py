"""Kernel distance, windows, example sets, interpolation and barriers, on cases done by hand."""

from __future__ import annotations

import copy
import math
import weakref

import pytest
import torch
from torch import nn

from goldiprox.evidence.gradients import tangent_kernel
from goldiprox.schema import ConfigError, DataError
from goldiprox.studies.dynamics import measures as dynamics
from goldiprox.studies.dynamics.measures import (
    error_barrier,
    errors_between,
    estimate_batchnorm,
    example_sets,
    interpolated,
    kernel_distance,
    kernel_velocities,
    window_starts,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_distance_is_one_minus_the_cosine():
    first, second = draw(6, 6), draw(6, 6, seed=1)
    cosine = (first * second).double().sum() / (first.double().norm() * second.double().norm())
    assert kernel_distance(first, second) == pytest.approx(1 - float(cosine), rel=1e-6)
    assert kernel_distance(first, 3 * first) == pytest.approx(0, abs=1e-15)
    assert kernel_distance(torch.eye(2), torch.tensor([[0.0, 1], [1, 0]])) == pytest.approx(1)
    assert kernel_distance(first, -first) == pytest.approx(2)


def test_small_distances_do_not_drown_in_rounding():
    """A cosine of 1 - 5e-13 cannot be told from 1 in float32, and barely in sums of float64."""
    assert kernel_distance(
        torch.tensor([1.0, 0], dtype=torch.float64), torch.tensor([1.0, 1e-6], dtype=torch.float64)
    ) == pytest.approx(5e-13, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.eye(2), torch.eye(3), "shapes"),
        (torch.eye(2), torch.zeros(2, 2), "no gradient"),
        (torch.full((2, 2), math.inf), torch.eye(2), "not finite"),
        (torch.full((2, 2), math.nan), torch.eye(2), "not finite"),
    ],
)
def test_kernels_without_a_distance_are_refused(first, second, message):
    with pytest.raises(DataError, match=message):
        kernel_distance(first, second)


def test_velocities_take_each_kernel_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs = draw(6, 4)
    weights = []
    for epoch in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * draw(*parameter.shape, seed=epoch)
        weights.append(copy.deepcopy(model.state_dict()))
    asked = []

    def at(epoch):
        asked.append(epoch)
        return weights[epoch]

    found = dict(kernel_velocities(model, inputs, at, [0, 1, 4]))
    assert asked == [0, 1, 2, 4, 5]
    for epoch, value in found.items():
        kernels = []
        for now in (epoch, epoch + 1):
            model.load_state_dict(weights[now])
            kernels.append(tangent_kernel(model, inputs))
        assert value == pytest.approx(kernel_distance(*kernels), rel=1e-6)
        assert value > 0.001


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_distances_are_taken_some_rows_at_a_time(monkeypatch, rows):
    first, second = draw(6, 6), draw(6, 6, seed=1)
    monkeypatch.setattr(dynamics, "ROWS", rows)
    cosine = (first * second).double().sum() / (first.double().norm() * second.double().norm())
    assert kernel_distance(first, second) == pytest.approx(1 - float(cosine), rel=1e-6)


def test_no_third_kernel_is_held(monkeypatch):
    """Each is as large as (examples x classes) squared."""
    held, alive = [], []

    def kernel(model, inputs):
        alive.append(sum(k() is not None for k in held))
        found = torch.eye(3) * len(held)
        found[0, 1] = 1
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(dynamics, "tangent_kernel", kernel)
    model = nn.Linear(2, 2)
    found = list(kernel_velocities(model, None, lambda _: model.state_dict(), [0, 1, 2, 5, 6]))
    assert [epoch for epoch, _ in found] == [0, 1, 2, 5, 6]
    assert len(held) == 7
    assert max(alive) == 1


def test_windows_run_from_the_lowest_to_the_highest():
    assert window_starts(1000, 100, 4) == [0, 300, 600, 900]
    assert window_starts(100, 100, 5) == [0]
    assert window_starts(50, 10, 1) == [0]
    with pytest.raises(ConfigError, match="--window 51"):
        window_starts(50, 51, 3)


def test_sets_are_the_ends_of_the_order_and_a_random_draw():
    order = draw(40).argsort()
    sets = example_sets(order, 20, torch.Generator().manual_seed(1))
    assert torch.equal(sets["lowest"], order[:20])
    assert torch.equal(sets["highest"], order[20:])
    assert len(set(sets["random"].tolist())) == 20
    assert not torch.equal(sets["random"].sort().values, sets["lowest"].sort().values)
    again = example_sets(order, 20, torch.Generator().manual_seed(1))
    assert torch.equal(again["random"], sets["random"])
    with pytest.raises(ConfigError, match="--set-size 21"):
        example_sets(order, 21, torch.Generator())


def test_barrier_is_the_rise_above_the_straight_line():
    assert error_barrier([0, 0.5, 1], [0.1, 0.6, 0.3]) == pytest.approx(0.4)
    assert error_barrier([0, 0.25, 1], [0.0, 0.5, 0.4]) == pytest.approx(0.4)
    assert error_barrier([0, 0.5, 1], [0.4, 0.1, 0.2]) == 0


def test_interpolation_mixes_floats_and_keeps_counters():
    first = {"w": torch.tensor([1.0, 2]), "n": torch.tensor(7)}
    second = {"w": torch.tensor([3.0, 6]), "n": torch.tensor(1)}
    found = interpolated(first, second, 0.25)
    assert found["w"].tolist() == [2.5, 5.0]
    assert int(found["n"]) == 7
    assert torch.equal(interpolated(first, second, 1.0)["w"], first["w"])
    assert torch.equal(interpolated(first, second, 0.0)["w"], second["w"])
    with pytest.raises(DataError, match="two different models"):
        interpolated(first, {"w": torch.zeros(3), "n": torch.tensor(1)}, 0.5)


def normed(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def test_statistics_are_those_of_the_network_at_hand():
    model = normed(0).train()
    batches = [(draw(50, 6, seed=s) * 2 + 1, torch.zeros(50, dtype=torch.int64)) for s in (1, 2, 3)]
    estimate_batchnorm(model, lambda: batches)
    hidden = [model[0](inputs) for inputs, _ in batches]
    mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
    variance = torch.stack([h.var(0) for h in hidden]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("with_norm", [True, False])
def test_errors_are_those_of_each_network_on_the_line(with_norm):
    def make(seed):
        return normed(seed) if with_norm else nn.Sequential(nn.Linear(6, 3))

    first, second, model = make(1), make(2), make(3)
    inputs, targets = draw(200, 6, seed=5), torch.arange(200) % 3
    sets = {
        "all": lambda: [(inputs[:150], targets[:150]), (inputs[150:], targets[150:])],
        "few": lambda: [(inputs[:9], targets[:9])],
    }

    def statistics():
        return [(draw(100, 6, seed=6), targets[:100])]

    alphas = [0.0, 0.3, 1.0]
    found = errors_between(model, first.state_dict(), second.state_dict(), alphas, sets, statistics)
    for number, alpha in enumerate(alphas):
        twin = make(4)
        mixed = {
            k: alpha * v + (1 - alpha) * second.state_dict()[k] if v.is_floating_point() else v
            for k, v in first.state_dict().items()
        }
        twin.load_state_dict(mixed)
        if with_norm:
            hidden = twin[0](statistics()[0][0]).detach()
            twin[1].running_mean.copy_(hidden.mean(0))
            twin[1].running_var.copy_(hidden.var(0))
        wrong = twin.eval()(inputs).argmax(1) != targets
        assert found["all"][number] == pytest.approx(float(wrong.double().mean()))
        assert found["few"][number] == pytest.approx(float(wrong[:9].double().mean()))
