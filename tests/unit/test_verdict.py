"""Verdicts: what is said of numbers given by hand."""

from dataclasses import asdict

import pytest

from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.verdict import verdicts

SAME = {"steps": 1.0, "seconds_charged": 1.0, "flops_charged": 1.0}


def entry(
    method,
    *,
    final=(0.8, 0.8, 0.8),
    best=0.85,
    reached=3,
    at=100.0,
    seeds=None,
    took=None,
    **speedup,
):
    """Of a method; ``took``: seconds to the target, seed by seed, in proportion unless given."""
    charged = speedup.get("seconds_charged", 1.0) or 1.0
    mean = sum(final) / len(final)
    spread = {"mean": mean, "std": 0.01 if len(final) > 1 else None, "values": list(final)}
    return {
        "method": method,
        "batch": 1,
        "pool": 1,
        "steps": 1,
        "selected_share": {},
        "ledger": {},
        "seeds": len(final),
        "seed_numbers": list(range(len(final))) if seeds is None else list(seeds),
        "final_accuracy": spread,
        "best_accuracy": {"mean": best},
        "curve": [{"accuracy": {"mean": best - 0.1}}, {"accuracy": {"mean": best}}],
        "steps_to_target": {"reached": reached, "mean_curve": at},
        "seconds_to_target": {"charged": {"values": list(took or [10 / charged] * len(final))}},
        "speedup_over_uniform": {**SAME, **speedup},
    }


def comparison(*entries, protocol="paper", target=0.8, seconds=60.0):
    return {
        "dataset": "hand",
        "data": {},
        "model": {"name": "mlp"},
        "versions": {},
        "protocol": protocol,
        "target_accuracy": target,
        "settings": {},
        "budget_seconds": seconds if protocol == "budget" else None,
        "methods": list(entries),
    }


def judged(found):
    return [asdict(verdict) for verdict in verdicts(Comparison.from_json(found))]


def verdict(*entries, **settings):
    [found] = judged(comparison(*entries, **settings))
    return found["paid"], found["sentence"].replace("\N{NO-BREAK SPACE}", " ")


NEVER = {"steps": None, "seconds_charged": None, "flops_charged": None}


def test_paid_means_fewer_seconds_with_everything_charged():
    rho = entry("rho-loss", at=50.0, steps=2.0, seconds_charged=1.25, flops_charged=0.5)
    assert verdict(entry("uniform"), rho) == (
        True,
        "rho-loss paid: it reached 80.0 % in 2.0× fewer steps than uniform; with everything "
        "charged that took 1.2× fewer seconds and 2.0× more FLOPs (3 of 3 seeds reached it).",
    )


def test_fewer_steps_alone_do_not_pay():
    rho = entry("rho-loss", at=50.0, steps=2.0, seconds_charged=0.5)
    paid, sentence = verdict(entry("uniform"), rho)
    assert paid is False
    assert sentence.startswith("rho-loss did not pay: it reached 80.0 % in 2.0× fewer steps")
    assert "that took 2.0× more seconds" in sentence


def test_a_ratio_of_one_is_said_in_words():
    _, sentence = verdict(entry("uniform"), entry("loss", seconds_charged=0.98, flops_charged=0.5))
    assert sentence == (
        "loss neither paid nor cost: it reached 80.0 % in about as many steps as uniform; with "
        "everything charged that took about as many seconds and 2.0× more FLOPs (3 of 3 seeds "
        "reached it)."
    )


@pytest.mark.parametrize(("charged", "paid"), [(1.09, None), (0.92, None), (1.0, None),
                                                (1.11, True), (0.9, False)])  # fmt: skip
def test_a_difference_within_the_clocks_noise_is_a_tie(charged, paid):
    found, sentence = verdict(entry("uniform"), entry("loss", seconds_charged=charged))
    assert found is paid
    assert sentence.startswith("loss neither paid nor cost: ") == (paid is None)


@pytest.mark.parametrize(("took", "paid", "says"), [
    ((5.0, 6.0, 9.0), True, "loss paid: "),
    ((5.0, 6.0, 11.0), None, "loss neither clearly paid nor cost (2 of 3 seeds are faster): "),
    ((5.0, 6.0, None), None, "loss neither clearly paid nor cost (2 of 3 seeds are faster): "),
    ((5.0, 6.0, 10.0), True, "loss paid: "),
])  # fmt: skip
def test_seeds_that_disagree_do_not_tell(took, paid, says):
    found, sentence = verdict(entry("uniform"), entry("loss", took=took, seconds_charged=1.5))
    assert found is paid
    assert sentence.startswith(says)


def test_seeds_that_disagree_do_not_tell_of_a_loss_either():
    slow = entry("loss", took=(20.0, 9.0, 20.0), seconds_charged=0.6)
    assert verdict(entry("uniform"), slow)[0] is None
    # A seed that stays just below the target under uniform is no win for the method.
    uniform = entry("uniform", took=(10.0, 10.0, None))
    slow = entry("loss", took=(20.0, 20.0, 20.0), seconds_charged=0.6)
    assert verdict(uniform, slow)[0] is False


def test_never_reached():
    loss = entry("loss", best=0.456, reached=1, at=None, **NEVER)
    assert verdict(entry("uniform"), loss) == (
        False,
        "loss did not pay: at best 45.6 % on average, it does not reach the target of "
        "80.0 %; 1 of 3 seeds do.",
    )


def test_a_target_that_only_the_method_reached():
    rho = entry("rho-loss", at=1234.0, **NEVER)
    uniform = entry("uniform", at=None, reached=0, **NEVER)
    paid, sentence = verdict(uniform, rho)
    assert paid is None
    assert sentence == "rho-loss reached 80.0 % after 1,234 steps; uniform never did."


@pytest.mark.parametrize("target", [None, 0.8])
def test_without_uniform_nothing_is_said_of_it(target):
    rho = entry("rho-loss", at=None if target is None else 100.0, **NEVER)
    paid, sentence = verdict(rho, target=target)
    assert paid is None
    assert sentence == "rho-loss: no uniform run to compare with."


def test_uniform_on_all_the_data_is_the_honest_footnote():
    rho = entry("rho-loss", best=0.91, seconds_charged=1.5)
    full = entry("uniform-full", best=0.93, seconds_charged=3.0)
    _, sentence = verdict(entry("uniform"), full, rho)
    assert sentence.endswith(
        " Uniform on all the data, holdout included, gets to 93.0 % at best, rho-loss to 91.0 %; "
        "to the target rho-loss needs 2.0× more seconds than that."
    )
    full = entry("uniform-full", best=0.93, at=None, **NEVER)
    assert verdict(entry("uniform"), full, rho)[1].endswith("rho-loss to 91.0 %.")


def test_baselines_are_not_judged():
    found = judged(comparison(entry("uniform"), entry("uniform-full"), entry("loss"), entry("x")))
    assert [v["method"] for v in found] == ["loss", "x"]


def budget(mine, theirs, *more):
    rho = entry("rho-loss", final=mine)
    return verdict(entry("uniform", final=theirs), *more, rho, protocol="budget")


def test_under_a_budget_final_accuracies_decide():
    paid, sentence = budget((0.90, 0.91, 0.92), (0.80, 0.81, 0.82))
    assert paid is True
    assert sentence == (
        "rho-loss paid: with 60 seconds for everything, rho-loss ended at 91.0 ± 1.0 % and "
        "uniform at 81.0 ± 1.0 %."
    )
    paid, sentence = budget((0.80, 0.81, 0.82), (0.90, 0.91, 0.92))
    assert paid is False
    assert sentence.startswith("rho-loss did not pay: with 60 seconds")


def test_under_a_budget_a_difference_within_the_spread_is_a_tie():
    # Differences 0.00, 0.02, 0.01: mean 0.01, standard error 0.01 / sqrt(3) = 0.0058.
    paid, sentence = budget((0.80, 0.83, 0.83), (0.80, 0.81, 0.82))
    assert paid is None
    assert sentence.startswith("rho-loss: a tie within the seeds' spread; with 60 seconds")
    # Differences 0.01, 0.02, 0.015: mean 0.015, standard error 0.0029: told apart.
    assert budget((0.81, 0.83, 0.835), (0.80, 0.81, 0.82))[0] is True


def test_under_a_budget_differences_are_paired_by_seed():
    """Seeds differ far more from one another than the methods do on each."""
    assert budget((0.51, 0.72, 0.915), (0.50, 0.70, 0.90))[0] is True


def test_under_a_budget_the_best_baseline_is_the_rival():
    full = entry("uniform-full", final=(0.95, 0.95, 0.95))
    paid, sentence = budget((0.90, 0.91, 0.92), (0.80, 0.81, 0.82), full)
    assert paid is False
    assert "uniform-full at 95.0" in sentence


def test_under_a_budget_one_seed_does_not_tell():
    paid, sentence = budget((0.9,), (0.5,))
    assert paid is None
    assert sentence == (
        "rho-loss: one seed does not tell; with 60 seconds for everything, rho-loss ended at "
        "90.0 % and uniform at 50.0 %."
    )


def test_under_a_budget_without_baselines_nothing_is_said():
    paid, sentence = verdict(entry("rho-loss"), protocol="budget")
    assert (paid, sentence) == (None, "rho-loss: no uniform run to compare with.")


@pytest.mark.parametrize(("seconds", "text"), [(7.25, "7.25"), (59.97, "60"), (1200.0, "1,200")])
def test_a_budget_is_written_as_a_number_one_can_read(seconds, text):
    rho, uniform = entry("rho-loss", final=(0.9,)), entry("uniform", final=(0.5,))
    _, sentence = verdict(uniform, rho, protocol="budget", seconds=seconds)
    assert f"with {text} seconds for everything" in sentence


def test_under_a_budget_only_seeds_that_both_have_are_paired():
    rho = entry("rho-loss", final=(0.71, 0.91, 0.5), seeds=(1, 2, 9))
    uniform = entry("uniform", final=(0.2, 0.7, 0.9), seeds=(0, 1, 2))
    paid, sentence = verdict(uniform, rho, protocol="budget")
    assert paid is True, sentence
    rho = entry("rho-loss", final=(0.7, 0.9), seeds=(7, 8))
    assert "does not tell" in verdict(uniform, rho, protocol="budget")[1]


def test_what_seeds_reach_one_by_one_is_not_what_their_mean_reaches():
    """The mean of each seed's own best may lie above a target that the mean curve never sees."""
    core = entry("svp-k-center", at=None, best=0.799, reached=3, **NEVER)
    core["best_accuracy"] = {"mean": 0.82}
    paid, sentence = verdict(entry("uniform"), core)
    assert paid is False
    assert "at best 79.9 % on average, it does not reach the target of 80.0 %; 3 of 3" in sentence


@pytest.mark.parametrize(
    ("steps", "seconds", "says"),
    [
        ((20, 40), (20, 30), "(between 1.5× more and 2.0× fewer)"),
        ((10, 11), (2, 4), "(between 2.5 and 5.5× fewer)"),
        ((2, 4), (10, 11), "(between 2.5 and 5.5× more)"),
        ((10, 30), (10, 10), "(between as many and 3.0× fewer)"),
        ((0, 30), (10, 20), "(at most 3.0× fewer)"),
        ((0, 10), (20, 30), "(at least 2.0× more)"),
        ((20, 30), (0, 10), "(at least 2.0× fewer)"),
        ((20, 30), (0, 40), "(at most 2.0× more)"),
        ((0, 30), (0, 30), "(both had reached it by their first evaluation)"),
    ],
)
def test_what_evaluations_bound_is_said_in_words(steps, seconds, says):
    """Uniform and the method reach the target between two evaluations each."""
    uniform, rho = entry("uniform"), entry("rho-loss", steps=1.5)
    for one, (before, at) in ((uniform, steps), (rho, seconds)):
        one["steps_to_target"] |= {"mean_curve": at, "mean_curve_before": before}
    assert f"in 1.5× fewer steps than uniform {says}; with" in verdict(uniform, rho)[1]


def test_seconds_or_flops_that_were_not_recorded_are_not_made_up():
    unknown = entry("rho-loss", at=50.0, steps=2.0, seconds_charged=None, flops_charged=None)
    assert verdict(entry("uniform"), unknown) == (
        None,
        "rho-loss: it reached 80.0 % in 2.0× fewer steps than uniform (3 of 3 seeds reached it). "
        "How many seconds was not recorded.",
    )
    known = entry("rho-loss", at=50.0, steps=2.0, seconds_charged=2.0, flops_charged=None)
    said = verdict(entry("uniform"), known)[1]
    assert "that took 2.0× fewer seconds (3 of 3 seeds reached it)." in said
