import numpy as np

from objective_cases import B, drawn

NAME = "regression"
OUTPUT, TARGETS = 3 * drawn(B), 2 * drawn(B, seed=6)


def loss_of(z, t):
    errors = np.abs(np.ravel(z) - np.ravel(t))
    return float(np.mean(errors**2))
