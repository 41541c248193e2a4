"""The command that finds out which classes are taken for which."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import Data, Shown, splits_of, told, wrote
from goldiprox.config import TrainConfig
from goldiprox.data.confusion import most_confused, read_matrix
from goldiprox.workflows.confusion import confusion_matrix
from goldiprox.workflows.outputs import is_confusion, require_output

__all__ = ["confusion"]


def confusion(
    data: Flat[Data],
    out: Path,
    model: str = "mlp",
    epochs: int = 5,
    batch: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Train a model plainly and count which classes it takes for which, on the holdout set.

    Args:
        out: The JSON file to write, to be used with --confusion.
        model: The model, see goldiprox train.
        epochs: Passes over the training set.
        batch: Examples per step.
        seed: Seed of the initial weights and of the order of the data.
        overwrite: Replace the file of --out even if it is no confusion matrix.
    """
    require_output(out, is_confusion, overwrite=overwrite)
    splits = splits_of(data)
    config = TrainConfig(
        model=model, method="uniform", batch=batch, pool=batch, epochs=epochs, seed=seed
    )
    with Shown() as shown:
        written = confusion_matrix(splits, config, out, report=shown.stage("training"))
    names = splits.dataset.class_names
    told({"accuracy": f"{written['accuracy']:.1%}"})
    for true, other in most_confused(read_matrix(str(out), names)):
        print(f"{names[true]:>22}  taken for {names[other]}")
    wrote(out)
