"""Image folders: one folder a class, read as needed or all at once; CINIC-10 and Clothing-1M."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from goldiprox.data.files import Checked, FileReader, FileStore, UndecodableError, image_shape
from goldiprox.data.messages import first_line
from goldiprox.data.modes import LOOKED_AT
from goldiprox.data.settings import Reading
from goldiprox.data.sources import CACHE, absent, data_roots, stratified_test_rows
from goldiprox.data.store import Dataset, ImageStore, make_dataset
from goldiprox.schema import DataError

__all__ = ["cinic10", "clothing1m", "files_dataset", "image_folder", "is_image_folder"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
IN_MEMORY = 1 << 30
"""Bytes that the images of a folder may take before they are read only as they are needed."""
FEW = 1 << 25
"""Bytes that the images of a folder may take to be read in the training process itself."""
TESTS = ("test", "val", "valid", "validation")


def is_image_folder(path: Path) -> bool:
    """Whether a folder has folders with images in them, or a ``train`` folder that has."""
    for place in (path / "train", path):
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            if folder.is_dir() and any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*")):
                return True
    return False


def image_folder(path: Path, reading: Reading, checked: Checked | None = None) -> Dataset:
    """Images in a folder a class: ``train/cat/1.jpg`` and ``test/dog/2.jpg``, or ``cat/1.jpg``.

    Args:
        path: the folder. With ``train`` inside, ``test`` (or else ``val``, ``valid``,
            ``validation``) is the test set; without, a fifth of every class is.
        reading: how.
        checked: told of the check for images that cannot be read.

    Returns:
        The data set; classes are the folders' names, sorted.

    Raises:
        DataError: if a class is empty, or an image cannot be read.
    """
    if not (path / "train").is_dir():
        classes = _class_folders(path)
        names, labels_N = _listed(path, path, classes)
        return files_dataset(
            path.resolve().name, path, names, labels_N, stratified_test_rows(labels_N), classes,
            reading, checked=checked,
        )  # fmt: skip
    test = next((path / name for name in TESTS if (path / name).is_dir()), None)
    if test is None:
        raise DataError(f"{path}: a folder train, but none of {', '.join(TESTS)} beside it")
    classes = _class_folders(path / "train")
    parts = [_listed(path, place, classes) for place in (path / "train", test)]
    return _from_parts(path.resolve().name, path, parts, classes, reading, checked)


def cinic10(data_dir: Path | None, reading: Reading, checked: Checked | None = None) -> Dataset:
    """CINIC-10 in its published folders: 90,000 images each to train, to hold out and to test.

    Args:
        data_dir: look here only; None looks in the usual places.
        reading: how.
        checked: told of the check for images that cannot be read.

    Raises:
        DataError: if folders are absent, a class is empty, or an image cannot be read.
    """
    for place in _places(data_dir, "cinic10", "CINIC-10"):
        if all((place / part).is_dir() for part in ("train", "valid", "test")):
            classes = _class_folders(place / "train")
            parts = [_listed(place, place / part, classes) for part in ("train", "test", "valid")]
            return _from_parts("cinic10", place, parts, classes, reading, checked)
    raise absent(
        "cinic10",
        data_dir,
        "the folders train, valid and test of CINIC-10.tar.gz (each with a folder of PNG files a "
        "class: airplane, automobile, ...)",
        "unpack it into ~/.cache/goldiprox/cinic10",
        None,
    )


CLOTHING_FILES = (
    "noisy_train_key_list.txt",
    "clean_test_key_list.txt",
    "noisy_label_kv.txt",
    "clean_label_kv.txt",
)
CLOTHING_CLASSES = (
    "T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker",
    "Jacket", "Downcoat", "Suit", "Shawl", "Dress", "Vest", "Underwear",
)  # fmt: skip
CLOTHING_SIZE = 224


def clothing1m(data_dir: Path | None, reading: Reading, checked: Checked | None = None) -> Dataset:
    """Clothing-1M: a million images with noisy labels to train, clean ones to test, 14 classes.

    A tenth of the training set is used again to train the irreducible-loss model (Mindermann et
    al. 2022, section 4). Images are read as they are needed, 224 pixels to a side unless said.

    Args:
        data_dir: look here only; None looks in the usual places.
        reading: how.
        checked: told of the check for images that cannot be read.

    Raises:
        DataError: if lists are absent or damaged, or an image cannot be read.
    """
    for place in _places(data_dir, "clothing1m", "Clothing1M", "clothing-1m"):
        lists = next(
            (
                place / sub
                for sub in ("", "annotations")
                if (place / sub / CLOTHING_FILES[0]).exists()
            ),
            None,
        )
        if lists is None:
            continue
        if missing := [name for name in CLOTHING_FILES if not (lists / name).is_file()]:
            raise DataError(f"{lists}: {', '.join(missing)} missing beside {CLOTHING_FILES[0]}")
        return _clothing(place, lists, reading, checked)
    raise absent(
        "clothing1m",
        data_dir,
        f"{', '.join(CLOTHING_FILES)} (beside the folder images or in annotations) and the folder "
        "images",
        "ask its authors for the download and unpack it into ~/.cache/goldiprox/clothing1m",
        None,
    )


def _clothing(place: Path, lists: Path, reading: Reading, checked: Checked | None) -> Dataset:
    names: list[str] = []
    labels: list[int] = []
    counts = []
    for keys, values in (
        (CLOTHING_FILES[0], CLOTHING_FILES[2]),
        (CLOTHING_FILES[1], CLOTHING_FILES[3]),
    ):
        known = _labels(lists / values)
        listed = [line.strip() for line in _lines(lists / keys) if line.strip()]
        for key in listed:
            if key not in known:
                raise DataError(f"{lists / keys}: {key} has no label in {values}")
            labels.append(known[key])
        names += listed
        counts.append(len(listed))
    english = lists / "category_names_eng.txt"
    classes: Sequence[str] = CLOTHING_CLASSES
    if english.is_file():
        classes = [line.strip() for line in _lines(english) if line.strip()]
    if repeated := len(names) - len(set(names)):
        raise DataError(f"{lists}: {repeated} keys are listed twice; an id must be one image")
    size = CLOTHING_SIZE if reading.image_size is None else reading.image_size
    dataset = files_dataset(
        "clothing1m", place, names, torch.tensor(labels), torch.arange(counts[0], sum(counts)),
        classes, reading, size=size, checked=checked,
    )  # fmt: skip
    return replace(dataset, holdout_mode="reuse", holdout_share=0.1)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({first_line(error)}); get the file again"
        ) from error


def _labels(path: Path) -> dict[str, int]:
    """Lines ``images/0/00/1.jpg 5``."""
    found: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdecimal():
            raise DataError(f"{path}: line {number} is no key and label: {line[:60]!r}")
        found[parts[0]] = int(parts[1])
    return found


def _from_parts(
    name: str,
    root: Path,
    parts: Sequence[tuple[list[str], Tensor]],
    classes: Sequence[str],
    reading: Reading,
    checked: Checked | None,
) -> Dataset:
    """Training, test and perhaps holdout files, in this order."""
    starts = [0]
    for names, _ in parts:
        starts.append(starts[-1] + len(names))
    return files_dataset(
        name,
        root,
        [name for names, _ in parts for name in names],
        torch.cat([labels_N for _, labels_N in parts]),
        torch.arange(starts[1], starts[2]),
        classes,
        reading,
        holdout_rows=torch.arange(starts[2], starts[3]) if len(parts) == 3 else None,
        checked=checked,
    )


def files_dataset(
    name: str,
    root: Path,
    names: Sequence[str],
    labels_N: Tensor,
    test_rows: Tensor,
    classes: Sequence[str],
    reading: Reading,
    *,
    size: int | None = None,
    holdout_rows: Tensor | None = None,
    checked: Checked | None = None,
) -> Dataset:
    """A data set of image files.

    Its fingerprint is of the files' names and sizes and the labels: hashing a million images would
    take as long as training on them.

    Args:
        name: what to call it.
        root: the folder that names are relative to.
        names: one file a row; a file's row is its id.
        labels_N: int64 labels.
        test_rows: int64 rows of the test set.
        classes: their names.
        reading: how.
        size: pixels to a side, if it is not ``reading.image_size``.
        holdout_rows: int64 rows of its own holdout set.
        checked: told of the check for images that cannot be read.

    Raises:
        DataError: if a file is absent or, where all are read at once, unreadable.
    """
    size = reading.image_size if size is None else size
    reader = FileReader(
        root=root, names=names, shape=_first_shape(root, names, reading, size),
        resize=size is not None,
    )  # fmt: skip
    lazy = reading.lazy
    if lazy is None:
        lazy = len(names) * math.prod(reader.shape) > IN_MEMORY
    # Starting processes takes longer than reading a few small images.
    few = not lazy and len(names) * math.prod(reader.shape) < FEW
    store = FileStore(reader, 0 if few else reading.workers)
    left_out = None
    if reading.skip_unreadable:
        left_out = torch.tensor(store.find_unreadable(checked), dtype=torch.int64)
    dataset = make_dataset(
        name, store, labels_N, test_rows,
        class_names=classes, source=str(root), holdout_rows=holdout_rows, left_out=left_out,
        contents=(f"{name}\0{_size(root / name)}\0".encode() for name in names),
    )  # fmt: skip
    if lazy:
        return dataset
    images_NCHW = store.read_all(left_out)
    store.close()
    return replace(dataset, store=ImageStore(images_NCHW))


def _first_shape(
    root: Path, names: Sequence[str], reading: Reading, size: int | None
) -> tuple[int, int, int]:
    """The shape of the first image, in colour if one of the first images is.

    Where unreadable images are skipped it is the first one that can be read.
    """
    found: tuple[int, int, int] | None = None
    for number, name in enumerate(names):
        try:
            shape = image_shape(root / name, size)
        except UndecodableError:
            # Later on the image is named when its turn comes; here it only cannot be asked.
            if found is None and (not reading.skip_unreadable or number == len(names) - 1):
                raise
            continue
        found = found or shape
        if shape[0] == 3:
            return (3, *found[1:])
        if number >= LOOKED_AT:
            break
    assert found is not None
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: listed, but not there; get the file") from error


def _class_folders(place: Path) -> list[str]:
    """Their names, sorted; hidden ones are left alone."""
    classes = sorted(p.name for p in place.iterdir() if p.is_dir() and p.name[0] not in "._")
    if len(classes) < 2:
        raise DataError(f"{place}: {len(classes)} folder(s); give one folder a class, two at least")
    return classes


def _listed(root: Path, place: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """The images of a part, relative to ``root``, class by class, sorted; and their labels."""
    names: list[str] = []
    labels: list[int] = []
    if strange := set(_class_folders(place)) - set(classes):
        raise DataError(f"{place}: the class {min(strange)} is not in the training set")
    for label, folder in enumerate(classes):
        inside = (place / folder).rglob("*") if (place / folder).is_dir() else []
        files = sorted(
            p.relative_to(root).as_posix() for p in inside if p.suffix.lower() in SUFFIXES
        )
        if not files:
            raise DataError(
                f"{place / folder}: no images ({', '.join(sorted(SUFFIXES))}); fill the folder or "
                "remove the class"
            )
        names += files
        labels += [label] * len(files)
    return names, torch.tensor(labels)


def _places(data_dir: Path | None, *subs: str) -> list[Path]:
    places = [place / sub for place in data_roots(data_dir) for sub in (*subs, "")]
    if data_dir is None:
        places += [CACHE.expanduser() / sub for sub in subs]
    return places
