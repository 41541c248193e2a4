"""Every data set by name, on tiny files in the layout it is published in, damaged ones too."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_errors import error
from PIL import Image

from goldiprox.commands.shared import splits_of
from goldiprox.data import files, mnist
from goldiprox.data.datasets import DATASETS, FOLDER_DATASETS, load
from goldiprox.data.settings import Reading
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import DataError

pytestmark = pytest.mark.usefixtures("no_data_around")

INLINE = Reading(workers=0)
READ_LAZILY = Reading(workers=0, lazy=True)


@pytest.mark.parametrize(
    "name, files",
    [
        ("mnist", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
        ("qmnist", ["qmnist-train-images-idx3-ubyte", "qmnist-test-labels-idx2-int"]),
        ("ambiguous-mnist", ["amnist_samples.pt", "amnist_labels.pt"]),
        ("cifar100", ["train.parquet", "fine_label", "cifar-100-python"]),
        ("cifar100-relevance", ["train.parquet", "fine_label"]),
        ("cinic10", ["train, valid and test", "CINIC-10.tar.gz"]),
        ("clothing1m", ["noisy_train_key_list.txt", "clean_label_kv.txt", "images"]),
        ("cola", ["train.parquet", "validation.parquet", "CoLA", "dev.tsv"]),
        ("sst2", ["train.parquet", "validation.parquet", "SST-2"]),
    ],
)
def test_what_is_absent_says_which_files_to_put_where(tmp_path, name, files):
    (tmp_path / "empty").mkdir()
    for message in (error(name), error(name, data_dir=tmp_path / "empty")):
        for part in files:
            assert part in message
    assert "GOLDIPROX_DATA_DIR" in error(name)
    assert name in {**DATASETS, **FOLDER_DATASETS}


# MNIST and its kin


def idx(array: np.ndarray, kind: str = "B") -> bytes:
    code = {"B": 8, "i": 12}[kind]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype({"B": ">u1", "i": ">i4"}[kind]).tobytes()


def write_mnist(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("t10k", 20)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx(np.arange(count) % 10))
        )
    return folder


def test_mnist_is_not_taken_for_fashion_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path / "d" / "mnist")
    dataset = load("mnist", data_dir=tmp_path / "d")
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (30, 20)
    assert dataset.labels_N.tolist() == [*(i % 10 for i in range(30)), *(i % 10 for i in range(20))]
    write_mnist(tmp_path / "other")  # in the folder itself: Fashion-MNIST's files have these names
    monkeypatch.setenv("GOLDIPROX_DATA_DIR", str(tmp_path / "other"))
    assert "not found" in error("mnist")
    assert load("mnist", data_dir=tmp_path / "other").fingerprint == dataset.fingerprint


def write_qmnist(folder: Path, extra: int = 25, labels: np.ndarray | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("test", 10 + extra)):
        images = np.full((count, 2, 2), 1)
        images[:, 0, 0] = np.arange(count)
        (folder / f"qmnist-{part}-images-idx3-ubyte").write_bytes(idx(images))
        wide = np.full((count, 8), 70_000)
        wide[:, 0] = np.arange(count) % 10
        if labels is not None and part == "test":
            wide[: len(labels), 0] = labels
        (folder / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(gzip.compress(idx(wide, "i")))
    return folder


def test_qmnists_extra_images_are_its_holdout_set(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "QMNIST_TEST", 10)
    dataset = load("qmnist", data_dir=write_qmnist(tmp_path / "QMNIST/raw").parent.parent)
    assert dataset.labels_N[:12].tolist() == [*range(10), 0, 1]
    assert dataset.test_rows.tolist() == list(range(30, 40))
    assert dataset.holdout_rows.tolist() == list(range(40, 65))
    assert dataset.store.fetch(dataset.holdout_rows)[:, 0, 0, 0].tolist() == list(range(10, 35))
    splits = make_splits(dataset, DataConfig(dataset="qmnist", validation=0.2))
    assert splits.config.holdout_mode == "own"
    assert [len(splits.train), len(splits.holdout), len(splits.validation)] == [30, 20, 5]


def test_damaged_qmnist_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "QMNIST_TEST", 10)
    few = write_qmnist(tmp_path / "few", extra=0)
    assert "10 images found; more than 10" in error("qmnist", data_dir=few)
    bad = write_qmnist(tmp_path / "bad", labels=np.array([1, 2, -5]))
    assert "label -5 found (row 2), 0..9 expected" in error("qmnist", data_dir=bad)
    path = bad / "qmnist-train-labels-idx2-int.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((30, 8)))))
    assert "not an idx file of 32-bit integers in 2 dimension(s)" in error("qmnist", data_dir=bad)


def test_ambiguous_mnist_repeats_a_sample_for_each_of_its_labels(tmp_path):
    place = tmp_path / "AmbiguousMNIST"
    place.mkdir()
    write_mnist(tmp_path / "mnist")
    samples = torch.rand(6, 1, 28, 28)
    torch.save(samples, place / "amnist_samples.pt")
    torch.save(torch.arange(24).view(6, 4) % 10, place / "amnist_labels.pt")
    dataset = load("ambiguous-mnist", data_dir=tmp_path)
    assert len(dataset.train_rows) == 24
    assert dataset.labels_N[:24].tolist() == [i % 10 for i in range(24)]
    images = dataset.store.fetch(torch.arange(24))
    expected = (samples * 255).round().to(torch.uint8).repeat_interleave(4, 0)
    assert torch.equal(images, expected)
    digits = load("mnist", data_dir=tmp_path)
    assert torch.equal(dataset.store.fetch(dataset.test_rows), digits.store.fetch(digits.test_rows))
    (place / "amnist_labels.pt").write_bytes(b"no tensor")
    assert "amnist_labels.pt: cannot be read" in error("ambiguous-mnist", data_dir=tmp_path)
    torch.save([1], place / "amnist_labels.pt")
    assert "holds a list, a tensor expected" in error("ambiguous-mnist", data_dir=tmp_path)
    torch.save(torch.zeros(5, 4), place / "amnist_labels.pt")
    assert "labels of shape (5, 4)" in error("ambiguous-mnist", data_dir=tmp_path)


# CIFAR-100


def encoded(values: np.ndarray) -> bytes:
    sink = __import__("io").BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def write_cifar100(folder: Path, count: int = 200) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = [encoded(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]
        fine = np.arange(count) % 100
        table = pa.table({"img": images, "fine_label": fine, "coarse_label": fine // 5})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def test_cifar100_has_its_fine_labels_and_a_relevant_version(tmp_path):
    write_cifar100(tmp_path / "cifar100")
    dataset = load("cifar100", data_dir=tmp_path)
    assert dataset.num_classes == 100
    assert dataset.labels_N[:3].tolist() == [0, 1, 2]
    assert (dataset.class_names[0], dataset.class_names[99]) == ("apple", "worm")
    relevant = load("cifar100-relevance", data_dir=tmp_path)
    splits = make_splits(relevant, DataConfig(dataset="cifar100-relevance"))
    assert splits.config.high_relevance == 20
    assert len(splits.full) == 20 * 2 + 80  # of each other class one is left
    assert int(splits.test.mark("low_relevance").sum()) == 80


# Folders


def write_folder(root: Path, parts: dict[str, int], side: int = 6, classes=("cat", "dog")) -> Path:
    for part, count in parts.items():
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                value = 40 * number + 5 * label
                picture = Image.new("RGB", (side, side), (value % 256, label, number))
                picture.save(root / part / name / f"{number}.png")
    return root


def test_an_image_folder_is_read_whole_or_as_needed_with_one_fingerprint(tmp_path):
    root = write_folder(tmp_path / "pets", {"train": 5, "test": 2})
    whole = load(str(root), reading=INLINE)
    lazily = load(str(root), reading=Reading(workers=0, lazy=True))
    assert whole.class_names == ("cat", "dog")
    assert whole.name == "pets"
    assert (len(whole.train_rows), len(whole.test_rows)) == (10, 4)
    assert whole.fingerprint == lazily.fingerprint
    assert whole.preprocess == lazily.preprocess
    rows = torch.tensor([9, 0, 9, 13])
    assert torch.equal(whole.store.fetch(rows), lazily.store.fetch(rows))
    assert whole.store.fetch(rows)[:, 1:, 0, 0].tolist() == [[1, 4], [0, 0], [1, 4], [1, 1]]
    assert whole.labels_N[rows].tolist() == [1, 0, 1, 1]
    assert Image.open(__import__("io").BytesIO(lazily.store.thumbnail(3))).size == (6, 6)


def test_a_folder_without_parts_gets_a_test_set(tmp_path):
    root = write_folder(tmp_path, {"": 10})
    dataset = load(str(root), reading=INLINE)
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (16, 4)


def test_damaged_folders_are_named(tmp_path):
    root = write_folder(tmp_path / "a", {"train": 3, "test": 2})
    (root / "train/cat/1.png").write_bytes(b"no image")
    message = error(str(root), reading=INLINE)
    assert f"{root / 'train/cat/1.png'}: cannot be read as an image" in message
    assert "--skip-unreadable" in message
    Image.new("RGB", (7, 6)).save(root / "train/cat/1.png")
    assert "6x7 pixels, the first image has 6x6; resize" in error(str(root), reading=INLINE)
    resized = load(str(root), reading=Reading(workers=0, image_size=4))
    assert resized.store.example_shape == (3, 4, 4)
    (root / "test/fox").mkdir()
    Image.new("RGB", (6, 6)).save(root / "test/fox/1.png")
    assert "the class fox is not in the training set" in error(str(root), reading=INLINE)
    lonely = write_folder(tmp_path / "b", {"train": 3})
    assert "none of test, val" in error(str(lonely), reading=INLINE)


def test_sixteen_bits_a_channel_are_refused_not_cut_off(tmp_path):
    root = write_folder(tmp_path, {"train": 3, "test": 2})
    wide = Image.fromarray(np.full((6, 6), 40_000, np.uint16))
    wide.save(root / "train/dog/2.png")
    for reading in (INLINE, Reading(workers=0, lazy=True)):
        message = error(str(root), reading=reading)
        assert f"{root / 'train/dog/2.png'} has more than 8 bits per channel" in message
        assert "convert the images to 8 bits" in message
    dataset = load(str(root), reading=Reading(workers=0, skip_unreadable=True))
    assert dataset.left_out == 1
    assert "left out: images of more than 8 bits a channel: 1 (train/dog/2.png)" in map(
        str, dataset.notes
    )


def test_a_folder_whose_first_image_is_grey_is_in_colour(tmp_path):
    root = write_folder(tmp_path, {"train": 3, "test": 2})
    Image.new("L", (6, 6), 7).save(root / "train/cat/0.png")
    assert load(str(root), reading=INLINE).store.example_shape == (3, 6, 6)
    for path in root.rglob("*.png"):
        Image.new("L", (6, 6), 7).save(path)
    assert load(str(root), reading=INLINE).store.example_shape == (1, 6, 6)


def test_only_what_is_no_image_is_skipped(tmp_path):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    Image.new("RGB", (7, 6)).save(root / "train/cat/1.png")
    message = error(str(root), reading=Reading(workers=0, skip_unreadable=True))
    assert "6x7 pixels, the first image has 6x6; resize" in message


def test_an_image_too_large_to_be_decoded_safely_is_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    for message in (error(str(root), reading=INLINE), error(str(root), reading=READ_LAZILY)):
        assert "12 of 12 images cannot be used" in message
        assert "(first: train/cat/0.png: more than the 35 pixels that are decoded)" in message


def test_images_may_lie_deeper_than_the_folder_of_their_class(tmp_path):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    for folder in (root / "train/cat", root / "train/dog"):
        (folder / "images").mkdir()
        for path in folder.glob("*.png"):
            path.rename(folder / "images" / path.name)
    assert len(load(str(root), reading=INLINE).train_rows) == 8


@pytest.mark.parametrize("lazy", [False, True])
def test_unreadable_images_are_skipped_and_counted_where_asked(tmp_path, lazy):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    (root / "train/dog/0.png").write_bytes(b"no image")
    dataset = load(str(root), reading=Reading(workers=0, skip_unreadable=True, lazy=lazy))
    assert dataset.left_out == 1
    assert dataset.train_rows.tolist() == [0, 1, 2, 3, 5, 6, 7]  # the others keep their ids
    splits = make_splits(dataset, DataConfig(dataset=str(root), validation=0.3))
    assert splits.describe()["left_out"] == 1
    assert torch.equal(dataset.store.fetch(torch.tensor([5]))[0, 1:, 0, 0], torch.tensor([1, 1]))


def test_an_unreadable_first_image_is_skipped_too(tmp_path):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    (root / "train/cat/0.png").write_bytes(b"no image")
    assert "train/cat/0.png" in error(str(root), reading=INLINE)
    dataset = load(str(root), reading=Reading(workers=0, skip_unreadable=True))
    assert dataset.train_rows.tolist() == list(range(1, 8))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_check_for_unreadable_images_is_told_as_it_goes(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(files, "CHECKED_AT_ONCE", 5)
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    for name in ("train/dog/0.png", "test/cat/1.png"):
        (root / name).write_bytes(b"no image")
    told = []
    reading = Reading(workers=workers, lazy=True, skip_unreadable=True)
    dataset = load(str(root), reading=reading, checked=lambda *at: told.append(at))
    try:
        assert told == [(5, 12), (10, 12), (12, 12)]
        assert dataset.left_out == 2
        assert (len(dataset.train_rows), len(dataset.test_rows)) == (7, 3)
    finally:
        dataset.store.close()


def test_the_command_line_shows_the_check(tmp_path, capsys):
    root = write_folder(tmp_path, {"train": 4, "test": 2})
    for skip in (False, True):
        splits = splits_of(DataConfig(dataset=str(root), skip_unreadable=skip, validation=0.3))
        assert len(splits.test) == 4
        assert ("unreadable images among 12" in capsys.readouterr().err) == skip


def test_cinic10_holds_out_its_own_part(tmp_path):
    write_folder(tmp_path / "cinic10", {"train": 4, "valid": 5, "test": 2})
    dataset = load("cinic10", data_dir=tmp_path, reading=INLINE)
    assert [len(dataset.train_rows), len(dataset.test_rows), len(dataset.holdout_rows)] == [
        8,
        4,
        10,
    ]
    assert dataset.holdout_mode == "own"
    assert dataset.store.fetch(dataset.holdout_rows)[-1, 2, 0, 0] == 4


def write_clothing(root: Path, sub: str = "") -> Path:
    (root / "images/0").mkdir(parents=True)
    (root / sub).mkdir(exist_ok=True)
    keys = []
    for number in range(30):
        keys.append(f"images/0/{number}.jpg")
        Image.new("RGB", (20, 16), (8 * number, 0, 0)).save(root / keys[-1], quality=95)
    lists = {
        "noisy_train_key_list.txt": keys[:24],
        "clean_test_key_list.txt": keys[24:],
        "noisy_label_kv.txt": [f"{key} {n % 14}" for n, key in enumerate(keys[:24])],
        "clean_label_kv.txt": [f"{key} {n}" for n, key in enumerate(keys[24:])],
    }
    for name, lines in lists.items():
        (root / sub / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("sub", ["", "annotations"])
def test_clothing1m_reuses_a_tenth_of_what_it_trains_on(tmp_path, sub):
    root = write_clothing(tmp_path / "clothing1m", sub)
    dataset = load("clothing1m", data_dir=tmp_path, reading=Reading(workers=0, lazy=True))
    assert dataset.store.example_shape == (3, 224, 224)
    assert (dataset.num_classes, dataset.class_names[8]) == (14, "Downcoat")
    assert dataset.labels_N.tolist() == [*(n % 14 for n in range(24)), *range(6)]
    red = dataset.store.fetch(torch.tensor([20, 2]))[:, 0, 100, 100].tolist()
    assert abs(red[0] - 160) < 8
    assert abs(red[1] - 16) < 8
    splits = make_splits(dataset, DataConfig(dataset="clothing1m", validation=0.5))
    assert splits.config.holdout_mode == "reuse"
    assert splits.config.holdout == 0.1
    assert (len(splits.train), len(splits.holdout), len(splits.validation)) == (24, 1, 1)
    (root / "images/0/3.jpg").unlink()
    small = Reading(workers=0, image_size=8)
    assert "3.jpg: listed, but not there" in error("clothing1m", data_dir=tmp_path, reading=small)


def test_damaged_lists_of_clothing1m_are_named(tmp_path):
    root = write_clothing(tmp_path)
    (root / "clean_label_kv.txt").write_text("images/0/24.jpg five\n")
    assert "clean_label_kv.txt: line 1 is no key" in error("clothing1m", data_dir=root)
    (root / "clean_label_kv.txt").write_text("images/0/24.jpg 5\n")
    assert "images/0/25.jpg has no label in clean_label_kv.txt" in error(
        "clothing1m", data_dir=root
    )
    (root / "noisy_label_kv.txt").unlink()
    assert "noisy_label_kv.txt missing beside noisy_train" in error("clothing1m", data_dir=root)
    (root / "noisy_label_kv.txt").write_bytes(b"images/0/1.jpg \xff\xfe\n")
    assert "noisy_label_kv.txt: cannot be read as text" in error("clothing1m", data_dir=root)


# Worker processes


def test_worker_processes_read_ahead_and_keep_ids(tmp_path):
    root = write_folder(tmp_path, {"train": 20, "test": 4})
    inline = load(str(root), reading=Reading(workers=0, lazy=True)).store
    store = load(str(root), reading=Reading(workers=2, lazy=True)).store
    try:
        pools = torch.randperm(48, generator=torch.Generator().manual_seed(0)).split(13)
        for number, pool in enumerate(pools):
            if number + 1 < len(pools):
                store.prefetch(pools[number + 1])
            assert torch.equal(store.fetch(pool), inline.fetch(pool))
        for pool in pools:  # announced but never fetched: forgotten, not piled up
            store.prefetch(pool)
        assert len(store._ahead) == 2
        (root / "train/dog/7.png").write_bytes(b"gone bad")
        with pytest.raises(DataError, match=r"train/dog/7\.png: cannot be read as an image"):
            store.fetch(torch.arange(48).flip(0))
        assert torch.equal(store.fetch(torch.tensor([1])), inline.fetch(torch.tensor([1])))
        elsewhere = pickle.loads(pickle.dumps(store))  # as for the replicas' processes
        elsewhere.workers = 0
        assert torch.equal(elsewhere.fetch(torch.tensor([1])), inline.fetch(torch.tensor([1])))
    finally:
        store.close()
