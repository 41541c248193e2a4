"""Every registered method and a variant of every kind keeps these promises, whatever it is."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from goldiprox.chooser import Chooser
from goldiprox.schema import Evidence, MissingEvidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS, method
from goldiprox.selection.selectors import StatefulSelector

VARIANTS = [
    "rho-loss@gumbel=0.5",
    "loss@boltzmann=2",
    "rho-loss@class-balanced",
    "loss@gumbel@class-balanced",
    "grad-norm-bound@stratified=4",
    "uniform@class-balanced",
    "uniform@filtered",
    "loss@filtered=0.3",
    "grad-norm-is@filtered",
    "divbs@filtered",
    "bald@filtered@boltzmann",
    "reducr@filtered",
    "jest@filtered",
    "learnability@filtered",
]
NAMES = [*METHODS, *VARIANTS]
ENTRIES = {name: method(name) for name in NAMES}
POOLED = [name for name in NAMES if ENTRIES[name].each_step]
SCORED = [name for name in NAMES if ENTRIES[name].needs]
NEEDS = [(name, field) for name in NAMES for field in sorted(ENTRIES[name].needs)]
FROM_CALLER = {"reference_B", "pair_logits_BB", "reference_pair_logits_BB"}
FLOATS = [(name, field) for name, field in NEEDS if field != "targets_B"]


def choose(name, evidence, k, seed=0):
    """As the chooser does: the selector sees the fields it asked for, and no others."""
    entry = ENTRIES[name]
    allowed = entry.needs | {"ids_B"}
    hidden = {f.name: None for f in fields(Evidence) if f.name not in allowed}
    evidence = replace(evidence, **hidden)
    selector = entry.selector
    if isinstance(selector, StatefulSelector):  # the registered one must not remember this test
        selector = selector.start()
    return selector(evidence, k, stream(seed, "selection", 7))


def ids_and_weights(selection):
    return list(zip(selection.ids_k.tolist(), selection.weights_k.tolist(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 5, 31])
def test_permuting_the_pool_permutes_nothing(name, k, make_evidence):
    evidence = make_evidence(31)
    straight = ids_and_weights(choose(name, evidence, k))
    for seed in range(5):
        order = torch.randperm(31, generator=stream(seed))
        assert ids_and_weights(choose(name, evidence.at(order), k)) == straight


@pytest.mark.parametrize("name", NAMES)
def test_permuting_a_pool_full_of_ties_permutes_nothing(name, make_evidence):
    """Every example ten times over: the same scores under ten ids."""
    few = make_evidence(3).at(torch.arange(30) % 3)
    evidence = replace(few, ids_B=torch.randperm(300, generator=stream(1))[:30])
    straight = ids_and_weights(choose(name, evidence, 7))
    for seed in range(5):
        order = torch.randperm(30, generator=stream(seed))
        assert ids_and_weights(choose(name, evidence.at(order), 7)) == straight


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 2, 17])
@pytest.mark.parametrize("how_many", ["none", "one", "all"])
@pytest.mark.parametrize("classes", [1, 4])
def test_edges(name, size, how_many, classes, make_evidence):
    k = {"none": 0, "one": 1, "all": size}[how_many]
    evidence = make_evidence(size, classes)
    selection = choose(name, evidence, k)
    assert len(selection) == k
    assert selection.positions_k.shape == selection.weights_k.shape == (k,)
    assert selection.positions_k.dtype == selection.ids_k.dtype == torch.int64
    assert selection.weights_k.dtype == torch.float32
    assert selection.weights_k.isfinite().all()
    assert (selection.weights_k >= 0).all()
    assert torch.equal(evidence.ids_B[selection.positions_k], selection.ids_k)
    with_replacement = "@boltzmann" in name or not (selection.weights_k == 1).all()
    if not with_replacement:
        assert len(set(selection.ids_k.tolist())) == k
    if selection.scores_B is not None:
        assert selection.scores_B.shape == (size,)


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_repeats_and_leaves_the_global_random_state_alone(name, make_evidence):
    before = torch.get_rng_state()
    evidence = make_evidence(40)
    first = ids_and_weights(choose(name, evidence, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert ids_and_weights(choose(name, evidence, 8)) == first
    assert first == ids_and_weights(choose(name, copy.deepcopy(evidence), 8))


@pytest.mark.parametrize(("name", "field"), NEEDS)
def test_missing_evidence_is_named(name, field, make_evidence):
    evidence = replace(make_evidence(9), **{field: None})
    with pytest.raises(MissingEvidence, match=field):
        choose(name, evidence, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("name", "field"), FLOATS)
def test_non_finite_evidence_is_refused_by_id(name, field, bad, make_evidence):
    evidence = make_evidence(9)
    value = getattr(evidence, field).clone()
    if "log_probs" in field and bad != bad:
        value[..., 4, :] = bad
    elif "log_probs" in field:
        pytest.skip("a probability of zero is no error")
    else:
        value[4] = bad
    evidence = replace(evidence, **{field: value})
    with pytest.raises(NonFinite, match=rf"\b{int(evidence.ids_B[4])}\b"):
        choose(name, evidence, 3)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_in_two_halves_changes_nothing(name, make_evidence):
    evidence = make_evidence(30)
    halves = [evidence.at(torch.arange(0, 13)), evidence.at(torch.arange(13, 30))]
    joined = {}
    for field in fields(Evidence):
        if field.name.endswith("_BB"):  # relates candidates of one half to those of the other
            joined[field.name] = getattr(evidence, field.name)
            continue
        axis = 1 if field.name.endswith("_KBC") else 0
        joined[field.name] = torch.cat([getattr(half, field.name) for half in halves], axis)
    expected = ids_and_weights(choose(name, evidence, 6))
    assert ids_and_weights(choose(name, Evidence(**joined), 6)) == expected


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(16, 12), norm, nn.ReLU(), nn.Dropout(0.4))
        self.frozen = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.2)).requires_grad_(False)
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        return self.head(self.frozen(self.body(images.flatten(1))))


@pytest.fixture
def pool(make_examples):
    data = make_examples(count=40)
    return data.ids_N, data.fetch(torch.arange(40)).float() / 100 - 1, data.targets_N


@pytest.fixture
def known(make_evidence):
    """What the user's own loop would give to the methods that need it."""
    evidence = make_evidence(40)

    def fields_of(name):
        entry = ENTRIES[name]
        given = FROM_CALLER | ({entry.companion.fills} if entry.companion else set())
        return {field: getattr(evidence, field) for field in entry.needs & given}

    return fields_of


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("micro_batch", [1, 9, 39])
def test_micro_batches_do_not_change_the_choice(name, micro_batch, pool, make_table, known):
    model = Net(nn.Identity())
    table = make_table(pool[0])

    def chosen(size):
        chooser = Chooser(model, name, share=0.2, irreducible=table, micro_batch=size)
        return ids_and_weights(chooser.select(pool, known=known(name)))

    ours, whole = chosen(micro_batch), chosen(None)
    assert [id_ for id_, _ in ours] == [id_ for id_, _ in whole]
    assert [w for _, w in ours] == pytest.approx([w for _, w in whole], rel=1e-4)


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("batchnorm", ["batch", "running"])
@pytest.mark.parametrize("mode", ["train", "eval", "frozen part in eval", "root differs"])
def test_choosing_leaves_the_model_as_it_was(name, batchnorm, mode, pool, make_table, known):
    model = Net(nn.BatchNorm1d(12))
    model(pool[1]).sum().backward()
    model.train(mode != "eval")
    if mode == "frozen part in eval":
        model.frozen.eval()
    if mode == "root differs":
        model.training = False
    state = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    inputs = [part.clone() for part in pool]
    choose_from = Chooser(model, name, irreducible=make_table(pool[0]), batchnorm=batchnorm)
    choose_from(pool, known(name))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(map(torch.equal, pool, inputs))


@pytest.mark.parametrize("name", POOLED)
def test_the_chooser_supplies_what_the_method_needs(name, pool, make_table, known):
    chooser = Chooser(Net(nn.BatchNorm1d(12)), name, share=0.25, irreducible=make_table(pool[0]))
    chosen = chooser(pool, known(name))
    assert chosen.batch[0].tolist() == chosen.selection.ids_k.tolist()
    assert len(chosen.selection) == 10
    rows = torch.tensor([pool[0].tolist().index(i) for i in chosen.batch[0].tolist()])
    assert torch.equal(chosen.batch[1], pool[1][rows])
    assert torch.equal(chosen.batch[2], pool[2][rows])


@pytest.mark.parametrize("name", SCORED)
def test_a_method_is_no_random_choice_in_disguise(name, make_evidence):
    """With other evidence for the same ids and seed the choice differs."""
    one, other = make_evidence(200, seed=0), make_evidence(200, seed=1)
    other = replace(other, ids_B=one.ids_B)
    if name.startswith(
        "grad-norm-is"
    ):  # uniform until it pays; it does once a few norms dwarf the rest
        one, other = (replace(e, grad_norm_bound_B=e.grad_norm_bound_B**20) for e in (one, other))
    if name in ("irreducible-filter", "uniform@filtered"):  # random among what is plausible
        one, other = (replace(e, irreducible_B=4 * e.irreducible_B) for e in (one, other))
    assert ids_and_weights(choose(name, one, 20)) != ids_and_weights(choose(name, other, 20))
