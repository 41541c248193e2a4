"""Rank correlations against a slow reference with ties, and the proxy's against the target's."""

import math

import numpy as np
import pytest
import torch

from goldiprox.analysis.correlate import rank_correlation, reducible_correlations
from goldiprox.config import TrainConfig
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import TableError
from goldiprox.training.evaluate import evaluate
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.probe import LossProbe


def slow_ranks(values):
    """Each value's mean place in the sorted list, counted one by one."""
    return [
        sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
        for value in values
    ]


def slow_spearman(one, other):
    a, b = slow_ranks(one), slow_ranks(other)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    above = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    below = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return above / math.sqrt(below)


@pytest.mark.parametrize("values", [2, 3, 10, 10**6])
@pytest.mark.parametrize("seed", [0, 1])
def test_ties_share_the_mean_of_their_ranks(values, seed):
    drawn = np.random.default_rng(seed)
    one = drawn.integers(0, values, 60).astype(np.float32)
    other = one + drawn.integers(0, values, 60).astype(np.float32)
    expected = slow_spearman(one.tolist(), other.tolist())
    assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(one, -other) == pytest.approx(-expected, abs=1e-12)


def test_it_sees_order_alone():
    values = np.array([0.1, 3.0, -2.0, 8.0, 0.5])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert rank_correlation(values, -(values**3)) == pytest.approx(-1.0)


def test_what_has_no_order_has_no_correlation():
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None
    assert rank_correlation(np.arange(1.0), np.arange(1.0)) is None
    with pytest.raises(ValueError, match="no rank"):
        rank_correlation(np.array([0.0, np.nan]), np.arange(2.0))
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_correlation(np.arange(3.0), np.arange(2.0))


def losses(epochs, irreducible=(0.0, 1.0, 2.0, 3.0), ids=(4, 5, 6, 9)):
    columns = {IRREDUCIBLE_LOSS: irreducible, **{f"epoch_{e}": v for e, v in epochs.items()}}
    return ScoreTable(
        ids_N=np.array(ids),
        columns={name: np.array(v, dtype=np.float32) for name, v in columns.items()},
        provenance={},
    )


def test_it_is_the_reducible_loss_that_is_compared():
    one = losses({1: [5, 6, 7, 8.5], 2: [0, 2, 4, 6], 10: [9, 9, 9, 9]})
    other = losses({1: [5, 6.1, 7.2, 8.3], 2: [6, 6, 6, 6], 3: [0, 1, 1, 2]})
    found = reducible_correlations([one, one], [other, one])
    assert [point["epoch"] for point in found] == [1, 2]  # of the epochs that all have
    # At epoch 2 the reducible losses are 0 1 2 3 and 6 5 4 3, though other's losses are all equal.
    assert found[1]["values"] == pytest.approx([-1.0, 1.0])
    assert found[1]["mean"] == pytest.approx(0.0)
    assert found[1]["std"] == pytest.approx(math.sqrt(2))
    first = slow_spearman([5, 5, 5, 5.5], [5, 5.1, 5.2, 5.3])
    assert found[0]["values"][0] == pytest.approx(first)


def test_tables_that_were_read_from_files_are_compared(tmp_path):
    losses({1: [5, 6, 7, 8.5]}).write(tmp_path / "probe.parquet")
    read = ScoreTable.read(tmp_path / "probe.parquet")  # whose arrays may not be written to
    assert reducible_correlations([read], [read])[0]["mean"] == pytest.approx(1.0)


def test_other_examples_are_refused():
    with pytest.raises(TableError, match="of different examples"):
        reducible_correlations([losses({1: [0, 1, 2, 3]})],
                               [losses({1: [0, 1, 2, 3]}, ids=(4, 5, 6, 7))])  # fmt: skip


def test_a_probe_holds_the_losses_after_each_epoch(make_task, make_table, tmp_path):
    task = make_task(count=62)
    table = make_table(task.train.ids_N)
    seen = []

    class Watching(Hook):
        def epoch_ended(self, loop, epoch):
            seen.append(evaluate(loop.model, loop.task.train, loop.feeder).loss_N)

    config = TrainConfig(batch=8, pool=24, epochs=3, method="uniform", model="mlp-128")
    plain = train(config, task)
    probed = train(config, task, hooks=[Watching(), LossProbe(tmp_path, task.train, table)])
    pairs = zip(plain.model.parameters(), probed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    found = ScoreTable.read(tmp_path / "probe.parquet")
    assert found.names == (IRREDUCIBLE_LOSS, "epoch_1", "epoch_2", "epoch_3")
    positions = task.train.positions_of(torch.from_numpy(found.ids_N.copy()))
    assert len(set(positions.tolist())) == 62
    for epoch, loss_N in enumerate(seen, start=1):
        assert np.allclose(found.columns[f"epoch_{epoch}"], loss_N[positions].numpy())
    given = table.column_for(IRREDUCIBLE_LOSS, task.train.ids_N[positions], "")
    assert np.array_equal(found.columns[IRREDUCIBLE_LOSS], given.numpy())
