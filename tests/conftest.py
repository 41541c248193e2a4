"""Small data and pools that every test can afford.

Fixtures are factories: a test says what matters to it, the rest is drawn from a fixed seed.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys

import numpy as np
import pytest
import torch

from goldiprox.data import cifar, folders, glue, mnist, sources
from goldiprox.data.datasets import ImageStore, make_dataset
from goldiprox.data.examples import Examples
from goldiprox.data.preprocess import ImagePreprocessor
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.data.text import TextPreprocessor
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import Evidence
from goldiprox.training.task import Task

# Tiny tensors: a second thread costs more than it brings, above all under -n. Programs that tests
# start have as many: on some processors the last digits depend on it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Read when the hub's library is imported: without it a test waits a minute for an absent network.
os.environ["HF_HUB_OFFLINE"] = "1"


def images_and_labels(count, shape, classes, seed):
    """Images whose class shows in their brightness, with overlap: losses differ and go down."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(0, classes, (count,), generator=generator)
    noise = torch.randn((count, *shape), generator=generator) * 45
    centres = torch.randn((classes, *shape), generator=generator) * 35 + 128
    images = (centres[labels_N] + noise).clamp(0, 255).to(torch.uint8)
    return images, labels_N


@pytest.fixture
def make_examples():
    """Examples with ids that are not their positions and a few wrong labels."""

    def make(count=70, shape=(1, 4, 4), classes=3, seed=0, stride=1):
        images, labels_N = images_and_labels(count * stride, shape, classes, seed)
        store = ImageStore(images)
        ids_N = torch.randperm(count * stride, generator=torch.Generator().manual_seed(seed + 1))
        ids_N = ids_N[:count]
        true_N = labels_N[ids_N]
        used_N = true_N.clone()
        used_N[::7] = (used_N[::7] + 1) % classes
        return Examples(
            store=store, ids_N=ids_N, rows_N=ids_N, targets_N=used_N, true_targets_N=true_N
        )

    return make


@pytest.fixture
def make_task(make_examples):
    """A task whose evaluation set differs from its training set."""

    def make(count=70, shape=(1, 4, 4), classes=3, seed=0, augment=False):
        train = make_examples(count, shape, classes, seed)
        images = train.store.images_NCHW
        preprocess = ImagePreprocessor.measure(images, torch.arange(len(images)))
        if augment:
            preprocess = dataclasses.replace(preprocess, crop_padding=1, flip=True)
        else:
            preprocess = preprocess.without_augmentation()
        return Task(
            train=train,
            evaluation=make_examples(40, shape, classes, seed + 5),
            preprocess=preprocess,
            num_classes=classes,
        )

    return make


class Texts:
    """A store of texts, like a data set's."""

    example_shape = ()

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def fetch(self, rows_B):
        return [self.texts[row] for row in rows_B.tolist()]

    def thumbnail(self, row):
        return b""


WORDS = ["the", "a", "film", "plot", "was", "is", "good", "bad", "dull", "never", "and", "cast"]


def texts_and_labels(count, classes, seed):
    """Texts of 1 to 12 words whose class shows in a word that most of them hold."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(0, classes, (count,), generator=generator)
    texts = []
    for label in labels_N.tolist():
        length = int(torch.randint(1, 13, (1,), generator=generator))
        words = [WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=generator)]
        if torch.rand((), generator=generator) < 0.8:
            words[length // 2] = f"sign{label}"
        texts.append(" ".join(words))
    return texts, labels_N


@pytest.fixture
def make_text_task():
    """A task of short texts with a few wrong labels; ids are not positions."""

    def examples(count, classes, seed):
        texts, true_N = texts_and_labels(count, classes, seed)
        ids_N = torch.randperm(count, generator=torch.Generator().manual_seed(seed + 1))
        used_N = true_N[ids_N].clone()
        used_N[::7] = (used_N[::7] + 1) % classes
        return Examples(
            store=Texts(texts),
            ids_N=ids_N,
            rows_N=ids_N,
            targets_N=used_N,
            true_targets_N=true_N[ids_N],
        )

    def make(count=70, classes=3, seed=0):
        return Task(
            train=examples(count, classes, seed),
            evaluation=examples(40, classes, seed + 5),
            preprocess=TextPreprocessor(),
            num_classes=classes,
        )

    return make


@pytest.fixture
def make_tiny_splits():
    """Splits of a tiny data set of one's own, with label noise."""

    def make(count=240, shape=(1, 4, 4), classes=3, seed=0, **config):
        images, labels_N = images_and_labels(count, shape, classes, seed)
        dataset = make_dataset(
            "tiny",
            images,
            labels_N,
            torch.arange(0, count, 5),
            class_names=[f"class {c}" for c in range(classes)],
            source="drawn in tests/conftest.py",
        )
        return make_splits(dataset, DataConfig(dataset="tiny", **config))

    return make


@pytest.fixture
def make_table():
    """An irreducible-loss table for some ids, its values drawn from a seed."""

    def make(ids_N, seed=0, provenance=None):
        ids = np.asarray(ids_N, dtype=np.int64)
        values = np.random.default_rng(seed).gamma(2.0, 0.4, ids.size).astype(np.float32)
        return ScoreTable(
            ids_N=ids,
            columns={IRREDUCIBLE_LOSS: values},
            provenance=provenance or {"fingerprint": "f", "label_digest": "l"},
        )

    return make


def drawn_field(name, sizes, generator):
    """A plausible tensor for a field of Evidence, its shape read off its name."""
    letters = name.rsplit("_", 1)[1]
    shape = [sizes[letter] for letter in letters]
    values = torch.randn(shape, generator=generator)
    if name == "ids_B":
        return torch.randperm(10 * sizes["B"], generator=generator)[: sizes["B"]]
    if name == "targets_B":
        return torch.randint(0, sizes["C"], shape, generator=generator)
    if "log_probs" in name:
        return values.mul(2).log_softmax(-1)
    return values.abs() if letters == "B" else values


@pytest.fixture
def make_evidence():
    """Evidence with every field that Evidence has, whatever later methods add to it."""

    def make(size, classes=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        sizes = {"B": size, "C": classes, "D": 5, "K": 3}
        names = [field.name for field in dataclasses.fields(Evidence)]
        found = {name: drawn_field(name, sizes, generator) for name in names}
        if classes == 1:
            found["loss_B"] = torch.rand(size, generator=generator)
        else:
            rows = torch.arange(size)
            found["loss_B"] = -found["log_probs_BC"][rows, found["targets_B"]]
        assert all(math.prod(v.shape) == 0 or v.isfinite().all() for v in found.values())
        return Evidence(**found)

    return make


@pytest.fixture
def no_data_around(monkeypatch, tmp_path):
    """Neither data of this machine nor what could download them."""
    monkeypatch.delenv("GOLDIPROX_DATA_DIR", raising=False)
    for module in (cifar, folders, glue, mnist, sources):
        monkeypatch.setattr(module, "CACHE", tmp_path / "no-cache")
    for name in ("torchvision.datasets", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
