import math

import torch

from goldiprox.seeds import stream
from objective_cases import B, C, drawn

NAME = "classification"
OUTPUT, TARGETS = drawn(B, C), torch.randint(0, C, (B,), generator=stream(4))


def loss_of(z, t):
    return math.log(sum(map(math.exp, z))) - z[t]
