"""The slow, obvious way, and the models that the fast way is compared on."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from goldiprox.evidence.gradients import gradient_norms


def reference_norms(model, inputs, targets, loss=F.cross_entropy, forward=None):
    """Float64, one example at a time, backward on its own loss, all of ``p.grad`` squared."""
    model = copy.deepcopy(model).double()

    def wide(t):
        return t.double() if t.is_floating_point() else t

    norms = []
    for i in range(len(targets)):
        model.zero_grad(set_to_none=True)
        if isinstance(inputs, dict):
            one = {key: wide(value[i : i + 1]) for key, value in inputs.items()}
        else:
            one = wide(inputs[i : i + 1])
        if forward is not None:
            outputs = forward(model, one)
        else:
            outputs = model(**one) if isinstance(one, dict) else model(one)
        loss(outputs, targets[i : i + 1]).sum().backward()
        squares = [
            p.grad.to_dense().square().sum() for p in model.parameters() if p.grad is not None
        ]
        norms.append(sum(squares, torch.zeros((), dtype=torch.float64)).sqrt())
    return torch.stack(norms)


class MLP(nn.Sequential):
    def __init__(self, inputs=20, hidden=32, classes=5):
        super().__init__(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )


class SmallCNN(nn.Module):
    """Three unpadded 3x3 convolutions with max-pooling, then 1024-128-256-classes."""

    def __init__(self, classes=10, width=64):
        super().__init__()
        layers = []
        for fan_in, fan_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(fan_in, fan_out, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        head = [nn.Linear(16 * width, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(256, classes))

    def forward(self, x):
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.short = nn.Sequential()
        if stride != 1 or fan_in != fan_out:
            self.short = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x):
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.short(x)
        return torch.relu_(y)


class ResNet18(nn.Module):
    """For 32x32 images: 3x3 stem, stages of 64/128/256/512, global average pool."""

    def __init__(self, classes=10, width=64):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks, fan_in = [], width
        for stage in range(4):
            for block in range(2):
                fan_out = width << stage
                blocks.append(Block(fan_in, fan_out, 2 if stage and not block else 1))
                fan_in = fan_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(fan_in, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def settled(model, shape=(16, 3, 32, 32)):
    """Give BatchNorm statistics and scales that are not the initial ones; evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.2, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(shape, generator=generator) * 1.5 + 0.3)
    return model.eval()


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        def split(t):
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Token model whose output layer is its input embedding; positions are embedded too."""

    def __init__(self, words=50, width=16, heads=2, depth=2, length=12):
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=0)
        self.place = nn.Embedding(length, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def token_loss(logits_BTC, tokens_BT):
    """Sum over positions of the cross-entropy of the next token: loss_B."""
    loss = F.cross_entropy(logits_BTC[:, :-1].mT, tokens_BT[:, 1:], reduction="none")
    return loss.sum(1)


def check(model, inputs, targets=None, *, slow=(), rtol=1e-5, **settings):
    """Compare in float32 and in float64, and say which parameters took the slow way."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    if targets is None:
        targets = torch.arange(len(first)) % 3
    loss = settings.get("per_example_loss", F.cross_entropy)
    forward = settings.get("forward")
    expected_B = reference_norms(model, inputs, targets, loss=loss, forward=forward)
    assert expected_B.max() > 1e-4, "a vanishing gradient compares equal to anything"
    found = gradient_norms(model, inputs, targets, **settings)
    torch.testing.assert_close(found.grad_norm_B.double(), expected_B, rtol=rtol, atol=1e-9)
    assert found.grad_norm_B.dtype == torch.float32
    assert set(found.slow_parameters) == set(slow)
    wide_model = copy.deepcopy(model).double()
    wide_inputs = inputs
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        wide_inputs = inputs.double()
    wide = gradient_norms(wide_model, wide_inputs, targets, **settings)
    torch.testing.assert_close(wide.grad_norm_B, expected_B, rtol=1e-9, atol=1e-12)
    return found


class Pooled(nn.Module):
    """Any feature extractor, then the mean over positions and a linear layer."""

    def __init__(self, *layers, width, classes=3):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        y = self.layers(x)
        return self.head(y.flatten(2).mean(2) if y.dim() > 2 else y)
