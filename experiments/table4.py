"""Frozen against updated irreducible-loss model, with label noise: Table 4 and Figure 7 in small.

Mindermann et al. 2022, appendix D. The paper: ResNet-18 on CIFAR-10, 20 % label noise; the frozen
model ends at 88.6 %, the updated one at 86.1 %, and takes 100 epochs where the frozen takes 80.
Here: Fashion-MNIST and an MLP unless told otherwise; learning rate of the irreducible-loss model a
hundredth of the target's, as there. Deviation: the accuracy of the irreducible-loss model over time
(Figure 7, right) is not drawn.

Run: python experiments/table4.py --out runs/table4   (the same command goes on if interrupted)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from goldiprox.config import CompareConfig
from goldiprox.data.datasets import load
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.records.files import write_json
from goldiprox.workflows.compare import compare

PAPER = {
    "CIFAR-10 (ResNet-18), 20 % noise, final accuracy": {"frozen": 0.886, "updated": 0.861},
    "epochs to the updated model's accuracy at 100 epochs": {"frozen": 80, "updated": 100},
}
METHODS = {"frozen": "rho-loss", "updated": "rho-loss-updating"}


def over_time(found: dict[str, Any]) -> dict[str, Any]:
    """Accuracies, corrupted shares and epochs to some targets, by how the model was kept."""
    entries = {entry["method"]: entry for entry in found["methods"]}
    curves = {kind: entries[name]["curve"] for kind, name in METHODS.items()}
    top = min(max(p["accuracy"]["mean"] for p in curve) for curve in curves.values())
    targets = [int(10_000 * share * top) / 10_000 for share in (0.9, 0.95, 1.0)]
    return {
        "share_corrupted_in_data": found["share_corrupted_in_data"],
        **{
            kind: {
                "final_accuracy": entries[METHODS[kind]]["final_accuracy"],
                "best_accuracy": entries[METHODS[kind]]["best_accuracy"],
                "corrupted": entries[METHODS[kind]]["selected_share"]["corrupted"],
                "epochs_to": {str(target): first_epoch(curve, target) for target in targets},
                "over_time": [
                    {
                        "epoch": point["epoch"],
                        "accuracy": point["accuracy"]["mean"],
                        "corrupted": point["corrupted"],
                    }
                    for point in curve
                ],
            }
            for kind, curve in curves.items()
        },
        "paper": PAPER,
    }


def first_epoch(curve: list[dict[str, Any]], target: float) -> float | None:
    """The first epoch at whose end the mean accuracy reaches the target."""
    return next((p["epoch"] for p in curve if p["accuracy"]["mean"] >= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.2)
    given = parser.parse_args()
    data = DataConfig(dataset=given.dataset, label_noise=given.noise)
    config = CompareConfig(
        methods=("uniform", *METHODS.values()),
        model=given.model,
        epochs=given.epochs,
        seeds=given.seeds,
    )
    splits = make_splits(load(given.dataset), data)
    command = f"python experiments/table4.py --out {given.out}"
    found = over_time(compare(splits, config, given.out, command=command).to_json())
    write_json(given.out / "table4.json", found)
    print(f"wrong labels in the data: {found['share_corrupted_in_data']:.1%}")
    for kind in METHODS:
        entry = found[kind]
        print(
            f"{kind:>8}  final {entry['final_accuracy']['mean']:.1%}  chosen wrong labels "
            f"{entry['corrupted']:.1%}  epochs to {json.dumps(entry['epochs_to'])}"
        )
    print(f"wrote {given.out / 'table4.json'}; the curves are in {given.out / 'report.html'}")


if __name__ == "__main__":
    main()
