"""Which files of a folder are images of which class: parts, classes, litter, links."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from goldiprox.data.labels import require_distinct
from goldiprox.data.messages import first_line, printable
from goldiprox.data.notes import Note, note_of
from goldiprox.schema import DataError

__all__ = ["Listing", "Parts", "find_parts", "holds_images"]

SUFFIXES = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".bmp", ".dib", ".gif", ".webp",
    ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx",
    ".tga", ".ico", ".heic", ".heif", ".jxl",
))  # fmt: skip
"""Files of these names are images, or are reported as unreadable ones."""

IMAGES = tuple(SUFFIXES)
ODD_SUFFIX = re.compile(r"|\.(?![a-z][a-z0-9]{0,4}$).*", re.DOTALL)
"""None, or one that is no usual suffix: such a file is looked at. So is ``.jpg_large``."""

MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
"""How an image file begins, whatever it is called; BMP's two letters would say too little."""

LITTER = re.compile(
    r"\._.*|\.ds_store|\.localized|\.directory|\.nomedia|\.git.*|\.picasa.*|thumbs\.db.*|"
    r"ehthumbs.*\.db|desktop\.ini|icon\r?|.*~|~\$.*|\.~.*|.*\.(bak|orig|old|swp|tmp|temp|part|"
    r"crdownload|download|lock)",
    re.IGNORECASE | re.DOTALL,
)
"""Files that operating systems, file managers, editors and browsers leave beside images."""

LITTER_FOLDERS = re.compile(
    r"__macosx|__pycache__|@eadir|@__thumb|#recycle|#snapshot|\$recycle\.bin|lost\+found|"
    r"system volume information|network trash folder|temporary items|\.(git|svn|hg|bzr|dvc|idea|"
    r"vscode|tox|venv|appledouble|fseventsd|spotlight.*|documentrevisions.*|temporaryitems|"
    r"picasaoriginals|comments|streams|@__thumb|snapshots?|.*(thumb|trash|cache|checkpoint|preview|"
    r"backup|recycle).*)",
    re.IGNORECASE | re.DOTALL,
)
"""Folders of the same origin. Other hidden folders may be classes, such as ``.net``."""

LEFT_CACHES = "left out: folders of other programs, such as caches"

PART = re.compile(
    r"(?P<before>.*?[_\- .])??"
    r"(?P<part>train(?:ing|set)?|test(?:ing|set)?|val(?:id|idate|idation|set)?|dev|eval(?:uation)?)"
    r"(?:[_\- .]?(?:set|data|dataset|split|images?|imgs|pictures|photos|part|\d{4}))?",
    re.IGNORECASE,
)
"""Names of the parts that public data sets are divided into: seg_train, Testing, val2017."""

SOME = 8
"""Class folders that are asked whether they are divided themselves; listing all takes time."""

PAIR = re.compile(
    r"(?P<before>.*?)(?P<part>train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|(?<!.)t(?:r|e)(?!.))"
    r"(?P<after>.*)",
    re.IGNORECASE | re.DOTALL,
)
"""Other names of parts, if there are two that differ in this word and hold the same classes."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a folder is divided into.

    Attributes:
        train: folder of class folders to train on.
        test: folder of class folders to test on; None where one folder holds all.
        used: all folders on the way to them.
    """

    train: Path
    test: Path | None
    used: tuple[Path, ...] = ()


@dataclass(eq=False)
class Listing:
    """Lists the images of class folders, and keeps count of what it passes over.

    Attributes:
        root: names are relative to this folder.
    """

    root: Path
    _seen: dict[str, list[str]] = field(default_factory=dict)

    def classes(self, place: Path) -> dict[str, list[str]]:
        """The image files of each class of a folder, relative to the root.

        Args:
            place: a folder of class folders.

        Returns:
            The names of the files, sorted, by class, in no order of classes; a folder without
            images is no class.

        Raises:
            DataError: if a folder cannot be listed, or two have the same name for a reader.
        """
        found: dict[str, list[str]] = {}
        folders: list[str] = []
        for entry in self._walked(place, "left out: images beside the class folders"):
            name = class_name(entry.name)
            files = sorted(self._images(Path(entry.path), [*_ancestors(self.root, place)]))
            if not files:
                self._pass("left out: folders without images", entry)
            elif name in found:
                raise DataError(
                    f"{printable(str(place))}: two folders are called {name}; rename one of them"
                )
            else:
                found[name] = files
                folders.append(entry.name)
        require_distinct(printable(str(place)), folders)
        return found

    def beside(self, place: Path, used: Sequence[Path]) -> None:
        """Count what lies beside the parts of a folder."""
        for entry in self._walked(place, "left out: images beside the parts"):
            if Path(entry.path) not in used:
                self._pass("left out: folders beside the parts that are used", entry)

    def add(self, what: str, names: Sequence[str]) -> None:
        """Count what was found elsewhere."""
        if names:
            self._seen.setdefault(what, []).extend(printable(name) for name in names)

    def notes(self) -> tuple[Note, ...]:
        """What was passed over, counted."""
        return tuple(n for what, things in self._seen.items() for n in note_of(what, things))

    def _walked(self, place: Path, images: str) -> Iterator[os.DirEntry[str]]:
        """The folders of a folder; its files are counted."""
        for entry in _entries(place):
            if not _is_dir(entry):
                self._pass(_why_no_image(entry) or images, entry)
            elif LITTER_FOLDERS.fullmatch(entry.name):
                self._pass(LEFT_CACHES, entry)
            else:
                yield entry

    def _images(self, folder: Path, above: list[tuple[int, int]]) -> Iterator[str]:
        """The images of a folder and those below it; a link that leads back is not followed."""
        here = _identity(folder)
        prefix = folder.relative_to(self.root).as_posix()
        for entry in _entries(folder):
            if not _is_dir(entry):
                if why := _why_no_image(entry):
                    self._pass(why, entry)
                else:
                    yield f"{prefix}/{entry.name}"
            elif LITTER_FOLDERS.fullmatch(entry.name):
                self._pass(LEFT_CACHES, entry)
            elif entry.name.startswith("."):
                self._pass("left out: hidden folders inside of classes", entry)
            elif _identity(Path(entry.path)) in (*above, here):
                self._pass("left out: links to a folder that they are in", entry)
            else:
                link = entry.is_symlink()
                self._pass("read: links to folders" if link else "read: folders in classes", entry)
                yield from self._images(Path(entry.path), [*above, here])

    def _pass(self, what: str, entry: os.DirEntry[str]) -> None:
        self.add(what, [os.path.relpath(entry.path, self.root)])


def find_parts(root: Path) -> Parts:
    """What a folder is divided into, by the names that public data sets give to their parts.

    Args:
        root: a folder of class folders, or of a training and a test part that hold them.

    Returns:
        The parts.

    Raises:
        DataError: if a test part is there without a training part or the other way round, several
            may be meant, or a part holds images but no classes: none is taken for a class.
    """
    parts: dict[tuple[str, str], list[str]] = {}
    for entry in _entries(root):
        if _is_dir(entry) and (match := PART.fullmatch(entry.name)):
            key = (match["before"] or "").lower(), _kind(match)
            parts.setdefault(key, []).append(entry.name)
    parts |= {key: [name] for key, name in _pairs(root, parts).items()}
    trains = {before: names for (before, kind), names in parts.items() if kind == "train"}
    for before, names in trains.items():
        tests = [n for kind in ("test", "val") for n in parts.get((before, kind), ())]
        if not tests and not holds_images(root / names[0]):
            continue  # a class that is called train, such as one of vehicles
        if len(names) > 1:
            raise _unclear(root, names)
        train = _unwrapped(root / names[0])
        if not tests:
            raise DataError(
                f"{printable(str(root))}: a folder {names[0]}, but none of test, val, valid, "
                f"validation beside it; name {printable(str(train))} to test on a fifth of it"
            )
        test = _unwrapped(root / tests[0])
        for part in (train, test):
            if not holds_images(part):
                raise DataError(
                    f"{printable(str(part))}: no class folders with images in them; give one "
                    "folder a class"
                )
        return Parts(train=train, test=test, used=(root / names[0], root / tests[0], train, test))
    alone = [name for names in parts.values() for name in names]
    if alone and any(holds_images(root / name) for name in alone):
        raise DataError(
            f"{printable(str(root))}: a folder {alone[0]} with classes in it, but no folder train "
            "beside it; name the folder of the training images train"
        )
    _require_no_parts_inside(root)
    return Parts(train=root, test=None)


def _kind(match: re.Match[str]) -> str:
    return {"tr": "train", "te": "test"}.get(match["part"].lower()[:2], "val")


def _pairs(root: Path, known: dict[tuple[str, str], list[str]]) -> dict[tuple[str, str], str]:
    """Parts of other names: train_32x32 and val_32x32, which hold folders of the same names."""
    named = {name for names in known.values() for name in names}
    found: dict[str, dict[str, str]] = {}
    for entry in _entries(root):
        match = PAIR.fullmatch(entry.name)
        if match and entry.name not in named and _is_dir(entry):
            around = f"{match['before']}*{match['after']}".lower()
            found.setdefault(around, {}).setdefault(_kind(match), entry.name)
    return {
        (around, kind): name
        for around, names in found.items()
        if "train" in names
        for kind, name in names.items()
        if any(_subfolders(root / names["train"]) & _subfolders(root / n) and holds_images(root / n)
               for k, n in names.items() if k != "train")
    }  # fmt: skip


def _subfolders(folder: Path) -> set[str]:
    return {entry.name for entry in _entries(folder) if _is_dir(entry)}


def _require_no_parts_inside(root: Path) -> None:
    """Refuse classes that are divided themselves: their test images would be trained on."""
    divided: list[tuple[str, str, str]] = []
    folders = (one for one in _entries(root) if _is_dir(one))
    for entry in islice((f for f in folders if not LITTER_FOLDERS.fullmatch(f.name)), SOME):
        names = sorted(_subfolders(Path(entry.path)))
        kinds = {_kind(m): name for name in names if (m := PART.fullmatch(name))}
        if test := kinds.get("test", kinds.get("val")) if "train" in kinds else None:
            divided.append((printable(entry.name), kinds["train"], test))
    if len(divided) > 1:  # a single one may be the folder to name
        name, train, test = divided[0]
        raise DataError(
            f"{printable(str(root))}: the class folders hold parts of their own, such as "
            f"{name}/{train} and {name}/{test}; put the parts above the classes: {train}/{name} "
            f"and {test}/{name}"
        )


def holds_images(folder: Path, direct: bool = False) -> bool:
    """Whether there is an image in a folder inside of this one, at any depth.

    Args:
        folder: the folder.
        direct: whether images in the folder itself count too.

    Returns:
        Whether there is one.

    Raises:
        DataError: if a folder cannot be listed.
    """
    return _holds_image(folder, direct, [])


def class_name(folder: str) -> str:
    """The name of a class: its folder's, composed and printable."""
    return printable(unicodedata.normalize("NFC", folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{printable(str(folder))}: cannot be listed ({first_line(error)})"
        ) from error


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino


def _ancestors(root: Path, place: Path) -> Iterator[tuple[int, int]]:
    """The folders from the root down to this one."""
    yield _identity(root)
    for at in range(len(place.relative_to(root).parts)):
        yield _identity(root.joinpath(*place.relative_to(root).parts[: at + 1]))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _why_no_image(entry: os.DirEntry[str]) -> str | None:
    """Why a file is passed over; None for images, and for links to images that are not there."""
    if LITTER.fullmatch(entry.name):
        return "left out: files of other programs, such as .DS_Store"
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a million names, no paths
    known = suffix in SUFFIXES
    if not _is_file(entry) and not (known and not Path(entry.path).exists()):
        return "left out: links to nothing, pipes and devices"
    if known:
        return "left out: hidden images" if entry.name.startswith(".") else None
    odd = ODD_SUFFIX.fullmatch(suffix) or suffix.startswith(IMAGES)
    if odd and _begins_like_an_image(Path(entry.path)):
        return None
    return "left out: files that are no images"


def _begins_like_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return (
        head.startswith(MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1")
    )


def _holds_image(folder: Path, direct: bool, above: Sequence[tuple[int, int]]) -> bool:
    here = _identity(folder)
    if here in above:
        return False
    entries = _entries(folder)
    if direct and any(not _is_dir(one) and not _why_no_image(one) for one in entries):
        return True
    return any(
        _holds_image(Path(one.path), True, [*above, here])
        for one in entries
        if _is_dir(one) and LITTER_FOLDERS.fullmatch(one.name) is None
    )


def _unwrapped(folder: Path) -> Path:
    """A part's folder; where it holds nothing but one of the same kind, as archives do, that."""
    inside = [entry for entry in _entries(folder) if entry.is_dir()]
    if len(inside) == 1 and inside[0].name.lower() == folder.name.lower():
        return folder / inside[0].name
    return folder


def _unclear(root: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{printable(str(root))}: which of {', '.join(map(printable, names))} is the training "
        "part? leave one"
    )
