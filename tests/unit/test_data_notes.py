"""What readers say of the data they changed or left out."""

from dataclasses import replace

import numpy as np

from goldiprox.commands.shared import splits_of
from goldiprox.data import datasets
from goldiprox.data.datasets import from_items
from goldiprox.data.notes import Note, note_of
from goldiprox.data.splits import DataConfig, make_splits


def test_a_note_is_one_line_with_its_count_and_the_first_examples():
    (note,) = note_of("left out: files that are no images", [f"{n}.txt" for n in range(1200)])
    assert note.first == ("0.txt", "1.txt", "2.txt")
    assert str(note) == ("left out: files that are no images: 1,200 (first: 0.txt, 1.txt, 2.txt)")
    assert str(Note("rotated as their EXIF says", 1, ("a.jpg",))).endswith(": 1 (a.jpg)")
    assert note_of("nothing", []) == ()


def test_notes_are_printed_by_commands_and_kept_in_the_manifest(monkeypatch, capsys):
    dataset = from_items("mine", [(np.full((4, 4), n, np.uint8), n % 2) for n in range(40)])
    noted = replace(dataset, notes=(Note("labels mapped", 2, ("3 -> 0", "7 -> 1")),))
    monkeypatch.setitem(datasets.DATASETS, "noted", lambda _: noted)
    splits = splits_of(DataConfig(dataset="noted"))
    assert capsys.readouterr().err == "labels mapped: 2 (3 -> 0, 7 -> 1)\n"
    assert splits.describe()["notes"] == [
        {"what": "labels mapped", "count": 2, "first": ["3 -> 0", "7 -> 1"]}
    ]
    assert make_splits(dataset, DataConfig(dataset="mine")).describe()["notes"] == []
