"""timm's train.py with its defaults, re-made on timm's own parts.

create_dataset and create_loader with color jitter 0.4, random interpolation and prefetcher; its SGD (Nesterov,
momentum 0.9) with weight decay 2e-5 on weights only; rate 0.1 per 256 images; cosine to 0 with a warm-up from 1e-5 over
5 epochs, here at most a quarter of the epochs; label smoothing 0.1; batch size 128, unless a setting names another;
fp32. Evaluates bicubically at the crop fraction that timm gives the network. Its ResNet has torchvision's layers; its
residual branches start at zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recipe import Recipe, learning_rate, start_from
from setting import Setting
from steps import images_per_second, random_batch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

BATCH_SIZE = 128
WARMUP_EPOCHS = 5


def timm_recipe(setting: Setting) -> Recipe:
    """The recipe that the module's docstring describes."""
    batch_size = setting.batch_size or BATCH_SIZE
    dataset = create_dataset("", root=str(setting.train_dir), is_training=True)
    network = create_model(setting.architecture, num_classes=len(dataset.reader.class_to_idx))
    start_from(network, setting)
    config = resolve_data_config({"img_size": setting.crop_size}, model=network)
    common = {key: config[key] for key in ("input_size", "mean", "std")} | {
        "batch_size": batch_size,
        "num_workers": setting.workers,
        "device": torch.device(setting.device),
    }
    rate = learning_rate(setting, batch_size)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=rate, weight_decay=2e-5, momentum=0.9)
    warmup_epochs = min(WARMUP_EPOCHS, setting.epochs // 4)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=setting.epochs, warmup_epochs=warmup_epochs, warmup_lr=1e-5
    )

    def eval_loader(folder: Path) -> Any:
        images = create_dataset("", root=str(folder), is_training=False)
        return create_loader(images, interpolation=config["interpolation"], crop_pct=config["crop_pct"], **common)

    return Recipe(
        network=network,
        loader=create_loader(dataset, is_training=True, color_jitter=0.4, interpolation="random", **common),
        epoch_images=len(dataset) // batch_size * batch_size,
        criterion=LabelSmoothingCrossEntropy(0.1),
        optimizer=optimizer,
        end_epoch=scheduler.step,
        watch=lambda loss, output, targets: None,
        eval_loader=eval_loader,
    )


def timm_step(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second as `benchmark.py --bench train --amp --amp-dtype bfloat16 --channels-last --torchcompile`."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    batch_size = setting.batch_size or BATCH_SIZE
    network = create_model(setting.architecture, num_classes=num_classes).to(setting.device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(network.train(), opt="sgd", lr=1e-4)
    compiled = torch.compile(network) if setting.device == "cuda" else network
    criterion = nn.CrossEntropyLoss()
    images, targets = random_batch(batch_size, setting.crop_size, num_classes, setting.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(setting.device, torch.bfloat16):
            criterion(compiled(images), targets).backward()
        optimizer.step()

    return images_per_second(step, batch_size, setting.device, seconds)


def timm_forward(setting: Setting, num_classes: int, seconds: float) -> float:
    """Images per second as `benchmark.py --bench infer --amp --amp-dtype bfloat16 --channels-last --torchcompile`."""
    torch.backends.cudnn.benchmark = True
    batch_size = setting.batch_size or BATCH_SIZE
    network = create_model(setting.architecture, num_classes=num_classes).to(setting.device)
    network = network.to(memory_format=torch.channels_last).eval()
    compiled = torch.compile(network) if setting.device == "cuda" else network
    images, _ = random_batch(batch_size, setting.crop_size, num_classes, setting.device)
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def step() -> None:
        with torch.autocast(setting.device, torch.bfloat16):
            compiled(images)

    return images_per_second(step, batch_size, setting.device, seconds)
