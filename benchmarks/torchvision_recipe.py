"""torchvision's reference script with the classic ResNet recipe of its README, re-made (references/classification).

ImageFolder; random resized crop, flip, PIL to tensor, float, normalize; SGD with momentum 0.9 and weight decay 1e-4;
cross entropy; the rate falls to a tenth at a third and at two thirds of the epochs, as at 30 and 60 of 90; fp32; reads
loss and accuracies after each step. Batch size 32. The README's rate of 0.1 is for 8 GPUs of 32 images, so for one
batch of 32 it is scaled to 0.0125. The script cannot start from weights of other classes or train a head alone; here
it can, as its user would add it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recipe import Recipe, learning_rate, start_from
from setting import Setting
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.transforms import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_SIZE = 32


def torchvision_recipe(setting: Setting) -> Recipe:
    """The recipe that the module's docstring describes."""
    batch_size = setting.batch_size or BATCH_SIZE
    dataset = ImageFolder(str(setting.train_dir), augmentation(setting.crop_size))
    load = partial(DataLoader, batch_size=batch_size, num_workers=setting.workers, pin_memory=setting.device == "cuda")
    network = get_model(setting.architecture, num_classes=len(dataset.classes))
    start_from(network, setting)
    rate = learning_rate(setting, batch_size)
    optimizer = SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    scheduler = StepLR(optimizer, step_size=-(-setting.epochs // 3), gamma=0.1)

    def eval_loader(folder: Path) -> DataLoader[Any]:
        return load(ImageFolder(str(folder), preprocessing(setting)))

    return Recipe(
        network=network,
        loader=load(dataset, sampler=RandomSampler(dataset)),
        epoch_images=len(dataset),
        criterion=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        end_epoch=lambda epochs: scheduler.step(),
        watch=read_meters,
        eval_loader=eval_loader,
    )


def augmentation(crop_size: int) -> Callable[[Any], Tensor]:
    steps = [transforms.RandomResizedCrop(crop_size), transforms.RandomHorizontalFlip(0.5), *to_normalized_tensor()]
    return transforms.Compose(steps)


def preprocessing(setting: Setting) -> Callable[[Any], Tensor]:
    steps = [transforms.Resize(setting.resize_size), transforms.CenterCrop(setting.crop_size), *to_normalized_tensor()]
    return transforms.Compose(steps)


def to_normalized_tensor() -> list[Any]:
    return [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)]


def read_meters(loss: Tensor, output: Tensor, targets: Tensor) -> None:
    """Loss and top-1 and top-5 accuracy as numbers, which on a GPU waits for the step."""
    loss.item()
    hits = output.detach().topk(min(5, output.shape[1])).indices == targets[:, None]
    hits[:, 0].float().mean().item()
    hits.any(dim=1).float().mean().item()
