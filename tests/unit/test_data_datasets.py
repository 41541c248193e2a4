import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from goldiprox.data import datasets
from goldiprox.data.datasets import ImageStore, Store, load, make_dataset, register
from goldiprox.data.settings import Reading
from goldiprox.data.sources import stratified_test_rows
from goldiprox.data.store import png_bytes
from goldiprox.schema import ConfigError, DataError

FIRST_TEST_ROWS = [4, 12, 16, 24, 28]
TEST_ROWS_DIGEST = "55ad3fdfdaf3443c"


def small(images=None, labels=None, test_rows=None, names=("a", "b")):
    images = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2) if images is None else images
    labels = torch.tensor([0, 1, 0, 1, 0, 1]) if labels is None else labels
    test_rows = torch.tensor([4, 5]) if test_rows is None else test_rows
    return make_dataset("small", images, labels, test_rows, class_names=names, source="here")


def test_digits_are_scikit_learns_in_its_order():
    dataset = load("digits")
    bunch = load_digits()
    np.testing.assert_array_equal(dataset.store.fetch(torch.arange(1797))[:, 0], bunch.images * 15)
    np.testing.assert_array_equal(dataset.labels_N, bunch.target)
    assert dataset.store.example_shape == (1, 8, 8)
    assert dataset.class_names[3] == "3"


def test_the_test_split_of_digits_is_fixed_for_ever():
    dataset = load("digits")
    rows = dataset.test_rows
    assert rows[:5].tolist() == FIRST_TEST_ROWS
    assert hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16] == TEST_ROWS_DIGEST
    both = torch.cat([dataset.train_rows, rows]).sort().values
    assert torch.equal(both, torch.arange(1797))


def test_test_split_takes_the_same_share_of_every_class():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10 + [3])
    rows = stratified_test_rows(labels)
    assert torch.bincount(labels[rows], minlength=4).tolist() == [20, 10, 2, 0]


def test_loading_twice_gives_the_same_fingerprint():
    assert load("digits").fingerprint == load("digits").fingerprint


def test_fingerprint_is_over_header_bytes_labels_and_test_rows():
    dataset = small()
    expected = hashlib.sha256(
        b'{"dtype": "torch.uint8", "layout": 1, "shape": [6, 1, 2, 2]}'
        + bytes(range(24))
        + np.array([0, 1, 0, 1, 0, 1], "<i8").tobytes()
        + bytes([0, 0, 0, 0, 1, 1])
    )
    assert dataset.fingerprint == expected.hexdigest()


def test_fingerprint_changes_with_a_pixel_a_label_the_shape_or_the_split():
    images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    other_pixel = images.clone()
    other_pixel[5, 0, 1, 1] ^= 1
    prints = [
        small().fingerprint,
        small(images=other_pixel).fingerprint,
        small(images=images.view(6, 1, 1, 4)).fingerprint,
        small(labels=torch.tensor([0, 1, 0, 1, 1, 1])).fingerprint,
        small(test_rows=torch.tensor([3, 5])).fingerprint,
    ]
    assert len(set(prints)) == 5


def test_fingerprint_makes_no_copy(monkeypatch):
    images = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    seen = []
    real = hashlib.sha256

    class Spy:
        def __init__(self, start):
            self.digest = real(start)

        def update(self, view):
            seen.append(torch.frombuffer(view, dtype=torch.uint8).data_ptr())
            self.digest.update(view)

        def hexdigest(self):
            return self.digest.hexdigest()

    monkeypatch.setattr("goldiprox.data.store.hashlib.sha256", Spy)
    small(images=images)
    assert seen[0] == images.data_ptr()


def test_thumbnails_are_png_files_of_the_image():
    colour = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    store = ImageStore(colour)
    assert isinstance(store, Store)
    decoded = np.asarray(Image.open(io.BytesIO(store.thumbnail(1))))
    np.testing.assert_array_equal(decoded, colour[1].permute(1, 2, 0))
    grey = ImageStore(colour[:, :1])
    decoded = np.asarray(Image.open(io.BytesIO(grey.thumbnail(0))))
    np.testing.assert_array_equal(decoded, colour[0, 0])


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)]
)
def test_a_store_takes_uint8_images_only(images):
    with pytest.raises(DataError, match="cannot be stored: give uint8"):
        ImageStore(images)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "here: 6 images but 5 labels"),
        (
            {"labels": torch.tensor([0, 1, 2, 0, 1, -1])},
            r"2 labels outside 0\.\.1 \(first: 2 in row 2\)",
        ),
        ({"labels": torch.zeros(6)}, "labels of type torch.float32"),
        ({"test_rows": torch.arange(6)}, "0 training and 6 test examples"),
        ({"test_rows": torch.arange(0)}, "6 training and 0 test examples"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        small(**changes)


def test_unknown_names_list_the_known_ones_and_suggest_the_nearest():
    with pytest.raises(ConfigError) as caught:
        load("Fashion_MNST")
    message = str(caught.value)
    assert "unknown data set 'Fashion_MNST' (did you mean fashion-mnist?)" in message
    assert (
        "cifar10, cifar100, cifar100-relevance, cinic10, clothing1m, cola, diabetes, digits"
        in message
    )
    assert "\n" not in message


@pytest.mark.parametrize("path", ["nowhere/at/all", "missing.parquet"])
def test_a_path_that_does_not_exist_is_an_error_of_data(path):
    with pytest.raises(DataError, match=f"{path} does not exist"):
        load(path)


def test_a_data_folder_beside_a_path_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="goes with a registered name only"):
        load("some/where", data_dir=tmp_path)


def test_a_registered_loader_is_given_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "DATASETS", dict(datasets.DATASETS))
    seen = []

    def loader(data_dir):
        seen.append(data_dir)
        return small()

    register("mine", loader)
    assert load("mine").name == "small"
    load("mine", data_dir=tmp_path)
    assert seen == [None, tmp_path]
    with pytest.raises(ConfigError, match="registered already"):
        register("mine", loader)
    with pytest.raises(ConfigError, match="reads as a path"):
        register("a/b", loader)


def test_empty_name_is_refused():
    with pytest.raises(ConfigError, match="unknown data set ''"):
        load("")


@pytest.mark.parametrize(
    "name, reading, message",
    [
        ("digits", {"input_column": "x"}, "--input-column x does nothing with digits"),
        ("digits", {"group_column": "x"}, "--group-column x does nothing with digits"),
        (
            "digits",
            {"feature_columns": ("x", "y")},
            "--feature-columns x y does nothing with digits",
        ),
        ("mnist", {"image_size": 8}, "--image-size 8 does nothing with mnist"),
        ("cinic10", {"label_column": "x"}, "--label-column x does nothing with cinic10"),
        ("folder", {"input_column": "x"}, "--input-column x does nothing with .* an image folder"),
        ("x.parquet", {"skip_unreadable": True}, "--skip-unreadable does nothing with Parquet"),
        ("hub:a/b", {"skip_unreadable": True}, "--skip-unreadable does nothing with .* hub"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, name, reading, message):
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "cat" / "1.png").write_bytes(png_bytes(torch.zeros(1, 2, 2).byte()))
    (tmp_path / "x.parquet").write_bytes(b"")
    path = tmp_path / name
    with pytest.raises(ConfigError, match=message):
        load(str(path) if path.exists() else name, reading=Reading(**reading))
