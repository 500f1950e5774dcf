"""MixUp and CutMix of a batch."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mlflow_resnet.training.input.mixing import Mixing

TARGETS = torch.tensor([0, 1, 2, 3])
IMAGES = (TARGETS * 60).to(torch.uint8).view(4, 1, 1, 1).expand(4, 3, 20, 30)  # of one color for each class


def batches(mixing, number=40):
    return [mixing(IMAGES, TARGETS, f"1/1/{batch}") for batch in range(number)]


def test_with_nothing_on_a_batch_stays_as_it_is():
    images, targets = Mixing(0.0, 0.0, 4)(IMAGES, TARGETS, "1/1/1")
    assert images is IMAGES
    assert targets is TARGETS


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_targets_are_probabilities(alphas, dtype):
    for batch in range(5):
        images, targets = Mixing(*alphas, num_classes=6)(IMAGES.to(dtype), TARGETS, f"1/1/{batch}")
        assert (images.dtype, images.shape) == (torch.float32, IMAGES.shape)
        assert (targets.dtype, targets.shape) == (torch.float32, (4, 6))
        assert torch.allclose(targets.sum(dim=1), torch.ones(4))


def test_mixup_mixes_brightness_in_the_proportion_of_the_targets():
    for images, targets in batches(Mixing(1.0, 0.0, 4)):
        expected = targets @ (torch.arange(4) * 60.0)
        assert torch.allclose(images, expected.view(4, 1, 1, 1).expand_as(images), atol=1e-3)


def test_cutmix_mixes_areas_in_the_proportion_of_the_targets():
    shares = []
    for images, targets in batches(Mixing(0.0, 1.0, 4)):
        own = (images == IMAGES).all(dim=1).float().mean(dim=(1, 2))
        assert torch.allclose(own, targets[range(4), TARGETS], atol=1e-6)
        assert set(images.unique().tolist()) <= {0, 60, 120, 180}
        shares.append(own[0].item())
    assert min(shares) < 0.6
    assert max(shares) > 0.9


def test_with_both_on_each_batch_takes_one_of_them():
    is_cut = [set(images.unique().tolist()) <= {0, 60, 120, 180} for images, _ in batches(Mixing(1.0, 1.0, 4), 100)]
    assert 30 < sum(is_cut) < 70


def test_what_is_mixed_depends_on_the_seed_alone_and_leaves_the_global_random_numbers():
    mixing = Mixing(0.2, 1.0, 4)
    expected = batches(mixing)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda batch: mixing(IMAGES, TARGETS, f"1/1/{batch}"), range(40)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for one, other in zip(expected, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert len({images.numpy().tobytes() for images, _ in expected}) > 30
