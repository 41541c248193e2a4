import gzip
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from goldiprox.data import fashion_mnist as module
from goldiprox.data.datasets import load
from goldiprox.schema import DataError

TRAIN, TEST, SIDE = 30, 20, 4


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


def contents() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (TRAIN, SIDE, SIDE)),
        "train-labels-idx1-ubyte": np.arange(TRAIN) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (TEST, SIDE, SIDE)),
        "t10k-labels-idx1-ubyte": np.arange(TEST) % 10,
    }


def write(folder: Path, compressed: bool = True, **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in contents().items():
        raw = changed.get(name.replace("-", "_"), idx_bytes(array))
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)
    return folder


@pytest.fixture(autouse=True)
def nothing_elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("GOLDIPROX_DATA_DIR", raising=False)
    monkeypatch.setattr(module, "SYSTEM_FASHION_MNIST", tmp_path / "no-system")
    monkeypatch.setattr(module, "CACHE", tmp_path / "no-cache")

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    fake = types.ModuleType("torchvision.datasets")
    fake.FashionMNIST = offline
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)


def error(**kwargs) -> str:
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("sub", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_files_are_read_from_every_published_layout(tmp_path, compressed, sub):
    write(tmp_path / "d" / sub, compressed)
    dataset = load("fashion-mnist", data_dir=tmp_path / "d")
    expected = contents()
    pixels = np.concatenate(
        [expected["train-images-idx3-ubyte"], expected["t10k-images-idx3-ubyte"]]
    )
    np.testing.assert_array_equal(dataset.store.fetch(torch.arange(50))[:, 0], pixels)
    assert dataset.labels_N.tolist() == [*(i % 10 for i in range(30)), *(i % 10 for i in range(20))]
    assert dataset.train_rows.tolist() == list(range(30))
    assert dataset.test_rows.tolist() == list(range(30, 50))
    assert dataset.class_names[9] == "ankle boot"
    assert dataset.source == str(tmp_path / "d" / sub)
    assert not dataset.preprocess.augments


def test_compressed_and_plain_files_have_one_fingerprint(tmp_path):
    one = load("fashion-mnist", data_dir=write(tmp_path / "a", compressed=True))
    two = load("fashion-mnist", data_dir=write(tmp_path / "b", compressed=False))
    assert one.fingerprint == two.fingerprint


def test_environment_comes_before_the_system_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SYSTEM_FASHION_MNIST", write(tmp_path / "system"))
    assert load("fashion-mnist").source == str(tmp_path / "system")
    monkeypatch.setenv("GOLDIPROX_DATA_DIR", str(write(tmp_path / "env")))
    assert load("fashion-mnist").source == str(tmp_path / "env")
    named = write(tmp_path / "named")
    assert load("fashion-mnist", data_dir=named).source == str(named)


def test_a_named_folder_without_the_files_never_falls_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SYSTEM_FASHION_MNIST", write(tmp_path / "system"))
    (tmp_path / "empty").mkdir()
    message = error(data_dir=tmp_path / "empty")
    assert f"fashion-mnist not found in {tmp_path / 'empty'}" in message
    assert "train-images-idx3-ubyte" in message
    assert "not a folder" in error(data_dir=tmp_path / "absent")


def test_absent_files_name_every_way_to_get_them():
    message = error()
    for part in (
        "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", ".gz", "--data-dir",
        "GOLDIPROX_DATA_DIR", "apt install dataset-fashion-mnist", "goldiprox[vision]",
        "no route to host",
    ):  # fmt: skip
        assert part in message


def test_an_environment_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GOLDIPROX_DATA_DIR", str(tmp_path / "gone"))
    assert f"GOLDIPROX_DATA_DIR {tmp_path / 'gone'} is not a folder" in error()


def test_download_lands_in_the_cache(tmp_path, monkeypatch):
    def download(root, train, download):
        assert download
        write(Path(root) / "FashionMNIST/raw", compressed=False)

    monkeypatch.setattr(sys.modules["torchvision.datasets"], "FashionMNIST", download)
    assert load("fashion-mnist").source == str(tmp_path / "no-cache/FashionMNIST/raw")


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    message = error(data_dir=tmp_path)
    assert f"{tmp_path}: t10k-labels-idx1-ubyte missing beside train-images" in message


def damaged(name: str, raw: bytes) -> tuple[str, bytes]:
    return name.replace("-", "_"), raw


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte"


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "name, raw, parts",
    [
        (IMAGES, idx_bytes(np.zeros(30)), ["0x00000801", "0x00000803 expected"]),
        (IMAGES, b"<html>not found</html>", ["not an idx file", "0x3c68746d"]),
        (IMAGES, b"", ["not an idx file"]),
        (IMAGES, idx_bytes(np.zeros((30, 4, 4)))[:10], ["header: 10 bytes", "16 expected"]),
        (IMAGES, idx_bytes(np.zeros((30, 4, 4)))[:-5], ["475 bytes of data found, 480 expected"]),
        (IMAGES, idx_bytes(np.zeros((30, 4, 4))) + b"x", ["more data than the 480 bytes"]),
        (
            IMAGES,
            struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**10, 2**10),
            ["(2147483648, 1024, 1024)", "more than the file can hold"],
        ),
        (IMAGES, idx_bytes(np.zeros((30, 5, 4))), ["4x4 pixels, but 5x4 in"]),
        (LABELS, idx_bytes(np.zeros(29)), ["29 labels found, 30 expected"]),
        (LABELS, idx_bytes(np.arange(30)), ["label 29 found (row 29), 0..9 expected"]),
    ],
)  # fmt: skip
def test_damaged_files_are_named_with_what_was_found_and_expected(
    tmp_path, compressed, name, raw, parts
):
    write(tmp_path, compressed, **dict([damaged(name, raw)]))
    message = error(data_dir=tmp_path)
    for part in [*parts, str(tmp_path), name, "again"]:
        assert part in message


@pytest.mark.parametrize("name", [LABELS, IMAGES])
def test_a_cut_or_corrupted_gzip_file_is_named(tmp_path, name):
    path = write(tmp_path) / f"{name}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-12])
    message = error(data_dir=tmp_path)
    assert str(path) in message
    assert "damaged or truncated" in message
    corrupt = bytearray(whole)
    corrupt[-7] ^= 0xFF  # in the checksum
    path.write_bytes(bytes(corrupt))
    assert "CRC" in error(data_dir=tmp_path)
    path.write_bytes(whole[:11])
    assert str(path) in error(data_dir=tmp_path)
