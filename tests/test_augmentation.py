"""What training draws of an image in each epoch."""

import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.training.input.augmentation import STORE_FACTOR, Augmentation, build_transform
from mlflow_resnet.training.input.randomness import Seeded

SIZE = 32
PREPROCESSING = Preprocessing(36, SIZE)
OPERATIONS = {
    "random_resized_crop": True,
    "random_crop": True,
    "random_horizontal_flip": True,
    "random_vertical_flip": True,
    "rotation_degrees": 30.0,
    "affine_degrees": 30.0,
    "color_jitter": 0.4,
    "random_grayscale": 0.5,
    "random_perspective": 0.5,
    "random_erasing": 0.5,
    "auto_augment": "randaugment",
}
EACH = [*OPERATIONS.items(), ("auto_augment", "trivialaugment")]
OFF = {"random_resized_crop": False, "random_horizontal_flip": False}


def augmentation(preprocessing=PREPROCESSING, size=SIZE, **operations):
    """With these operations only."""
    return Augmentation(preprocessing, size, **OFF | operations)


def picture(width=60, height=44):
    """A PNG of bright noise: no symmetry, nothing black."""
    pixels = np.random.default_rng(1).integers(60, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def draws(augmentation, epochs, content=None):
    """The same image in each of so many epochs."""
    image = augmentation.prepare(content or picture())
    return [augmentation.draw(image, f"1/{epoch}/0") for epoch in range(epochs)]


@pytest.mark.parametrize(("name", "value"), EACH)
def test_each_operation_changes_the_picture_anew_in_each_epoch(name, value):
    plain = PREPROCESSING.load(picture())
    drawn = draws(augmentation(**{name: value}), 20)
    assert {(image.dtype, tuple(image.shape)) for image in drawn} == {(torch.uint8, (3, SIZE, SIZE))}
    assert sum(not torch.equal(image, plain) for image in drawn) >= 4
    kinds = {image.contiguous().numpy().tobytes() for image in drawn}
    assert len(kinds) >= (2 if name in ("random_horizontal_flip", "random_vertical_flip", "random_grayscale") else 8)


@pytest.mark.parametrize(("name", "value"), EACH)
def test_a_drawing_depends_on_the_seed_and_not_on_the_thread(name, value):
    chosen = augmentation(**{name: value})
    image = chosen.prepare(picture())
    seeds = [f"1/{epoch}/{index}" for epoch in range(3) for index in range(8)]
    expected = [chosen.draw(image, seed) for seed in seeds]
    torch.manual_seed(99)
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda seed: chosen.draw(image, seed), reversed(seeds)))[::-1]
    assert all(map(torch.equal, drawn, expected))


def test_the_global_random_numbers_are_left_as_they_are():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws(augmentation(**OPERATIONS), 10)
    draws(augmentation(auto_augment="trivialaugment"), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_drawn_in_a_block_are_those_of_its_seed():
    torch.manual_seed(7)
    expected = [
        torch.rand(2),
        torch.randperm(5),
        torch.empty(2).uniform_(1, 2),
        torch.distributions.Beta(2, 3).sample(),
    ]
    with Seeded(7):
        drawn = [
            torch.rand(2),
            torch.randperm(5),
            torch.empty(2).uniform_(1, 2),
            torch.distributions.Beta(2, 3).sample(),
        ]
    assert all(map(torch.equal, drawn, expected))


@pytest.mark.parametrize("options", [{}, {"padding": 3}, {"grayscale": True}, {"padding": 2, "grayscale": True}])
def test_without_augmentation_training_sees_what_validation_sees(options):
    preprocessing = Preprocessing(36, SIZE, **options)
    plain = augmentation(preprocessing)
    assert not plain.is_random
    (drawn,) = draws(plain, 1)
    assert drawn.shape == (3, preprocessing.image_size, preprocessing.image_size)
    assert torch.equal(drawn, preprocessing.load(picture()))


@pytest.mark.parametrize(("name", "value"), EACH)
def test_an_augmentation_with_any_operation_is_random(name, value):
    assert augmentation(**{name: value}).is_random


def test_padding_and_grayscale_hold_for_random_crops_too():
    chosen = augmentation(Preprocessing(36, SIZE, padding=3, grayscale=True), random_resized_crop=True)
    for drawn in draws(chosen, 5):
        assert drawn.shape == (3, SIZE + 6, SIZE + 6)
        assert drawn[:, 3:-3, 3:-3].min() > 40
        drawn[:, 3:-3, 3:-3] = 0
        assert not drawn.any()
    chosen = augmentation(Preprocessing(36, SIZE, grayscale=True), random_crop=True)
    assert all(torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2]) for drawn in draws(chosen, 5))


@pytest.mark.parametrize(
    ("operations", "size", "expected"),
    [
        ({"random_resized_crop": True}, (400, 300), (48, 64, 3)),
        ({"random_resized_crop": True}, (20, 50), (50, 20, 3)),
        ({"random_crop": True}, (400, 300), (36, 48, 3)),
        ({}, (400, 300), (SIZE, SIZE, 3)),
    ],
)
def test_what_is_kept_of_an_image(operations, size, expected):
    """All that a random crop can use: 1.5 times the training image, or the resized image; never more than the file."""
    kept = augmentation(**operations).prepare(picture(*size))
    assert (kept.dtype, kept.shape) == (np.uint8, expected)
    assert STORE_FACTOR * SIZE == 48


def test_what_is_kept_depends_on_the_settings_that_name_it_alone():
    def settings_of(preprocessing=PREPROCESSING, size=SIZE, **operations):
        return json.dumps(augmentation(preprocessing, size, **operations).prepare_settings())

    drawn = {"color_jitter": 0.3, "random_erasing": 0.2}
    assert settings_of(**drawn) == settings_of()
    assert settings_of(random_resized_crop=True, **drawn) == settings_of(random_resized_crop=True)
    different = [
        settings_of(),
        settings_of(random_resized_crop=True),
        settings_of(random_crop=True),
        settings_of(size=30),
    ]
    different += [settings_of(Preprocessing(36, SIZE, grayscale=True)), settings_of(Preprocessing(36, SIZE, padding=1))]
    different += [settings_of(Preprocessing(40, SIZE)), settings_of(size=30, random_resized_crop=True)]
    assert len(set(different)) == len(different)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("operations", [OFF, OPERATIONS])
def test_what_is_kept_is_never_changed(operations):
    chosen = augmentation(**operations)
    kept = chosen.prepare(picture())
    before = kept.copy()
    kept.setflags(write=False)  # as in a file mapped into memory
    chosen.draw(kept, "1/1/1").zero_()
    assert np.array_equal(kept, before)


def test_half_of_the_images_are_flipped():
    plain = PREPROCESSING.load(picture())
    for name, axis in (("random_horizontal_flip", 2), ("random_vertical_flip", 1)):
        drawn = draws(augmentation(**{name: True}), 400)
        flipped = sum(torch.equal(image, plain.flip(axis)) for image in drawn)
        assert flipped + sum(torch.equal(image, plain) for image in drawn) == 400
        assert 160 < flipped < 240


@pytest.mark.parametrize(
    ("name", "is_applied"),
    [
        ("random_erasing", lambda image: bool((image == 0).any())),
        ("random_grayscale", lambda image: torch.equal(image[0], image[2])),
        ("random_perspective", lambda image: not torch.equal(image, PREPROCESSING.load(picture()))),
    ],
)
def test_an_operation_comes_with_its_probability(name, is_applied):
    applied = Counter(map(is_applied, draws(augmentation(**{name: 0.25}), 400)))
    assert 65 < applied[True] < 135


def test_a_random_crop_cuts_and_does_not_resample():
    chosen = augmentation(random_crop=True)
    kept = chosen.prepare(picture(400, 300))
    windows = {
        kept[top : top + SIZE, left : left + SIZE].tobytes()
        for top in range(36 - SIZE + 1)
        for left in range(48 - SIZE + 1)
    }
    assert {chosen.draw(kept, f"1/{i}/1").permute(1, 2, 0).numpy().tobytes() for i in range(40)} <= windows


@pytest.mark.parametrize("operations", [OFF, OPERATIONS, OPERATIONS | {"random_crop": False}])
def test_what_was_done_can_be_read_from_the_saved_model_and_done_with_torchvision(operations):
    chosen = augmentation(Preprocessing(36, SIZE, padding=2, grayscale=True), **operations)
    listed = json.loads(json.dumps(chosen.as_list()))
    assert listed == chosen.as_list()
    transforms = [build_transform(step.pop("name"), step) for step in listed]
    drawn = v2.Compose(transforms)(torch.zeros(3, 60, 44, dtype=torch.uint8))
    assert drawn.shape == (3, SIZE + 4, SIZE + 4)


def test_the_saved_list_names_the_operations_in_their_order_with_their_arguments():
    listed = augmentation(**OPERATIONS | {"random_crop": False}).as_list()
    names = "Resize RandomResizedCrop RandomHorizontalFlip RandomVerticalFlip ColorJitter RandomRotation RandomAffine "
    names += "RandomGrayscale RandomPerspective RandAugment RandomErasing"
    assert [step["name"] for step in listed] == names.split()
    assert listed[1] == {"name": "RandomResizedCrop", "size": SIZE, "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}
    assert listed[5] == {"name": "RandomRotation", "degrees": 30.0, "interpolation": "bilinear"}


def test_training_images_may_have_another_size_than_validation_images():
    for size in (20, 50):
        for operations in ({}, {"random_crop": True}, {"random_resized_crop": True}):
            for width, height in ((60, 44), (30, 90)):
                (drawn,) = draws(augmentation(size=size, **operations), 1, picture(width, height))
                assert drawn.shape == (3, size, size)


sides = st.integers(1, 5) | st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 40), st.sampled_from([*EACH, ("random_crop", False)]))
def test_images_of_any_size_can_be_augmented(width, height, size, operation):
    chosen = augmentation(Preprocessing(36, SIZE, padding=1), size, **dict([operation]))
    for drawn in draws(chosen, 3, picture(width, height)):
        assert (drawn.dtype, tuple(drawn.shape)) == (torch.uint8, (3, size + 2, size + 2))
