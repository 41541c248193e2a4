"""Variants by name, and methods of the user's own."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections import Counter

import pytest
import torch
from scipy import stats

import goldiprox
from goldiprox.chooser import Chooser
from goldiprox.cli import main
from goldiprox.config import TrainConfig
from goldiprox.records.steplog import read_steps
from goldiprox.schema import ConfigError, Evidence, MissingEvidence, Selection
from goldiprox.seeds import stream
from goldiprox.selection.functions import reducible_loss, training_loss
from goldiprox.selection.groups import ClassBalanced, IrreducibleFilter, Stratified
from goldiprox.selection.methods import METHODS, method
from goldiprox.selection.ranking import top_k
from goldiprox.selection.sampling import Boltzmann, GumbelTopK, ImportanceSampling
from goldiprox.selection.selectors import RandomChoice, TopK
from goldiprox.selection.variants import MODIFIERS
from goldiprox.workflows.arms import require_possible

DRAWS = 3000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rho-loss@gumbel", GumbelTopK(reducible_loss, 1.0)),
        ("rho-loss@gumbel=0.5", GumbelTopK(reducible_loss, 0.5)),
        ("loss@boltzmann=2", Boltzmann(training_loss, 2.0)),
        ("loss@stratified", Stratified(training_loss, 10)),
        ("loss@stratified=4", Stratified(training_loss, 4)),
        ("loss@class-balanced", ClassBalanced(training_loss)),
        ("loss@class-balanced@gumbel=3", ClassBalanced(training_loss, 3.0)),
        ("loss@gumbel=3@class-balanced", ClassBalanced(training_loss, 3.0)),
        ("uniform@filtered", IrreducibleFilter(RandomChoice(), 0.1)),
        ("loss@filtered=0.2", IrreducibleFilter(TopK(training_loss), 0.2)),
        ("loss@filtered@boltzmann", IrreducibleFilter(Boltzmann(training_loss), 0.1)),
    ],
)
def test_a_variant_chooses_by_the_method_s_score_in_another_way(name, expected):
    entry = method(name)
    assert entry.name == name
    assert entry.selector == expected
    base = METHODS[name.partition("@")[0]]
    assert entry.needs >= base.needs
    assert entry.needs_irreducible == (base.needs_irreducible or "@filtered" in name)
    assert ("targets_B" in entry.needs) == ("class-balanced" in name)
    assert entry.source == base.source
    assert ("irreducible-loss model" in entry.cost) == entry.needs_irreducible


def test_a_stateful_method_keeps_its_memory_behind_a_filter():
    registered = method("grad-norm-is@filtered").selector
    one = registered.start()
    norms = torch.tensor([1e-3] * 49 + [10.0])
    pool = Evidence(ids_B=torch.arange(50), grad_norm_bound_B=norms, irreducible_B=torch.zeros(50))
    one(pool, 5, stream(0))
    assert one.state_dict()["gain"] > 1
    assert registered.state_dict() == {"gain": None}
    other = registered.start()
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    chosen = other(pool, 5, stream(0))
    assert chosen.weighted
    plain = ImportanceSampling(registered.selector.norm)
    plain.load_state_dict(one.state_dict())
    assert torch.equal(chosen.weights_k, plain(pool, 5, stream(0)).weights_k)
    assert method("loss@filtered").selector.start().state_dict() == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rho-loss@gumbl", r'unknown variant "@gumbl" .*known: @gumbel, @boltzmann, @class-'),
        ("rho-los@gumbel", r'unknown method "rho-los" \(did you mean "rho-loss"\?\)'),
        ("rho-loss@", 'unknown variant "@"'),
        ("rho-loss@gumbel=0", "=0 is impossible; the value is a temperature, a number from 1e-30"),
        ("rho-loss@gumbel=", "@gumbel= is impossible"),
        ("rho-loss@boltzmann=nan", "is impossible"),
        ("rho-loss@gumbel=inf", "is impossible"),
        ("rho-loss@gumbel=1e-320", "@gumbel=1e-320 is impossible"),
        ("rho-loss@boltzmann=1e300", "@boltzmann=1e300 is impossible"),
        ("rho-loss@gumbel=-1@class-balanced", "@gumbel=-1 is impossible"),
        ("rho-loss@stratified=2.5", "whole number"),
        ("rho-loss@stratified=1e30", "whole number from 2 to 1000000"),
        ("rho-loss@filtered=1", "between 0 and 1"),
        ("rho-loss@class-balanced=3", "takes no value"),
        ("rho-loss@gumbel@gumbel=2", "says @gumbel twice"),
        ("rho-loss@gumbel@boltzmann", "@gumbel and @boltzmann do not go together"),
        ("rho-loss@gumbel@class-balanced@stratified", "do not go together"),
        ("uniform@gumbel", "uniform does not choose by the highest score"),
        ("rank-based@stratified", "known to go with it: @filtered"),
        ("irreducible-filter@filtered", "filters already"),
        ("loss@keep=0.3", "@keep goes alone, with methods that choose a core-set: svp, svp-least"),
        ("svp@keep=0.3@filtered", "@keep goes alone"),
        ("svp@keep=0", "share of the data to keep"),
        ("svp@gumbel", "svp decides for whole epochs"),
        ("infobatch@filtered", "infobatch decides for whole epochs"),
        ("divbs@class-balanced", "does not choose by the highest score"),
    ],
)
def test_impossible_variants_are_one_clear_line(name, message):
    with pytest.raises(ConfigError, match=message) as raised:
        method(name)
    assert "\n" not in str(raised.value)


def inclusion(selector, evidence, k):
    total = torch.zeros(len(evidence))
    for step in range(DRAWS):
        chosen = selector(evidence, k, stream(0, "selection", step)).positions_k
        total += torch.bincount(chosen, minlength=len(evidence))
    return total.tolist()


def test_class_balanced_uniform_takes_each_of_a_class_as_often():
    evidence = Evidence(ids_B=torch.arange(9), targets_B=torch.tensor([0] * 6 + [1] * 3))
    found = inclusion(method("uniform@class-balanced").selector, evidence, 4)
    for seen, share in zip(found, [2 / 6] * 6 + [2 / 3] * 3, strict=True):
        assert stats.binomtest(int(seen), DRAWS, share).pvalue > 1e-4


def test_class_balanced_gumbel_draws_within_a_class_in_proportion():
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    evidence = Evidence(
        ids_B=torch.arange(5), targets_B=torch.tensor([0, 0, 0, 1, 1]), loss_B=losses
    )
    found = inclusion(method("loss@gumbel=2@class-balanced").selector, evidence, 2)
    expected = torch.cat([(losses[:3] / 2).softmax(0), (losses[3:] / 2).softmax(0)])
    for part in (slice(0, 3), slice(3, 5)):
        assert stats.chisquare(found[part], expected[part] * DRAWS).pvalue > 1e-4


def test_stratified_takes_each_of_a_stratum_as_often():
    losses = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.9, 1.0])
    evidence = Evidence(ids_B=torch.arange(6), loss_B=losses)
    found = inclusion(method("loss@stratified=2").selector, evidence, 2)
    for seen, share in zip(found, [1 / 4] * 4 + [1 / 2] * 2, strict=True):
        assert stats.binomtest(int(seen), DRAWS, share).pvalue > 1e-4


def test_filtered_uniform_takes_each_plausible_one_as_often():
    losses = torch.tensor([0.1, 9.0, 0.2, 0.3, 9.0])
    evidence = Evidence(ids_B=torch.arange(5), irreducible_B=losses)
    found = inclusion(method("uniform@filtered").selector, evidence, 2)
    assert found[1] == found[4] == 0
    for seen in (found[0], found[2], found[3]):
        assert stats.binomtest(int(seen), DRAWS, 2 / 3).pvalue > 1e-4


def test_every_way_goes_with_every_scored_method_and_the_filter():
    scored = [name for name, entry in METHODS.items() if entry.score is not None]
    assert {"loss", "rho-loss", "bald", "grad-norm"} <= set(scored)
    for name, way in itertools.product(scored, set(MODIFIERS) - {"keep"}):
        assert method(f"{name}@{way}").name == f"{name}@{way}"
    for name, entry in METHODS.items():
        if entry.each_step and not isinstance(entry.selector, IrreducibleFilter):
            assert method(f"{name}@filtered").needs_irreducible_model


def test_soft_weights_take_each_candidate_as_often():
    evidence = Evidence(
        ids_B=torch.arange(5),
        loss_B=torch.tensor([9.0, 0.0, 3.0, 1.0, 2.0]),
        irreducible_B=torch.zeros(5),
    )
    for seen in inclusion(method("rho-loss-soft").selector, evidence, 2):
        assert stats.binomtest(int(seen), DRAWS, 2 / 5).pvalue > 1e-4


def test_what_only_a_loop_of_ones_own_gives_is_refused_before_training(make_task):
    config = TrainConfig(method="jest", batch=4, pool=8, model="mlp-128")
    with pytest.raises(ConfigError, match=r"needs pair_logits_BB and .*examples/contrastive.py"):
        require_possible(config, make_task())
    pool = torch.arange(8), torch.randn(8, 5), torch.arange(8) % 3
    with pytest.raises(MissingEvidence, match=r"choose\(pool, known="):
        Chooser(torch.nn.Linear(5, 3), "jest")(pool)


def test_known_evidence_is_not_made_again():
    def never(model, batch):
        raise AssertionError("no scoring pass is needed")

    pool = torch.arange(8), torch.randn(8, 5), torch.arange(8) % 3
    choose = Chooser(torch.nn.Linear(5, 3), "loss", share=0.25, logits=never)
    chosen = choose(pool, {"loss_B": torch.arange(8.0)})
    assert sorted(chosen.batch[0].tolist()) == [6, 7]


# --- methods of the user's own ---


@pytest.fixture
def own_methods():
    """What is registered meanwhile is forgotten."""
    before = dict(METHODS)
    yield
    for name in set(METHODS) - set(before):
        del METHODS[name]


def test_a_score_becomes_a_method_with_all_its_variants(own_methods):
    @goldiprox.method("lowest-loss", needs="loss_B", source="me", cost="1 forward")
    def lowest_loss(evidence):
        """The easiest first."""
        return -evidence.loss_B

    assert isinstance(lowest_loss, goldiprox.Method)
    assert METHODS["lowest-loss"] is lowest_loss
    assert (lowest_loss.summary, lowest_loss.source) == ("The easiest first.", "me")
    assert lowest_loss.needs_forward
    evidence = Evidence(ids_B=torch.arange(4), loss_B=torch.tensor([3.0, 1.0, 2.0, 0.0]))
    chosen = method("lowest-loss").selector(evidence, 2, stream(0))
    assert sorted(chosen.ids_k.tolist()) == [1, 3]
    assert method("lowest-loss@gumbel=2").selector == GumbelTopK(lowest_loss.score, 2.0)
    pool = torch.arange(20), torch.randn(20, 5), torch.arange(20) % 3
    for given in (lowest_loss, "lowest-loss", "lowest-loss@class-balanced"):
        chosen = Chooser(torch.nn.Linear(5, 3), given, share=0.5)(pool)
        assert len(chosen.batch[0]) == 10


def test_a_selector_and_a_class_with_a_memory_become_methods(own_methods):
    @goldiprox.method("newest")
    def newest(evidence, k, generator):
        return Selection.of(evidence.ids_B, top_k(evidence.ids_B.double(), evidence.ids_B, k, 0))

    @goldiprox.method("rotating", needs=["targets_B"])
    class Rotating:
        """One class after the other."""

        def __init__(self):
            self.turn = 0

        def start(self):
            return type(self)()

        def state_dict(self):
            return {"turn": self.turn}

        def load_state_dict(self, state):
            self.turn = state["turn"]

        def __call__(self, evidence, k, generator):
            wanted = (evidence.need("targets_B") == self.turn % 3).double()
            self.turn += 1
            return Selection.of(evidence.ids_B, top_k(wanted, evidence.ids_B, k, 0))

    pool = torch.arange(30), torch.randn(30, 5), torch.arange(30) % 3
    assert sorted(Chooser(torch.nn.Linear(5, 3), newest)(pool).batch[0].tolist()) == [27, 28, 29]
    choose = Chooser(torch.nn.Linear(5, 3), "rotating")
    seen = [set(choose(pool).batch[2].tolist()) for _ in range(4)]
    assert seen == [{0}, {1}, {2}, {0}]
    assert rotating_turn(choose) == 4
    assert Rotating.selector.turn == 0
    assert Rotating.summary == "One class after the other."
    with pytest.raises(ConfigError, match="newest does not choose by the highest score"):
        method("newest@gumbel")


def rotating_turn(choose):
    return choose.state_dict()["selector"]["turn"]


def test_what_cannot_be_a_method_is_refused(own_methods):
    with pytest.raises(ConfigError, match=r'"x" needs losses_B, which Evidence does not have'):
        goldiprox.method("x", needs="losses_B")
    with pytest.raises(ConfigError, match="cannot name a method"):
        goldiprox.method("my@method")
    with pytest.raises(ConfigError, match="function with 2 arguments"):
        goldiprox.method("x")(lambda evidence, k: None)
    with pytest.raises(ConfigError, match='"loss" is registered already'):
        goldiprox.method("loss")(training_loss)


def test_decorating_again_replaces(own_methods):
    """As when a notebook's cell is run twice."""
    for sign in (1, -1):

        @goldiprox.method("signed", needs="loss_B")
        def signed(evidence, sign=sign):
            return sign * evidence.loss_B

    evidence = Evidence(ids_B=torch.arange(2), loss_B=torch.tensor([3.0, 1.0]))
    assert signed_choice(evidence) == [1]


def signed_choice(evidence):
    return method("signed").selector(evidence, 1, stream(0)).ids_k.tolist()


MINE = """
    import goldiprox

    @goldiprox.method("odd-first", needs="targets_B", source="here", cost="nothing")
    def odd_first(evidence):
        '''Odd labels before even ones.'''
        return (evidence.targets_B % 2).float()

    plain = goldiprox.Method(
        name="plain", selector=odd_first.selector, needs=frozenset({"targets_B"}),
        summary="the same as an object", source="here", cost="nothing",
    )
    nothing = 3
"""


def test_a_module_beside_the_user_is_compared(tmp_path, monkeypatch, own_methods, capsys):
    (tmp_path / "my_methods.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = ["my_methods:odd_first", "my_methods:plain@filtered=0.05", "loss@boltzmann=0.5"]
    settings = ["--model", "mlp-128", "--pool", "64", "--batch", "8", "--epochs", "1"]
    command = ["compare", "digits", "--methods", ",".join(names), "--seeds", "1", *settings]
    main([*command, "--il.epochs", "1", "--out", "out"])
    folders = {path.name for path in (tmp_path / "out" / "runs").iterdir()}
    assert folders == {f"{name.replace(':', '--')}-0" for name in names}
    shown = capsys.readouterr().out
    assert "my_methods:odd_first" in shown
    from sklearn.datasets import load_digits

    labels = load_digits().target
    chosen = read_steps(tmp_path / "out" / "runs" / "my_methods--odd_first-0")["ids"].to_pylist()
    counts = Counter(int(labels[i]) % 2 for ids in chosen for i in ids)
    assert counts[1] > 20 * counts[0]
    main([*command, "--il.epochs", "1", "--out", "out"])  # a finished one is found again
    for wrong, message in (
        ("my_methods:nothing", "is a int; make it a method"),
        ("my_methods:absent", "module my_methods has no absent"),
        ("no_such_module:x", "cannot import method"),
        (":x", "cannot import method"),
    ):
        with pytest.raises(ConfigError, match=message):
            method(wrong)
