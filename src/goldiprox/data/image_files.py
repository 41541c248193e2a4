"""A data set of image files: what they are made into, what cannot be used, what identifies them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goldiprox.data.decode import (
    RESHAPED,
    ROTATED,
    TRANSPARENT,
    Form,
    Pixels,
    SizeError,
    UndecodableError,
    WideError,
    form_of,
    notes_of,
    rgb,
)
from goldiprox.data.files import Checked, FileReader, FileStore, How
from goldiprox.data.messages import printable
from goldiprox.data.notes import EXAMPLES, Note, note_of
from goldiprox.data.settings import Reading
from goldiprox.data.store import Dataset, ImageStore, make_dataset, measure_some
from goldiprox.data.targets import TargetKind
from goldiprox.schema import DataError

__all__ = ["FilesError", "files_dataset"]

IN_MEMORY = 1 << 30
"""Bytes that the images of a folder may take before they are read only as they are needed."""
FEW = 1 << 25
"""Bytes that the images of a folder may take to be read in the training process itself."""
LOOKED_AT = 64
"""Images, evenly spread, that are first asked whether they are in colour; later all are."""
USUAL_SIZE = 224
"""Pixels to a side that are proposed for large images of different sizes."""


class FilesError(DataError):
    """Files that cannot be used.

    Args:
        what: which, and why.
        way: how to go on, in words that options follow.
        options: of the command line.
    """

    def __init__(self, what: str, way: str, options: Sequence[str]) -> None:
        super().__init__(" ".join([f"{what}{way}", *options]))
        self.what = what
        self.way = way
        self.options = tuple(options)

    def within(self, command: str) -> DataError:
        """The same error with the whole command that goes on."""
        if not self.options:
            return self
        return DataError(" ".join([f"{self.what}{self.way.rstrip(':')}:", command, *self.options]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """What was found of all files.

    Attributes:
        form: what they are made into.
        flags_N: what is done to each, see :mod:`goldiprox.data.decode`.
        problems: the errors of those that cannot be used, by row.
        store: reads them.
        images_NCHW: the pixels, where all are held in memory.
    """

    form: Form
    flags_N: Pixels
    problems: dict[int, DataError]
    store: FileStore
    images_NCHW: Tensor | None


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
    notes: Sequence[Note] = (),
    groups: Sequence[Any] | None = None,
    targets: TargetKind = "classes",
) -> Dataset:
    """A data set of image files.

    Its fingerprint is of the files' names and sizes, the labels, and what is done to each image:
    hashing a million images would take as long as training on them.

    Args:
        name: what to call it.
        root: the folder that names are relative to.
        names: one file a row; a file's row is its id.
        labels_N: int64 labels, or what ``targets`` says.
        test_rows: int64 rows of the test set.
        classes: their names.
        reading: how.
        size: pixels to a side, if it is not ``reading.image_size``.
        holdout_rows: int64 rows of its own holdout set.
        checked: told of the check for images that cannot be read.
        notes: what was left out before.
        groups: the group of each row, where there are groups.
        targets: of which kind ``labels_N`` is.

    Raises:
        DataError: if images cannot be used and are not to be skipped; it counts all of them.
    """
    size = reading.image_size if size is None else size
    found = _examine(root, names, reading, size, checked)
    skipped = {
        row: error
        for row, error in found.problems.items()
        if reading.skip_unreadable and not isinstance(error, SizeError)
    }
    if len(found.problems) > len(skipped):
        left = {row: error for row, error in found.problems.items() if row not in skipped}
        found.store.close()
        raise _refusal(root, names, left, found.form)
    left_out = torch.tensor(sorted(skipped), dtype=torch.int64)
    flags_N = found.flags_N.copy()
    flags_N[left_out.numpy()] = 0
    train_N = torch.ones(len(names), dtype=torch.bool)
    for rows in (test_rows, left_out, *(() if holdout_rows is None else (holdout_rows,))):
        train_N[rows] = False
    train_rows = train_N.nonzero().flatten()
    preprocess = None
    if found.images_NCHW is not None and len(train_rows):
        preprocess = measure_some(ImageStore(found.images_NCHW), train_rows)
    dataset = make_dataset(
        name, found.store, labels_N, test_rows,
        class_names=classes, source=printable(str(root)), holdout_rows=holdout_rows,
        left_out=left_out if reading.skip_unreadable else None, preprocess=preprocess,
        groups=groups, targets=targets,
        contents=_identity(root, names, flags_N, found.form),
        notes=(
            *notes,
            *_left_out(names, skipped),
            *notes_of(flags_N, lambda row: printable(names[row]), found.form),
        ),
    )  # fmt: skip
    if found.images_NCHW is None:
        return dataset
    found.store.close()
    return replace(dataset, store=ImageStore(found.images_NCHW))


def _examine(
    root: Path, names: Sequence[str], reading: Reading, size: int | None, checked: Checked | None
) -> Examined:
    """Decide on the form, and find out what becomes of each file.

    A few images decide first; where one in colour turns up later, it begins again in colour.
    """
    form = _first_form(root, names, reading, size)
    closely = reading.skip_unreadable
    while True:
        bytes_ = len(names) * math.prod(form.shape)
        lazy = bytes_ > IN_MEMORY if reading.lazy is None else reading.lazy
        # Starting processes takes longer than reading a few small images.
        few = not lazy and bytes_ < FEW
        store = FileStore(
            FileReader(root=root, names=names, form=form), 0 if few else reading.workers
        )
        how: How = "keep" if not lazy else "decode" if closely else "look"
        images = torch.zeros((len(names), *form.shape), dtype=torch.uint8) if not lazy else None
        flags_N = np.zeros(len(names), np.uint8)
        problems: dict[int, DataError] = {}
        told = checked if reading.skip_unreadable or how == "look" else None
        colour = False
        for rows, block in store.examine(how, told):
            if colour := block.colour:
                break
            flags_N[rows] = block.flags_B
            problems |= block.problems
            if images is not None and block.pixels is not None:
                images[rows] = torch.from_numpy(block.pixels)
        if colour:
            form = replace(form, channels=3)
        elif how == "look" and problems:
            closely = True  # it is refused anyway: then all problems are told
        else:
            return Examined(
                form=form, flags_N=flags_N, problems=problems, store=store, images_NCHW=images
            )
        store.close()


def _first_form(root: Path, names: Sequence[str], reading: Reading, size: int | None) -> Form:
    """The form by the first image that can be read and by some that are evenly spread."""
    probe = Form(channels=1, height=1, width=1, background=rgb(reading.background))
    reader = FileReader(root=root, names=names, form=probe)
    looks = []
    problems: dict[int, DataError] = {}
    for row in range(len(names)):
        try:
            looks.append(reader.look(row))
            break
        except DataError as error:
            problems[row] = error
    if not looks:
        raise _refusal(root, names, problems, probe)
    for row in np.linspace(0, len(names) - 1, min(LOOKED_AT, len(names))).astype(int).tolist():
        try:
            looks.append(reader.look(row))
        except DataError:
            continue  # it is named when its turn comes
    return form_of(looks, size, reading.image_fit, reading.background)


def _identity(root: Path, names: Sequence[str], flags_N: Pixels, form: Form) -> Iterator[bytes]:
    """What identifies each file's pixels: those that are read as they are, by name and size."""
    on = "#{:02x}{:02x}{:02x}".format(*form.background)
    marks = {ROTATED: "upright", TRANSPARENT: f"on {on}"}
    if form.fit in ("crop", "pad"):
        marks[RESHAPED] = "crop" if form.fit == "crop" else f"pad {on}"
    for name, flags in zip(names, flags_N.tolist(), strict=True):
        try:
            size = (root / name).stat().st_size
        except OSError:
            size = -1  # left out, as it is not there
        yield os.fsencode(name) + f"\0{size}\0".encode()
        if flags & (ROTATED | TRANSPARENT | RESHAPED):
            for flag, mark in marks.items():
                if flags & flag:
                    yield f"{mark}\0".encode()


def _left_out(names: Sequence[str], skipped: dict[int, DataError]) -> tuple[Note, ...]:
    wide = [printable(names[row]) for row, e in skipped.items() if isinstance(e, WideError)]
    damaged = [printable(names[row]) for row, e in skipped.items() if not isinstance(e, WideError)]
    return (
        *note_of("left out: images that cannot be read", damaged),
        *note_of("left out: images of more than 8 bits a channel", wide),
    )


def _refusal(
    root: Path, names: Sequence[str], problems: dict[int, DataError], form: Form
) -> DataError:
    """One error for all files that cannot be used, with the options that go on without it."""
    unread, wide, sized = (
        [row for row, error in problems.items() if isinstance(error, kind)]
        for kind in (UndecodableError, WideError, SizeError)
    )
    options = []
    if sized:
        options.append(f"--image-size {min(form.height, form.width, USUAL_SIZE)}")
    if unread or wide:
        options.append("--skip-unreadable")
    if len(problems) == 1:
        (error,) = problems.values()
        replaced = "; replace it" if unread else ""
        way = ", such as" if sized else f"{replaced}, or leave such images out with"
        return FilesError(str(error), way, options)
    kinds = []
    for what, rows in (
        ("cannot be read as an image", unread),
        ("of more than 8 bits per channel", wide),
        (f"of another size than the first image's {form.height}x{form.width}", sized),
    ):
        if rows:
            first = ", ".join(printable(names[row]) for row in rows[:EXAMPLES])
            if rows is unread:  # the others say why by their kind
                why = str(problems[rows[0]]).removeprefix(printable(str(root / names[rows[0]])))
                first = printable(names[rows[0]]) + why.split("; ")[0]
            kinds.append(f"{len(rows):,} {what} (first: {first})")
    what = (
        f"{printable(str(root))}: {len(problems):,} of {len(names):,} images cannot be used: "
        f"{', '.join(kinds)}"
    )
    if len(unread) + len(wide) == len(names):
        return FilesError(f"{what}; no image is left: get them again, of 8 bits a channel", "", [])
    return FilesError(what, "; this reads the others:", options)
