"""The step log: one row a step, checked, in parts, joined to the same bytes."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from goldiprox.records.steplog import SCHEMA, StepLog, StepRecord, read_steps
from goldiprox.schema import CheckpointError, NonFinite, Selection


def record(step, ids=(7, 3), losses=(0.5, 1.5), weights=None, scores=None):
    """Two classes; a loss below log 2 means that the label, 0, was predicted."""
    positions_k = torch.arange(len(ids))
    pool = torch.tensor([*ids, 100, 101])
    selection = Selection.of(
        pool,
        positions_k,
        None if weights is None else torch.tensor(weights),
        None if scores is None else torch.tensor(scores),
    )
    return StepRecord(
        step=step,
        epoch=step // 2,
        lr=0.1 / (step + 1),
        selection=selection,
        pool_size=len(pool),
        loss_k=torch.tensor(losses),
        correct_k=torch.tensor(losses) < math.log(2),
    )


def log_of(folder):
    return StepLog(folder, lambda ids: {"corrupted": ids < 5, "ambiguous": ids > 7})


def test_a_row_holds_what_was_done(tmp_path):
    log = log_of(tmp_path)
    log.add(record(0, scores=[2.0, 1.0, -4.0, 0.0]))
    log.add(record(1, losses=(0.5, 0.6), weights=[0.5, 2.0]))
    log.merge()
    table = read_steps(tmp_path)
    assert table.schema == SCHEMA
    first, second = table.to_pylist()
    assert first == {
        "step": 0, "epoch": 0, "pool_size": 4, "ids": [7, 3], "weights": None, "lr": 0.1,
        "loss": pytest.approx(1.0, abs=1e-6), "already_correct": 1, "corrupted": 1,
        "low_relevance": None, "ambiguous": 0,
        "score_mean": -0.25, "score_min": -4.0,
        "score_max": 2.0, "score_chosen_mean": 1.5,
    }  # fmt: skip
    assert second["weights"] == [0.5, 2.0]
    assert second["already_correct"] == 2
    assert second["score_mean"] is None
    assert second["lr"] == 0.05


@pytest.mark.parametrize("cuts", [[], [1], [3, 4], [1, 2, 3, 4, 5, 6], [6]])
def test_the_bytes_do_not_depend_on_where_parts_were_cut(cuts, tmp_path):
    log = log_of(tmp_path)
    for step in range(7):
        log.add(record(step))
        if step in cuts:
            log.write_part()
    log.merge()
    whole = log_of(tmp_path / "whole")
    for step in range(7):
        whole.add(record(step))
    whole.merge()
    merged = (tmp_path / "steps.parquet").read_bytes()
    assert merged == (tmp_path / "whole" / "steps.parquet").read_bytes()
    assert read_steps(tmp_path)["step"].to_pylist() == list(range(7))


def ragged(step):
    """A step of 1 to 40 chosen, in turn with scores, with weights and with neither."""
    generator = torch.Generator().manual_seed(step)
    k = 1 + (7 * step) % 40
    pool_B = torch.arange(2 * k + 3)
    selection = Selection.of(
        pool_B,
        torch.randperm(len(pool_B), generator=generator)[:k],
        torch.rand(k, generator=generator) if step % 3 == 0 else None,
        torch.randn(len(pool_B), generator=generator) if step % 2 == 0 else None,
    )
    return StepRecord(
        step=step, epoch=0, lr=0.1, selection=selection, pool_size=len(pool_B),
        loss_k=torch.rand(k, generator=generator),
        correct_k=torch.rand(k, generator=generator) < 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("every", [1, 7, 64])
def test_each_row_is_its_step_s_own_whatever_it_is_settled_with(every, tmp_path):
    log = log_of(tmp_path)
    for step in range(40):
        log.add(ragged(step))
        if step % every == 0:
            log.settle()
    log.merge()
    alone = log_of(tmp_path / "alone")
    for step in range(40):
        alone.add(ragged(step))
        alone.write_part()
    alone.merge()
    assert (tmp_path / "steps.parquet").read_bytes() == (
        tmp_path / "alone" / "steps.parquet"
    ).read_bytes()
    for row, expected in zip(read_steps(tmp_path).to_pylist(), map(ragged, range(40)), strict=True):
        chosen = expected.selection
        assert row["ids"] == chosen.ids_k.tolist()
        assert row["weights"] == (chosen.weights_k.tolist() if chosen.weighted else None)
        assert row["loss"] == pytest.approx(float(expected.loss_k.double().mean()), rel=1e-6)
        assert row["already_correct"] == int(expected.correct_k.sum())
        assert row["corrupted"] == int((chosen.ids_k < 5).sum())
        assert row["low_relevance"] is None
        if chosen.scores_B is None:
            assert row["score_max"] is None
            continue
        scores_B = chosen.scores_B.double()
        assert (row["score_min"], row["score_max"]) == (scores_B.min(), scores_B.max())
        assert row["score_mean"] == pytest.approx(float(scores_B.mean()), rel=1e-6)
        mean = float(scores_B[chosen.positions_k].mean())
        assert row["score_chosen_mean"] == pytest.approx(mean, rel=1e-6)


def test_parts_outlive_the_merge_until_they_are_dropped(tmp_path):
    log = log_of(tmp_path)
    log.add(record(0))
    log.write_part()
    log.add(record(1))
    log.merge()
    assert len(list((tmp_path / "steps").iterdir())) == 2
    log.drop_parts()
    assert [p.name for p in tmp_path.iterdir()] == ["steps.parquet"]
    log.drop_parts()


def test_cutting_drops_what_is_run_again(tmp_path):
    log = log_of(tmp_path)
    for step in range(6):
        log.add(record(step))
        if step in (1, 3, 5):
            log.write_part()
    log_of(tmp_path).cut(4)
    names = sorted(p.name[:25] for p in (tmp_path / "steps").iterdir())
    assert names == ["000000000000-000000000001", "000000000002-000000000003"]
    log_of(tmp_path).cut(0)
    assert list((tmp_path / "steps").iterdir()) == []


def test_steps_wait_until_they_are_settled():
    log = log_of(None)
    for step in range(3):
        log.add(record(step))
    assert len(log) == 3
    log.settle()
    assert len(log) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_loss_that_is_not_finite_is_named(bad, tmp_path):
    log = log_of(tmp_path)
    log.add(record(4))
    log.add(record(5, ids=(11, 12), losses=(0.1, bad)))
    log.add(record(6, ids=(21, 22), losses=(bad, bad)))
    with pytest.raises(NonFinite, match=r"at step 5 \(ids 12\); lower the learning rate"):
        log.write_part()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_losses_are_still_checked_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = log_of(None)
    log.add(record(0))
    log.write_part()
    log.cut(0)
    log.merge()
    log.drop_parts()
    log.add(record(1, losses=(math.nan, 1.0)))
    with pytest.raises(NonFinite, match="step 1"):
        log.settle()
    assert list(tmp_path.iterdir()) == []


def test_an_absent_or_damaged_log_is_said_to_be(tmp_path):
    with pytest.raises(CheckpointError, match=r"steps\.parquet is absent; delete"):
        read_steps(tmp_path)
    log = log_of(tmp_path)
    log.add(record(0))
    log.merge()
    path = tmp_path / "steps.parquet"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_steps(tmp_path)


def test_an_empty_log_is_a_table_of_no_rows(tmp_path):
    log_of(tmp_path).merge()
    assert pq.read_table(tmp_path / "steps.parquet").schema == SCHEMA
    assert read_steps(tmp_path).num_rows == 0
