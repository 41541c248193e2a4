"""Real data sets, where this machine has them: run with ``pytest -m data tests/data``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from goldiprox.data.datasets import load
from goldiprox.data.fashion_mnist import SYSTEM_FASHION_MNIST
from goldiprox.data.splits import DataConfig, make_splits

pytestmark = pytest.mark.data

MEASURE = """
import tempfile, pathlib, io
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
from goldiprox.data.datasets import load

def peak():
    # Not getrusage: a child inherits its parent's peak there, and the test would measure nothing.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

buffer = io.BytesIO()
Image.new("RGB", (32, 32)).save(buffer, format="JPEG")
with tempfile.TemporaryDirectory() as folder:  # libraries load before the measurement
    path = pathlib.Path(folder) / "warm.parquet"
    pq.write_table(pa.table({"img": [buffer.getvalue()] * 20, "label": [0, 1] * 10}), path)
    load(str(path))
before = peak()
dataset = load("cifar10")
data = dataset.store.images_NCHW.numel() / 2**20
print(data, peak() - before)
"""


@pytest.fixture
def cifar_folder() -> Path:
    named = os.environ.get("GOLDIPROX_DATA_DIR")
    if not named:
        pytest.skip("GOLDIPROX_DATA_DIR is not set")
    if not any((Path(named) / sub / "train.parquet").exists() for sub in ("", "cifar10")):
        pytest.skip(f"no CIFAR-10 in {named}")
    return Path(named)


def test_fashion_mnist_of_debian():
    if not SYSTEM_FASHION_MNIST.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    dataset = load("fashion-mnist", data_dir=SYSTEM_FASHION_MNIST)
    assert dataset.store.images_NCHW.shape == (70_000, 1, 28, 28)
    assert torch.equal(dataset.train_rows, torch.arange(60_000))
    assert torch.bincount(dataset.labels_N[dataset.train_rows]).tolist() == [6000] * 10
    assert torch.bincount(dataset.labels_N[dataset.test_rows]).tolist() == [1000] * 10
    # The figures everybody publishes for this data set.
    assert dataset.preprocess.mean_C[0] == pytest.approx(0.2860, abs=5e-5)
    assert dataset.preprocess.std_C[0] == pytest.approx(0.3530, abs=5e-5)
    assert dataset.class_names[int(dataset.labels_N[0])] == "ankle boot"


def test_cifar10(cifar_folder):
    dataset = load("cifar10", data_dir=cifar_folder)
    assert dataset.store.images_NCHW.shape == (60_000, 3, 32, 32)
    assert torch.bincount(dataset.labels_N[dataset.train_rows]).tolist() == [5000] * 10
    assert torch.bincount(dataset.labels_N[dataset.test_rows]).tolist() == [1000] * 10
    assert dataset.preprocess.mean_C == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    splits = make_splits(dataset, DataConfig(dataset="cifar10", label_noise=0.1))
    assert [len(part) for part in (splits.train, splits.holdout, splits.validation)] == [
        25_000, 22_500, 2_500,
    ]  # fmt: skip
    wrong = int(splits.full.corrupted_N.sum())
    assert abs(wrong - 4500) < 100
    pool = splits.train.fetch(torch.arange(320))
    augmentation = splits.preprocess.draw(320, torch.Generator().manual_seed(0))
    batch = splits.preprocess(pool, augmentation)
    assert batch.shape == (320, 3, 32, 32)
    assert batch.isfinite().all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_reading_cifar10_costs_its_bytes_and_a_small_constant(cifar_folder):
    environment = os.environ | {"GOLDIPROX_DATA_DIR": str(cifar_folder)}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True
    )
    data, cost = map(float, run.stdout.split())
    print(f"images {data:.0f} MiB, peak of resident memory rose by {cost:.0f} MiB")
    assert 0.9 * data < cost < data + 64


@pytest.mark.parametrize(
    "name, train, test, positive", [("cola", 8551, 1043, 0.70), ("sst2", 67349, 872, 0.56)]
)
def test_glue(name, train, test, positive):
    named = os.environ.get("GOLDIPROX_DATA_DIR")
    if not named or not (Path(named) / name / "train.parquet").exists():
        pytest.skip(f"no {name} in GOLDIPROX_DATA_DIR")
    dataset = load(name, data_dir=Path(named))
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (train, test)
    assert float(dataset.labels_N[dataset.train_rows].double().mean()) == pytest.approx(
        positive, abs=0.01
    )
    assert all(dataset.store.fetch(torch.arange(100)))
