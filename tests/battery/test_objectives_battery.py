"""Every registered method with every objective: it chooses as it should, or refuses at once."""

import copy

import pytest
import torch
from torch import nn

from goldiprox.batch import take
from goldiprox.chooser import Chooser
from goldiprox.objectives import OBJECTIVES
from goldiprox.schema import ConfigError
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS, method
from objective_cases import cases

VARIANTS = ["loss@gumbel=0.5", "rho-loss@boltzmann=2", "grad-norm-bound@stratified=4",
            "uniform@class-balanced", "loss@filtered"]  # fmt: skip
ENTRIES = {name: method(name) for name in [*METHODS, *VARIANTS]}
POOLED = [name for name, entry in ENTRIES.items() if entry.each_step and not entry.from_caller]
PAIRS = [
    (name, trained_for)
    for name in POOLED
    for trained_for in OBJECTIVES
    if OBJECTIVES[trained_for].has_classes or not ENTRIES[name].needs_classes
]
CASES = cases()
B, D = 31, 6
IDS = torch.randperm(10 * B, generator=stream(0))[:B]


class Net(nn.Module):
    """A small model with everything that scoring has to leave alone."""

    def __init__(self, outputs, *, tokens=None):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Embedding(tokens, D) if tokens else nn.Identity()
        self.body = nn.Sequential(nn.Linear(D, 10), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(10, outputs or 1)
        self.flat = outputs is None

    def forward(self, x):
        found = self.head(self.body(self.first(x)))
        return found.squeeze(1) if self.flat else found


def case(trained_for):
    """A model and a pool for an objective."""
    entry, known = OBJECTIVES[trained_for], CASES[trained_for]
    targets, width = known.TARGETS[:B], known.OUTPUT.shape[-1]
    if entry.per_token:
        return Net(width, tokens=width), (IDS, targets.clamp(min=0), targets)
    outputs = width if known.OUTPUT.dim() > 1 else None
    return Net(outputs), (IDS, torch.randn(B, D, generator=stream(3)), targets)


@pytest.fixture
def chosen(make_table):
    """Ids and weights that a fresh chooser chooses, by id."""
    table = make_table(IDS.numpy())

    def choose(name, trained_for, model, batch, **settings):
        chooser = Chooser(model, name, share=0.2, irreducible=table, objective=trained_for,
                          **settings)  # fmt: skip
        companion = ENTRIES[name].companion
        known = None
        if companion is not None:
            known = {companion.fills: (batch[0] % 7).float() / 7}
        selection = chooser.select(batch, known=known)
        assert len(selection) == 6
        assert selection.weights_k.isfinite().all()
        return sorted(zip(selection.ids_k.tolist(), selection.weights_k.tolist(), strict=True))

    return choose


@pytest.mark.parametrize(("name", "trained_for"), PAIRS)
def test_permuting_and_cutting_the_pool_changes_no_choice(name, trained_for, chosen):
    model, batch = case(trained_for)
    straight = chosen(name, trained_for, model, batch)
    order = torch.randperm(B, generator=stream(5))
    for found in (
        chosen(name, trained_for, model, take(batch, order)),
        chosen(name, trained_for, model, batch, micro_batch=9),
    ):
        assert [id_ for id_, _ in found] == [id_ for id_, _ in straight]
        assert [w for _, w in found] == pytest.approx([w for _, w in straight], rel=1e-4)


@pytest.mark.parametrize(("name", "trained_for"), PAIRS)
def test_choosing_leaves_the_model_as_it_was(name, trained_for, chosen):
    model, batch = case(trained_for)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    chosen(name, trained_for, model, batch)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("trained_for", OBJECTIVES)
def test_a_method_that_needs_classes_refuses_at_once(name, trained_for, make_table):
    model, _ = case(trained_for)
    table = make_table(IDS.numpy())
    if (name, trained_for) in PAIRS:
        Chooser(model, name, irreducible=table, objective=trained_for)
        return
    with pytest.raises(ConfigError, match=f'"{name}" needs classes.*"{trained_for}"'):
        Chooser(model, name, irreducible=table, objective=trained_for)


BY_GRADIENT = ["grad-norm-bound", "grad-norm-last-layer"]
DECIDED = [
    (name, trained_for)
    for name in ["loss", "grad-norm", *BY_GRADIENT]
    for trained_for in OBJECTIVES
    # The slope of an absolute error has the same size whatever the target.
    if trained_for != "regression-absolute" or name not in BY_GRADIENT
]


@pytest.mark.parametrize(("name", "trained_for"), DECIDED)
def test_the_objective_decides_the_choice(name, trained_for, chosen):
    """With other targets, other examples are chosen."""
    model, batch = case(trained_for)
    ids, inputs, targets = batch
    other = (ids, inputs, targets.roll(5, 0))
    assert chosen(name, trained_for, model, batch) != chosen(name, trained_for, model, other)
