"""CoLA and SST-2, in the layouts of the GLUE benchmark."""

from __future__ import annotations

import csv
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch

from goldiprox.data.messages import first_line
from goldiprox.data.parquet import find_shards, read_texts
from goldiprox.data.settings import Reading
from goldiprox.data.sources import CACHE, absent, data_roots, download_timeout, from_parquet
from goldiprox.data.store import Dataset, TextStore, make_dataset
from goldiprox.schema import DataError

__all__ = ["cola", "sst2"]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """``folder`` of GLUE's archive; ``text`` and ``label`` are columns of its TSV files."""

    name: str
    folder: str
    classes: tuple[str, str]
    text: int
    label: int
    header: bool


COLA = _Task(
    name="cola", folder="CoLA", classes=("unacceptable", "acceptable"), text=3, label=1,
    header=False,
)  # fmt: skip
SST2 = _Task(
    name="sst2", folder="SST-2", classes=("negative", "positive"), text=0, label=1, header=True
)


def cola(data_dir: Path | None = None) -> Dataset:
    """CoLA: 8,551 + 1,043 sentences, grammatically acceptable or not.

    The published validation set is the test set: GLUE's own test set has no labels.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set; its store holds texts.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    return _glue(COLA, data_dir)


def sst2(data_dir: Path | None = None) -> Dataset:
    """SST-2: 67,349 + 872 phrases and sentences of film reviews, negative or positive.

    The published validation set is the test set: GLUE's own test set has no labels.

    Args:
        data_dir: look here only; None looks in the usual places and then tries to download.

    Returns:
        The data set; its store holds texts.

    Raises:
        DataError: if files are absent (the message says every way to get them) or damaged.
    """
    return _glue(SST2, data_dir)


def _glue(task: _Task, data_dir: Path | None) -> Dataset:
    subs = (task.name, task.folder, f"glue/{task.name}", *([""] if data_dir else []))
    places = [place / sub for place in data_roots(data_dir) for sub in subs]
    cached = CACHE.expanduser() / "glue"
    if data_dir is None:
        places.append(cached / task.name)
    for place in places:
        if (found := _read(task, place)) is not None:
            return found
    failure: Exception | None = None
    if data_dir is None:
        try:
            hub = importlib.import_module("huggingface_hub")
            with download_timeout():
                hub.snapshot_download(
                    "nyu-mll/glue",
                    repo_type="dataset",
                    allow_patterns=f"{task.name}/*.parquet",
                    local_dir=str(cached),
                )
            if (found := _read(task, cached / task.name)) is not None:
                return found
        except (ImportError, OSError, RuntimeError) as error:
            failure = error
    raise absent(
        task.name,
        data_dir,
        "train.parquet and validation.parquet in the hub's layout (columns sentence and label), or "
        f"the folder {task.folder} of GLUE's archive (train.tsv and dev.tsv),",
        "be online with goldiprox[text] installed",
        failure,
    )


def _read(task: _Task, place: Path) -> Dataset | None:
    if not place.is_dir():
        return None
    if (place / "train.tsv").is_file():
        return _read_tsv(task, place)
    train, test = find_shards(place, tests=("validation",))
    if not train:
        return None
    if not test:
        raise DataError(f"{place}: {train[0].name} found, but no validation*.parquet beside it")
    columns = Reading(input_column="sentence", label_column="label")
    return from_parquet(task.name, place, read_texts(train, test, columns, task.classes))


def _read_tsv(task: _Task, place: Path) -> Dataset:
    texts: list[str] = []
    labels: list[int] = []
    counts = []
    for name in ("train.tsv", "dev.tsv"):
        path = place / name
        if not path.is_file():
            raise DataError(f"{path} missing beside train.tsv")
        found = _rows(task, path)
        texts += [text for text, _ in found]
        labels += [label for _, label in found]
        counts.append(len(found))
    return make_dataset(
        task.name, TextStore(texts), torch.tensor(labels), torch.arange(counts[0], sum(counts)),
        class_names=task.classes, source=str(place),
    )  # fmt: skip


def _rows(task: _Task, path: Path) -> list[tuple[str, int]]:
    """Sentences and labels of one of GLUE's tables.

    Raises:
        DataError: naming the file and the line.
    """
    found: list[tuple[str, int]] = []
    number = 0
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            # Quotation marks are part of the sentences.
            rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            for number, row in enumerate(rows, 1):
                if number == 1 and task.header:
                    continue
                if len(row) <= max(task.text, task.label) or row[task.label] not in ("0", "1"):
                    raise DataError(
                        f"{path}: line {number} has no sentence and label 0 or 1 in columns "
                        f"{task.text + 1} and {task.label + 1}; get the file again"
                    )
                found.append((row[task.text].strip(), int(row[task.label])))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(
            f"{path}: cannot be read behind line {number} ({first_line(error)}); it has to be a "
            "table in UTF-8 with tabs; get the file again"
        ) from error
    return found
