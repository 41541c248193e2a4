import io
import json
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from goldiprox.data import cifar as module
from goldiprox.data.datasets import load
from goldiprox.data.parquet import find_shards, read_images
from goldiprox.schema import DataError


def pixels(count: int, side: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def write(
    path: Path,
    encoded: list[bytes | None],
    labels,
    *,
    image: str = "img",
    label: str = "label",
    form: str = "struct",
    names: list[str] | None = None,
    **options,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    column: pa.Array
    if form == "struct":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        column = pa.array([{"bytes": raw, "path": None} for raw in encoded], kind)
    else:
        column = pa.array(encoded, pa.large_binary() if form == "large" else pa.binary())
    table = pa.table(
        {image: column, label: labels if isinstance(labels, pa.Array) else list(labels)}
    )
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}, image: {"_type": "Image"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path, **options)
    return path


def error(name, **kwargs) -> str:
    with pytest.raises(DataError) as caught:
        load(str(name), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", ["struct", "binary", "large"])
@pytest.mark.parametrize(
    "image, label", [("img", "label"), ("image", "labels"), ("img", "fine_label")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_form_of_the_columns_is_read(tmp_path, form, image, label, channels):
    raw = pixels(40, 8, channels)
    path = write(
        tmp_path / "some.parquet", [png(one) for one in raw], np.arange(40) % 4,
        image=image, label=label, form=form, row_group_size=7,
    )  # fmt: skip
    dataset = load(str(path))
    expected = raw.reshape(40, 8, 8, channels).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.store.fetch(torch.arange(40)), expected)
    assert dataset.labels_N.tolist() == [i % 4 for i in range(40)]
    assert torch.bincount(dataset.labels_N[dataset.test_rows]).tolist() == [2, 2, 2, 2]
    assert dataset.class_names == ("0", "1", "2", "3")
    assert (dataset.name, dataset.source) == ("some", str(path))


def test_shards_are_read_in_order_and_test_files_are_the_test_set(tmp_path):
    raw = pixels(50, 8)
    for shard in range(4):
        part = slice(10 * shard, 10 * shard + 10)
        write(
            tmp_path / f"data/train-{shard:05d}-of-00004.parquet",
            [png(one) for one in raw[part]],
            np.arange(10) % 2,
            names=["no", "yes"],
        )
    test = write(
        tmp_path / "data/test-00000-of-00001.parquet",
        [png(one) for one in raw[40:]],
        np.arange(10) % 2,
        names=["no", "yes"],
    )
    dataset = load(str(tmp_path))
    np.testing.assert_array_equal(dataset.store.fetch(torch.arange(50)), raw.transpose(0, 3, 1, 2))
    assert dataset.test_rows.tolist() == list(range(40, 50))
    assert dataset.class_names == ("no", "yes")
    (tmp_path / "data/train-00002-of-00004.parquet").unlink()
    assert "3 train files found, 4 expected" in error(tmp_path)
    test.rename(tmp_path / "data/validation.parquet")
    with pytest.raises(DataError):
        find_shards(tmp_path)


@pytest.mark.parametrize(
    "train, test",
    [
        ("train.parquet", "validation.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
    ],
)
def test_layouts_of_the_hub_are_found(tmp_path, train, test):
    for path in (train, test):
        write(tmp_path / path, [png(pixels(1)[0])], [0])
    assert find_shards(tmp_path) == ([tmp_path / train], [tmp_path / test])


def test_a_test_file_is_preferred_to_a_validation_file(tmp_path):
    for name in ("train", "test", "validation"):
        write(tmp_path / f"{name}.parquet", [png(pixels(1)[0])], [0])
    assert find_shards(tmp_path)[1] == [tmp_path / "test.parquet"]


def test_images_are_grey_if_all_that_are_looked_at_are(tmp_path):
    grey, colour = png(pixels(1, 8, 1)[0]), png(pixels(1, 8)[0])
    mixed = write(tmp_path / "a.parquet", [grey, colour] * 10, [0, 1] * 10)
    assert load(str(mixed)).store.example_shape == (3, 8, 8)
    grey_only = write(tmp_path / "g.parquet", [grey] * 20, [0, 1] * 10)
    assert load(str(grey_only)).store.example_shape == (1, 8, 8)
    mixed = write(tmp_path / "b.parquet", [colour, grey] * 10, [0, 1] * 10)
    assert load(str(mixed)).store.example_shape == (3, 8, 8)
    palette = png(pixels(1, 8)[0], "P")
    assert (
        load(str(write(tmp_path / "c.parquet", [palette] * 10, [0, 1] * 5))).store.example_shape[0]
        == 3
    )


GOOD = [png(one) for one in pixels(12, 8)]


def with_bad(row: int, bad: bytes | None) -> list[bytes | None]:
    return [*GOOD[:row], bad, *GOOD[row + 1 :]]


@pytest.mark.parametrize(
    "encoded, labels, options, parts",
    [
        (with_bad(7, b"nonsense"), [0, 1] * 6, {}, ["row 7", "no image"]),
        (with_bad(7, GOOD[7][:120]), [0, 1] * 6, {}, ["row 7: cannot be read", "is truncated"]),
        (with_bad(0, b""), [0, 1] * 6, {}, ["row 0", "no image"]),
        (with_bad(11, None), [0, 1] * 6, {}, ["row 11", "no image bytes"]),
        (with_bad(3, None), [0, 1] * 6, {"form": "binary"}, ["row 3", "no image bytes"]),
        (with_bad(9, png(pixels(1, 9)[0])), [0, 1] * 6, {}, ["row 9: 9x9 pixels", "8x8", "resize"]),
        (
            with_bad(2, png(np.zeros((8, 8), np.uint16))), [0, 1] * 6, {},
            ["row 2", "more than 8 bits"],
        ),
        (GOOD, [0, 1] * 6, {"image": "photo"}, ["no image column", "img, image", "photo, label"]),
        (GOOD, [0, 1] * 6, {"label": "y"}, ["no label column", "img, y"]),
        (GOOD, [0, 1, 2, None] * 3, {}, ["row 3 has no label (3 such)"]),
        (GOOD, [0, 1, -1, 0] * 3, {}, ["row 2 has the label -1 (3 such)", "unlabelled"]),
        (GOOD, [0.5, 1.0] * 6, {}, ["row 0 has the label 0.5", "no whole number"]),
        (GOOD, [0, 2] * 6, {"names": ["a", "b"]}, ["row 1 has the label 2", "only 2 classes"]),
        ([], pa.array([], pa.int64()), {}, ["no rows"]),
    ],
)  # fmt: skip
def test_damaged_data_is_named_by_file_and_row(tmp_path, encoded, labels, options, parts):
    path = write(tmp_path / "bad.parquet", encoded, labels, row_group_size=5, **options)
    message = error(path)
    for part in [*parts, str(path)]:
        assert part in message


def test_labels_that_are_not_0_to_c_become_classes_and_it_is_said(tmp_path):
    for labels, names in (([900, 5] * 6, ("5", "900")), (["dog", "cat"] * 6, ("cat", "dog"))):
        dataset = load(str(write(tmp_path / "a.parquet", GOOD, labels)))
        assert dataset.class_names == names
        assert dataset.labels_N.tolist() == [1, 0] * 6
        assert f"{names[0]} is class 0, {names[1]} is class 1" in str(dataset.notes[0])


def test_published_classes_stay_where_a_part_of_the_data_lacks_some(tmp_path):
    few = [png(one) for one in pixels(20)]
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", few, [2, 7] * 10)
    dataset = load("cifar10", data_dir=tmp_path)
    assert dataset.labels_N[:2].tolist() == [2, 7]
    assert dataset.class_names[7] == "horse"
    assert "classes without a training example: 8 (first: airplane," in str(dataset.notes[0])


def test_rows_are_counted_within_their_own_file(tmp_path):
    write(tmp_path / "train.parquet", GOOD, [0, 1] * 6)
    write(tmp_path / "test.parquet", with_bad(4, b"x"), [0, 1] * 6)
    assert f"{tmp_path / 'test.parquet'}: row 4: " in error(tmp_path)


def test_a_class_without_examples_is_allowed_where_the_metadata_names_it(tmp_path):
    path = write(tmp_path / "x.parquet", GOOD, [0, 2] * 6, names=["a", "b", "c"])
    assert load(str(path)).num_classes == 3


def test_metadata_of_other_tools_is_ignored(tmp_path):
    path = write(tmp_path / "x.parquet", GOOD, [0, 1] * 6)
    table = pq.read_table(path).replace_schema_metadata({"huggingface": "{not json"})
    pq.write_table(table, path)
    assert load(str(path)).class_names == ("0", "1")


def test_files_that_disagree_on_classes_are_refused(tmp_path):
    write(tmp_path / "train.parquet", GOOD, [0, 1] * 6, names=["a", "b"])
    write(tmp_path / "test.parquet", GOOD, [0, 1] * 6, names=["b", "a"])
    assert "disagree on the names of the classes" in error(tmp_path)


def test_a_file_that_is_no_parquet_file_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"no parquet at all")
    assert f"{path}: not a readable Parquet file" in error(path)
    whole = write(tmp_path / "y.parquet", GOOD, [0, 1] * 6).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path}: not a readable Parquet file" in error(path)


def test_pages_that_are_damaged_are_named(tmp_path):
    path = write(tmp_path / "x.parquet", GOOD, [0, 1] * 6, compression="zstd")
    raw = bytearray(path.read_bytes())
    raw[60:400] = bytes(340)
    path.write_bytes(bytes(raw))
    assert str(path) in error(path)


def test_a_column_of_another_type_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]] * 2, "label": [0, 1] * 2}), path)
    assert "column image holds list" in error(path)


def test_a_folder_says_how_files_must_be_named(tmp_path):
    assert "tables named train* and test*" in error(f"{tmp_path}/")
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / name, GOOD, [0, 1] * 6)
    assert "which Parquet files are for training? found a.parquet, b.parquet" in error(tmp_path)


def test_images_are_decoded_into_one_array_and_nothing_else_is_kept(tmp_path):
    count, side = 1200, 96
    encoded = png(np.full((side, side, 3), 7, np.uint8))
    path = write(tmp_path / "x.parquet", [encoded] * count, [0, 1] * (count // 2))
    read_images([write(tmp_path / "warm.parquet", GOOD, [0, 1] * 6)], [])
    tracemalloc.start()
    try:
        found = read_images([path], [])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = count * side * side * 3
    assert found.images_NCHW.numel() == size
    assert peak < size + 2_000_000


# CIFAR-10 by name


@pytest.fixture
def alone(monkeypatch, tmp_path):
    monkeypatch.delenv("GOLDIPROX_DATA_DIR", raising=False)
    monkeypatch.setattr(module, "CACHE", tmp_path / "no-cache")
    fake = types.ModuleType("torchvision.datasets")

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    fake.CIFAR10 = offline
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    return fake


def cifar(folder: Path, side: int = 32) -> Path:
    for split, count in (("train", 20), ("test", 10)):
        raw = [png(one) for one in pixels(count, side)]
        write(folder / f"{split}-00000-of-00001.parquet", raw, np.arange(count) % 10)
    return folder


@pytest.mark.parametrize("sub", ["", "cifar10", "plain_text", "cifar10/plain_text"])
def test_cifar10_is_found_in_a_folder(alone, tmp_path, monkeypatch, sub):
    cifar(tmp_path / sub)
    dataset = load("cifar10", data_dir=tmp_path)
    assert (dataset.name, dataset.class_names[:2]) == ("cifar10", ("airplane", "automobile"))
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (20, 10)
    assert (dataset.preprocess.crop_padding, dataset.preprocess.flip) == (4, True)
    monkeypatch.setenv("GOLDIPROX_DATA_DIR", str(tmp_path))
    assert load("cifar10").fingerprint == dataset.fingerprint


def test_cifar10_that_is_absent_names_every_way(alone, tmp_path):
    message = error("cifar10")
    for part in (
        "train.parquet", "test.parquet", "cifar-10-batches-py", "--data-dir",
        "GOLDIPROX_DATA_DIR", "goldiprox[vision]", "no route to host",
    ):  # fmt: skip
        assert part in message
    assert f"cifar10 not found in {tmp_path}" in error("cifar10", data_dir=tmp_path)


def test_cifar10_must_look_like_it(alone, tmp_path):
    cifar(tmp_path / "a", side=28)
    assert "(3, 28, 28) found, (3, 32, 32) expected" in error("cifar10", data_dir=tmp_path / "a")
    cifar(tmp_path / "b")
    (tmp_path / "b/test-00000-of-00001.parquet").unlink()
    assert "no test*.parquet beside it" in error("cifar10", data_dir=tmp_path / "b")


class FakeCifar:
    """What torchvision's data set looks like, with other pixels for train and test."""

    def __init__(self, root, train=True, download=False):
        self.data = pixels(20 if train else 10, seed=int(train))
        self.targets = [i % 10 for i in range(len(self.data))]


def test_cifar10_is_read_through_torchvision(alone, tmp_path, monkeypatch):
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr(alone, "CIFAR10", FakeCifar)
    dataset = load("cifar10", data_dir=tmp_path)
    expected = np.concatenate([pixels(20, seed=1), pixels(10, seed=0)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.store.fetch(torch.arange(30)), expected)
    assert dataset.test_rows.tolist() == list(range(20, 30))
    assert load("cifar10").fingerprint == dataset.fingerprint  # by download


def test_torchvisions_complaints_and_absence_are_one_line(alone, tmp_path, monkeypatch):
    (tmp_path / "cifar-10-batches-py").mkdir()

    def corrupted(root, train):
        raise RuntimeError("Dataset not found or corrupted.\nYou can use download=True")

    monkeypatch.setattr(alone, "CIFAR10", corrupted)
    assert "cifar-10-batches-py: Dataset not found or corrupted." in error(
        "cifar10", data_dir=tmp_path
    )
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert "install goldiprox[vision]" in error("cifar10", data_dir=tmp_path)


def test_the_hub_is_used_where_torchvision_is_not_installed(alone, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda repo, local_dir, **_: cifar(Path(local_dir) / "plain_text")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert load("cifar10").source == str(tmp_path / "no-cache/cifar10")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert load("cifar10").source == str(tmp_path / "no-cache/cifar10")  # found without a download
