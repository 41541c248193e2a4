"""Texts, a data set from Python and one of the hub, damaged ones too."""

import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_errors import error
from PIL import Image

from goldiprox.data.datasets import TextStore, from_items, load
from goldiprox.data.settings import Reading
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import DataError

pytestmark = pytest.mark.usefixtures("no_data_around")


# Texts


def write_glue(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("validation", 6), ("test", 4)):
        label = [-1] * count if split == "test" else [n % 2 for n in range(count)]
        table = pa.table({"sentence": [f"{split} {n}" for n in range(count)], "label": label})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("name, classes", [("cola", "acceptable"), ("sst2", "positive")])
def test_glue_is_tested_on_its_validation_set(tmp_path, name, classes):
    write_glue(tmp_path / name)
    dataset = load(name, data_dir=tmp_path)
    assert dataset.class_names[1] == classes
    assert isinstance(dataset.store, TextStore)
    assert dataset.store.example_shape == ()
    assert dataset.store.fetch(torch.tensor([12, 0, 0])) == ["validation 0", "train 0", "train 0"]
    assert dataset.test_rows.tolist() == list(range(12, 18))
    assert dataset.store.thumbnail(0).startswith(b"\x89PNG")
    assert make_splits(dataset, DataConfig(dataset=name, validation=0.3)).config.holdout == 0.5
    (tmp_path / name / "validation.parquet").unlink()
    assert "no validation*.parquet beside it" in error(name, data_dir=tmp_path)


def test_glues_own_tables_are_read(tmp_path):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "SST-2").mkdir()
    for name in ("train", "dev"):
        (tmp_path / f"CoLA/{name}.tsv").write_text(
            'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tHim said.\n' * 5
        )
        (tmp_path / f"SST-2/{name}.tsv").write_text(
            "sentence\tlabel\n" + "so good \t1\nbad\t0\n" * 5
        )
    cola = load("cola", data_dir=tmp_path)
    assert cola.store.fetch(torch.tensor([0, 1])) == ['He said "no.', "Him said."]
    assert cola.labels_N[:2].tolist() == [1, 0]
    sst2 = load("sst2", data_dir=tmp_path)
    assert sst2.store.fetch(torch.tensor([0, 1])) == ["so good", "bad"]
    assert (len(sst2.train_rows), len(sst2.test_rows)) == (10, 10)
    (tmp_path / "CoLA/dev.tsv").write_text("gj04\t1\n")
    assert "dev.tsv: line 1 has no sentence" in error("cola", data_dir=tmp_path)
    (tmp_path / "CoLA/dev.tsv").write_bytes(b"gj04\t1\t\tcaf\xe9\n")
    assert "dev.tsv: cannot be read behind line 0" in error("cola", data_dir=tmp_path)
    (tmp_path / "CoLA/dev.tsv").write_text("gj04\t1\t\tfine\ngj04\t1\t\t" + "x" * 200_000)
    assert "dev.tsv: cannot be read behind line 1 (field larger" in error("cola", data_dir=tmp_path)
    (tmp_path / "CoLA/dev.tsv").unlink()
    assert "dev.tsv missing" in error("cola", data_dir=tmp_path)


def test_texts_by_path_with_columns_of_any_name_and_groups(tmp_path):
    path = tmp_path / "reviews.parquet"
    table = {"review": [f"r{n}" for n in range(20)], "stars": [0, 1] * 10, "shop": list("abcd") * 5}
    pq.write_table(pa.table(table), path)
    named = Reading(input_column="review", label_column="stars", group_column="shop")
    dataset = load(str(path), reading=named)
    assert dataset.store.fetch(torch.tensor([7])) == ["r7"]
    assert dataset.group_names == ("a", "b", "c", "d")
    assert dataset.groups_N[:6].tolist() == [0, 1, 2, 3, 0, 1]
    plain = load(str(path), reading=Reading(input_column="review", label_column="stars"))
    assert plain.groups_N is None
    assert plain.fingerprint == dataset.fingerprint
    changed = pa.table({**table, "review": ["r!", *table["review"][1:]]})
    pq.write_table(changed, path)
    assert load(str(path), reading=named).fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    "reading, message",
    [
        (
            Reading(),
            "no image column: looked for img, image; name it with --input-column: there are words",
        ),
        (
            Reading(input_column="text"),
            "looked for text; name it with --input-column: there are words, label",
        ),
        (Reading(input_column="words", label_column="y"), "no label column: looked for y"),
        (Reading(input_column="words", group_column="g"), "no group column: looked for g"),
        (Reading(input_column="words"), "1 texts are null (first: row 2)"),
    ],
)
def test_missing_columns_and_texts_are_named(tmp_path, reading, message):
    path = tmp_path / "x.parquet"
    words = ["a", "b", None if "null" in message else "c", "d"] * 1
    pq.write_table(pa.table({"words": words * 1, "label": [0, 1, 0, 1]}), path)
    assert message in error(str(path), reading=reading)


# From Python, and from the hub


class Items(list):
    classes = ("low", "high")


def test_any_map_style_data_set_becomes_one():
    train = Items([(Image.new("L", (4, 4), n), n % 2) for n in range(20)])
    test = [(np.full((4, 4), 100 + n, np.uint8), n % 2) for n in range(6)]
    dataset = from_items("mine", train, test)
    assert dataset.class_names == ("low", "high")
    assert dataset.store.fetch(torch.tensor([3, 21]))[:, 0, 0, 0].tolist() == [3, 101]
    assert dataset.test_rows.tolist() == list(range(20, 26))
    texts = from_items("words", [{"text": f"t{n}", "label": n % 2} for n in range(10)])
    assert texts.store.fetch(torch.tensor([4])) == ["t4"]
    assert len(texts.test_rows) == 2
    own = from_items("own", train, test, holdout=train[:4])
    assert own.holdout_rows.tolist() == [26, 27, 28, 29]


@pytest.mark.parametrize(
    "item, message",
    [
        ((torch.zeros(1, 4, 4), 0), "take transforms off"),
        (
            (np.zeros((5, 4), np.uint8), 0),
            "5x4 pixels, the first image has 4x4; resize all of them with --image-size",
        ),
        ((np.zeros((4, 4), np.uint8), "cat"), "label 'cat', a text, but mine: train item 0 has 0"),
        ((np.zeros((4, 4), np.uint8), -1), "label -1"),
        ((Image.fromarray(np.zeros((4, 4), np.uint16)), 0), "more than 8 bits per channel"),
        (("text", 0), "unlike the first item"),
        (7, r"is a int; \(input, label\) expected"),
        ({"picture": 1, "label": 0}, "no column img or image or text or sentence"),
    ],
)
def test_items_of_another_form_are_named(item, message):
    good = [(np.zeros((4, 4), np.uint8), n % 2) for n in range(10)]
    with pytest.raises(DataError, match=message) as caught:
        from_items("mine", [*good, item])
    assert "mine: train item 10" in str(caught.value)


class Split(list):
    """What a split of the datasets library looks like."""

    features = types.MappingProxyType(
        {"text": None, "label": types.SimpleNamespace(names=["n", "y"])}
    )

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


def test_the_hub_is_read_through_its_library(monkeypatch):
    def split(count, label=None):
        return Split(
            {"text": f"t{n}", "label": n % 2 if label is None else label} for n in range(count)
        )

    asked = []

    def load_dataset(path, configuration):
        asked.append((path, configuration))
        return {"train": split(10), "test": split(4, -1), "validation": split(6)}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    dataset = load("hub:nyu-mll/glue:sst2")
    assert asked == [("nyu-mll/glue", "sst2")]
    assert dataset.class_names == ("n", "y")
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (10, 6)  # test has no labels
    assert [str(note) for note in dataset.notes] == [
        "left out: the split test, which has no labels: 4"
    ]

    def named(path, configuration):
        return {"train": split(10), "test": split(4, "good")}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=named))
    assert "test item 0 has the label 'good', a text, but hub:a/b: train item 0 has 0" in error(
        "hub:a/b"
    )

    def offline(*_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=offline))
    message = error("hub:someone/something")
    assert "hub:someone/something: cannot be had (no route); offline, put its Parquet" in message
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "install goldiprox[text]" in error("hub:a/b")
