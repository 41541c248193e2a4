"""Which candidates each step draws."""

from collections import Counter

import pytest
import torch

from goldiprox.schema import ConfigError, Selection
from goldiprox.selection.plans import Course, InfoBatch, ShuffledPools, WholeBatches


def course(count=103, pool=20, batch=5, steps=200, seed=3):
    return Course(
        ids_N=torch.arange(count) * 7 + 11, pool=pool, batch=batch, steps=steps, seed=seed
    )


def told(plan, draw, losses_N):
    """What the loop tells after a step in which all candidates were trained on."""
    positions_k = torch.arange(len(draw.positions_B))
    chosen = Selection.of(draw.positions_B, positions_k)
    plan.observe(draw, chosen, losses_N[draw.positions_B])


def one_pass(plan, step, losses_N):
    """Draw until the pass has ended: positions, weights, the next step."""
    positions, weights = [], []
    while True:
        draw = plan.draw(step)
        step += 1
        positions.append(draw.positions_B)
        weights.append(draw.weights_B)
        told(plan, draw, losses_N)
        if plan._next >= len(plan._order_n):
            return torch.cat(positions), torch.cat(weights), step


def test_pools_cover_every_epoch_once_and_differ_between_epochs():
    plan = ShuffledPools(course())
    epochs = []
    for epoch in range(2):
        draws = [plan.draw(6 * epoch + n) for n in range(6)]
        assert [len(d.positions_B) for d in draws] == [20] * 5 + [3]
        assert [d.k for d in draws] == [5] * 5 + [1]  # 3 * 5 // 20 is 0, but one is chosen
        epochs.append(torch.cat([d.positions_B for d in draws]))
        assert epochs[-1].sort().values.tolist() == list(range(103))
    assert not torch.equal(*epochs)


def test_a_pool_depends_on_seed_and_step_alone():
    straight = ShuffledPools(course())
    for step in range(9):
        expected = straight.draw(step).positions_B
    assert torch.equal(ShuffledPools(course()).draw(8).positions_B, expected)
    assert not torch.equal(ShuffledPools(course(seed=4)).draw(8).positions_B, expected)


def test_whole_batches_use_everything_before_anything_twice():
    plan = WholeBatches(course(count=102))
    draws = [plan.draw(step) for step in range(21)]
    assert all(d.k == len(d.positions_B) for d in draws)
    assert torch.cat([d.positions_B for d in draws]).sort().values.tolist() == list(range(102))
    again = torch.cat([plan.draw(step).positions_B for step in range(21, 42)])
    assert again.sort().values.tolist() == list(range(102))


@pytest.mark.parametrize("make", [WholeBatches, InfoBatch])
@pytest.mark.parametrize("count", [6, 11, 101])
def test_no_batch_of_one_is_left_over(make, count):
    plan = make(course(count=count, pool=5))
    seen, step = [], 0
    while len(seen) < count:
        draw = plan.draw(step)
        assert len(draw.positions_B) > 1
        seen += draw.positions_B.tolist()
        step += 1
    assert sorted(seen) == list(range(count))


def test_infobatch_leaves_out_half_of_what_is_below_the_mean():
    # Mean 2: positions 0..79 are below it, 80..99 above.
    losses_N = torch.cat([torch.full((80,), 1.0), torch.full((20,), 6.0)])
    plan = InfoBatch(course(count=100, steps=1000))
    positions, weights, step = one_pass(plan, 0, losses_N)
    assert positions.sort().values.tolist() == list(range(100))  # nothing is known yet
    assert torch.equal(weights, torch.ones(100))
    second, weights, _ = one_pass(plan, step, losses_N)
    assert len(second) == 60
    assert set(range(80, 100)) <= set(second.tolist())
    assert torch.equal(weights, torch.where(second < 80, 2.0, 1.0))
    third, _, _ = one_pass(plan, step, losses_N)
    assert set(third.tolist()) != set(second.tolist())


def test_infobatch_goes_by_the_latest_loss():
    losses_N = torch.linspace(0, 1, 100)
    plan = InfoBatch(course(count=100, steps=1000), dropped=0.9)
    _, _, step = one_pass(plan, 0, losses_N)
    second, _, step = one_pass(plan, step, 1 - losses_N)
    # Who was trained on is now judged by the new loss, who was left out by the old one.
    known_N = losses_N.clone()
    known_N[second] = 1 - losses_N[second]
    third, _, _ = one_pass(plan, step, losses_N)
    above = (known_N >= known_N.mean()).nonzero().squeeze(1)
    assert set(above.tolist()) <= set(third.tolist())
    below = 100 - len(above)
    assert len(third) == 100 - int(0.9 * below)


def test_infobatch_weights_keep_the_sum_of_gradients_unbiased():
    losses_N = torch.rand(60, generator=torch.Generator().manual_seed(1))
    totals = torch.zeros(60)
    passes = 3000
    for seed in range(passes):
        plan = InfoBatch(course(count=60, pool=60, batch=60, steps=10_000, seed=seed), dropped=0.3)
        told(plan, plan.draw(0), losses_N)
        draw = plan.draw(1)
        totals[draw.positions_B] += draw.weights_B
    mean_N = totals / passes
    assert mean_N.mean() == pytest.approx(1, abs=1e-5)  # the weights of a pass sum to N exactly
    assert (mean_N - 1).abs().max() < 5 * (0.43 / passes) ** 0.5  # variance r / (1 - r)


def test_infobatch_ends_with_everything_from_the_step_on_that_it_promises():
    losses_N = torch.linspace(0, 1, 40)
    plan = InfoBatch(course(count=40, pool=4, batch=4, steps=40))
    for step in range(35):  # 12.5 % of 40 steps is 5: the last five are whole
        told(plan, plan.draw(step), losses_N)
    last = [plan.draw(step) for step in range(35, 40)]
    assert all((d.weights_B == 1).all() for d in last)
    counts = Counter(torch.cat([d.positions_B for d in last]).tolist())
    assert len(counts) == 20
    assert max(counts.values()) == 1


def test_infobatch_goes_on_from_a_checkpoint_in_mid_pass():
    losses_N = torch.linspace(0, 1, 50)
    straight = InfoBatch(course(count=50))
    for step in range(17):
        told(straight, straight.draw(step), losses_N)
    other = InfoBatch(course(count=50))
    other.load_state_dict(straight.state_dict())
    for step in range(17, 60):
        one, two = straight.draw(step), other.draw(step)
        assert torch.equal(one.positions_B, two.positions_B)
        assert torch.equal(one.weights_B, two.weights_B)
        told(straight, one, losses_N)
        told(other, two, losses_N)


def test_infobatch_goes_on_where_the_losses_are_made():
    """A checkpoint brings its losses to the CPU, and the run goes on on another device."""
    plan = InfoBatch(course(count=50))
    draw = plan.draw(0)
    told(plan, draw, torch.linspace(0, 1, 50))
    chosen = Selection.of(draw.positions_B, torch.arange(len(draw.positions_B)))
    plan.observe(draw, chosen, torch.rand(len(chosen), device="meta"))
    assert plan.state_dict()["loss"].device.type == "meta"


@pytest.mark.parametrize("shares", [{"dropped": 1.0}, {"dropped": -0.1}, {"full": 1.5}])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="infobatch drops"):
        InfoBatch(course(), **shares)
