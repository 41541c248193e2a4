"""The table of methods."""

import pytest

from goldiprox.schema import ConfigError, Evidence
from goldiprox.selection.methods import METHODS, Method, method, register
from goldiprox.selection.selectors import RandomChoice

FIELDS = set(Evidence.__dataclass_fields__)


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_is_complete(name):
    entry = METHODS[name]
    assert entry.name == name
    assert name == name.lower()
    assert "_" not in name
    assert entry.needs <= FIELDS - {"ids_B"}
    assert min(map(len, (entry.summary, entry.source, entry.cost))) > 5


def test_the_papers_four_are_there_and_need_what_they_should():
    needs = {name: set(METHODS[name].needs) for name in ("uniform", "loss", "irreducible")}
    assert needs == {"uniform": set(), "loss": {"loss_B"}, "irreducible": {"irreducible_B"}}
    assert METHODS["rho-loss"].needs == {"loss_B", "irreducible_B"}
    forward = {name for name in ("uniform", "loss", "irreducible", "rho-loss")
               if METHODS[name].needs_forward}  # fmt: skip
    assert forward == {"loss", "rho-loss"}
    assert METHODS["rho-loss"].needs_irreducible
    assert not METHODS["loss"].needs_irreducible


def test_an_unknown_name_gets_a_hint_and_the_list():
    with pytest.raises(ConfigError, match=r'unknown method "rho-los" \(did you mean "rho-loss"'):
        method("rho-los")
    with pytest.raises(ConfigError, match="known: uniform, loss, "):
        method("xyz")


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr("goldiprox.selection.methods.METHODS", dict(METHODS))
    entry = Method(
        name="my-own",
        selector=RandomChoice(),
        needs=frozenset(),
        summary="mine",
        source="here",
        cost="nothing",
    )
    assert register(entry) is entry
    assert method("my-own") is entry
    with pytest.raises(ConfigError, match=r'"my-own" is registered already'):
        register(entry)
    assert "my-own" not in METHODS
