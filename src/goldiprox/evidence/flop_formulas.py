"""FLOPs of operations that ``torch.utils.flop_counter`` counts wrongly or not at all.

A multiply-add is two operations. Formulas get the arguments of the operation as they are, and its
result as ``out_val``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

__all__ = ["FORMULAS", "looks_expensive"]

aten = torch.ops.aten

Formula = Callable[..., int]


# --- convolutions ----------------------------------------------------------------------------


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *args: Any, out_val: Any = None
) -> int:
    """Each of the two gradients costs what the forward pass does: torch forgets the groups."""
    del out_val
    transposed, wanted = args[4], args[7]
    positions = prod((x if transposed else grad).shape[2:])
    return 2 * x.shape[0] * positions * weight.numel() * (bool(wanted[0]) + bool(wanted[1]))


# --- matrix products -------------------------------------------------------------------------


def _mm(a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """[m, k] times [k, n]; of a sparse factor only the stored elements count."""
    del args, kwargs, out_val
    if a.layout is not torch.strided:
        return int(2 * a._nnz() * b.shape[-1])
    if b.layout is not torch.strided:
        return int(2 * b._nnz() * a.shape[0])
    return 2 * a.numel() * b.shape[-1]


def _added_mm(
    bias: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    del bias, args, kwargs, out_val
    return _mm(a, b)


def _batched(a: Tensor, b: Tensor) -> int:
    return 2 * a.numel() * b.shape[-1]


def _added_batched(
    bias: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    del bias, args, kwargs, out_val
    return _batched(a, b)


def _mv(a: Tensor, v: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    del v, args, kwargs, out_val
    return 2 * (a.numel() if a.layout is torch.strided else a._nnz())


def _added_mv(
    bias: Tensor, a: Tensor, v: Tensor, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    del bias, args, kwargs, out_val
    return _mv(a, v)


def _transposed_weight(x: Tensor, weight: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """``x @ weight.T``, whatever way the weight is packed."""
    del weight, args, kwargs
    return int(2 * x.shape[-1] * out_val.numel())


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, *expanded: Sequence[int], out_val: Any = None, **kwargs: Any
) -> int:
    """Sum over a * b * c, as nn.Bilinear has it: a product of matrices over all their axes."""
    del out_val, kwargs
    parts = []
    for tensor, axes in zip((a, b, c), expanded, strict=False):
        for axis in sorted(axes):
            tensor = tensor.unsqueeze(axis)
        parts.append(tensor.shape)
    return int(2 * prod(torch.broadcast_shapes(*parts)))


def _distances(a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    del args, kwargs, out_val
    return 2 * a.numel() * b.shape[-2]


def _distances_backward(grad: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any = None) -> int:
    del grad, args, out_val
    return 2 * _distances(a, b)


# --- attention -------------------------------------------------------------------------------


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, out_val: Any = None, **kw: Any) -> int:
    """Scores and their sum over values; masked positions count as well."""
    del args, kw, out_val
    return 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, out_val: Any = None, **kw: Any
) -> int:
    """Twice the forward pass, and the scores once more, which fused kernels do not keep."""
    del grad, args, kw, out_val
    return 2 * _attention(q, k, v) + 2 * prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]


def _multi_head(
    q: Tensor, k: Tensor, v: Tensor, width: int, heads: int, *weights: Any, out_val: Any = None,
    **kwargs: Any,
) -> int:  # fmt: skip
    """Projections of queries, keys, values and the result, and attention between them."""
    del heads, weights, kwargs, out_val
    projections = 2 * width * width * (2 * _rows(q) + _rows(k) + _rows(v))
    return projections + 4 * _rows(q) * k.shape[-2] * width


def _encoder_layer(
    x: Tensor, width: int, heads: int, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    """A whole layer of nn.TransformerEncoder, run as one operation."""
    del kwargs, out_val
    feed_forward = args[11].numel() + args[13].numel()
    return int(_multi_head(x, x, x, width, heads) + 2 * _rows(x) * feed_forward)


def _rows(x: Tensor) -> int:
    return prod(x.shape[:-1])


# --- recurrent layers ------------------------------------------------------------------------


def _recurrent(x: Tensor, matrices: Sequence[Tensor]) -> int:
    """Each matrix meets each position once, in whatever layer and direction it is."""
    return 2 * _rows(x) * sum(m.numel() for m in matrices if m.dim() == 2)


def _one_layer(x: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    del kwargs, out_val
    return _recurrent(x, args[:2])


def _one_layer_backward(x: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Gradients of the inputs and of the weights; this operation always makes both."""
    del kwargs, out_val
    return 2 * _recurrent(x, args[:2])


def _whole_network(
    x: Tensor, weights: Sequence[Tensor], *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    del args, kwargs, out_val
    return _recurrent(x, weights)


def _whole_network_backward(
    x: Tensor, weights: Sequence[Tensor], stride: int, *args: Any, out_val: Any = None
) -> int:
    del out_val
    both_ways, wanted = args[-5], args[-1]
    first = [weights[0], weights[stride]] if both_ways else [weights[0]]
    return 2 * _recurrent(x, weights) - (0 if wanted[0] else _recurrent(x, first))


# --- Fourier transforms ----------------------------------------------------------------------


def _fourier(length: int, batch: int, *, real: bool) -> int:
    """5 N log2 N, the convention of FFTW's authors; half for a real signal."""
    operations = 5 * length * log2(length) if length > 1 else 0
    return round(batch * operations * (0.5 if real else 1))


def _fft(x: Tensor, axes: Sequence[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    del args, kwargs
    # The larger side: one-sided results and inputs leave out what is known by symmetry.
    whole = x if x.numel() >= out_val.numel() else out_val
    length = prod(whole.shape[axis] for axis in axes)
    real = not (x.is_complex() and out_val.is_complex())
    return _fourier(length, whole.numel() // max(1, length), real=real)


def _formulas(table: dict[str, Formula]) -> dict[Any, Formula]:
    """By operation; this version of torch may lack some."""
    found: dict[Any, Formula] = {}
    for names, formula in table.items():
        found |= {getattr(aten, name): formula for name in names.split() if hasattr(aten, name)}
    return found


FORMULAS = dict(flop_registry) | _formulas(
    {
        "convolution_backward": _convolution_backward,
        "mm mm_ _sparse_mm _int_mm": _mm,
        "addmm addmm_ _addmm_activation _sparse_addmm": _added_mm,
        "addbmm addbmm_ baddbmm baddbmm_": _added_batched,
        "mv dot vdot": _mv,
        "addmv addmv_": _added_mv,
        "linear mkldnn_linear _weight_int8pack_mm": _transposed_weight,
        "_trilinear": _trilinear,
        "_cdist_forward _euclidean_dist": _distances,
        "_cdist_backward": _distances_backward,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "_scaled_dot_product_attention_math_for_mps": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
        "_native_multi_head_attention": _multi_head,
        "_transformer_encoder_layer_fwd": _encoder_layer,
        "mkldnn_rnn_layer": _one_layer,
        "mkldnn_rnn_layer_backward": _one_layer_backward,
        "_cudnn_rnn miopen_rnn": _whole_network,
        "_cudnn_rnn_backward miopen_rnn_backward": _whole_network_backward,
        "_fft_c2c _fft_r2c _fft_c2r": _fft,
    }
)
"""Operation -> formula: torch's own, and ours in front of them."""

EXPENSIVE = re.compile(
    r"(^|_)((add|bb?|badd)?b?mm|(add)?mv|v?dot|linear|conv(\dd|olution)?|attention|rnn|lstm|gru|fft"
    r"|linalg|cholesky|[cp]dist|householder|ormqr|lu|solve|svd|eig|inverse|trilinear|encoder)(_|$)"
)
"""Words in the names of products, transforms and decompositions."""

CHEAP = re.compile(r"vector_norm|cross|diagonal|unpack|check_errors|fused_lstm_cell")


def looks_expensive(operation: Any) -> bool:
    """Whether an operation without a formula may do more than a few steps for each element.

    Products, transforms and decompositions by their names; whatever does not come with torch.
    """
    namespace, _, name = operation.name().partition("::")
    if namespace not in ("aten", "prim", "prims"):
        return True
    name = name.partition(".")[0]
    return EXPENSIVE.search(name) is not None and CHEAP.search(name) is None
