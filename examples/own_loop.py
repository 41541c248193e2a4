"""RHO-LOSS in a training loop of one's own: two lines more than plain training.

Run: python examples/own_loop.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import goldiprox


def main(epochs: int = 10) -> float:
    # Any map-style data set; with_ids makes its batches (ids, images, labels).
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    data = goldiprox.with_ids(TensorDataset(images, torch.tensor(digits.target)))
    train, holdout, test = (
        Subset(data, range(start, stop)) for start, stop in ((0, 700), (700, 1400), (1400, 1797))
    )

    # Irreducible losses: a model trained on the holdout set scores the training set, once.
    small = fit(torch.nn.Linear(64, 10), holdout, epochs)
    table = goldiprox.irreducible_losses(small, DataLoader(train, batch_size=256))

    # The loop: `choose` picks 10 % of each pool of 320.
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    choose = goldiprox.Chooser(model, "rho-loss", share=0.1, irreducible=table)
    for _ in range(10 * epochs):
        for pool in DataLoader(train, batch_size=320, shuffle=True):
            chosen = choose(pool)
            _, inputs, labels = chosen.batch
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            optimizer.zero_grad()
            (losses * chosen.weights).mean().backward()
            optimizer.step()

    with torch.no_grad():
        _, inputs, labels = next(iter(DataLoader(test, batch_size=len(test))))
        return float((model(inputs).argmax(1) == labels).float().mean())


def fit(model: torch.nn.Module, data: Subset, epochs: int) -> torch.nn.Module:
    """Plain training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for _, inputs, labels in DataLoader(data, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model


if __name__ == "__main__":
    print(f"accuracy {main():.1%}")
