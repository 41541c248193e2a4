"""Joint choice (JEST) in contrastive training: which halves of digits belong together?

The two views of an example are the upper and the lower half of an image. Of a third of the training
pairs the lower half comes from another image. A small reference model has seen clean pairs only.

Run: python examples/contrastive.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goldiprox
from goldiprox.selection.joint import sigmoid_pair_losses


class Towers(nn.Module):
    """A tower for each view; logits are scaled and shifted cosine similarities."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.upper = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 16))
        self.lower = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 16))
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.shift = nn.Parameter(torch.tensor(-5.0))

    def forward(self, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """Logits of every upper half with every lower half."""
        left = nn.functional.normalize(self.upper(upper), dim=1)
        right = nn.functional.normalize(self.lower(lower), dim=1)
        return self.log_scale.exp() * left @ right.T + self.shift


def train(model: Towers, upper: torch.Tensor, lower: torch.Tensor, steps: int) -> Towers:
    """Plain contrastive training on random batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(upper), (64,))
        loss = sigmoid_pair_losses(model(upper[chosen], lower[chosen])).sum() / 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main(method: str = "jest", epochs: int = 100) -> tuple[float, float]:
    """Share of broken pairs among those chosen, and accuracy of matching 100 clean test pairs."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32)
    upper, lower = images[:, :4].flatten(1), images[:, 4:].flatten(1)
    reference = train(Towers(32), upper[:600], lower[:600], steps=400)  # clean pairs

    noisy = lower[600:1600].clone()
    broken = torch.rand(1000) < 1 / 3
    noisy[broken] = noisy[broken].roll(1, 0)
    data = goldiprox.with_ids(TensorDataset(upper[600:1600], noisy))

    learner = Towers(64)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    choose = goldiprox.Chooser(learner, method, share=0.2)
    chosen_broken = []
    for _ in range(epochs):
        for pool in DataLoader(data, batch_size=250, shuffle=True):
            _, tops, bottoms = pool
            with torch.no_grad():
                known = {
                    "pair_logits_BB": learner(tops, bottoms),
                    "reference_pair_logits_BB": reference(tops, bottoms),
                }
            ids, tops, bottoms = choose(pool, known).batch
            loss = sigmoid_pair_losses(learner(tops, bottoms)).sum() / len(ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            chosen_broken.append(broken[ids].float().mean())
    with torch.no_grad():
        logits = learner(upper[1600:1700], lower[1600:1700])
    matched = (logits.argmax(1) == torch.arange(100)).float().mean()
    return float(torch.stack(chosen_broken).mean()), float(matched)


if __name__ == "__main__":
    for name in ("uniform", "jest"):
        share, matched = main(name)
        print(f"{name:>8}: {share:.1%} of the chosen pairs are broken, {matched:.0%} matched")
