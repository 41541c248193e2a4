"""The cost ledger."""

import time

import pytest
import torch

from goldiprox.config import TrainConfig
from goldiprox.records.ledger import (
    CHARGED_PHASES,
    IRREDUCIBLE_PHASES,
    RUN_PHASES,
    Clock,
    Cost,
    Ledger,
)
from goldiprox.training.loop import Loop, train


def test_costs_add_up_phase_by_phase():
    ledger = Ledger()
    ledger.add("training", Cost(examples=2, steps=1, flops=10.0, seconds=0.5))
    ledger.add("training", Cost(examples=3, steps=1, flops=5.0, seconds=0.25))
    ledger.add("evaluation", Cost(examples=100, steps=1, flops=1e3, seconds=9.0))
    ledger.add("irreducible-training", Cost(seconds=2.0))
    assert ledger.phases["training"] == Cost(examples=5, steps=2, flops=15.0, seconds=0.75)
    assert ledger.total() == Cost(examples=5, steps=2, flops=15.0, seconds=2.75)
    assert ledger.total(RUN_PHASES).seconds == 0.75
    assert ledger.total(IRREDUCIBLE_PHASES).seconds == 2.0
    assert ledger.total(("nothing",)) == Cost()
    assert "evaluation" not in CHARGED_PHASES


def test_merging_changes_neither_part():
    one = Ledger({"training": Cost(steps=1, seconds=1.0)}, 10)
    other = Ledger({"training": Cost(steps=2, seconds=3.0), "scoring": Cost(flops=4.0)}, 7)
    both = one.merged(other)
    assert both.phases == {"training": Cost(steps=3, seconds=4.0), "scoring": Cost(flops=4.0)}
    assert both.peak_memory_bytes == 10
    both.add("scoring", Cost(flops=1.0))
    both.add("training", Cost(steps=1))
    assert one.phases == {"training": Cost(steps=1, seconds=1.0)}
    assert other.phases["scoring"] == Cost(flops=4.0)


def test_json_round_trip_in_the_order_of_payment():
    ledger = Ledger({"evaluation": Cost(steps=1), "loading": Cost(seconds=0.1)}, 5)
    value = ledger.to_json()
    assert list(value["phases"]) == ["loading", "evaluation"]
    assert Ledger.from_json(value) == ledger
    assert Ledger.from_json({}) == Ledger()
    ledger.leave_out(["mine.scale", "aten.linalg_qr", "mine.scale"])
    assert ledger.uncounted == ("aten.linalg_qr", "mine.scale")
    assert Ledger.from_json(ledger.to_json()) == ledger
    assert Ledger().merged(ledger).uncounted == ledger.uncounted


def test_the_clock_charges_seconds_to_the_phase():
    ledger = Ledger()
    clock = Clock(torch.device("cpu"), ledger)
    for _ in range(3):
        with clock("scoring", examples=4, flops=2.0):
            time.sleep(0.01)
    clock.settle()
    cost = ledger.phases["scoring"]
    assert (cost.steps, cost.examples, cost.flops) == (3, 12, 6.0)
    assert 0.03 <= cost.seconds < 1.0
    assert ledger.peak_memory_bytes > 2**20


def test_work_that_fails_is_charged_too():
    ledger = Ledger()
    clock = Clock(torch.device("cpu"), ledger)
    with pytest.raises(KeyError), clock("training"):
        raise KeyError
    assert ledger.phases["training"].steps == 1


@pytest.mark.parametrize("method", ["uniform", "irreducible", "loss", "rho-loss"])
def test_a_run_charges_what_the_method_does(method, make_task, make_table):
    """62 examples in pools of 24, 24, 14; 8, 8, 4 chosen; two epochs."""
    task = make_task(count=62)
    config = TrainConfig(method=method, batch=8, pool=24, epochs=2, model="mlp-128")
    trained = train(config, task, irreducible=make_table(task.train.ids_N))
    phases = trained.ledger.phases
    weights = [16 * 128, 128 * 128, 128 * 128, 128 * 3]
    forward = 2 * sum(weights)
    training = 3 * forward - 2 * weights[0]
    scored = 124 if method in ("loss", "rho-loss") else 0
    assert phases["training"].examples == 40
    assert phases["training"].flops == 40 * training
    assert phases["scoring"].examples == scored
    assert phases["scoring"].flops == scored * forward
    assert phases["loading"].examples == (124 if scored else 40)
    assert phases["evaluation"].examples == 80
    assert phases["evaluation"].flops == 80 * forward
    assert {p: phases[p].steps for p in ("loading", "scoring", "training", "evaluation")} == {
        "loading": 6, "scoring": 6, "training": 6, "evaluation": 2,
    }  # fmt: skip
    last = trained.evaluations[-1]
    assert last.flops == scored * forward + 40 * training
    assert last.seconds == pytest.approx(trained.ledger.total(RUN_PHASES).seconds)
    assert [e.step for e in trained.evaluations] == [3, 6]
    assert [e.epoch for e in trained.evaluations] == [1.0, 2.0]
    assert [e.examples for e in trained.evaluations] == [20, 40]


@pytest.mark.parametrize(
    ("method", "forward", "with_backward"),
    [("loss", 1, 0), ("divbs", 1, 0), ("grad-norm", 0, 1), ("bald", 10, 0),
     ("loss-minus-conditional-entropy", 10, 0), ("uniform", 0, 0)],
)  # fmt: skip
def test_every_pass_over_the_pool_is_charged(method, forward, with_backward, make_task):
    config = TrainConfig(method=method, batch=8, pool=24, epochs=1, model="mlp-dropout")
    loop = Loop(config, make_task(count=48))
    seen = {False: 0, True: 0}  # examples, by whether gradients are wanted
    loop.model.register_forward_pre_hook(
        lambda _, args: seen.update({torch.is_grad_enabled(): len(args[0])
                                     + seen[torch.is_grad_enabled()]})
    )  # fmt: skip
    loop.one_step()
    assert seen[False] == 24 * forward
    assert seen[True] >= 24 * with_backward + 8
    both, training = loop.ledger.phases["scoring"].flops, loop.ledger.phases["training"].flops / 8
    weights = [16 * 512, 512 * 512, 512 * 3]
    one_pass = 2 * sum(weights)
    assert training == 3 * one_pass - 2 * weights[0]
    # Exact norms: the gradients of layers' inputs and no others; and the first example alone.
    norms = 24 * (one_pass + 2 * sum(weights[1:])) + one_pass
    assert both == 24 * forward * one_pass + with_backward * norms
