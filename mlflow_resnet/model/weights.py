"""Starting weights: torchvision's ImageNet weights, a state_dict file, or a saved model."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import requests
import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from mlflow_resnet.errors import InvalidModelError, WeightsDownloadError, WeightsError, WeightsMismatchError, join_names
from mlflow_resnet.images.sources import local_file
from mlflow_resnet.io.atomic import new_file
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.places import is_remote, local_path
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.state_dicts import SUFFIXES, read_state_dict

DOWNLOAD_TRIES = 3
SECONDS_BETWEEN_TRIES = 2.0
DOWNLOAD_TIMEOUT_SECONDS = 30.0
HEAD = "fc."  # prefix of the last layer's keys in torchvision's ResNets
MODEL_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")


def load_starting_weights(
    classifier: ImageClassifier, weights: str, load_model: Callable[[str], ImageClassifier]
) -> str:
    """Copies `weights` into the classifier's network and returns a sentence about their origin.

    Args:
        weights: `DEFAULT` or another name of torchvision's weights for the architecture, a file with weights (local or
            s3://), or a model's URI or folder. The head is kept only if it was made for the same classes.
        load_model: what loads the model of a URI.

    Raises WeightsError if they cannot be had or do not fit.
    """
    place = local_path(weights)
    if weights not in get_model_weights(classifier.architecture).__members__:
        if weights.startswith(MODEL_SCHEMES) or os.path.isdir(place):
            try:
                parent = load_model(place)
            except InvalidModelError as error:
                raise WeightsError(place, error.message) from None
            same_classes = parent.classes == classifier.classes  # in the same order: only then its head fits
            return copy_into(classifier, parent.network.state_dict(), place, same_head=same_classes)
        if os.path.isfile(place) or is_remote(place) or place.lower().endswith(SUFFIXES) or os.sep in place:
            return copy_into(classifier, read_state_dict(local_file(place), weights), weights, same_head=True)
    member = imagenet_weights(classifier.architecture, weights)
    return copy_into(classifier, download_weights(member), str(member), same_head=False)


def imagenet_weights(architecture: str, name: str) -> WeightsEnum:
    """The entry `name` of torchvision's table of weights for `architecture`."""
    known = get_model_weights(architecture)
    if name in known.__members__:
        return known[name]
    raise WeightsError(
        name,
        f"{architecture} has {join_names(known.__members__)}; otherwise name a .pth or "
        ".safetensors file or another checkpoint, or a model's URI or folder, such as models:/digits/1. There is no "
        "file of this name.",
    )


def download_weights(member: WeightsEnum) -> dict[str, Tensor]:
    """The state_dict of torchvision weights, from the cache in TORCH_HOME or the network, in at most three tries."""
    cache_file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(member.url)
    tries = 0
    while not cache_file.exists():
        try:
            tries += 1
            fetch(member.url, cache_file)
        except OSError as error:
            if tries == DOWNLOAD_TRIES:
                raise WeightsDownloadError(
                    str(member), member.url, str(cache_file), one_line(error), DOWNLOAD_TRIES
                ) from None
            time.sleep(SECONDS_BETWEEN_TRIES)
    return read_state_dict(cache_file, str(cache_file))


def fetch(url: str, path: Path) -> None:
    """Downloads a file with its SHA-256 in its name, or raises OSError. torch.hub would wait for a server forever."""
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer, new_file(path) as partial:
        answer.raise_for_status()
        total = int(answer.headers.get("Content-Length", 0)) or None
        bar = tqdm(desc=path.name, total=total, unit="B", unit_scale=True, leave=False, disable=None)
        with bar, open(partial, "wb") as file:
            for chunk in answer.iter_content(2**20):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if not digest.hexdigest().startswith(path.stem.rpartition("-")[2]):
            raise OSError(f"its SHA-256 is {digest.hexdigest()}, which is not in its name")


def copy_into(classifier: ImageClassifier, state: dict[str, Tensor], name: str, *, same_head: bool) -> str:
    """Loads `state` into the network. A head of other classes is dropped; any other difference is an error."""
    network = classifier.network
    own = network.state_dict()
    keep_head = same_head and shapes(own, HEAD) == shapes(state, HEAD)
    body = {key: tensor for key, tensor in state.items() if keep_head or not key.startswith(HEAD)}
    wanted = {key for key in own if keep_head or not key.startswith(HEAD)}
    missing = sorted(key for key in wanted - set(body) if not key.endswith("num_batches_tracked"))
    unexpected = sorted(set(body) - wanted)
    reshaped = sorted(key for key in wanted & set(body) if own[key].shape != body[key].shape)
    if missing or unexpected or reshaped:
        wrong = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
        raise WeightsMismatchError(name, classifier.architecture, wrong)
    if broken := [key for key in sorted(wanted & set(body)) if not torch.isfinite(body[key].to(own[key].dtype)).all()]:
        raise WeightsError(name, f"NaN or infinity in {join_names(broken, 5)}. Name weights from before they diverged.")
    network.load_state_dict(body, strict=False)
    if keep_head:
        return f"starting from {name}, head included"
    dropped = f"its head for {len(state[HEAD + 'bias'])} classes was dropped, " if HEAD + "bias" in state else ""
    return f"starting from {name}; {dropped}a new head for {len(classifier.classes)} classes was added"


def shapes(state: dict[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items() if key.startswith(prefix)}
