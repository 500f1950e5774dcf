"""Which parts of a picture speak for a class: Grad-CAM, as captum computes it, laid over what the network sees.

R. R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.
For small pictures it is HiResCAM (R. L. Draelos and L. Carin, 2020), Grad-CAM without averaging the gradient over the
picture: on the last stage of a ResNet both are the same, on earlier ones Grad-CAM may find nothing.
The extra [explain] installs captum, which brings matplotlib; both are imported on use.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_resnet.errors import MissingPackageError
from mlflow_resnet.images.pictures import encode_png
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.io.parallel import batch_items
from mlflow_resnet.model.network import split_after
from mlflow_resnet.model.prediction import Prediction, Predictor

EXPLANATION_BATCH_SIZE = 32
STRIDES = {"layer4": 32, "layer3": 16, "layer2": 8, "layer1": 4}  # pixels per cell of a stage's output
SMALLEST_MAP = 4  # cells of a side, below which a map says nothing of where
COLOR_MAP = "viridis"  # for the color-blind too; purple is nothing, yellow the most
OPACITY = 0.5
HEAT_ROUNDING = 1e-6  # of a logit: a map with nothing above it shows nothing, rather than the errors of floats


def check_captum(purpose: str) -> None:
    """Raises MissingPackageError unless captum is installed."""
    if not has_captum():
        raise MissingPackageError(purpose, "captum>=0.8")


def has_captum() -> bool:
    return importlib.util.find_spec("captum") is not None


def explain_sources(
    predictor: Predictor, sources: Iterable[ImageSource], batch_size: int = EXPLANATION_BATCH_SIZE
) -> Iterator[Prediction]:
    """One prediction for every source, in their order, with an explanation where there are probabilities.

    `sources` is consumed lazily; memory does not grow.

    Raises:
        MissingPackageError: if captum is not installed.
    """
    check_captum("explain")
    for batch in batch_items(predictor.predict(sources, batch_size, keep_images=True), batch_size):
        images = [p.image for p in batch if p.image is not None and p.probabilities is not None]
        targets = [int(p.probabilities.argmax()) for p in batch if p.probabilities is not None]
        with predictor.apart:
            pictures = iter(overlays(predictor, torch.stack(images), targets, len(images)) if images else ())
        for prediction in batch:
            png = None if prediction.probabilities is None else encode_png(next(pictures))
            yield replace(prediction, image=None, explanation=png)


def overlays(
    predictor: Predictor, images: Tensor, targets: Sequence[int] | None = None, batch_size: int = EXPLANATION_BATCH_SIZE
) -> np.ndarray:
    """Pictures with a heat map over them: yellow is what speaks most for a class, purple what does not.

    Each map is scaled to its own largest value; where nothing speaks for the class it is purple all over.

    Args:
        images: what the network sees, uint8 of shape (N, 3, image_size, image_size).
        targets: the index of the class for each image; None: the predicted ones.

    Returns:
        uint8 of shape (N, image_size, image_size, 3).

    Raises:
        MissingPackageError: if captum is not installed.
    """
    check_captum("a heat map")
    import matplotlib

    pictures = np.empty((len(images), *images.shape[2:], 3), dtype=np.uint8)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        heat = heat_maps(predictor, images[part], None if targets is None else targets[part])
        colors = matplotlib.colormaps[COLOR_MAP](heat.cpu().numpy(), bytes=True)[..., :3]
        seen = images[part].permute(0, 2, 3, 1).cpu().numpy()
        pictures[part] = (seen * (1 - OPACITY) + colors * OPACITY).round().astype(np.uint8)
    return pictures


def heat_maps(predictor: Predictor, images: Tensor, targets: Sequence[int] | None = None) -> Tensor:
    """Grad-CAM of uint8 images of shape (N, 3, H, W), from 0 to 1, float32 of shape (N, H, W).

    The gradient is taken from the logits to the last stage only, and the hooks that captum needs are on a layer of its
    own: threads share the network.
    """
    from captum.attr import LayerAttribution, LayerGradientXActivation

    size = images.shape[-2:]
    trunk, rest = split_after(predictor.network, choose_stage(min(size)))
    with torch.no_grad():
        features = trunk(predictor.preprocessing.normalize(images.to(predictor.device)))
        chosen = rest(features).argmax(dim=1) if targets is None else torch.as_tensor(targets, device=features.device)
    layer = nn.Identity()
    evidence = LayerGradientXActivation(nn.Sequential(layer, rest), layer).attribute(features, target=chosen)
    maps = evidence.detach().sum(dim=1, keepdim=True).relu()
    heat = LayerAttribution.interpolate(maps, tuple(size), "bilinear").squeeze(1)
    return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(HEAT_ROUNDING)


def choose_stage(image_size: int) -> str:
    """layer4, or for a small picture the last stage whose map has SMALLEST_MAP cells along each side."""
    large_enough = (stage for stage, stride in STRIDES.items() if math.ceil(image_size / stride) >= SMALLEST_MAP)
    return next(large_enough, "layer1")
