import math

from objective_cases import B, C, drawn

NAME = "multilabel"
OUTPUT, TARGETS = drawn(B, C), (drawn(B, C, seed=5) > 0).float()


def loss_of(z, t):
    p = [1 / (1 + math.exp(-v)) for v in z]
    return sum(-math.log(q if y else 1 - q) for q, y in zip(p, t, strict=True)) / len(p)
