"""Labels of every kind that users bring become classes by a rule that is said, or are refused."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import Subset

from goldiprox.data.datasets import from_items, load, make_dataset
from goldiprox.data.labels import RawLabels, read_labels
from goldiprox.data.settings import Reading
from goldiprox.schema import DataError


def read(*parts, names=None):
    raw = [RawLabels(values=values, where=f"part {n}") for n, values in enumerate(parts)]
    return read_labels(raw, 1, names)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


TEXTS = pa.array(["b", "a"] * 4)
EACH = [
    ([0, 1] * 4, [0, 1], ("0", "1")),
    ([1, 3, 2] * 4, [0, 2, 1], ("1", "2", "3")),
    ([900, 0, 5] * 4, [2, 0, 1], ("0", "5", "900")),
    ([2.0, 0.0] * 4, [1, 0], ("0", "2")),
    ([True, False] * 4, [1, 0], ("False", "True")),
    (["b", "a"] * 4, [1, 0], ("a", "b")),
    (["10", "2", "0"] * 4, [2, 1, 0], ("0", "2", "10")),
    (["day10", "day2"] * 4, [1, 0], ("day2", "day10")),
    ([b"b", b"a"] * 4, [1, 0], ("a", "b")),
    ([decimal.Decimal("7.00"), decimal.Decimal("3.00")] * 4, [1, 0], ("3", "7")),
    (["bạn", "bán"] * 4, [1, 0], ("bán", "bạn")),
]


@pytest.mark.parametrize("values, labels, names", EACH)
@pytest.mark.parametrize("make", [list, column])
def test_labels_become_classes_by_value(make, values, labels, names):
    found = read(make(values))
    assert found.labels_N.tolist() == labels * 4
    assert found.labels_N.dtype == torch.int64
    assert found.class_names == names
    assert bool(found.notes) == (values != [0, 1] * 4)


@pytest.mark.parametrize(
    "values",
    [
        pa.chunked_array([TEXTS.dictionary_encode(), TEXTS.dictionary_encode()]),
        pa.chunked_array([TEXTS, TEXTS]).cast(pa.large_string()),
        pa.chunked_array([TEXTS.dictionary_encode(), TEXTS[1:].dictionary_encode()]),
        pa.chunked_array(
            [pa.DictionaryArray.from_arrays(pa.array([2, 0] * 4), pa.array(["a", "unused", "b"]))]
        ),
    ],
    ids=["dictionary", "large", "dictionaries that differ", "unused entry"],
)
def test_columns_of_other_types_hold_the_same_labels(values):
    found = read(values)
    assert found.class_names == ("a", "b")
    assert found.labels_N[:4].tolist() == [1, 0, 1, 0]


def test_python_objects_may_be_scalars_of_numpy_and_torch():
    values = [np.int64(5), torch.tensor(7), np.array([5]), torch.tensor([7.0])] * 2
    assert read(values).labels_N.tolist() == [0, 1, 0, 1] * 2


@pytest.mark.parametrize(
    "values, message",
    [
        ([0, None, 1, 1] * 3, r"part 0: row 1 has no label \(3 such\); give it one"),
        ([0.0, float("nan")] * 4, r"row 1 has no label \(4 such\)"),
        (["a", " "] * 4, "row 1 has no label"),
        ([None] * 8, r"row 0 has no label \(8 such\)"),
        ([0, -1] * 4, r"row 1 has the label -1 \(4 such\), a negative number, as unlabelled"),
        ([-100, 1] * 4, "the label -100"),
        ([0.1, 0.9] * 4, "the label 0.1 .*no whole number; a class expected, not a score"),
        (["0.1", "0.9"] * 4, "the label '0.1' is a number, but no whole one"),
        ([0.0, float("inf")] * 4, "the label inf .*no whole number"),
        (
            [2**63 + 1, *[0, 1] * 4],
            f"label {2**63 + 1}, which is too large .*give the classes names",
        ),
        ([2.0**60, 1.0] * 4, "too large to be exact as a float"),
        ([0] * 8, "all 8 training examples have the label 0; give at least two classes"),
        (list(range(8)), "8 different labels in 8 training examples.* at least 2"),
        ([[0, 1], [1, 0]] * 4, "one class an example expected"),
        ([b"\xff", b"a"] * 4, "no text in UTF-8"),
        (["cat", "cat "] * 4, "'cat' and 'cat ' differ only in spaces"),
        (["caf\u00e9", "cafe\u0301"] * 4, "how accents are encoded"),
        (["1", "01"] * 4, "'1' and '01' are the same number"),
    ],
)
@pytest.mark.parametrize("make", [list, column])
def test_what_is_no_class_is_refused(make, values, message):
    if make is column and isinstance(values[0], int) and values[0] > 2**62:
        values = pa.array(values, pa.uint64())
    with pytest.raises(DataError, match=message):
        read(make(values))


@pytest.mark.parametrize(
    "values, message",
    [
        ([0, "a"] * 4, "row 1 has the label 'a', a text, but part 0: row 0 has 0, a number"),
        ([True, 0] * 4, "has the label 0, a number, but part 0: row 0 has True, a truth value"),
        ([object(), 1] * 4, "a object; one class an example expected"),
        ([np.zeros(3), 1] * 4, "a ndarray; one class an example expected"),
    ],
)
def test_python_objects_that_are_no_labels_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        read(values)


def test_all_parts_have_the_classes_of_the_training_part():
    found = read(["b", "a"] * 2, column(["a", "b", "b"]))
    assert found.labels_N.tolist() == [1, 0, 1, 0, 0, 1, 1]
    with pytest.raises(DataError, match="part 1: row 2 has the label 'c', which no training"):
        read(["b", "a"] * 2, ["a", "b", "c"])


def test_known_names_number_the_classes():
    assert read([2, 0] * 2, names=["a", "b", "c"]).labels_N.tolist() == [2, 0] * 2
    assert read(["c", "a"] * 2, names=["c", "b", "a"]).labels_N.tolist() == [0, 2] * 2
    assert read([True, False] * 2, names=["n", "y"]).labels_N.tolist() == [1, 0] * 2
    with pytest.raises(DataError, match=r"row 1 has the label 3.*only 3 classes, 0 to 2"):
        read([0, 3] * 2, names=["a", "b", "c"])
    with pytest.raises(DataError, match="row 0 has the label 'd'; the classes are a, b, c"):
        read(["d", "a"] * 2, names=["a", "b", "c"])


# What data sets make of it


def items(labels):
    return [(np.full((4, 4), n, np.uint8), label) for n, label in enumerate(labels)]


def test_items_have_no_class_that_no_item_has():
    for labels in ([1, 2, 3] * 4, [0, 5, 900] * 4, ["x", "y", "z"] * 4):
        dataset = from_items("mine", items(labels))
        assert dataset.class_names == tuple(map(str, labels[:3]))
        assert "different labels" in str(dataset.notes[0])


def test_names_are_found_through_a_part_and_in_the_features_of_a_split():
    class Named(list):
        classes = (("tench", "Tinca"), ("goldfish",))

    whole = Named(items([0, 1] * 6))
    assert from_items("part", Subset(whole, range(10))).class_names == ("tench, Tinca", "goldfish")

    class Split(list):
        features = {"image": None, "label": type("ClassLabel", (), {"names": ["n", "y"]})()}  # noqa: RUF012

    rows = Split({"image": image, "label": label} for image, label in items([0, 1] * 6))
    assert from_items("split", rows).class_names == ("n", "y")


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(DataError, match="the classes 0 and 1 are both named 'a'"):
        from_items("mine", items([0, 1] * 6), class_names=["a", "a"])


def test_classes_that_a_part_lacks_are_said():
    images = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    dataset = make_dataset(
        "small", images, torch.tensor([0, 1, 0, 1, 0, 0]), torch.tensor([4, 5]),
        class_names=["a", "b", "c"], source="here",
    )  # fmt: skip
    assert [str(note) for note in dataset.notes] == [
        "classes without a training example: 1 (c)",
        "classes without a test example: 2 (b, c)",
    ]


def test_files_that_are_not_used_are_said(tmp_path):
    for part in ("train", "test", "validation"):
        write(tmp_path / f"{part}.parquet")
    (note,) = load(f"{tmp_path}/").notes
    assert str(note).endswith("neither training nor test set: 1 (validation.parquet)")


# Groups


def write(path, **columns):
    pq.write_table(
        pa.table({"text": [f"t{n}" for n in range(8)], "label": [0, 1] * 4} | columns), path
    )
    return str(path)


def test_not_a_number_is_one_group(tmp_path):
    groups = pa.array([1.0, float("nan")] * 4)
    dataset = load(write(tmp_path / "x.parquet", g=groups), reading=Reading(group_column="g"))
    assert dataset.group_names == ("1.0", "nan")
    assert dataset.groups_N.tolist() == [0, 1] * 4
    rows = [{"text": f"t{n}", "label": n % 2, "g": np.float32("nan")} for n in range(8)]
    assert from_items("x", rows, reading=Reading(group_column="g")).group_names == ("nan",)


def test_groups_are_texts_or_numbers_each_with_a_name_of_its_own(tmp_path):
    path = write(tmp_path / "x.parquet", g=pa.array([b"x", b"y"] * 4).dictionary_encode())
    assert load(path, reading=Reading(group_column="g")).group_names == ("x", "y")
    path = write(tmp_path / "x.parquet", g=pa.array([[1], [2]] * 4))
    with pytest.raises(DataError, match="the group column holds lists or the like"):
        load(path, reading=Reading(group_column="g"))
    rows = [{"text": f"t{n}", "label": n % 2, "g": 1 if n % 2 else "1"} for n in range(8)]
    with pytest.raises(DataError, match="the groups 0 and 1 are both named '1'"):
        from_items("x", rows, reading=Reading(group_column="g"))


# Columns of texts


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([f"t{n}".encode() for n in range(8)]),
        pa.array([f"t{n}" for n in range(8)]).dictionary_encode(),
        pa.array([f"t{n}".encode() for n in range(8)]).dictionary_encode(),
        pa.array([f"t{n}" for n in range(8)], pa.large_string()),
        pa.array([b"t%d" % n for n in range(8)], pa.binary(2)),
    ],
    ids=["bytes", "category", "category of bytes", "large", "fixed"],
)
@pytest.mark.parametrize("name", ["text", "body"])
def test_texts_may_be_bytes_or_categories(tmp_path, texts, name):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({name: texts, "label": [0, 1] * 4}), path)
    reading = Reading(input_column=None if name == "text" else name)
    dataset = load(str(path), reading=reading)
    assert dataset.store.fetch(torch.arange(8)) == [f"t{n}" for n in range(8)]


@pytest.mark.parametrize(
    "texts, message",
    [
        ([b"\xff\xfe", *[b"t"] * 7], "column text: a text is not in UTF-8"),
        ([["a", "b"]] * 8, "column text holds list<"),
        ([None, *["t"] * 7], r"column text: 1 texts are null \(first: row 0\)"),
    ],
)
def test_other_columns_are_no_texts(tmp_path, texts, message):
    path = write(tmp_path / "x.parquet", text=texts)
    with pytest.raises(DataError, match=message):
        load(path, reading=Reading(input_column="text"))


def test_items_of_bytes_are_texts_where_they_can_be():
    rows = [(f"så {n}".encode(), n % 2) for n in range(8)]
    assert from_items("mine", rows).store.fetch(torch.tensor([3])) == ["så 3"]


def test_texts_in_scripts_without_spaces_are_said():
    rows = [(text, n % 2) for n, text in enumerate(["ดีมาก", "so “good”", "映画", "한국어 é"] * 2)]
    (note,) = from_items("mine", rows).notes
    assert note.count == 4
    assert note.first == ("ดีมาก", "映画", "ดีมาก")
    assert "take each character for a word" in note.what
    assert from_items("mine", [(f"“só” {n}", n % 2) for n in range(8)]).notes == ()


def test_half_of_a_character_is_refused():
    rows = [("a\ud83d" if n == 3 else "a", n % 2) for n in range(8)]
    with pytest.raises(DataError, match="text 3 has half of a character"):
        from_items("mine", rows)
