import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from goldiprox.data.preprocess import Augmentation, ImagePreprocessor


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def slow_reference(
    raw: Tensor, augmentation: Augmentation | None, preprocess: ImagePreprocessor
) -> np.ndarray:
    """Pixel by pixel, in float64: crop out of a black border, then mirror, then normalise."""
    count, channels, height, width = raw.shape
    out = np.empty(raw.shape)
    for b in range(count):
        dy = int(augmentation.dy_B[b]) - preprocess.crop_padding if augmentation else 0
        dx = int(augmentation.dx_B[b]) - preprocess.crop_padding if augmentation else 0
        flip = bool(augmentation.flip_B[b]) if augmentation else False
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    sy, sx = y + dy, (width - 1 - x if flip else x) + dx
                    inside = 0 <= sy < height and 0 <= sx < width
                    value = int(raw[b, c, sy, sx]) / 255 if inside else 0.0
                    out[b, c, y, x] = (value - preprocess.mean_C[c]) / preprocess.std_C[c]
    return out


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_augmentation_equals_a_pixel_by_pixel_reference(
    count, channels, height, width, padding, flip, seed
):
    preprocess = ImagePreprocessor(
        mean_C=(0.5, 0.4, 0.3)[:channels],
        std_C=(0.2, 0.25, 0.3)[:channels],
        crop_padding=padding,
        flip=flip,
    )
    raw = images(count, channels, height, width, seed)
    augmentation = preprocess.draw(count, torch.Generator().manual_seed(seed))
    assert (augmentation is None) == (not flip and padding == 0)
    result = preprocess(raw, augmentation)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    np.testing.assert_allclose(
        result.numpy(), slow_reference(raw, augmentation, preprocess), atol=2e-6
    )


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("count", [64, 300])  # within and beyond one round of the CPU's loop
def test_augmenting_a_pool_then_cutting_equals_cutting_then_augmenting(device, count):
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, crop_padding=4, flip=True)
    raw = images(count, 3, 32, 32)
    augmentation = preprocess.draw(count, torch.Generator().manual_seed(3))
    positions = torch.tensor([5, count - 1, 0, 5])
    whole = preprocess(raw, augmentation, device=device)
    part = preprocess(raw[positions], augmentation[positions], device=device)
    assert torch.equal(whole[positions], part)  # bit for bit
    assert torch.equal(whole[10:20], preprocess(raw[10:20], augmentation[10:20]))


def test_augmentation_reaches_every_shift_and_both_sides():
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, crop_padding=4, flip=True)
    drawn = preprocess.draw(5000, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert sorted(set(drawn.dy_B.tolist())) == sorted(set(drawn.dx_B.tolist())) == list(range(9))
    assert abs(drawn.flip_B.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(5000)
    assert abs(torch.corrcoef(torch.stack([drawn.dy_B, drawn.dx_B]).double())[0, 1]) < 0.06


def test_images_in_another_memory_layout_are_cropped_alike():
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, crop_padding=2, flip=True)
    raw = images(6, 3, 8, 9)
    drawn = preprocess.draw(6, torch.Generator().manual_seed(0))
    other = raw.to(memory_format=torch.channels_last)
    assert torch.equal(preprocess(raw, drawn), preprocess(other, drawn))


def test_raw_images_are_left_as_they_were():
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, crop_padding=2, flip=True)
    raw = images(8, 3, 8, 8)
    before = raw.clone()
    preprocess(raw, preprocess.draw(8, torch.Generator().manual_seed(0)))
    assert torch.equal(raw, before)


def test_nothing_to_draw_leaves_the_generator_untouched():
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, crop_padding=4, flip=True)
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    plain = preprocess.without_augmentation()
    assert not plain.augments
    assert plain.draw(8, generator) is None
    assert torch.equal(generator.get_state(), state)
    assert plain.mean_C == preprocess.mean_C


def test_augmentation_for_another_count_is_refused():
    preprocess = ImagePreprocessor(mean_C=(0.5,) * 3, std_C=(0.2,) * 3, flip=True)
    drawn = preprocess.draw(3, torch.Generator())
    with pytest.raises(ValueError, match="drawn for 3 images, given 4"):
        preprocess(images(4, 3, 4, 4), drawn)


def test_means_are_those_of_the_chosen_rows_only():
    raw = images(700, 3, 5, 7)
    rows = torch.arange(0, 700, 3)
    measured = ImagePreprocessor.measure(raw, rows)
    scaled = raw[rows].numpy().astype(np.float64) / 255
    np.testing.assert_allclose(measured.mean_C, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured.std_C, scaled.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_becomes_zero_not_nan():
    raw = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    measured = ImagePreprocessor.measure(raw, torch.arange(4))
    assert measured.std_C == (1.0,)
    assert torch.equal(measured(raw), torch.zeros(4, 1, 8, 8))


@pytest.mark.parametrize(
    "shape, padding, flip",
    [((3, 32, 32), 4, True), ((3, 16, 16), 0, True), ((1, 32, 32), 0, False)],
)
def test_augmentation_fits_the_images(shape, padding, flip):
    measured = ImagePreprocessor.measure(images(2, *shape), torch.arange(2))
    assert (measured.crop_padding, measured.flip) == (padding, flip)
