"""Which classes a trained model takes for which: where structured label noise comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from goldiprox.batch import model_output
from goldiprox.config import TrainConfig
from goldiprox.data.splits import Splits
from goldiprox.evidence.mode import scoring_mode
from goldiprox.records.files import write_json
from goldiprox.schema import ConfigError
from goldiprox.training.loop import train
from goldiprox.training.optimization import resolved
from goldiprox.training.task import Report, Task

__all__ = ["confusion_matrix"]

BATCH = 512


def confusion_matrix(
    splits: Splits, config: TrainConfig, out: Path, *, report: Report | None = None
) -> dict[str, Any]:
    """Train a model on the training part and count what it takes the holdout set for.

    Args:
        splits: the data; the test set is looked at only for the curve, never counted.
        config: settings of the model's run.
        out: the JSON file to write: ``class_names``, ``matrix`` (row the label, column the class
            predicted, counts) and where it comes from.
        report: told of progress.

    Returns:
        What was written.

    Raises:
        ConfigError: if there is no holdout set to count on.
    """
    if not len(splits.holdout):
        raise ConfigError("no holdout set to count confusions on; use --holdout-mode split")
    config = resolved(config, splits.train.store.example_shape)
    task = Task(
        train=splits.train,
        evaluation=splits.validation,
        preprocess=splits.preprocess,
        num_classes=splits.num_classes,
    )
    trained = train(config, task, report=report)
    feeder = trained.feeder
    counts_CC = torch.zeros((splits.num_classes, splits.num_classes), dtype=torch.int64)
    with torch.no_grad(), scoring_mode(trained.model, "running"):
        for positions_B in torch.arange(len(splits.holdout)).split(BATCH):
            batch = feeder(splits.holdout, positions_B)
            predicted_B = model_output(trained.model, batch).argmax(1).cpu()
            pairs = torch.stack([splits.holdout.targets_N[positions_B], predicted_B])
            counts_CC.index_put_((pairs[0], pairs[1]), torch.tensor(1), accumulate=True)
    written = {
        "class_names": list(splits.dataset.class_names),
        "matrix": counts_CC.tolist(),
        "dataset": splits.dataset.name,
        "fingerprint": splits.dataset.fingerprint,
        "model": config.model,
        "accuracy": float(counts_CC.diag().sum() / counts_CC.sum()),
    }
    write_json(out, written)
    return written
