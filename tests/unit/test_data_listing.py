"""Image folders as people have them: public layouts, litter, links, odd names, broken files."""

import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_errors import error
from PIL import Image

from goldiprox.commands.shared import splits_of
from goldiprox.data.datasets import load
from goldiprox.data.listing import PART
from goldiprox.data.settings import Reading
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.schema import DataError

pytestmark = pytest.mark.usefixtures("no_data_around")

INLINE = Reading(workers=0)


def fill(folder: Path, count: int = 5, suffix: str = ".png", size=(6, 6)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        seed = sum(folder.name.encode()) + number
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}{suffix}")
    return folder


def said(dataset) -> dict[str, int]:
    return {note.what: note.count for note in dataset.notes}


# Parts


@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"),
        ("Training", "validation"), ("train", "valid"), ("seg_train", "seg_test"),
        ("training_set", "test_set"), ("trainset", "testset"), ("train2017", "val2017"),
        ("train_images", "test_images"), ("train", "dev"), ("images-train", "images-test"),
        ("Train Set", "Evaluation"),
    ],
)  # fmt: skip
def test_parts_of_public_layouts_are_no_classes(tmp_path, train, test):
    for part, count in ((train, 5), (test, 2)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count)
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (10, 4)


def test_parts_that_an_archive_wraps_twice_are_found(tmp_path):
    for part in ("seg_train/seg_train", "seg_test/seg_test"):
        for name in ("sea", "street"):
            fill(tmp_path / part / name)
    fill(tmp_path / "seg_pred" / "seg_pred")
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("sea", "street")
    assert said(dataset) == {"left out: folders beside the parts that are used": 1}


def test_a_validation_part_beside_a_test_part_is_said_to_be_left_out(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, {"train": 5, "val": 3, "test": 2}[part])
    dataset = load(str(tmp_path), reading=INLINE)
    assert len(dataset.test_rows) == 4
    (note,) = dataset.notes
    assert str(note) == "left out: folders beside the parts that are used: 1 (val)"


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "steam_train", "test_tube"):
        fill(tmp_path / name)
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("bus", "steam_train", "test_tube", "train")


@pytest.mark.parametrize("name", ["trains", "contest", "latest", "values", "validity", "evaluate1"])
def test_words_that_only_begin_or_end_like_a_part_are_none(name):
    assert PART.fullmatch(name) is None


def test_parts_without_classes_or_partners_are_refused(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / "flat" / part)
    assert "train: no class folders with images" in error(str(tmp_path / "flat"), reading=INLINE)
    fill(tmp_path / "lonely/Train/cat")
    fill(tmp_path / "lonely/Train/dog")
    message = error(str(tmp_path / "lonely"), reading=INLINE)
    assert "a folder Train, but none of test, val, valid, validation beside it" in message
    remedy = re.search(r"name (\S+) to test on a fifth of it", message)
    assert load(remedy[1], reading=INLINE).class_names == ("cat", "dog")
    fill(tmp_path / "untrained/test/cat")
    fill(tmp_path / "untrained/val/cat")
    message = error(str(tmp_path / "untrained"), reading=INLINE)
    assert "with classes in it, but no folder train beside it" in message


def test_images_without_class_folders_are_named_as_that(tmp_path):
    fill(tmp_path / "flat")
    assert "0 folder(s) with images; give one folder a class" in error(str(tmp_path / "flat"))
    fill(tmp_path / "one/only/cat")
    fill(tmp_path / "one/only/dog")
    message = error(str(tmp_path / "one"))
    assert f"or name {tmp_path / 'one/only'} if that holds the class folders" in message


# Litter


LITTER = {
    ".DS_Store": "files of other programs", "Thumbs.db": "files of other programs",
    "desktop.ini": "files of other programs", "._0.png": "files of other programs",
    "0.png~": "files of other programs", "1.png.crdownload": "files of other programs",
    "notes.txt": "files that are no images", "labels.csv": "files that are no images",
    ".hidden.png": "hidden images", "README": "files that are no images",
}  # fmt: skip
LITTER_FOLDERS = (
    ".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir", ".git", ".Trash-1000",
    "$RECYCLE.BIN", "__pycache__",
)  # fmt: skip


def test_every_kind_of_litter_is_left_out_and_said(tmp_path, capsys):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 20)
    clean = load(str(tmp_path), reading=INLINE)
    assert clean.notes == ()
    for name in LITTER:
        for place in (tmp_path, tmp_path / "cat"):
            (place / name).write_bytes(b"\0\5\x16\7 no image")
    for name in LITTER_FOLDERS:
        for place in (tmp_path, tmp_path / "cat"):
            shutil.copytree(tmp_path / "dog", place / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/run.py").write_text("pass")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "nowhere.txt").symlink_to(tmp_path / "nothing")
    shutil.copy(tmp_path / "cat/0.png", tmp_path / "stray.png")
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.fingerprint == clean.fingerprint
    assert said(dataset) == {
        "left out: files of other programs, such as .DS_Store": 12,
        "left out: files that are no images": 7,
        "left out: hidden images": 2,
        "left out: folders of other programs, such as caches": 16,
        "left out: folders without images": 2,
        "left out: links to nothing, pipes and devices": 2,
        "left out: images beside the class folders": 1,
    }
    splits = splits_of(DataConfig(dataset=str(tmp_path), validation=0.3))
    lines = capsys.readouterr().err.splitlines()
    assert "left out: folders without images: 2 (empty, scripts)" in lines
    assert "left out: images beside the class folders: 1 (stray.png)" in lines
    assert len(lines) == len(splits.describe()["notes"]) == 7


def test_classes_may_begin_with_a_dot_or_a_line(tmp_path):
    for name in ("_background_", ".net", "cat", "__init__"):
        fill(tmp_path / name)
    dataset = load(str(tmp_path), reading=INLINE)
    assert set(dataset.class_names) == {"_background_", ".net", "cat", "__init__"}


def test_files_whose_name_says_nothing_are_looked_at(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 5)
    for kind, name in (
        ("JPEG", "a.jfif"), ("JPEG", "b"), ("PNG", "c"), ("GIF", "d.jpg_large"),
        ("WEBP", "0f3a.20240101"), ("TIFF", "e"), ("JPEG", "F.JPE"),
    ):  # fmt: skip
        Image.new("RGB", (6, 6), (9, 9, 9)).save(tmp_path / "cat" / name, kind)
    (tmp_path / "cat/LICENSE").write_text("free")
    dataset = load(str(tmp_path), reading=INLINE)
    assert len(dataset) == 17
    assert said(dataset) == {"left out: files that are no images": 1}


# Links


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        fill(data / name, 5)
    fill(tmp_path / "elsewhere/deep", 3)
    (data / "cat/more").symlink_to(tmp_path / "elsewhere")
    (data / "cat/up").symlink_to(data)
    (data / "cat/self").symlink_to(data / "cat")
    (data / "dog/round").symlink_to(data / "dog" / "round")
    (data / "emu").symlink_to(tmp_path / "elsewhere")
    (data / "cat/linked.png").symlink_to(data / "cat/0.png")
    dataset = load(str(data), reading=INLINE)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert torch.bincount(dataset.labels_N).tolist() == [9, 5, 3]
    assert said(dataset) == {
        "read: links to folders": 1,
        "read: folders in classes": 2,
        "left out: links to a folder that they are in": 2,
        "left out: links to nothing, pipes and devices": 1,
    }


@pytest.mark.parametrize("lazy", [False, True])
def test_all_problems_are_told_at_once_with_a_command_that_works(tmp_path, monkeypatch, lazy):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 6)
    (tmp_path / "cat/0.png").write_bytes(b"")
    (tmp_path / "cat/broken.png").symlink_to(tmp_path / "nothing.png")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(tmp_path / "cat/wide.png")
    Image.new("RGB", (9, 4)).save(tmp_path / "dog/other.png")
    (tmp_path / "dog/photo.heic").write_bytes(b"\0\0\0\x18ftypheic0000")
    message = error(str(tmp_path), reading=Reading(workers=0, lazy=lazy))
    assert message == (
        f"{tmp_path}: 5 of 16 images cannot be used: 3 cannot be read as an image (first: "
        "cat/0.png: cannot be read as an image (no image of a known kind)), 1 of more than 8 bits "
        "per channel (first: cat/wide.png), 1 of another size than the first image's 6x6 (first: "
        "dog/other.png); this reads the others: --image-size 6 --skip-unreadable"
    )
    monkeypatch.setattr(sys, "argv", ["goldiprox", "train", str(tmp_path), "--out", "my run"])
    config = DataConfig(dataset=str(tmp_path), workers=0, lazy=lazy, validation=0.3)
    with pytest.raises(DataError) as caught:
        splits_of(config)
    assert str(caught.value).endswith(
        f"this reads the others: goldiprox train {tmp_path} --out 'my run' --image-size 6 "
        "--skip-unreadable"
    )
    dataset = splits_of(replace(config, image_size=6, skip_unreadable=True)).dataset
    assert dataset.left_out == 4
    assert len(dataset.train_rows) + len(dataset.test_rows) == 12
    assert said(dataset) == {
        "left out: images that cannot be read": 3,
        "left out: images of more than 8 bits a channel": 1,
        "images resized to 6x6": 1,
        "images cropped at two edges for 6x6, to keep their aspect ratio": 1,
    }


def test_pixels_that_are_cut_short_are_told_too_where_there_are_other_problems(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 6, size=(20, 20))
    short = tmp_path / "test/cat/1.png"
    short.write_bytes(short.read_bytes()[:-200])
    lazy = load(str(tmp_path), reading=Reading(workers=0, lazy=True))  # its header is whole
    with pytest.raises(DataError, match=r"cat/1\.png: cannot be read .* --skip-unreadable"):
        lazy.store.fetch(lazy.test_rows)
    Image.new("RGB", (9, 4)).save(tmp_path / "train/dog/other.png")
    message = error(str(tmp_path), reading=Reading(workers=0, lazy=True))
    assert "2 of 25 images cannot be used: 1 cannot be read" in message


def test_a_broken_link_is_named_as_one(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 6)
    (tmp_path / "dog/x.png").symlink_to(tmp_path / "nothing.png")
    message = error(str(tmp_path), reading=INLINE)
    assert "dog/x.png: a link to what is not there" in message
    assert "--skip-unreadable" in message


def test_without_any_image_that_can_be_read_no_option_is_promised(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(b"no")
    for reading in (INLINE, Reading(workers=0, skip_unreadable=True)):
        message = error(str(tmp_path), reading=reading)
        assert "6 of 6 images cannot be used" in message
        assert "no image is left" in message
        assert "--" not in message


# Names


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        fill(tmp_path / "data" / str(number), 20)
    matrix = np.eye(12)
    matrix[2] = np.eye(12)[3]
    np.savetxt(tmp_path / "matrix.csv", matrix, delimiter=",")
    config = DataConfig(
        dataset=str(tmp_path / "data"), noise_matrix=str(tmp_path / "matrix.csv"), workers=0
    )
    dataset = load(config.dataset, reading=config)
    assert dataset.class_names == tuple(map(str, range(12)))
    assert "classes in the order of their numbers, 2 before 10" in said(dataset)
    train = make_splits(dataset, config).train
    wrong = train.corrupted_N
    assert set(train.true_targets_N[wrong].tolist()) == {2}
    assert set(train.targets_N[wrong].tolist()) == {3}


@pytest.mark.parametrize(
    "names",
    [
        ("-1", "0", "2", "10"), ("0.5", "1", "10.0"), ("day2", "day10"), ("001", "002", "010"),
        ("7a", "7b", "70a"), ("B", "a"),
    ],
)  # fmt: skip
def test_numbers_in_names_count_as_numbers(tmp_path, names):
    for name in reversed(names):
        fill(tmp_path / name, 5)
    assert load(str(tmp_path), reading=INLINE).class_names == names


def test_names_of_any_bytes_are_read_and_can_be_printed(tmp_path):
    for name in ("cat", "dog", "emu"):
        fill(tmp_path / name)
    cafe = (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    (tmp_path / "dog").rename(tmp_path / "two\nlines")
    (tmp_path / "emu").rename(tmp_path / "n\u0308")
    bad = cafe / os.fsdecode(b"\xff.png")
    shutil.copy(cafe / "0.png", bad)
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("caf\\xe9", "n\u0308", "two\\nlines")
    assert len(dataset) == 16
    dataset.source.encode()
    bad.write_bytes(b"no image")
    message = error(str(tmp_path), reading=INLINE)
    assert "caf\\xe9/\\xff.png: cannot be read" in message
    message.encode()


def test_one_name_in_two_spellings_is_one_class(tmp_path):
    for part, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        fill(tmp_path / part / name)
        fill(tmp_path / part / "bar")
    assert load(str(tmp_path), reading=INLINE).class_names == ("bar", "caf\u00e9")
    fill(tmp_path / "train/cafe\u0301")
    assert "two folders are called caf\u00e9" in error(str(tmp_path), reading=INLINE)


def test_too_few_images_to_test_on_are_refused_with_what_to_do(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 2)
    assert "give at least 3 examples of a class" in error(str(tmp_path), reading=INLINE)


@pytest.mark.parametrize(
    "train, test",
    [
        ("train_32x32", "val_32x32"), ("Train1", "Test1"), ("train (1)", "test (1)"),
        ("trainA", "testA"), ("train_dir", "valid_dir"), ("xtrain", "xtest"), ("tr", "te"),
    ],
)  # fmt: skip
def test_other_names_are_parts_if_they_differ_in_one_word_and_hold_the_same(tmp_path, train, test):
    for part, count in ((train, 5), (test, 2)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count)
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train_rows), len(dataset.test_rows)) == (10, 4)


def test_what_only_sounds_like_parts_is_classes(tmp_path):
    fill(tmp_path / "trainers" / "red")
    fill(tmp_path / "testers" / "blue")
    dataset = load(str(tmp_path), reading=INLINE)
    assert dataset.class_names == ("testers", "trainers")
    assert said(dataset) == {"read: folders in classes": 2}


def test_parts_inside_of_classes_are_not_mixed(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name / "train")
        fill(tmp_path / name / "test")
    with pytest.raises(DataError, match="class folders hold parts of their own, such as cat/train"):
        load(str(tmp_path))


@pytest.mark.parametrize("other", ["cat ", "c\u200bat", "c\u00adat"])
def test_classes_that_look_alike_are_refused(tmp_path, other):
    for name in ("cat", other, "dog"):
        fill(tmp_path / name)
    with pytest.raises(DataError, match="differ only in spaces, invisible characters"):
        load(str(tmp_path))


def test_a_table_beside_images_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"or name .*metadata\.csv if that lists images and labels"):
        load(str(tmp_path))
