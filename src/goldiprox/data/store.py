"""Where examples live: image stores, and a data set with its ids, labels and fingerprint."""

from __future__ import annotations

import hashlib
import io
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from goldiprox.data.inputs import Inputs, Store
from goldiprox.data.messages import first_line
from goldiprox.data.notes import Note, note_of
from goldiprox.data.preprocess import ImagePreprocessor, Preprocess
from goldiprox.data.settings import HoldoutMode
from goldiprox.data.targets import TargetKind
from goldiprox.data.text import TextPreprocessor
from goldiprox.data.text_columns import is_encodable, unspaced
from goldiprox.schema import DataError

__all__ = [
    "Dataset",
    "ImageStore",
    "Inputs",
    "Store",
    "TextStore",
    "fingerprint",
    "make_dataset",
    "measure_some",
    "png_bytes",
    "png_of_lines",
]


class ImageStore:
    """Images held in memory as one uint8 tensor."""

    def __init__(self, images_NCHW: Tensor) -> None:
        """Take the tensor as it is, without a copy.

        Args:
            images_NCHW: uint8, 1 or 3 channels.

        Raises:
            DataError: if the tensor has another type or shape.
        """
        shape = tuple(images_NCHW.shape)
        if images_NCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DataError(
                f"images of type {images_NCHW.dtype} and shape {shape} cannot be stored: "
                "give uint8 of shape (count, 1 or 3 channels, height, width)"
            )
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return int(self.images_NCHW.shape[0])

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images_NCHW.shape[1:]
        return channels, height, width

    def fetch(self, rows_B: Tensor) -> Tensor:
        """Copy the images of these rows.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            uint8 images, BCHW.
        """
        return self.images_NCHW.index_select(0, rows_B)

    def thumbnail(self, row: int) -> bytes:
        """One image as the bytes of a PNG file.

        Args:
            row: the image's row.

        Returns:
            The bytes.
        """
        return png_bytes(self.images_NCHW[row])


class TextStore:
    """Texts held in memory, in Arrow's compact form."""

    def __init__(self, texts: Sequence[str] | pa.ChunkedArray) -> None:
        """Take Python strings or an Arrow column.

        Args:
            texts: one a row; none may be null.

        Raises:
            DataError: if a text cannot be encoded in UTF-8.
        """
        try:
            column = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([[*texts]])
        except UnicodeEncodeError as error:
            row = next(row for row, text in enumerate(texts) if not is_encodable(text))
            raise DataError(
                f"text {row} has half of a character ({first_line(error)}); decode it as UTF-8"
            ) from error
        self._texts = column.cast(pa.large_string()).combine_chunks()

    def notes(self) -> tuple[Note, ...]:
        """What is to be said of the texts."""
        return unspaced(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Empty: a text has no shape before it is tokenised."""
        return ()

    def fetch(self, rows_B: Tensor) -> list[str]:
        """The texts of these rows.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            One string a row.
        """
        found: list[str] = self._texts.take(pa.array(rows_B.numpy())).to_pylist()
        return found

    def describe_row(self, row: int) -> str:
        """The text of a row."""
        return str(self._texts[row].as_py())

    def thumbnail(self, row: int) -> bytes:
        """The start of a text, drawn, as the bytes of a PNG file."""
        return png_of_lines([self.describe_row(row)])


def png_of_lines(lines: Sequence[str]) -> bytes:
    """The start of some lines of text, wrapped and drawn, as the bytes of a PNG file."""
    wrapped = [part for line in lines for part in textwrap.wrap(line, 28)][:6] or [""]
    image = Image.new("L", (180, 12 * len(wrapped) + 8), 255)
    drawing = ImageDraw.Draw(image)
    for number, line in enumerate(wrapped):
        drawing.text((4, 4 + 12 * number), line, fill=0)
    return png_bytes(torch.from_numpy(np.array(image))[None])


def png_bytes(pixels_CHW: Tensor) -> bytes:
    """A uint8 image of 1 or 3 channels as the bytes of a PNG file."""
    grey = pixels_CHW.shape[0] == 1
    array = (pixels_CHW[0] if grey else pixels_CHW.permute(1, 2, 0)).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled data set; an example's id is its row in ``store``, never a place in a subset.

    Attributes:
        name: what the user called it.
        store: all inputs, those of the training set and those of the test set.
        labels_N: what is to be predicted, as published: int64 class labels, or what ``targets``
            says.
        train_rows: int64 rows of the training set, ascending.
        test_rows: int64 rows of the test set, ascending.
        class_names: one name per class; per label or number where that is predicted.
        fingerprint: sha256 in hex; see :func:`fingerprint`.
        preprocess: turns raw inputs into what a model takes.
        source: where the data was found.
        holdout_rows: int64 rows of a holdout set that was published beside the training set,
            ascending; None where there is none.
        holdout_mode: where the irreducible-loss model's examples come from unless the user says.
        holdout_share: share of the training set for the modes ``split`` and ``reuse``, likewise.
        high_relevance: how many classes are kept whole, likewise; None keeps all of them.
        left_out: how many images could not be read and are in no part.
        groups_N: int64 group of each row, for audits, -1 where it has none; None where no group
            column was named.
        group_names: what the groups are called.
        notes: what the reader left out of the data or did to it; printed by the commands and kept
            in the manifest.
    """

    name: str
    store: Store
    labels_N: Tensor
    train_rows: Tensor
    test_rows: Tensor
    class_names: tuple[str, ...]
    fingerprint: str
    preprocess: Preprocess
    source: str
    holdout_rows: Tensor | None = None
    holdout_mode: HoldoutMode = "split"
    holdout_share: float = 0.5
    high_relevance: int | None = None
    left_out: int = 0
    groups_N: Tensor | None = None
    group_names: tuple[str, ...] = ()
    targets: TargetKind = "classes"
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.store)

    @property
    def num_classes(self) -> int:
        """Number of classes, or of labels or numbers: the size of a model's output."""
        return len(self.class_names)


def fingerprint(
    inputs: Tensor, labels_N: Tensor, test_rows: Tensor, holdout_rows: Tensor | None = None
) -> str:
    """Identify a data set by what is in it, not by where it lies.

    Covers shape, type and raw bytes of the inputs, the published labels and which rows are test
    or holdout rows. The bytes are hashed where they are: no copy is made of a contiguous tensor.

    Args:
        inputs: the raw inputs of all examples.
        labels_N: int64 labels as published.
        test_rows: int64 rows of the test set.
        holdout_rows: int64 rows of the published holdout set, if there is one.

    Returns:
        sha256 in hex.
    """
    part_N = torch.zeros(len(labels_N), dtype=torch.uint8)
    part_N[test_rows] = TEST
    if holdout_rows is not None:
        part_N[holdout_rows] = HOLDOUT
    header = {"shape": list(inputs.shape), "dtype": str(inputs.dtype), "layout": 1}
    return _digest(header, [inputs.contiguous().numpy().data.cast("B")], labels_N, part_N)


def _digest(
    header: dict[str, Any], contents: Iterable[Any], labels_N: Tensor, part_N: Tensor
) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for content in contents:
        digest.update(content)
    for tensor in (labels_N, part_N):
        digest.update(tensor.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def make_dataset(
    name: str,
    inputs: Tensor | Store,
    labels_N: Tensor,
    test_rows: Tensor,
    *,
    class_names: Sequence[str],
    source: str,
    holdout_rows: Tensor | None = None,
    left_out: Tensor | None = None,
    preprocess: Preprocess | None = None,
    contents: Iterable[bytes] | None = None,
    groups: Sequence[Any] | None = None,
    targets: TargetKind = "classes",
    notes: Sequence[Note] = (),
) -> Dataset:
    """Put a data set together and check that its parts fit; use it to register your own.

    Args:
        name: what to call it.
        inputs: uint8 images NCHW of all parts, or a store.
        labels_N: int64 labels in 0..C-1, or what ``targets`` says.
        test_rows: int64 rows that are the test set.
        class_names: one name per class; per label or number where that is predicted.
        source: where the data was found, for the records.
        holdout_rows: int64 rows of a holdout set of its own, if it has one; then that is what
            irreducible-loss models are trained on. All other rows are the training set.
        left_out: int64 rows in no part, which keep their ids: images that cannot be read.
        preprocess: from raw inputs to a model's; measured on the training images unless given.
        contents: what identifies the inputs of a store that is not in memory, such as names and
            sizes of files; not needed for images and texts in memory.
        groups: the group of each row, of any kind that is equal and printed as it should be; rows
            beyond its end have none.
        targets: of which kind ``labels_N`` is, see :data:`goldiprox.data.targets.TargetKind`.
        notes: what was left out of the data or done to it.

    Returns:
        The data set, with fingerprint, and channel means over the training rows.

    Raises:
        DataError: if counts differ, a label is out of range, a part is empty, or two classes or
            groups have one name.
    """
    store = ImageStore(inputs) if isinstance(inputs, Tensor) else inputs
    if len(labels_N) != len(store):
        raise DataError(f"{source}: {len(store)} images but {len(labels_N)} labels")
    _require_targets(labels_N, targets, class_names, source)
    part_N = _parts(len(store), test_rows, holdout_rows, left_out, source)
    train_rows, test_rows, own_rows, _ = ((part_N == p).nonzero().flatten() for p in range(4))
    class_names = tuple(class_names)
    _require_different(class_names, "classes", source)
    if targets == "classes":
        notes = (*notes, *_missing_classes(labels_N, train_rows, test_rows, class_names))
    if isinstance(store, TextStore):
        notes = (*notes, *store.notes())
    header = {"shape": [len(store), *store.example_shape], "dtype": str(torch.uint8), "layout": 1}
    if contents is None:
        contents = _contents(store)
    else:
        header["layout"] = 2
    groups_N: Tensor | None = None
    group_names: tuple[str, ...] = ()
    if groups is not None:
        groups_N, group_names = _numbered(groups, len(store), source)
    return Dataset(
        name=name,
        store=store,
        labels_N=labels_N,
        train_rows=train_rows,
        test_rows=test_rows,
        class_names=class_names,
        fingerprint=_digest(header, contents, labels_N, part_N),
        preprocess=preprocess or _measure(store, train_rows),
        source=source,
        holdout_rows=None if holdout_rows is None else own_rows,
        holdout_mode="split" if holdout_rows is None else "own",
        left_out=0 if left_out is None else len(left_out),
        groups_N=groups_N,
        group_names=group_names,
        targets=targets,
        notes=tuple(notes),
    )


def _require_targets(
    labels_N: Tensor, targets: TargetKind, names: Sequence[str], source: str
) -> None:
    """Refuse targets whose type, shape or values are not those of their kind."""
    if targets == "tensors":
        return
    wanted = torch.int64 if targets == "classes" else torch.float32
    if labels_N.dtype != wanted:
        raise DataError(f"{source}: labels of type {labels_N.dtype}; give {wanted}")
    if targets == "classes":
        bad = ((labels_N < 0) | (labels_N >= len(names))).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"{source}: {len(bad)} labels outside 0..{len(names) - 1} "
                f"(first: {int(labels_N[bad[0]])} in row {int(bad[0])}); "
                "get the files again"
            )
        return
    width = labels_N.shape[1] if labels_N.dim() == 2 else 1
    if width != len(names) or not bool(labels_N.isfinite().all()):
        raise DataError(
            f"{source}: targets of shape {tuple(labels_N.shape)} for {len(names)} names, or not "
            "all finite; give one finite number for each name"
        )


def _require_different(names: Sequence[str], what: str, source: str) -> None:
    """Two of one name could not be told apart in anything that is reported."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        if (earlier := numbers.setdefault(name, number)) != number:
            raise DataError(
                f"{source}: the {what} {earlier} and {number} are both named {name!r}; give each "
                "a name of its own"
            )


def _missing_classes(
    labels_N: Tensor, train_rows: Tensor, test_rows: Tensor, names: Sequence[str]
) -> tuple[Note, ...]:
    """Which classes a part has no example of."""
    counts = [
        torch.bincount(labels_N[rows], minlength=len(names)) for rows in (train_rows, test_rows)
    ]
    notes: tuple[Note, ...] = ()
    for count_C, part in zip(counts, ("training", "test"), strict=True):
        empty = (count_C == 0).nonzero().flatten().tolist()
        notes += note_of(f"classes without a {part} example", (names[number] for number in empty))
    return notes


def _numbered(groups: Sequence[Any], total: int, source: str) -> tuple[Tensor, tuple[str, ...]]:
    """Groups by number, in their order of appearance, and what they are called."""
    numbers: dict[Any, int] = {}
    groups_N = torch.full((total,), -1, dtype=torch.int64)
    try:
        groups_N[: len(groups)] = torch.tensor(
            # A number that is not one does not equal itself.
            [numbers.setdefault(g if g == g else NAN, len(numbers)) for g in groups]
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{source}: the group column holds lists or the like ({first_line(error)}); give one "
            "text or number an example"
        ) from error
    names = tuple(g.decode(errors="replace") if isinstance(g, bytes) else str(g) for g in numbers)
    _require_different(names, "groups", source)
    return groups_N, names


NAN = math.nan  # one object: dictionaries compare by identity first
TRAIN, TEST, HOLDOUT, LEFT_OUT = range(4)
MEASURED = 2048
"""Images of a store that is not in memory on which means and deviations are measured."""


def _contents(store: Store) -> Iterator[Any]:
    """What identifies the inputs of a store in memory."""
    if isinstance(store, ImageStore):
        yield store.images_NCHW.contiguous().numpy().data.cast("B")
        return
    if isinstance(store, TextStore):
        for start in range(0, len(store), MEASURED):
            texts = store.fetch(torch.arange(start, min(start + MEASURED, len(store))))
            yield json.dumps(texts).encode()
        return
    raise DataError(f"a {type(store).__name__} cannot be identified by itself: give contents=")


def _measure(store: Store, train_rows: Tensor) -> Preprocess:
    """Means of the images; of evenly spread training rows where the images are not in memory."""
    if isinstance(store, TextStore):
        return TextPreprocessor()
    if isinstance(store, ImageStore):
        return ImagePreprocessor.measure(store.images_NCHW, train_rows)
    return measure_some(store, train_rows)


def measure_some(store: Store, train_rows: Tensor) -> ImagePreprocessor:
    """Means of evenly spread training images, the same whether these are in memory or not."""
    count = min(MEASURED, len(train_rows))
    some = train_rows[torch.linspace(0, len(train_rows) - 1, count).long()]
    images = store.fetch(some)
    assert isinstance(images, Tensor)
    return ImagePreprocessor.measure(images, torch.arange(count))


def _parts(
    count: int,
    test_rows: Tensor,
    holdout_rows: Tensor | None,
    left_out: Tensor | None,
    source: str,
) -> Tensor:
    """The number of each row's part."""
    part_N = torch.full((count,), TRAIN, dtype=torch.uint8)
    part_N[test_rows] = TEST
    if holdout_rows is not None:
        if (part_N[holdout_rows] == TEST).any():
            raise DataError(f"{source}: a row is in the test set and in the holdout set")
        part_N[holdout_rows] = HOLDOUT
    if left_out is not None:
        part_N[left_out] = LEFT_OUT
    sizes = torch.bincount(part_N, minlength=4).tolist()
    if not sizes[TRAIN] or not sizes[TEST]:
        raise DataError(
            f"{source}: {sizes[TRAIN]} training and {sizes[TEST]} test examples; "
            "neither may be empty; without a test part a fifth of each class is the test set: "
            "give at least 3 examples of a class"
        )
    if holdout_rows is not None and not sizes[HOLDOUT]:
        raise DataError(f"{source}: its holdout set is empty")
    return part_N
