"""Data sets in tables: CSV, TSV, JSON lines, Parquet; features, texts; classes, numbers, sets."""

import bz2
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from goldiprox.data.datasets import load
from goldiprox.data.settings import Reading
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import ConfigError, GoldiproxError

ROWS = 60


def columns():
    """Two numbers, a category, a truth value, a number to predict and a class."""
    generator = np.random.default_rng(0)
    size = generator.normal(100, 20, ROWS)
    return {
        "id": list(range(ROWS)),
        "size": [float(value) for value in size],
        "rooms": [int(value) for value in generator.integers(1, 6, ROWS)],
        "city": [("Ulm", "Köln", "Bonn")[i % 3] for i in range(ROWS)],
        "garden": [bool(i % 2) for i in range(ROWS)],
        "price": [float(value) for value in 3 * size + 5],
        "label": [("dear", "cheap")[i % 2] for i in range(ROWS)],
    }


def rows_of(table):
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def csv_text(table, separator=","):
    lines = [separator.join(table)]
    lines += [separator.join("" if v is None else str(v) for v in row.values())
              for row in rows_of(table)]  # fmt: skip
    return "\n".join(lines) + "\n"


WRITERS = {
    "a.csv": lambda path, table: path.write_text(csv_text(table)),
    "a.tsv": lambda path, table: path.write_text(csv_text(table, "\t")),
    "a.jsonl": lambda path, table: path.write_text(
        "\n".join(json.dumps(row) for row in rows_of(table))
    ),
    "a.json": lambda path, table: path.write_text(json.dumps(rows_of(table))),
    "a.parquet": lambda path, table: pq.write_table(pa.table(table), path),
    "a.csv.gz": lambda path, table: path.write_bytes(gzip.compress(csv_text(table).encode())),
    "a.jsonl.bz2": lambda path, table: path.write_bytes(
        bz2.compress("\n".join(json.dumps(row) for row in rows_of(table)).encode())
    ),
}


def write(path, table):
    WRITERS[f"a{''.join(path.suffixes)}"](path, table)
    return str(path)


def refused(said, call, *args, **kwargs):
    """The call is refused in one line that says this."""
    with pytest.raises(GoldiproxError) as caught:
        call(*args, **kwargs)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def noted(dataset, text):
    return [str(note) for note in dataset.notes if text in str(note)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_features_and_classes(tmp_path, name):
    table = columns()
    dataset = load(write(tmp_path / name, table), reading=Reading(label_column="label"))

    assert dataset.class_names == ("cheap", "dear")
    assert dataset.labels_N.tolist() == [("cheap", "dear").index(v) for v in table["label"]]
    assert dataset.preprocess.names == (
        "size", "rooms", "garden", "price", "city=Bonn", "city=Köln", "city=Ulm",
    )[: len(dataset.preprocess.names)]  # fmt: skip
    train = dataset.train_rows.numpy()
    size = np.array(table["size"])
    expected = (size - size[train].mean()) / size[train].std()
    features = dataset.store.fetch(torch.arange(ROWS)).numpy()
    np.testing.assert_allclose(features[:, 0], expected, rtol=1e-5)
    column = dataset.preprocess.names.index("city=Ulm")
    assert features[:, column].tolist() == [float(city == "Ulm") for city in table["city"]]
    assert noted(dataset, "numbers the rows")


def test_the_same_table_in_another_format_is_the_same_data(tmp_path):
    table = columns()
    paths = [write(tmp_path / name, table) for name in ("a.csv", "a.jsonl", "a.parquet")]
    assert len({load(path).fingerprint for path in paths}) == 1
    table["size"][3] += 1e-6
    assert load(write(tmp_path / "a.csv", table)).fingerprint != load(paths[1]).fingerprint


def test_statistics_come_from_the_training_rows_alone(tmp_path):
    table = columns()
    first = load(write(tmp_path / "a.csv", table))
    row = int(first.test_rows[0])
    table["size"][row] = 1e6
    changed = load(write(tmp_path / "a.csv", table))
    train = first.train_rows
    assert torch.equal(first.store.fetch(train), changed.store.fetch(train))


def test_numbers_to_predict_stay_in_their_unit(tmp_path):
    table = columns()
    path = write(tmp_path / "a.csv", table)
    dataset = load(path, reading=Reading(label_column="price"), targets="numbers")
    assert dataset.targets == "numbers"
    assert dataset.class_names == ("price",)
    assert torch.equal(dataset.labels_N, torch.tensor(table["price"]))
    assert "price" not in dataset.preprocess.names
    assert len(dataset.test_rows) == ROWS // 5


def test_several_numbers_to_predict(tmp_path):
    path = write(tmp_path / "a.csv", columns())
    reading = Reading(label_column="price,rooms")
    dataset = load(path, reading=reading, targets="numbers")
    assert dataset.labels_N.shape == (ROWS, 2)
    assert dataset.class_names == ("price", "rooms")
    refused("--objective regression", load, path, reading=reading)


def test_lists_of_labels_are_label_sets(tmp_path):
    sets = [["red"], [], ["blue", "red"]] * 20
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "labels": s})
                              for i, s in enumerate(sets)))  # fmt: skip
    dataset = load(str(path))
    assert dataset.targets == "label sets"
    assert dataset.class_names == ("blue", "red")
    assert dataset.labels_N[:3].tolist() == [[0, 1], [0, 0], [1, 1]]
    assert noted(dataset, "without any label") == ["examples without any label: 20"]
    refused("one class an example", load, str(path), targets="classes")


def test_missing_values_are_filled_and_told(tmp_path):
    table = columns()
    missing = [int(row) for row in load(write(tmp_path / "a.csv", table)).train_rows[:5]]
    for row in missing:
        table["size"][row] = None
        table["city"][row] = None
    dataset = load(write(tmp_path / "a.jsonl", table))
    names = dataset.preprocess.names
    features = dataset.store.fetch(torch.arange(ROWS))
    assert torch.isfinite(features).all()
    flag = features[:, names.index("size missing")]
    assert (flag > 0).nonzero().flatten().tolist() == missing
    assert features[missing, names.index("city=(missing)")].tolist() == [1.0] * 5
    known = np.array([v for i, v in enumerate(table["size"]) if v is not None
                      and i in set(dataset.train_rows.tolist())])  # fmt: skip
    filled = np.array([np.median(known) if v is None else v for v in table["size"]])
    train = dataset.train_rows.numpy()
    expected = (filled - filled[train].mean()) / filled[train].std()
    np.testing.assert_allclose(features[:, names.index("size")], expected, rtol=1e-5, atol=1e-6)
    assert "size (5), city (5)" in noted(dataset, "missing values")[0]


def test_constant_columns_are_left_out_and_told(tmp_path):
    table = {**columns(), "country": ["DE"] * ROWS, "year": [2020] * ROWS}
    dataset = load(write(tmp_path / "a.csv", table))
    assert not {"year", "country=DE"} & set(dataset.preprocess.names)
    assert noted(dataset, "constant") == [
        "left out: columns that are constant or empty in training: 2 (country, year)"
    ]


def test_a_feature_column_of_texts_is_refused(tmp_path):
    table = {**columns(), "remark": [f"remark {i}" for i in range(ROWS)]}
    table = {name: table[name] * 2 for name in table}
    refused("--input-column", load, write(tmp_path / "a.csv", table))
    chosen = Reading(feature_columns=("size", "rooms"))
    assert load(write(tmp_path / "a.csv", table), reading=chosen).store.example_shape == (2,)
    texts = load(write(tmp_path / "a.csv", table), reading=Reading(input_column="remark"))
    assert texts.store.fetch(torch.tensor([1])) == ["remark 1"]


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Reading(feature_columns=("size", "weight")), "weight"),
        (Reading(feature_columns=("size", "label")), "answer"),
        (Reading(label_column="grade"), "grade"),
        (Reading(group_column="street"), "street"),
        (Reading(input_column="size", feature_columns=("rooms",)), "exclude"),
        (Reading(input_column="size"), "double"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, reading, said):
    refused(said, load, write(tmp_path / "a.csv", columns()), reading=reading)


def test_an_infinite_feature_is_refused(tmp_path):
    table = columns()
    table["size"][7] = float("inf")
    refused("infinite in row 7", load, write(tmp_path / "a.csv", table))


@pytest.mark.parametrize("value", ["", "many", "inf"])
def test_a_target_that_is_no_number_is_refused(tmp_path, value):
    table = columns()
    table["price"][4] = value
    path = write(tmp_path / "a.csv", table)
    refused("row 4", load, path, reading=Reading(label_column="price"), targets="numbers")


def test_test_files_and_what_differs_in_them(tmp_path):
    table = columns()
    write(tmp_path / "train.csv", table)
    few = {name: values[:20] for name, values in table.items()}
    write(tmp_path / "test.csv", few)
    dataset = load(str(tmp_path))
    assert dataset.test_rows.tolist() == list(range(ROWS, ROWS + 20))
    write(tmp_path / "test.csv", {name: few[name] for name in few if name != "size"})
    refused("test.csv has no column size", load, str(tmp_path))
    write(tmp_path / "test.csv", {**few, "label": ["odd"] * 20})
    refused("no training example", load, str(tmp_path))
    write(tmp_path / "test.csv", {**few, "size": ["large"] * 20})
    refused("size", load, str(tmp_path))
    write(tmp_path / "test.csv", {**few, "city": ["Rom"] * 20})
    known = load(str(tmp_path))
    assert noted(known, "no training row has") == [
        "categories of column city that no training row has, read as none: 1 (Rom)"
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Empty"),
        (b"size,label\n", "no rows"),
        (b"size,size,label\n1,2,a\n3,4,b\n", "several columns"),
        ("size,label\n1,a\n".encode("utf-16"), None),
        (b"size,label\n1,\xff\xfe\n2,b\n", "UTF-8"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    refused(said or "", load, str(path))


@pytest.mark.parametrize("content", ["[1, 2]", "[" * 100_000, '{"a": 1}\n{"a": [}', "[{]"])
def test_damaged_json_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    refused("a.json", load, str(path))


@pytest.mark.parametrize("name, content", [
    ("a.jsonl", b'{"text": "a\xf4b", "label": 1}\n'),
    ("a.jsonl", b'{"te\xe5xt": "ab", "label": 1}\n'),
    ("a.json", b'[{"text": "\\ud800", "label": 1}]'),
    ("a.json", b'[{"text": "a", "label": 1' + b"0" * 40 + b"}]"),
])  # fmt: skip
def test_texts_and_numbers_that_no_table_holds_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused("a.json", load, str(tmp_path / name))


def test_files_of_two_kinds_in_a_folder_are_refused(tmp_path):
    write(tmp_path / "train.csv", columns())
    write(tmp_path / "test.jsonl", columns())
    refused("several kinds", load, str(tmp_path))


def test_the_embedded_diabetes_patients():
    dataset = load("diabetes")
    assert dataset.targets == "numbers"
    assert (len(dataset), dataset.store.example_shape) == (442, (10,))
    train = dataset.store.fetch(dataset.train_rows).double()
    assert train.mean(0).abs().max() < 1e-6
    assert (train.std(0, correction=0) - 1).abs().max() < 1e-6
    with pytest.raises(ConfigError, match="numbers to predict"):
        load("diabetes", targets="classes")
    with pytest.raises(ConfigError, match="classes to predict"):
        load("digits", targets="numbers")


def test_noise_gives_examples_the_targets_of_others():
    dataset = load("diabetes")
    splits = make_splits(dataset, DataConfig(dataset="diabetes", label_noise=0.5))
    share = float(splits.train.corrupted_N.double().mean())
    assert 0.4 < share < 0.6
    assert set(splits.train.targets_N.tolist()) <= set(dataset.labels_N.tolist())
    assert not splits.test.corrupted_N.any()
    clean = make_splits(dataset, DataConfig(dataset="diabetes"))
    assert clean.train.label_digest() != splits.train.label_digest()
    for wrong in ({"ambiguous": 0.1}, {"high_relevance": 2}, {"redraw_original": False}):
        with pytest.raises(ConfigError, match="about classes"):
            make_splits(dataset, DataConfig(dataset="diabetes", **wrong))


def pictures(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 6, 3), 2 * number, dtype=np.uint8)
        pixels[0, 0] = (255, 0, 0)
        Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_of_image_files_are_read_beside_the_table(tmp_path, suffix):
    names = [f"a b/{number}.png" for number in range(40)]
    pictures(tmp_path, names)
    table = {
        "file_name": names,
        "label": [("cat", "dog")[number % 2] for number in range(40)],
        "weight": [float(number) for number in range(40)],
    }
    path = write(tmp_path / f"list{suffix}", table)
    dataset = load(path)
    assert dataset.class_names == ("cat", "dog")
    images = dataset.store.fetch(torch.tensor([3, 0]))
    assert images[:, 0, 2, 2].tolist() == [6, 0]
    numbers = load(path, reading=Reading(label_column="weight"), targets="numbers")
    assert numbers.labels_N.tolist() == table["weight"]
    resized = load(path, reading=Reading(image_size=3))
    assert resized.store.example_shape == (3, 3, 3)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "", "absent.png"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    names = [f"{number}.png" for number in range(40)]
    pictures(tmp_path / "data", names)
    pictures(tmp_path, ["secret.png"])
    table = {"file_name": [*names[:-1], name], "label": ["cat", "dog"] * 20}
    refused(name or "row 39", load, write(tmp_path / "data" / "list.csv", table))


def test_images_inside_parquet_with_numbers_and_with_label_sets(tmp_path):
    pictures(tmp_path, [f"{number}.png" for number in range(20)])
    table = {
        "image": [(tmp_path / f"{number}.png").read_bytes() for number in range(20)],
        "label": [float(number) / 3 for number in range(20)],
        "labels": [["red"], ["red", "blue"]] * 10,
    }
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table(table), path)
    numbers = load(str(path), targets="numbers")
    assert numbers.labels_N.tolist() == pytest.approx(table["label"])
    sets = load(str(path), reading=Reading(label_column="labels"))
    assert sets.class_names == ("blue", "red")
    assert sets.labels_N[:2].tolist() == [[0, 1], [1, 1]]
