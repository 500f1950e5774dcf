"""The predict path. Validation, evaluation, batch scoring and serving all call it, so their numbers agree."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import BoundedSemaphore

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_resnet.errors import InvalidImageError, InvalidOptionsError
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.io.parallel import batch_items, default_threads, map_ordered
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.precision import scoring_precision
from mlflow_resnet.model.prepared import Forward, TorchForward, network_on, with_mirror_images

# columns of scored data, the designer's
IMAGE = "image"
SCORED_LABELS = "Scored Labels"
PROBABILITY = "Scored Probabilities_"  # followed by the class name


@dataclass(frozen=True)
class Prediction:
    """The network's output for one image.

    Attributes:
        name: the name of its source.
        probabilities: float32 of shape (len(classes),), summing to 1; None if the image could not be read.
        error: why it could not be read, otherwise empty.
        place: that of its source.
        image: what the network saw, uint8 of shape (3, image_size, image_size), if it was to be kept.
        explanation: a PNG of what speaks for the most probable class, if that was asked for.
    """

    name: str
    probabilities: np.ndarray | None
    error: str = ""
    place: str = ""
    image: Tensor | None = None
    explanation: bytes | None = None


class Predictor:
    """A classifier made ready to predict on one device. Safe to share by threads.

    Attributes:
        precision: of the convolutions, "fp32", "bf16" or "int8".
        model_sha256: the digest of the saved model that this is, as it was loaded; empty if it was not loaded.
        model_id: of the logged model that it is, where a server says so; otherwise empty.
        probabilities: uint8 images of shape (N, 3, image_size, image_size) to float32 of shape (N, len(classes)).
        apart: held by a thread that runs the network by another way than `probabilities`, so that only one does.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        device: str = "auto",
        num_workers: int = 0,
        precision: str = "auto",
        forward: Forward | None = None,
        model_sha256: str = "",
        model_id: str = "",
    ) -> None:
        """Predicts with `forward`, which is in `precision`, or else with torch."""
        self.classifier = classifier
        self.classes = classifier.classes
        self.preprocessing = classifier.preprocessing
        self.temperature = classifier.temperature
        self.device = pick_device(device)
        if not forward:
            precision = scoring_precision(precision, self.device, classifier.precision_checks)
        self.precision = precision
        self.model_sha256, self.model_id = model_sha256, model_id
        self.threads = num_workers or default_threads()
        self._decoding = BoundedSemaphore(self.threads)  # whatever the number of requests: a large image takes memory
        self.apart = BoundedSemaphore(1)
        self._network = cache(partial(network_on, classifier, self.device))  # shared by copies of this
        self.probabilities: Forward = forward or TorchForward(classifier, self.device, self.precision)
        self._any_size = isinstance(self.probabilities, TorchForward)  # others are converted for one size

    @property
    def network(self) -> nn.Module:
        """The network in fp32, on the device. All threads share it, so a hook on its modules would see others'
        images too."""
        return self._network()

    def at_test_time(self, tta: str = "", resolution: int = 0) -> Predictor:
        """Returns a predictor with the same network but other test-time augmentation or resolution.

        Args:
            tta: "flip" averages the probabilities of each image and its mirror image; "" does not.
            resolution: a crop size in pixels instead of the trained one; 0: that.

        Raises InvalidOptionsError for a resolution that the backend was not made for.
        """
        if resolution not in (0, self.preprocessing.crop_size) and not self._any_size:
            problem = f"resolution is {resolution}, but only the backend torch looks at images with another than"
            raise InvalidOptionsError([f"{problem} {self.preprocessing.crop_size}; choose backend torch, or 0"])
        other = copy.copy(self)
        if tta == "flip":
            other.probabilities = with_mirror_images(self.probabilities)
        if resolution:
            other.preprocessing = self.preprocessing.at_resolution(resolution)
        return other

    def predict(
        self, sources: Iterable[ImageSource], batch_size: int = 32, keep_images: bool = False
    ) -> Iterator[Prediction]:
        """One prediction for every source, in their order. `sources` is consumed lazily; memory does not grow."""
        for batch in self.predict_batches(sources, batch_size, keep_images):
            yield from batch

    def predict_batches(
        self, sources: Iterable[ImageSource], batch_size: int = 32, keep_images: bool = False
    ) -> Generator[list[Prediction], None, None]:
        """Yields predictions as `predict` does, in lists of `batch_size`. While the network works on a batch,
        threads decode the next one."""
        loaded = map_ordered(self._load, sources, self.threads, ahead=2 * batch_size)
        for batch in batch_items(loaded, batch_size):
            yield list(self._predict_batch(batch, keep_images))

    def predict_arrays(self, images: Iterable[np.ndarray], batch_size: int = 32) -> Iterator[np.ndarray]:
        """The probabilities of images that the preprocessing has already made: uint8 of shape (H, W, 3) each.

        Yields float32 of shape (len(classes),). `images` is consumed lazily, and indexed by threads of its own if any.
        """
        for batch in batch_items(images, batch_size):
            yield from self.probabilities(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2))

    def _load(self, source: ImageSource) -> Prediction:
        """The image, without probabilities, or why it cannot be read."""
        try:
            with self._decoding:
                return Prediction(source.name, None, "", source.place, self.preprocessing.load(source.read()))
        except InvalidImageError as error:
            return Prediction(source.name, None, error.message, source.place)

    def _predict_batch(self, loaded: list[Prediction], keep_images: bool) -> Iterator[Prediction]:
        images = [each.image.permute(1, 2, 0) for each in loaded if each.image is not None]  # as they are in memory
        rows: Iterator[np.ndarray] = iter(self.probabilities(torch.stack(images).permute(0, 3, 1, 2)) if images else ())
        for each in loaded:
            if each.image is None:
                yield each
                continue
            kept, row = each.image if keep_images else None, next(rows)
            if np.isfinite(row).all():
                yield replace(each, probabilities=row, image=kept)
            else:
                yield replace(each, error="the network's output is not finite", image=kept)
