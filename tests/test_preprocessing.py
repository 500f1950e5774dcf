"""What happens to every image before it reaches the network, in training as in scoring."""

import io
import json
from collections import OrderedDict

import pytest
import torch
from PIL import Image
from rounding import UNIT
from torch import nn
from torchvision.transforms.v2.functional import to_grayscale

from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.model.classifier import ImageClassifier, new_classifier
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.model.storage import read_classifier, save_classifier
from mlflow_resnet.training.input.augmentation import Augmentation

pytestmark = pytest.mark.networks


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 300), (68.75, 18.75, 331.25, 281.25)), ((256, 256), (16, 16, 240, 240))]
)
def test_the_central_crop_is_torchvisions(size, expected):
    assert Preprocessing(256, 224).center_region(*size) == pytest.approx(expected)


def test_normalized_images_are_torchvisions():
    from torchvision.transforms._presets import ImageClassification

    image = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    expected = ImageClassification(crop_size=224, resize_size=224)(image)
    found = Preprocessing().normalize(image[None])[0]  # values up to 3, of a division, a difference and a product
    torch.testing.assert_close(found, expected, rtol=0, atol=3 * 8 * UNIT)


def picture(size, color=(200, 60, 40)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def test_a_padded_image_has_black_on_each_side():
    preprocessing = Preprocessing(36, 32, padding=4)
    image = preprocessing.load(picture((60, 44)))
    assert image.shape == (3, 40, 40)
    assert preprocessing.image_size == 40
    assert torch.equal(image[:, 4:-4, 4:-4], Preprocessing(36, 32).load(picture((60, 44))))
    image[:, 4:-4, 4:-4] = 0
    assert not image.any()


def test_another_resolution_keeps_the_part_and_its_padding():
    preprocessing = Preprocessing(resize_size=256, crop_size=224, padding=7, grayscale=True)
    larger = preprocessing.at_resolution(448)
    assert larger == Preprocessing(resize_size=512, crop_size=448, padding=14, grayscale=True)
    assert larger.center_region(640, 480) == preprocessing.center_region(640, 480)


def test_a_grayscale_image_has_torchvisions_brightness_in_three_equal_channels():
    image = Preprocessing(36, 32, grayscale=True).load(picture((60, 44)))
    expected = to_grayscale(Preprocessing(36, 32).load(picture((60, 44))), num_output_channels=3)
    assert (image.int() - expected.int()).abs().max() <= 1
    assert image.unique().numel() == 1


@pytest.mark.parametrize("options", [{}, {"padding": 4}, {"grayscale": True}, {"padding": 4, "grayscale": True}])
def test_scoring_pads_and_grays_as_training_did(options):
    pool = nn.AdaptiveAvgPool2d(1)
    means = nn.Sequential(OrderedDict(layer4=pool, fc=nn.Identity()))  # of the channels, so that both can be seen
    preprocessing = Preprocessing(36, 32, **options)
    predictor = Predictor(ImageClassifier("means", ("red", "green", "blue"), preprocessing, means), "cpu")
    (prediction,) = predictor.predict([ImageSource("picture", lambda: picture((60, 44)))])
    seen = Augmentation(preprocessing, 32, random_resized_crop=False, random_horizontal_flip=False)
    image = seen.draw(seen.prepare(picture((60, 44))), "1/1/1")
    expected = pool(preprocessing.normalize(image[None])).flatten().softmax(dim=0)
    assert prediction.probabilities == pytest.approx(
        expected.numpy(), abs=1024 * UNIT
    )  # means of 1024 pixels, one after the other
    assert (prediction.probabilities.argmax() == 0) == ("grayscale" not in options)


def test_a_saved_classifier_keeps_padding_and_grayscale_and_an_older_one_has_none(tmp_path):
    preprocessing = Preprocessing(36, 32, padding=2, grayscale=True)
    save_classifier(new_classifier("resnet18", ("a", "b"), preprocessing), tmp_path)
    assert read_classifier(tmp_path)[0].preprocessing == preprocessing
    description = json.loads((tmp_path / "classifier.json").read_text())
    del description["preprocessing"]["padding"], description["preprocessing"]["grayscale"]
    (tmp_path / "classifier.json").write_text(json.dumps(description))
    assert read_classifier(tmp_path)[0].preprocessing == Preprocessing(36, 32)
