"""Gradient norms that a plain forward pass pays for: of the last layer, and of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from goldiprox.schema import ConfigError

__all__ = [
    "LastLayer",
    "feature_norms",
    "last_layer_gradient_norms",
    "last_layer_norms",
    "logit_gradient_norms",
    "penultimate_features",
    "scaled_by_features",
]


def logit_gradient_norms(log_probs_BC: Tensor, targets_B: Tensor) -> Tensor:
    """Norm of the cross-entropy's gradient with respect to the logits, ||p - onehot||_2.

    Not the norm over the parameters, but what bounds it up to a factor that depends on the
    network alone (Katharopoulos & Fleuret 2018); the RHO-LOSS reference code ranks by it.

    Args:
        log_probs_BC: log-probabilities, nats.
        targets_B: int64 class labels.

    Returns:
        bound_B, between 0 and sqrt(2).
    """
    wrong_BC = log_probs_BC.exp().scatter_(1, targets_B.unsqueeze(1), 0.0)
    # 1 - p_y as the sum of the others: where p_y is near 1, the subtraction would cancel. Squares
    # are taken in float64: they leave the range of float32 at a margin of 45 nats.
    missing_B = wrong_BC.sum(1)
    wide = torch.float32 if log_probs_BC.device.type == "mps" else torch.float64
    wrong_B = torch.linalg.vector_norm(wrong_BC, dim=1, dtype=wide)
    return torch.hypot(missing_B, wrong_B).to(log_probs_BC.dtype)


def last_layer_gradient_norms(
    log_probs_BC: Tensor, targets_B: Tensor, features_BD: Tensor, *, bias: bool = True
) -> Tensor:
    """Exact norm of the cross-entropy's gradient over the last linear layer alone.

    ||p - onehot|| * sqrt(||h||^2 + 1), without the 1 if the layer has no bias. Published code
    passes it off as GraNd, which is the norm over all layers.

    Args:
        log_probs_BC: log-probabilities, nats.
        targets_B: int64 class labels.
        features_BD: the last layer's inputs h; see :func:`penultimate_features`.
        bias: whether the layer has a bias.

    Returns:
        grad_norm_B of the last layer.

    Raises:
        ConfigError: if the features are not one vector for each example.
    """
    bound_B = logit_gradient_norms(log_probs_BC, targets_B)
    norm_B = feature_norms(features_BD, targets_B.shape[0]).to(log_probs_BC.dtype)
    return scaled_by_features(bound_B, norm_B, bias=bias)


def scaled_by_features(bound_B: Tensor, norm_B: Tensor, *, bias: bool) -> Tensor:
    """The last layer's gradient norm, from the logits' and that of the layer's inputs.

    Args:
        bound_B: as :func:`logit_gradient_norms` gives it.
        norm_B: as :func:`feature_norms` gives it.
        bias: whether the layer has a bias, which is one more input that is always 1.

    Returns:
        grad_norm_B of the last layer.
    """
    return bound_B * (torch.hypot(norm_B, norm_B.new_ones(())) if bias else norm_B)


def last_layer_norms(slope: Tensor, features: Tensor, *, bias: bool) -> Tensor:
    """Exact norm of any loss's gradient over the last linear layer alone.

    Args:
        slope: gradient of each example's loss with respect to the layer's outputs: [B], [B, C], or
            [B, L, C] of a layer that runs on every token.
        features: the layer's inputs, [B, D] or [B, L, D].
        bias: whether the layer has a bias.

    Returns:
        grad_norm_B of the last layer.

    Raises:
        ConfigError: if the two do not fit each other.
    """
    size = slope.shape[0]
    if features.dim() == 2:
        norm_B = feature_norms(features, size)
        slope = slope.unsqueeze(1) if slope.dim() == 1 else slope.flatten(1)
        bound_B = torch.linalg.vector_norm(slope, dim=1)
        return scaled_by_features(bound_B, norm_B, bias=bias)
    if features.dim() != 3 or slope.dim() != 3 or features.shape[:2] != slope.shape[:2]:
        require_vectors(features, size)  # refuses
    # The gradient is a sum over tokens of outer products, s_t h_t'.
    features = features.to(slope.dtype)
    products_BLL = features @ features.mT + float(bias)
    square_B = (products_BLL * (slope @ slope.mT)).sum((1, 2))
    return square_B.clamp(min=0).sqrt()


def require_vectors(features_BD: Tensor, size: int) -> Tensor:
    """Hand features through, if there is one vector for each of ``size`` examples.

    Raises:
        ConfigError: if not, as where the last linear layer runs on every token.
    """
    if features_BD.dim() != 2 or features_BD.shape[0] != size:
        raise ConfigError(
            f"the last linear layer's inputs have the shape {tuple(features_BD.shape)}; needed is "
            f"one vector for each of the {size} examples: the model must end in a linear layer "
            "that runs once an example"
        )
    return features_BD


def feature_norms(features_BD: Tensor, size: int) -> Tensor:
    """Norm of the last layer's inputs, ||h||.

    Args:
        features_BD: the inputs h.
        size: B, how many examples there are.

    Returns:
        norm_B, of at least single precision.

    Raises:
        ConfigError: if the features are not one vector for each example.
    """
    features_BD = require_vectors(features_BD, size)
    wide = torch.promote_types(features_BD.dtype, torch.float32)
    norm_B: Tensor = torch.linalg.vector_norm(features_BD, dim=1, dtype=wide)
    return norm_B


class LastLayer:
    """What :func:`penultimate_features` caught in the latest forward pass."""

    def __init__(self) -> None:
        self._layer: nn.Linear | None = None
        self._features: Tensor | None = None

    @property
    def features_BD(self) -> Tensor:
        """The input of the last linear layer, detached.

        Raises:
            ConfigError: if no linear layer ran yet.
        """
        if self._features is None:
            raise ConfigError(
                "no linear layer has run inside penultimate_features; run the model in its block, "
                "and check that the model ends in nn.Linear"
            )
        return self._features

    @property
    def bias(self) -> bool:
        """Whether that layer has a bias."""
        return self._layer is not None and self._layer.bias is not None

    def _catch(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        self._layer, self._features = layer, args[0].detach()


@contextmanager
def penultimate_features(model: nn.Module, layer: str | None = None) -> Iterator[LastLayer]:
    """Catch the input of the model's last linear layer in ordinary forward passes.

    Args:
        model: any module.
        layer: name of the layer, as in ``model.named_modules()``; None takes the linear layer
            that runs last.

    Yields:
        An object whose ``features_BD`` and ``bias`` are filled by each forward pass in the block.

    Raises:
        ConfigError: if there is no such linear layer.
    """
    if layer is None:
        chosen = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not chosen:
            raise ConfigError("the model has no nn.Linear, so it has no last linear layer")
    else:
        linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        if layer not in linears:
            known = ", ".join(linears) or "none"
            raise ConfigError(
                f'"{layer}" is no linear layer of the model; its linear layers: {known}'
            )
        chosen = [linears[layer]]
    caught = LastLayer()
    handles = [module.register_forward_pre_hook(caught._catch) for module in chosen]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
