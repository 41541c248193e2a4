import json

import numpy as np
import pytest

from goldiprox.config import TrainConfig
from goldiprox.data.confusion import (
    most_confused,
    parse_pairs,
    read_matrix,
    with_digest,
    write_pairs,
)
from goldiprox.schema import ConfigError, DataError
from goldiprox.workflows.confusion import confusion_matrix

NAMES = ("cat", "dog", "2", "fox", "owl")


def confusion() -> np.ndarray:
    found = np.diag([90.0] * 5)
    found[0, 1], found[0, 2], found[1, 0], found[3, 4], found[2, 3], found[4, 0] = 8, 7, 6, 5, 4, 3
    return found


def test_the_four_classes_most_often_taken_for_another_are_found():
    # The second most frequent confusion is of class 0 again, whose labels flip to class 1 already.
    assert most_confused(confusion()) == ((0, 1), (1, 0), (3, 4), (2, 3))


def test_classes_never_confused_are_left_alone():
    only = np.diag([5.0, 5.0, 5.0])
    only[2, 0] = 1
    assert most_confused(only) == ((2, 0),)
    assert most_confused(np.eye(3)) == ()


def test_ties_go_to_the_lower_numbers():
    assert most_confused(np.ones((6, 6))) == ((0, 1), (1, 0), (2, 0), (3, 0))


@pytest.mark.parametrize("form", ["object", "rows", "csv"])
def test_matrices_are_read_from_every_form(tmp_path, form):
    rows = confusion().tolist()
    path = tmp_path / "m"
    path.write_text(
        {
            "object": json.dumps({"class_names": NAMES, "matrix": rows}),
            "rows": json.dumps(rows),
            "csv": "\n".join(",".join(map(str, row)) for row in rows) + "\n",
        }[form]
    )
    np.testing.assert_array_equal(read_matrix(str(path), NAMES), confusion())


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no matrix"),
        ("{}", "no matrix"),
        ("1,2\n3", "no matrix"),
        ("1,a\n3,4", "no matrix"),
        ("1,2\n3,4", r"shape \(2, 2\), but the data set has 5 classes"),
        (json.dumps((-np.eye(5)).tolist()), "negative or infinite"),
        (json.dumps({"matrix": np.eye(5).tolist(), "class_names": list("abcde")}), "a, b, c, ..."),
    ],
)
def test_damaged_matrices_are_named(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_matrix(str(path), NAMES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_matrix_that_is_absent_or_has_changed_is_refused(tmp_path):
    path = tmp_path / "m.csv"
    with pytest.raises(DataError, match="cannot be read"):
        with_digest(str(path))
    path.write_text("1,0\n0,1")
    marked = with_digest(str(path))
    assert with_digest(marked) == marked
    assert read_matrix(marked, "ab").tolist() == [[1, 0], [0, 1]]
    path.write_text("0,1\n1,0")
    with pytest.raises(DataError, match="changed since"):
        read_matrix(marked, "ab")


def test_pairs_are_names_or_numbers_and_names_win():
    assert parse_pairs("cat:dog,1:4, 2 : 0", NAMES) == ((0, 1), (1, 4), (2, 0))
    assert parse_pairs("2:0", ("x", "2", "y")) == ((1, 0),)  # the class named 2 is number 1


def test_names_of_classes_may_hold_colons_and_commas():
    names = ("a:b", "a", "x,y", "c", " d")
    assert parse_pairs("a:b:a", names) == ((0, 1),)
    assert parse_pairs("x,y:a:b,c:x,y,a:c", names) == ((2, 0), (3, 2), (1, 3))
    assert parse_pairs(" d:c", names) == ((4, 3),)
    assert parse_pairs("a:b", ("a", "b", "a:b")) == ((0, 1),)
    with pytest.raises(ConfigError, match="several ways: give the numbers"):
        parse_pairs("a:b:c", ("a:b", "c", "a", "b:c"))
    with pytest.raises(ConfigError, match="can be given by its number"):
        parse_pairs("a:b:q", names)


def test_written_pairs_read_back_where_names_are_other_numbers():
    for names in (NAMES, ("1", "2", "3", "4", "x")):
        pairs = ((0, 1), (1, 4), (2, 0))
        assert parse_pairs(write_pairs(pairs, names), names) == pairs
    assert write_pairs(pairs, NAMES) == "0:1,1:4,2:0"


@pytest.mark.parametrize(
    "pairs, message",
    [
        ("cat", "is no pair"),
        ("cat:dog:owl", "is no pair"),
        ("cat:cow", "no class 'cow'"),
        ("cat:dog,cat", "'cat' is no pair"),
        ("cat:5", "no class '5': the classes are cat, dog"),
        ("cat:0", "to itself"),
        ("cat:dog,0:4", "flips cat twice"),
    ],
)
def test_impossible_pairs_are_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        parse_pairs(pairs, NAMES)


def test_a_trained_models_confusions_become_structured_noise(make_tiny_splits, tmp_path):
    splits = make_tiny_splits(count=300, classes=4)
    out = tmp_path / "confusion.json"
    config = TrainConfig(model="mlp-128", method="uniform", batch=16, pool=16, epochs=2)
    written = confusion_matrix(splits, config, out)
    matrix = read_matrix(str(out), splits.dataset.class_names)
    labels = np.bincount(splits.holdout.targets_N.numpy(), minlength=4)
    np.testing.assert_array_equal(matrix.sum(1), labels)
    assert written["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert written["accuracy"] > 0.5
    with pytest.raises(ConfigError, match="no holdout set to count"):
        confusion_matrix(make_tiny_splits(holdout_mode="halves"), config, out)
