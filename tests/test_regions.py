"""Random regions of an image, and the training image that is made of one."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.training.input.augmentation import (
    Augmentation,
    random_region,
    random_window,
    resize_image,
    shrink_image,
)

SIZE = 32


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1, 1), (3000, 2), (5, 900)])
def test_a_random_region_lies_in_the_image(width, height):
    random = Random(1)
    for _ in range(200):
        for region in (random_region(width, height, 0.08, random), random_window(width, height, 0.9, random)):
            left, top, right, bottom = region
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_a_random_region_covers_between_min_area_and_100_percent(min_area):
    random = Random(1)
    regions = [random_region(1000, 1000, min_area, random) for _ in range(500)]
    areas = [(right - left) * (bottom - top) / 1e6 for left, top, right, bottom in regions]
    assert min_area * 0.99 < min(areas) < min_area + 0.04
    assert max(areas) > 0.8


@pytest.mark.parametrize("region", [(10, 5, 90, 70), (0, 0, 100, 80), (40, 40, 44, 45)])
def test_a_region_is_resampled_as_pillow_does(region):
    y, x = np.mgrid[0:80, 0:100]
    image = np.stack([128 + 100 * np.sin(x / 7 + y / 9), 2 * x, 3 * y], axis=-1).astype(np.uint8)
    expected = Image.fromarray(image).crop(region).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    left, top, right, bottom = region
    difference = resize_image(image[top:bottom, left:right], SIZE, SIZE).astype(int) - np.array(expected)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    ("width", "height", "edge", "expected"),
    [(400, 300, 30, (30, 40)), (20, 31, 30, (31, 20)), (7, 1, 5, (1, 7)), (3, 700, 2, (467, 2)), (900, 5, 1, (1, 180))],
)
def test_a_picture_is_reduced_in_its_aspect_ratio_but_never_enlarged(width, height, edge, expected):
    smaller = shrink_image(np.full((height, width, 3), 77, np.uint8), edge)
    assert smaller.shape == (*expected, 3)
    assert (smaller.min(), smaller.max(), smaller.flags["C_CONTIGUOUS"]) == (77, 77, True)


def test_crops_are_never_smaller_than_the_smallest_area_asked_for():
    """In a picture that brightens to the right, the range of brightness is the width of the crop."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 150, axis=0).repeat(3, axis=2)
    for min_area, is_narrow in ((0.08, True), (0.8, False)):  # a crop of 0.8 * 200 * 150 pixels is 160 wide or more
        chosen = Augmentation(Preprocessing(36, SIZE), SIZE, min_crop_area=min_area)
        ranges = [np.ptp(chosen.draw(ramp, f"1/{epoch}/1").numpy()) for epoch in range(100)]
        assert (min(ranges) < 150) == is_narrow
