"""What autograd's graph tells of a result: from which parameters it comes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["reachable"]


def reachable(result: Tensor, among: Iterable[Tensor] = ()) -> list[Tensor]:
    """The leaf tensors that autograd reaches from a result, each once.

    Args:
        result: any tensor.
        among: tensors that count as leaves although they are results themselves, as the parameters
            of a scripted module's copy are.
    """
    if result.grad_fn is None:
        return [result] if result.requires_grad else []
    made = {tensor.grad_fn: tensor for tensor in among if tensor.grad_fn is not None}
    found: list[Tensor] = []
    seen: set[Any] = {result.grad_fn}
    stack: list[Any] = [result.grad_fn]
    while stack:
        node = stack.pop()
        leaf = made.get(node) if node in made else getattr(node, "variable", None)
        if leaf is not None:
            found.append(leaf)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return found
