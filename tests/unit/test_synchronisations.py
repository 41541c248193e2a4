"""How often a choice makes the host wait for the device, counted on a device that is pretended.

Tensors of the pretended device say that they are on another device than the CPU, so the code takes
the paths that it takes on a GPU; what it computes is computed on the CPU. Whatever needs a value,
or a size that depends on values, or copies between the two, is counted as a GPU would wait for it.
What a GPU would refuse, such as adding tensors of the two places, is refused.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from goldiprox.chooser import Chooser
from goldiprox.schema import DataError, Evidence, NonFinite
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS, method
from goldiprox.selection.ranking import keyed_uniforms, shuffled
from goldiprox.selection.selectors import StatefulSelector

PLACE = torch.device("meta")  # the one other device that every build of PyTorch knows

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class There(torch.Tensor):
    """A tensor on the pretended device; its values are in ``here``."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=PLACE,
        )

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"There({self.here})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} ran outside of the pretended device")


class PretendedDevice(TorchDispatchMode):
    """Runs tensors of the pretended device and notes every wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat, tree = pytree.tree_flatten((args, kwargs))
        there = [value for value in flat if isinstance(value, There)]
        wanted = kwargs.get("device")
        goes_there = wanted is not None and torch.device(wanted) == PLACE
        if not there and not goes_there:
            return func(*args, **kwargs)
        comes_here = bool(there) and wanted is not None and not goes_there
        self._note(func, args, kwargs, flat, comes_here, goes_there and not there)
        here_args, here_kwargs = pytree.tree_unflatten(
            [value.here if isinstance(value, There) else value for value in flat], tree
        )
        if "device" in here_kwargs:
            here_kwargs["device"] = torch.device("cpu")
        found = func(*here_args, **here_kwargs)
        if comes_here or func.overloadpacket is aten._local_scalar_dense:
            return pytree.tree_map_only(torch.Tensor, torch.clone, found)
        # What an operation changes in place, it hands back.
        changed = {id(value.here): value for value in there}
        return pytree.tree_map_only(
            torch.Tensor,
            lambda value: changed[id(value)] if id(value) in changed else There(value),
            found,
        )

    def _note(self, func, args, kwargs, flat, comes_here, leaves):
        """Count a wait; refuse what a GPU would."""
        packet = func.overloadpacket
        masks = packet in INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        copies = comes_here or (packet is aten._to_copy and leaves)
        if packet in WAITS or masks or (copies and not (leaves and kwargs.get("non_blocking"))):
            self.waits.append(str(func))
        if packet is aten.copy_ or leaves:
            assert packet is not aten.copy_, "a copy in place between devices: say to(...)"
            return
        stray = [v for v in flat if isinstance(v, torch.Tensor) and not isinstance(v, There)]
        assert all(value.dim() == 0 for value in stray), f"{func} of tensors in two places"


def there(evidence):
    """The same evidence on the pretended device."""
    values = {field.name: getattr(evidence, field.name) for field in fields(Evidence)}
    return Evidence(**{name: v if v is None else There(v.clone()) for name, v in values.items()})


def fresh(entry):
    selector = entry.selector
    return selector.start() if isinstance(selector, StatefulSelector) else selector


PER_STEP = [name for name, entry in METHODS.items() if entry.each_step]
VARIANTS = [
    *("rho-loss@gumbel=0.5", "loss@boltzmann=2", "rho-loss@class-balanced"),
    *("grad-norm-bound@stratified=4", "loss@gumbel@class-balanced", "uniform@filtered"),
]


def choose_there(name, evidence, k):
    """Two choices, as a method may have to prepare something at the first; waits of each."""
    here, other = fresh(method(name)), fresh(method(name))
    expected = [here(evidence, k, stream(0, "selection", step)) for step in range(2)]
    waits = []
    for step, choice in enumerate(expected):
        with PretendedDevice() as device:
            found = other(there(evidence), k, stream(0, "selection", step))
        waits.append(device.waits)
        assert found.ids_k.device == found.weights_k.device == PLACE
        assert set(found.ids_k.here.tolist()) == set(choice.ids_k.tolist())
        order, theirs = choice.ids_k.argsort(), found.ids_k.here.argsort()
        assert torch.allclose(choice.weights_k[order], found.weights_k.here[theirs], rtol=1e-4)
        assert torch.equal(evidence.ids_B[found.positions_k.here], found.ids_k.here)
    return waits


@pytest.mark.parametrize("name", [*PER_STEP, *VARIANTS])
@pytest.mark.parametrize("k", [1, 6, 32])
def test_a_choice_waits_for_the_device_at_most_once(name, k, make_evidence):
    evidence = make_evidence(64)
    for waits in choose_there(name, evidence, k):
        assert len(waits) <= 1, waits


@pytest.fixture
def network(monkeypatch):
    """Makes the same small network, here or on the pretended device."""
    # There is no autocast for the pretended device; in full precision it does nothing anyway.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())

    def make(place):
        torch.manual_seed(0)
        layers = [nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 4)]
        for layer in layers:
            for key, parameter in layer.named_parameters():
                if place == PLACE:
                    setattr(layer, key, nn.Parameter(There(parameter.data.clone())))
        return nn.Sequential(*layers)

    return make


@pytest.mark.parametrize("name", [name for name in PER_STEP if not METHODS[name].from_caller])
def test_a_whole_step_of_choosing_waits_at_most_once(name, network, make_table):
    """With the look-up of irreducible losses and the scoring pass."""
    entry = METHODS[name]
    ids, table = torch.randperm(100, generator=stream(1))[:40], make_table(range(100))
    inputs = torch.randn(40, 16, generator=stream(2))
    labels = torch.randint(0, 4, (40,), generator=stream(3))
    beside = {} if entry.companion is None else {entry.companion.fills: torch.rand(40)}
    chooser = Chooser(network("here"), name, share=0.2, irreducible=table)
    expected = [chooser.select((ids, inputs, labels), known=beside) for _ in range(2)]
    waits = []
    with PretendedDevice() as device:
        chooser = Chooser(network(PLACE), name, share=0.2, irreducible=table)
        for choice in expected:
            device.waits.clear()
            pool = tuple(There(part.clone()) for part in (ids, inputs, labels))
            known = {field: There(value.clone()) for field, value in beside.items()}
            found = chooser.select(pool, known=known)
            waits.append(list(device.waits))
            assert set(found.ids_k.here.tolist()) == set(choice.ids_k.tolist())
    # Exact gradient norms compare the rows of each of the two layers, and a loss, with a probe's.
    allowed = 4 if name == "grad-norm" else 1
    # The table moves there once; the first time, norms are rehearsed and their order is checked.
    assert len(waits[0]) <= allowed + (4 if name == "grad-norm" else 1), waits[0]
    assert len(waits[1]) <= allowed, waits[1]


TARGETS = {
    "classification": torch.randint(0, 4, (40,), generator=stream(3)),
    "multilabel": torch.randint(0, 2, (40, 4), generator=stream(3)).float(),
    "regression": torch.randn(40, 4, generator=stream(3)),
    "regression-huber": torch.randn(40, 4, generator=stream(3)),
}


@pytest.mark.parametrize("name", ["loss", "rho-loss", "grad-norm-bound"])
@pytest.mark.parametrize("objective", TARGETS)
def test_a_step_of_any_objective_waits_at_most_once(name, objective, network, make_table):
    ids, table = torch.randperm(100, generator=stream(1))[:40], make_table(range(100))
    inputs, targets = torch.randn(40, 16, generator=stream(2)), TARGETS[objective]
    settings = {"share": 0.2, "irreducible": table, "objective": objective}
    expected = Chooser(network("here"), name, **settings).select((ids, inputs, targets))
    with PretendedDevice() as device:
        chooser = Chooser(network(PLACE), name, **settings)
        pool = tuple(There(part.clone()) for part in (ids, inputs, targets))
        chooser.select(pool)  # the table moves there
        device.waits.clear()
        found = chooser.select(pool)
        assert len(device.waits) <= 1, device.waits
    if name != "grad-norm-bound":  # ties break by a random number of each step
        assert set(found.ids_k.here.tolist()) == set(expected.ids_k.tolist())


INVALID = {
    "classification": (-100, "label -100"),
    "multilabel": (7.0, "not 0 or 1"),
    "regression": (torch.nan, "NaN or infinite"),
}


@pytest.mark.parametrize("name", ["loss", "grad-norm-bound", "grad-norm"])
@pytest.mark.parametrize("objective", INVALID)
def test_invalid_targets_are_named_there_too(name, objective, network):
    """Where they are not looked at: their losses are NaN, and then it is asked why."""
    value, words = INVALID[objective]
    ids, inputs = torch.arange(40) + 100, torch.randn(40, 16, generator=stream(2))
    targets = TARGETS[objective].clone()
    targets[7] = value
    with PretendedDevice():
        pool = tuple(There(part.clone()) for part in (ids, inputs, targets))
        choose = Chooser(network(PLACE), name, objective=objective)
        with pytest.raises(DataError, match=rf"{words}.*\b107\b"):
            choose.select(pool)


@pytest.mark.parametrize("name", ["loss", "rho-loss", "grad-norm-bound", "irreducible"])
def test_ids_may_stay_on_the_host(name, network, make_table):
    ids, table = torch.randperm(100, generator=stream(1))[:40], make_table(range(100))
    inputs = torch.randn(40, 16, generator=stream(2))
    labels = torch.randint(0, 4, (40,), generator=stream(3))
    chooser = Chooser(network("here"), name, share=0.2, irreducible=table)
    expected = chooser((ids, inputs, labels))
    with PretendedDevice():
        chooser = Chooser(network(PLACE), name, share=0.2, irreducible=table)
        found = chooser((ids, There(inputs), There(labels)))
    assert torch.equal(here(found.batch[0]), expected.batch[0])
    assert torch.equal(here(found.batch[1]), expected.batch[1])
    assert torch.equal(here(found.selection.ids_k), expected.selection.ids_k)


def here(tensor):
    return tensor.here if isinstance(tensor, There) else tensor


@pytest.mark.parametrize("name", ["loss@filtered", "divbs@filtered", "jest@filtered"])
def test_a_filter_adds_one_wait_for_how_many_are_left(name, make_evidence):
    for waits in choose_there(name, make_evidence(64), 6):
        assert len(waits) == 2, waits


def test_importance_sampling_waits_once_with_its_gate_open_too(make_evidence):
    evidence = make_evidence(64)
    steep = replace(evidence, grad_norm_bound_B=evidence.grad_norm_bound_B**20)
    selection = fresh(method("grad-norm-is"))(steep, 8, stream(0))
    assert selection.weighted
    for waits in choose_there("grad-norm-is", steep, 8):
        assert len(waits) == 1, waits


@pytest.mark.parametrize("name", ["loss", "irreducible-filter", "divbs", "jest", "grad-norm-is"])
def test_what_is_not_finite_is_refused_there_too(name, make_evidence):
    evidence = make_evidence(20)
    for field in ("loss_B", "irreducible_B", "features_BD", "pair_logits_BB", "grad_norm_bound_B"):
        getattr(evidence, field)[7] = torch.nan
    with (
        pytest.raises(NonFinite, match=rf"\b{int(evidence.ids_B[7])}\b"),
        PretendedDevice(),
    ):
        fresh(method(name))(there(evidence), 3, stream(0))


def test_random_numbers_are_the_same_there():
    ids = torch.randint(0, 2**40, (200,), generator=stream(6))
    with PretendedDevice() as device:
        found = keyed_uniforms(There(ids), stream(1), 3)
    assert torch.equal(found.here, keyed_uniforms(ids, stream(1), 3))
    assert device.waits == []


def test_random_numbers_of_copies_are_the_same_there():
    ids = torch.randint(0, 40, (200,), generator=stream(6))
    scores = torch.randint(0, 3, (200,), generator=stream(7)).float()
    with PretendedDevice() as device:
        found = keyed_uniforms(There(ids), stream(1), 3, There(scores))
        order = shuffled(There(ids), 5, There(scores))
    assert torch.equal(found.here, keyed_uniforms(ids, stream(1), 3, scores))
    assert torch.equal(order.here, shuffled(ids, 5, scores))
    assert device.waits == []


@pytest.mark.parametrize("name", [*PER_STEP, *VARIANTS])
def test_ties_and_copies_are_the_same_there(name, make_evidence):
    few = make_evidence(12)
    evidence = few.at(torch.arange(48) % 12)
    evidence = replace(evidence, ids_B=torch.arange(48) // 2 * 7)
    choose_there(name, evidence, 9)


WAITING = {
    "a value": lambda x: float(x.sum()),
    "a truth": lambda x: bool((x > 0).any()),
    "an integer": lambda x: x.argmax().item(),
    "a mask": lambda x: x[x > 0],
    "a masked assignment": lambda x: x.__setitem__(x > 0, x[:1]),
    "positions": lambda x: (x > 0).nonzero(),
    "a transfer": lambda x: x.cpu(),
    "a transfer to the device": lambda x: torch.ones(3).to(x.device),
    "a comparison": lambda x: torch.equal(x, x),
    "distinct values": lambda x: x.unique(),
    "selected values": lambda x: x.masked_select(x > 0),
    "an index that is a tensor of one": lambda x: x[x.argmax()],
}


@pytest.mark.parametrize("what", WAITING)
def test_the_pretended_device_notices(what):
    with PretendedDevice() as device:
        WAITING[what](There(torch.tensor([1.0, -2.0, 3.0])))
    assert device.waits


def test_the_pretended_device_computes_without_waiting_and_refuses_two_places():
    values = torch.tensor([1.0, -2.0, 3.0])
    with PretendedDevice() as device:
        x = There(values.clone())
        x[torch.ones(1, dtype=torch.int64).to(PLACE, non_blocking=True)] = 5.0
        y = torch.where(x > 2, x, torch.zeros(3, device=x.device)).topk(2).values
        with pytest.raises(AssertionError, match="two places"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError):
            x.numpy()
    assert device.waits == []
    assert y.here.tolist() == [5.0, 3.0]
