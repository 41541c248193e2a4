"""A selection method of one's own, by one decorator.

In a loop:       python examples/own_method.py
Against others:  cd examples; goldiprox compare digits --methods uniform,own_method:margin --out out
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import goldiprox


@goldiprox.method(
    "margin",
    needs="log_probs_BC targets_B",
    source="Scheffer et al. 2001, with the label in the best class's place",
    cost="1 forward over the pool",
)
def margin(evidence: goldiprox.Evidence) -> torch.Tensor:
    """Labels that another class comes closest to, or beats by most."""
    log_probs_BC, targets_B = evidence.need("log_probs_BC"), evidence.need("targets_B")
    label_B1 = log_probs_BC.gather(1, targets_B[:, None])
    others_BC = log_probs_BC.scatter(1, targets_B[:, None], float("-inf"))
    return others_BC.amax(1) - label_B1[:, 0]


def main(method: str | goldiprox.Method = margin, epochs: int = 20) -> float:
    """Accuracy on held-out digits after training on 10 % of every pool."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    train = goldiprox.with_ids(TensorDataset(images[:1400], labels[:1400]))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    choose = goldiprox.Chooser(model, method, share=0.1)
    for _ in range(epochs):
        for pool in DataLoader(train, batch_size=280, shuffle=True):
            chosen = choose(pool)
            _, inputs, targets = chosen.batch
            losses = F.cross_entropy(model(inputs), targets, reduction="none")
            optimizer.zero_grad()
            (losses * chosen.weights).mean().backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(images[1400:]).argmax(1) == labels[1400:]).float().mean())


if __name__ == "__main__":
    for name in ("uniform", "margin", "margin@gumbel=0.5", "margin@class-balanced"):
        print(f"{name:>22}  {main(name):.1%}")
