"""A case of each built-in objective, for the tests that run over all of them.

A module here is a case: the objective's ``NAME``, an ``OUTPUT`` of a model and fitting ``TARGETS``
for the same ``B`` examples, and ``loss_of(z, t)``: the loss of one example, given as plain numbers
and lists, as one would write it down.
"""

import importlib
import pkgutil

import torch

from goldiprox.seeds import stream

B, C = 40, 3
IDS = torch.randperm(400, generator=stream(0))[:B]


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=stream(seed))


def cases():
    """Every case by its objective's name."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    return {module.NAME: module for module in modules}
