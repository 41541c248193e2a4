"""One decoder: an image has the same pixels in a folder, in Parquet and as a Python object."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_errors import error
from PIL import Image

from goldiprox.data.datasets import from_items, load
from goldiprox.data.image_headers import wide
from goldiprox.data.settings import Reading
from goldiprox.schema import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("no_data_around")

RED, GREEN, BLUE, WHITE = (200, 30, 40), (20, 180, 60), (10, 20, 220), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def from_folder(root: Path, image: bytes, suffix: str, **settings):
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for number in range(5):
            (root / "images" / name / f"{number}{suffix}").write_bytes(image)
    return load(str(root / "images"), reading=Reading(workers=0, **settings))


def from_parquet(root: Path, image: bytes, **settings):
    root.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table({"image": [image] * 10, "label": [0, 1] * 5}), root / "x.parquet")
    return load(str(root / "x.parquet"), reading=Reading(**settings))


def from_python(items, **settings):
    return from_items("mine", [(items, n % 2) for n in range(10)], reading=Reading(**settings))


def everywhere(tmp_path: Path, image: bytes, suffix: str = ".png", **settings):
    """The first image's pixels from every source, which are equal."""
    found = [
        from_folder(tmp_path / "whole", image, suffix, **settings),
        from_folder(tmp_path / "lazy", image, suffix, lazy=True, **settings),
        from_parquet(tmp_path / "parquet", image, **settings),
        from_python(image, **settings),
        from_python({"bytes": image, "path": None}, **settings),
        from_python(Image.open(io.BytesIO(image)), **settings),
    ]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].notes == found[1].notes
    first, *others = (dataset.store.fetch(torch.tensor([3]))[0] for dataset in found)
    for number, other in enumerate(others):
        assert torch.equal(first, other), number
    assert all([n.what for n in d.notes] == [n.what for n in found[0].notes] for d in found)
    return first, found[0]


def notes(dataset) -> list[str]:
    return [str(note) for note in dataset.notes]


# Orientation

CORNERS = np.zeros((4, 6, 3), np.uint8)
CORNERS[:2, :3], CORNERS[:2, 3:], CORNERS[2:, :3], CORNERS[2:, 3:] = RED, GREEN, BLUE, WHITE

STORED = {  # how pixels lie in the file for a viewer to see CORNERS
    1: CORNERS, 2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1],
    5: CORNERS.transpose(1, 0, 2), 6: np.rot90(CORNERS), 7: np.rot90(CORNERS.transpose(1, 0, 2), 2),
    8: np.rot90(CORNERS, 3),
}  # fmt: skip


def oriented(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encoded(image, kind, exif=exif, **lossless)


@pytest.mark.parametrize("kind, suffix", [("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, kind, suffix, orientation):
    pixels, dataset = everywhere(tmp_path, oriented(orientation, kind), suffix)
    assert torch.equal(pixels, torch.from_numpy(CORNERS.copy()).permute(2, 0, 1))
    if kind != "TIFF":  # Pillow itself turns these
        turned = "images turned upright, as their EXIF orientation says: 10"
        assert any(turned in note for note in notes(dataset)) == (orientation > 1)


def test_exif_behind_the_pixels_counts_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    plain = encoded(Image.fromarray(CORNERS[::-1, ::-1].copy()))
    chunk = b"eXIf" + exif.tobytes()[6:]
    late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    pixels, _ = everywhere(tmp_path, plain[:-12] + late + plain[-12:])
    assert pixels[:, 0, 0].tolist() == list(RED)


def test_a_rotated_photo_is_resized_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = np.zeros((64, 32, 3), np.uint8)
    tall[:32] = 255
    lying = Image.fromarray(np.rot90(tall).copy())
    pixels, dataset = everywhere(
        tmp_path, encoded(lying, "JPEG", exif=exif, quality=95), ".jpg", image_size=16
    )
    assert pixels[:, 2].float().mean() > 240
    assert pixels[:, -3].float().mean() < 15
    assert [note.what.split(",")[0] for note in dataset.notes] == [
        "images turned upright",
        "images resized to 16x16",
        "images cropped at two edges for 16x16",
    ]


def test_a_damaged_exif_note_does_not_cost_the_image(tmp_path):
    image = Image.fromarray(CORNERS)
    pixels, _ = everywhere(tmp_path, encoded(image, "PNG", exif=b"Exif\0\0no tiff at all"))
    assert pixels[:, 0, 0].tolist() == list(RED)


def test_fingerprints_change_only_where_pixels_do(tmp_path):
    upright = from_folder(tmp_path / "1", oriented(1, "PNG"), ".png")
    turned = from_folder(tmp_path / "3", oriented(3, "PNG"), ".png")
    assert upright.fingerprint != turned.fingerprint
    # Of version 0.1.0, whose tables stay valid.
    whole = from_folder(tmp_path / "w", b"P6 2 2 255\n" + bytes(range(12)), ".ppm")
    assert whole.fingerprint == ("06ebacbdc9f40d794649e606af4ba3ab01bbf612664db165e09580b6aa681815")
    wide = b"P6 4 2 255\n" + bytes(range(24))
    squashed = from_folder(tmp_path / "s", wide, ".ppm", image_size=2, image_fit="squash")
    assert squashed.fingerprint == (
        "9c2c0ca2d91d1730d906b58a1340c182d6fc9b470eeed2e90cb1db2426fef964"
    )
    cropped = from_folder(tmp_path / "c", wide, ".ppm", image_size=2)
    padded = from_folder(tmp_path / "p", wide, ".ppm", image_size=2, image_fit="pad")
    assert len({d.fingerprint for d in (squashed, cropped, padded)}) == 3


# Transparency


def with_alpha(mode: str) -> Image.Image:
    """Two by one pixels: one opaque, one invisible whose colour nobody can see."""
    if mode == "1":
        image = Image.new("1", (2, 1), 0)
        image.putpixel((1, 0), 1)
        image.info["transparency"] = 1
    elif mode == "LA":
        image = Image.fromarray(np.array([[[77, 255], [10, 0]]], np.uint8))
    elif mode == "L":
        image = Image.fromarray(np.array([[77, 10]], np.uint8))
        image.info["transparency"] = 10
    elif mode == "RGB":
        image = Image.fromarray(np.array([[RED, GREEN]], np.uint8))
        image.info["transparency"] = GREEN
    elif mode == "P":
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
        image.putpalette([*RED, *GREEN])
        image.info["transparency"] = 1
    elif mode == "P bytes":
        image = with_alpha("P")
        image.info["transparency"] = bytes([255, 0])
    else:
        image = Image.fromarray(np.array([[[*RED, 255], [*GREEN, 0]]], np.uint8))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "P", "P bytes", "RGBA"])
@pytest.mark.parametrize("background", ["white", "#102030"])
def test_what_is_transparent_shows_the_background(tmp_path, mode, background):
    image = with_alpha(mode)
    raw = encoded(image, "PNG", transparency=image.info.get("transparency"))
    pixels, dataset = everywhere(tmp_path, raw, background=background)
    seen = {"1": (0,) * 3, "L": (77,) * 3, "LA": (77,) * 3}.get(mode, RED)
    behind = WHITE if background == "white" else (16, 32, 48)
    grey = mode in ("1", "L", "LA") and background == "white"
    assert pixels[:, 0].T.tolist() == ([[seen[0]], [255]] if grey else [list(seen), list(behind)])
    hexed = "#ffffff" if background == "white" else background
    assert f"images transparent, laid on {hexed}: 10" in notes(dataset)[0]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_transparent_values_of_few_bits_are_scaled_as_their_pixels(tmp_path, depth):
    def chunk(kind: bytes, data: bytes) -> bytes:
        both = kind + data
        return struct.pack(">I", len(data)) + both + struct.pack(">I", zlib.crc32(both))

    most = 2**depth - 1
    row = bytes([0, (most << 8 - 2 * depth) & 255])  # one black pixel, one white one
    raw = b"\x89PNG\r\n\x1a\n" + b"".join((
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, 0, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">H", most)),
        chunk(b"IDAT", zlib.compress(row)),
        chunk(b"IEND", b""),
    ))  # fmt: skip
    pixels, _ = everywhere(tmp_path, raw, background="#404040")
    assert pixels.tolist() == [[[0, 64]]]


def test_half_transparent_pixels_are_mixed():
    image = Image.fromarray(np.array([[[100, 0, 200, 128]]], np.uint8))
    pixels = from_python(image).store.fetch(torch.tensor([0]))[0, :, 0, 0]
    expected = [round((value * 128 + 255 * 127) / 255) for value in (100, 0, 200)]
    assert pixels.tolist() == expected


def test_opaque_alpha_changes_nothing_and_is_not_mentioned(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    pixels[..., 3] = 255
    found, dataset = everywhere(tmp_path, encoded(Image.fromarray(pixels)))
    assert torch.equal(found, torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1))
    assert notes(dataset) == []


def test_arrays_with_an_alpha_channel_are_laid_on_the_background():
    array = np.array([[[*RED, 255], [*GREEN, 0]]], np.uint8)
    for value in (array, torch.from_numpy(array).permute(2, 0, 1)):
        pixels = from_python(value).store.fetch(torch.tensor([0]))[0, :, 0].T
        assert pixels.tolist() == [list(RED), list(WHITE)]
    grey = from_python(np.array([[[7, 255], [9, 0]]], np.uint8))
    assert grey.store.fetch(torch.tensor([0])).tolist() == [[[[7, 255]]]]


def test_a_background_that_is_no_colour_is_refused():
    with pytest.raises(ConfigError, match="--background chalk is no colour: give a name"):
        Reading(background="chalk")


# Depth


def wide_png(colour: int, channels: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        both = kind + data
        return struct.pack(">I", len(data)) + both + struct.pack(">I", zlib.crc32(both))

    row = b"\0" + np.full(4 * channels, 40_000, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(row * 4))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def wide_tiff(channels: int) -> bytes:
    """A TIFF file of 16 bits a channel, by hand: Pillow reads such files and writes none."""
    photometric = 2 if channels == 3 else 1
    data = np.full(16 * channels, 40_000, "<u2").tobytes()
    bits = struct.pack("<3H", 16, 16, 16)
    start = 8 + len(data) + len(bits)
    entries = [
        (256, 3, 1, 4), (257, 3, 1, 4),
        (258, 3, channels, 8 + len(data) if channels == 3 else 16),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels),
        (278, 3, 1, 4), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + data + bits + directory


GREY_16 = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
WIDE = {
    "png grey": wide_png(0, 1),
    "png grey and alpha": wide_png(4, 2),
    "png colour": wide_png(2, 3),
    "png colour and alpha": wide_png(6, 4),
    "tiff grey": wide_tiff(1),
    "tiff colour": wide_tiff(3),
    "tiff integers": encoded(Image.new("I", (4, 4), 7), "TIFF"),
    "tiff floats": encoded(Image.new("F", (4, 4), 0.5), "TIFF"),
    "jpeg 2000": encoded(GREY_16, "JPEG2000"),
    "ppm": b"P6 4 4 65535\n" + bytes(4 * 4 * 6),
    "ppm of 10 bits": b"P6 4 4 1023\n" + bytes(4 * 4 * 6),
    "pgm": b"P5 4 4 65535\n" + bytes(4 * 4 * 2),
    "pfm": b"Pf\n4 4\n-1.0\n" + bytes(4 * 4 * 4),
    "sgi": struct.pack(">hBBHHHH", 474, 0, 2, 3, 4, 4, 3) + bytes(500) + bytes(4 * 4 * 6),
}


@pytest.mark.parametrize("name", WIDE)
def test_more_than_8_bits_a_channel_are_refused_everywhere(tmp_path, name):
    suffix = ".tif" if name.startswith("tiff") else ".ppm" if "p" in name else ".png"
    for make in (
        lambda: from_folder(tmp_path / "whole", WIDE[name], suffix),
        lambda: from_folder(tmp_path / "lazy", WIDE[name], suffix, lazy=True),
        lambda: from_parquet(tmp_path, WIDE[name]),
        lambda: from_python(WIDE[name]),
        lambda: from_python(Image.open(io.BytesIO(WIDE[name]))),
    ):
        with pytest.raises(DataError, match=r"more than 8 bits per channel|of more than 8 bits"):
            make()


@pytest.mark.parametrize("flags, bits", [(0, None), (0x40, "10 bits"), (0x60, "12 bits")])
def test_avif_of_more_bits_is_known_by_its_header(flags, bits):
    raw = encoded(Image.new("RGB", (8, 8), RED), "AVIF")
    at = raw.index(b"av1C") + 6
    image = Image.open(io.BytesIO(raw))  # Pillow writes 8 bits and opens no file that lies
    image.fp = io.BytesIO(raw[:at] + bytes([raw[at] | flags]) + raw[at + 1 :])
    assert wide(image) == bits


def test_arrays_of_more_than_8_bits_are_refused():
    for kind in (np.uint16, np.int32):
        with pytest.raises(DataError, match="more than 8 bits per channel"):
            from_python(np.zeros((4, 4, 3), kind))


def test_an_image_decoded_before_is_still_known_to_have_been_wide(tmp_path):
    (tmp_path / "x.png").write_bytes(wide_png(2, 3))
    image = Image.open(tmp_path / "x.png")
    image.load()
    with pytest.raises(DataError, match="more than 8 bits"):
        from_python(image)


@pytest.mark.parametrize("bits", [5, 8])
def test_bitmaps_of_five_and_six_bits_are_read(tmp_path, bits):
    raw = encoded(Image.new("RGB", (4, 4), WHITE), "BMP")
    if bits == 5:  # 16 bits a pixel, not a channel
        header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, 32, 0, 0, 0, 0)
        raw = b"BM" + struct.pack("<IHHI", 54 + 32, 0, 0, 54) + header + b"\xff\x7f" * 16
    pixels, _ = everywhere(tmp_path, raw, ".bmp")
    assert pixels.unique().tolist() == [255]


# Other kinds of colour


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV"])
def test_other_spaces_of_colour_are_converted(mode):
    if mode == "LAB":  # lightness 255, neither green nor red, neither blue nor yellow
        image = Image.fromarray(np.tile(np.array([255, 128, 128], np.uint8), (4, 4, 1)))
        image = Image.merge("LAB", image.split())
        expected = WHITE
    else:
        image, expected = Image.new("RGB", (4, 4), RED).convert(mode), RED
    pixels = from_python(image).store.fetch(torch.tensor([0]))[0, :, 0, 0]
    assert (pixels - torch.tensor(expected)).abs().max() <= 3


def test_the_first_frame_of_several_is_taken_and_said(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 20, 30)]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    pixels, dataset = everywhere(tmp_path, raw, ".gif")
    assert pixels.unique().tolist() == [10]
    assert (
        "images of several frames or pages, of which the first was taken: 10" in notes(dataset)[0]
    )


# Grey or in colour


def test_one_image_in_colour_makes_all_of_colour(tmp_path):
    grey, red = Image.new("L", (6, 6), 76), Image.new("RGB", (6, 6), (255, 0, 0))
    images = [grey] * 299 + [red]
    pq.write_table(
        pa.table({"image": [encoded(one) for one in images], "label": [0, 1] * 150}),
        tmp_path / "late.parquet",
    )
    for name, count in (("a", 150), ("b", 150)):
        (tmp_path / "f" / name).mkdir(parents=True)
        for number in range(count):
            image = red if (name, number) == ("b", 40) else grey
            image.save(tmp_path / "f" / name / f"{number:03d}.png")
    for dataset in (
        load(str(tmp_path / "late.parquet")),
        load(str(tmp_path / "f"), reading=Reading(workers=0)),
        load(str(tmp_path / "f"), reading=Reading(workers=0, lazy=True)),
        from_items("mine", [(one, n % 2) for n, one in enumerate(images)]),
        from_items("mine", [(np.asarray(one), n % 2) for n, one in enumerate(images)]),
    ):
        assert dataset.store.example_shape == (3, 6, 6)
        rows = dataset.store.fetch(torch.arange(300))[:, :, 2, 3]
        assert (rows == torch.tensor([76, 76, 76])).all(1).sum() == 299
        assert (rows == torch.tensor([255, 0, 0])).all(1).sum() == 1
        assert "images grey among images in colour: 299" in notes(dataset)[0]


# Sizes


STRIPES = np.zeros((8, 16, 3), np.uint8)
STRIPES[:, :4], STRIPES[:, 4:12], STRIPES[:, 12:] = RED, GREEN, BLUE


@pytest.mark.parametrize(
    "fit, left, middle, top",
    [("crop", GREEN, GREEN, GREEN), ("pad", RED, GREEN, WHITE), ("squash", RED, GREEN, GREEN)],
)
def test_the_aspect_ratio_is_kept_unless_squashing_is_asked_for(tmp_path, fit, left, middle, top):
    raw = encoded(Image.fromarray(STRIPES))
    pixels, dataset = everywhere(tmp_path, raw, image_size=8, image_fit=fit)
    assert pixels.shape == (3, 8, 8)
    assert pixels[:, 4, 0].tolist() == list(left)
    assert pixels[:, 4, 4].tolist() == list(middle)
    assert pixels[:, 0, 4].tolist() == list(top)
    said = {"crop": "cropped at two edges", "pad": "padded with #ffffff", "squash": "squashed"}
    assert said[fit] in notes(dataset)[1]


def test_squares_are_resized_as_ever(tmp_path):
    square = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    expected = np.asarray(Image.fromarray(square).resize((4, 4), Image.Resampling.BILINEAR))
    for fit in ("crop", "pad", "squash"):
        pixels = from_python(square, image_size=4, image_fit=fit).store.fetch(torch.tensor([0]))[0]
        assert torch.equal(pixels, torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_the_users_own_image_stays_as_it_is(tmp_path):
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (64, 32), RED), "JPEG")))
    from_python(image, image_size=8)
    assert image.size == (64, 32)


# Damage


def test_too_many_pixels_are_refused_in_one_line(tmp_path, monkeypatch):
    raw = encoded(Image.new("L", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for make in (
        lambda: from_folder(tmp_path / "f", raw, ".png"),
        lambda: from_parquet(tmp_path, raw),
        lambda: from_python(raw),
    ):
        with pytest.raises(DataError, match="more than the 1,000 pixels that are decoded"):
            make()


def test_a_bomb_that_only_says_to_be_large_is_refused(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        both = kind + data
        return struct.pack(">I", len(data)) + both + struct.pack(">I", zlib.crc32(both))

    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    with pytest.raises(DataError, match="more than the 89,478,485 pixels that are decoded"):
        from_python(raw)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000", "AVIF"])
def test_no_damage_ends_in_anything_but_one_line(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    whole = encoded(image, kind)
    random = np.random.default_rng(1)
    for _ in range(60):
        raw = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(raw), 4):
            raw[place] = random.integers(0, 256)
        with suppress(DataError, Warning):  # the tests make errors of Pillow's warnings
            from_python(bytes(raw))


def test_images_as_base64_are_named_as_what_they_are(tmp_path):
    table = pa.table({"image": ["iVBORw0KGgo="] * 10, "label": [0, 1] * 5})
    pq.write_table(table, tmp_path / "x.parquet")
    assert "column image holds string; encoded images expected" in error(
        str(tmp_path / "x.parquet")
    )
