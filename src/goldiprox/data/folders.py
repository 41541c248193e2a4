"""Data sets in image folders: one folder a class; CINIC-10 and Clothing-1M."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from goldiprox.data.files import Checked
from goldiprox.data.image_files import files_dataset
from goldiprox.data.labels import in_class_order
from goldiprox.data.listing import Listing, find_parts, holds_images
from goldiprox.data.messages import first_line, printable
from goldiprox.data.settings import Reading
from goldiprox.data.sources import CACHE, absent, data_roots, stratified_test_rows
from goldiprox.data.store import Dataset
from goldiprox.data.table_files import is_table_file
from goldiprox.schema import DataError

__all__ = ["cinic10", "clothing1m", "image_folder", "is_image_folder"]

CINIC_PARTS = ("train", "test", "valid")


def is_image_folder(path: Path) -> bool:
    """Whether a folder has folders with images in them, or images and no Parquet files.

    Raises:
        DataError: if a folder cannot be listed.
    """
    return holds_images(path, direct=next(path.glob("*.parquet"), None) is None)


def image_folder(path: Path, reading: Reading, checked: Checked | None = None) -> Dataset:
    """Images in a folder a class: ``train/cat/1.jpg`` and ``test/dog/2.jpg``, or ``cat/1.jpg``.

    Args:
        path: the folder. With a training part inside (``train``, ``Training``, ``seg_train``,
            ...), the test part beside it is the test set, or else the validation part; without, a
            fifth of every class is.
        reading: how.
        checked: told of the check for images that cannot be read.

    Returns:
        The data set; classes are the folders' names in their natural order, 2 before 10.

    Raises:
        DataError: if there are no two classes, or images cannot be read.
    """
    listing = Listing(path)
    parts = find_parts(path)
    found = [listing.classes(parts.train)]
    classes = _ordered(listing, parts.train, found[0])
    if parts.test is not None:
        found.append(listing.classes(parts.test))
        for place in {path, parts.train.parent, parts.test.parent}:
            listing.beside(place, parts.used)
    return _from_parts(path.resolve().name, listing, found, classes, reading, checked)


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
        if all((place / part).is_dir() for part in CINIC_PARTS):
            listing = Listing(place)
            parts = [listing.classes(place / part) for part in CINIC_PARTS]
            classes = _ordered(listing, place / "train", parts[0])
            return _from_parts("cinic10", listing, parts, classes, reading, checked)
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


def _ordered(listing: Listing, place: Path, found: Mapping[str, list[str]]) -> list[str]:
    """The classes of the training part in their order, of which a note is made where it matters."""
    where = printable(str(place))
    if len(found) < 2:
        names = f" ({', '.join(found)})" if found else ""
        inside = ""
        if found and holds_images(place / next(iter(found))):
            inside = f", or name {where}/{next(iter(found))} if that holds the class folders"
        tables = sorted(f for folder in (place, *(place / n for n in found)) if folder.is_dir()
                        for f in folder.iterdir() if is_table_file(f))  # fmt: skip
        if tables:
            inside = f", or name {printable(str(tables[0]))} if that lists images and labels"
        raise DataError(
            f"{where}: {len(found)} folder(s) with images{names}; give one folder a class, two at "
            f"least{inside}"
        )
    classes = in_class_order(found)
    if classes != sorted(found):
        listing.add("classes in the order of their numbers, 2 before 10", classes)
    return classes


def _from_parts(
    name: str,
    listing: Listing,
    parts: Sequence[Mapping[str, list[str]]],
    classes: Sequence[str],
    reading: Reading,
    checked: Checked | None,
) -> Dataset:
    """Training, test and perhaps holdout files by class, in this order."""
    root = listing.root
    starts = [0]
    names: list[str] = []
    labels: list[int] = []
    for part in parts:
        if strange := set(part) - set(classes):
            first = part[min(strange)][0]
            raise DataError(
                f"{printable(str(root))}: the class {min(strange)} is not in the training set "
                f"(first image: {printable(first)}); rename or remove the folder"
            )
        for label, one in enumerate(classes):
            files = part.get(one, [])
            names += files
            labels += [label] * len(files)
        starts.append(len(names))
    labels_N = torch.tensor(labels)
    only = len(parts) == 1
    return files_dataset(
        name,
        root,
        names,
        labels_N,
        stratified_test_rows(labels_N) if only else torch.arange(starts[1], starts[2]),
        classes,
        reading,
        holdout_rows=torch.arange(starts[2], starts[3]) if len(parts) == 3 else None,
        checked=checked,
        notes=listing.notes(),
    )


def _places(data_dir: Path | None, *subs: str) -> list[Path]:
    places = [place / sub for place in data_roots(data_dir) for sub in (*subs, "")]
    if data_dir is None:
        places += [CACHE.expanduser() / sub for sub in subs]
    return places
