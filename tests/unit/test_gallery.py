"""How a gallery writes what is to be predicted, and which examples it shows as text."""

from types import SimpleNamespace

import pytest
import torch

from goldiprox.analysis.gallery import LONGEST, _shown, _written
from goldiprox.data.store import ImageStore, TextStore


@pytest.mark.parametrize(
    ("kind", "names", "target", "text"),
    [
        ("classes", ("cat", "dog"), torch.tensor(1), "dog"),
        ("label sets", ("a", "b", "c"), torch.tensor([1.0, 0.0, 1.0]), "a, c"),
        ("label sets", ("a", "b"), torch.tensor([0.0, 0.0]), "no label"),
        ("numbers", ("price",), torch.tensor(152340.0), "152,340"),
        ("numbers", ("price",), torch.tensor(57.25), "57.25"),
        ("numbers", ("x", "y"), torch.tensor([1.5, -2.0]), "x 1.5, y -2"),
        ("numbers", tuple("abcdef"), torch.arange(6.0), "a 0, b 1, c 2, d 3, …"),
        ("tensors", (), torch.zeros(6, 6), "a target of shape (6, 6)"),
    ],
)
def test_targets_are_written_for_people(kind, names, target, text):
    assert _written(target, SimpleNamespace(targets=kind, class_names=names)) == text


def test_texts_are_shown_as_text_and_images_as_pictures():
    texts = TextStore(["short", "long " * 100])
    assert _shown(texts, 0) == (None, "short")
    picture, text = _shown(texts, 1)
    assert picture is None
    assert len(text) == LONGEST
    assert text.endswith("…")
    picture, text = _shown(ImageStore(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), 0)
    assert picture.startswith(b"\x89PNG")
    assert text is None
