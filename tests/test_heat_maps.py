"""Heat maps are right, of their own image and class, and leave nothing behind."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rounding import RESNET50
from torch import nn

from mlflow_resnet.evaluation.explanations import choose_stage, heat_maps, overlays
from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.model.network import split_after
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.options.train import STAGES

pytestmark = pytest.mark.networks

SIDE = 256  # pixels; layer4 gives 8 x 8 cells


@pytest.fixture(scope="module")
def color_classifier():
    """A ResNet-18 that looks for red and for blue and for nothing else: all but three paths through it are zero."""
    preprocessing = Preprocessing(SIDE, SIDE, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    classifier = new_classifier("resnet18", ("red", "blue"), preprocessing)
    network = classifier.network.eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.zero_()
            if name.endswith("downsample.0.weight"):
                parameter[:2, :2, 0, 0] = torch.eye(2)
        for channel, (wanted, other) in enumerate(((0, 2), (2, 0))):  # red without blue, blue without red
            network.conv1.weight[channel, wanted] = 1 / 49
            network.conv1.weight[channel, other] = -1 / 49
        network.fc.weight[:, :2] = torch.eye(2)
    return classifier


def gray_picture(seed=0):
    gray = np.random.default_rng(seed).integers(60, 200, (1, SIDE, SIDE), dtype=np.uint8)
    return torch.from_numpy(gray.repeat(3, axis=0))


def quarter(number):
    """A quarter of the picture, as two slices."""
    top, left = divmod(number, 2)
    half = SIDE // 2
    return slice(top * half, (top + 1) * half), slice(left * half, (left + 1) * half)


def with_patch(number, color):
    """A gray picture with a patch of a color in one quarter."""
    picture = gray_picture(number)
    rows, columns = (slice(each.start + 24, each.stop - 24) for each in quarter(number))
    picture[:, rows, columns] = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)
    return picture


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("label", "color"), [(0, (220, 30, 40)), (1, (30, 40, 220))])
def test_the_heat_lies_where_the_evidence_is(number, label, color, color_classifier):
    predictor = Predictor(color_classifier, "cpu")
    picture = with_patch(number, color)
    assert predictor.probabilities(picture[None]).argmax() == label
    (heat,) = heat_maps(predictor, picture[None])
    assert heat.max() == 1
    assert heat[quarter(number)].sum() > 0.9 * heat.sum()
    (other,) = heat_maps(predictor, picture[None], [1 - label])
    assert other.max() < 1e-3, "nothing speaks for the other class, and the errors of floats are not blown up"


def test_each_image_gets_the_map_of_its_own_target(color_classifier):
    predictor = Predictor(color_classifier, "cpu")
    picture = with_patch(0, (220, 30, 40))
    picture[:, quarter(3)[0], quarter(3)[1]] = with_patch(3, (30, 40, 220))[:, quarter(3)[0], quarter(3)[1]]
    heat = heat_maps(predictor, torch.stack([picture, picture, picture]), [0, 1, 0])
    places = [int(np.argmax([one[quarter(number)].sum() for number in range(4)])) for one in heat]
    assert places == [0, 3, 0]


def test_a_picture_in_which_nothing_speaks_for_the_class_is_purple_all_over(color_classifier):
    predictor = Predictor(color_classifier, "cpu")
    assert heat_maps(predictor, gray_picture()[None]).max() < 1e-3
    black = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    assert torch.equal(heat_maps(predictor, black), torch.zeros(1, SIDE, SIDE)), "exactly nothing, and not NaN"
    (overlay,) = overlays(predictor, gray_picture()[None])
    expected = (gray_picture().permute(1, 2, 0).numpy() + np.array([68, 1, 84])) / 2  # viridis begins there
    assert np.abs(overlay - expected).max() <= 0.5


def direct_map(network: nn.Module, inputs: torch.Tensor, target: int, stage: str, averaged: bool) -> torch.Tensor:
    """Grad-CAM as the paper has it, or without averaging, by a hook and autograd on the whole network. Not scaled."""
    kept = []
    handle = network.get_submodule(stage).register_forward_hook(lambda module, given, output: kept.append(output))
    logits = network(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True) if averaged else gradient
    map_ = torch.relu((weights * kept[0]).sum(dim=1, keepdim=True)).detach()
    return nn.functional.interpolate(map_, inputs.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("size", "stage", "averaged"), [(128, "layer4", True), (32, "layer2", False)])
def test_the_map_is_what_autograd_gives(architecture, size, stage, averaged):
    classifier = new_classifier(architecture, ("a", "b", "c"), Preprocessing(size, size))
    network = classifier.network.eval()
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    inputs = classifier.preprocessing.normalize(images)
    for index, found in enumerate(heat_maps(Predictor(classifier, "cpu"), images, [2, 1])):
        expected = direct_map(network, inputs[index : index + 1], (2, 1)[index], stage, averaged)
        assert expected.max() > 0
        # forward to the stage, backward from the head: the network once
        torch.testing.assert_close(found, expected / expected.max(), rtol=0, atol=RESNET50)


@pytest.mark.parametrize(
    ("image_size", "stage"), [(224, "layer4"), (97, "layer4"), (96, "layer3"), (32, "layer2"), (8, "layer1")]
)
def test_small_pictures_are_explained_by_an_earlier_stage_with_a_map_of_some_cells(image_size, stage):
    assert choose_stage(image_size) == stage
    classifier = new_classifier("resnet18", ("a", "b"), Preprocessing(image_size, image_size))
    trunk, _ = split_after(classifier.network, stage)
    cells = trunk(torch.zeros(2, 3, image_size, image_size)).shape[-2:]
    assert min(cells) >= 4 or stage == "layer1"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_network_in_two_parts_is_the_network(stage):
    network = new_classifier("resnet50", ("a", "b")).network.eval()
    trunk, rest = split_after(network, stage)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(inputs)
        torch.testing.assert_close(rest(trunk(inputs)), expected, rtol=0, atol=RESNET50 * expected.abs().max().item())


def hooks_of(network):
    return [len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules()]


@pytest.mark.parametrize("trains", [True, False])
def test_nothing_is_left_behind(trains):
    """Neither in a classifier that is being trained, part of it frozen, nor in the predictor."""
    classifier = new_classifier("resnet18", ("a", "b"), Preprocessing(64, 64))
    classifier.network.train(trains)
    classifier.network.layer2.requires_grad_(False)
    predictor = Predictor(classifier, "cpu")
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8))
    kept, probabilities = images.clone(), predictor.probabilities(images)
    networks = (classifier.network, predictor.network)
    before = [{key: tensor.clone() for key, tensor in network.state_dict().items()} for network in networks]
    required = [[p.requires_grad for p in network.parameters()] for network in networks]
    modes = [[module.training for module in network.modules()] for network in networks]
    overlays(predictor, images)
    for network, state, needs, mode in zip(networks, before, required, modes, strict=True):
        assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
        assert [p.requires_grad for p in network.parameters()] == needs
        assert [module.training for module in network.modules()] == mode
        assert all(p.grad is None for p in network.parameters())
        assert not any(hooks_of(network))
    assert torch.equal(images, kept)
    np.testing.assert_array_equal(predictor.probabilities(images), probabilities)


def test_overlays_do_not_depend_on_the_batches(color_classifier):
    predictor = Predictor(color_classifier, "cpu")
    images = torch.stack([with_patch(number, (220, 30, 40)) for number in range(3)])
    together = overlays(predictor, images)
    assert (together.shape, together.dtype) == ((3, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_allclose(together, overlays(predictor, images, [0, 0, 0], batch_size=2), rtol=0, atol=3)


def test_no_images_give_no_overlays(color_classifier):
    none = torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)
    assert overlays(Predictor(color_classifier, "cpu"), none).shape == (0, SIDE, SIDE, 3)


@pytest.fixture
def hasty_threads():
    """Threads take turns all the time, not only every few milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_threads_that_share_a_predictor_get_their_own_maps(hasty_threads):
    predictor = Predictor(new_classifier("resnet18", ("a", "b"), Preprocessing(32, 32)), "cpu")
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (48, 1, 3, 32, 32), dtype=np.uint8))
    alone = [heat_maps(predictor, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: heat_maps(predictor, image), images))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
