import math

import torch

from goldiprox.seeds import stream
from objective_cases import B, drawn

NAME = "language-model"
L, V = 6, 11


def token_labels():
    labels = torch.randint(0, V, (B, L), generator=stream(2))
    labels[torch.rand(B, L, generator=stream(3)) < 0.3] = -100
    labels[:, 2] = 4  # so that every text has a token that counts
    return labels


OUTPUT, TARGETS = drawn(B, L, V), token_labels()


def loss_of(z, t):
    pairs = [(z[i], t[i + 1]) for i in range(L - 1) if t[i + 1] != -100]
    terms = [math.log(sum(map(math.exp, row))) - row[y] for row, y in pairs]
    return sum(terms) / len(terms)
