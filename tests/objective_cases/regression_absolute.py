import numpy as np

from objective_cases import B, drawn

NAME = "regression-absolute"
OUTPUT, TARGETS = 3 * drawn(B, 2), 2 * drawn(B, 2, seed=6)


def loss_of(z, t):
    errors = np.abs(np.ravel(z) - np.ravel(t))
    return float(np.mean(errors))
