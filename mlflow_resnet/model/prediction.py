"""The predict path. Validation, evaluation, batch scoring and serving all call it, so their numbers agree."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from threading import BoundedSemaphore

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.parallel import batched, default_threads, map_ordered
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import fold_batch_norms, pick_device
from mlflow_resnet.model.precision import scoring_precision
from mlflow_resnet.model.prepared import Forward, TorchForward

# columns of scored data, the designer's
LABEL = "Scored Labels"
PROBABILITY = "Scored Probabilities_"  # followed by the class name


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

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


@dataclass(frozen=True)
class _Loaded:
    name: str
    place: str
    image: Tensor | None
    error: str = ""


class Predictor:
    """A classifier made ready to predict on one device. Safe to share by threads.

    Attributes:
        classifier: as it was given.
        precision: of the convolutions, "fp32", "bf16" or "int8".
        probabilities: uint8 images of shape (N, 3, image_size, image_size) to float32 of shape (N, len(classes)).
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        device: str = "auto",
        num_workers: int = 0,
        precision: str = "auto",
        forward: Forward | None = None,
    ) -> None:
        """Predicts with `forward`, which is in `precision`, or else with torch."""
        self.classifier = classifier
        self.classes = classifier.classes
        self.preprocessing = classifier.preprocessing
        self.temperature = classifier.temperature
        self.device = pick_device(device)
        self.precision = (
            precision if forward else scoring_precision(precision, self.device, classifier.precision_checks)
        )
        self.threads = num_workers or default_threads()
        self._decoding = BoundedSemaphore(self.threads)  # whatever the number of requests: a large image takes memory
        self.probabilities: Forward = forward or TorchForward(classifier, self.device, self.precision)

    @cached_property
    def network(self) -> nn.Module:
        """In fp32, on the device. All threads share it, so a hook on its modules would see others' images too."""
        network = fold_batch_norms(self.classifier.network)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def predict(
        self, sources: Iterable[ImageSource], batch_size: int = 32, keep_images: bool = False
    ) -> Iterator[Prediction]:
        """One prediction for every source, in their order. `sources` is consumed lazily; memory does not grow."""
        for batch in self.predict_batches(sources, batch_size, keep_images):
            yield from batch

    def predict_batches(
        self, sources: Iterable[ImageSource], batch_size: int = 32, keep_images: bool = False
    ) -> Generator[list[Prediction], None, None]:
        """The same in lists of `batch_size`. While the network works on a batch, threads decode the next one."""
        loaded = map_ordered(self._load, sources, self.threads, ahead=2 * batch_size)
        for batch in batched(loaded, batch_size):
            predictions = self._predict_batch(batch)
            if keep_images:
                yield [replace(each, image=item.image) for item, each in zip(batch, predictions, strict=True)]
            else:
                yield list(predictions)

    def predict_arrays(self, images: Iterable[np.ndarray], batch_size: int = 32) -> Iterator[np.ndarray]:
        """The probabilities of images that the preprocessing has already made: uint8 of shape (H, W, 3) each.

        Yields float32 of shape (len(classes),). `images` is consumed lazily, and indexed by threads of its own if any.
        """
        for batch in batched(images, batch_size):
            yield from self.probabilities(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2))

    def _load(self, source: ImageSource) -> _Loaded:
        try:
            with self._decoding:
                return _Loaded(source.name, source.place, self.preprocessing.load(source.read()))
        except InvalidImageError as error:
            return _Loaded(source.name, source.place, None, error.message)

    def _predict_batch(self, batch: list[_Loaded]) -> Iterator[Prediction]:
        images = [item.image for item in batch if item.image is not None]
        probabilities = iter(self.probabilities(torch.stack(images)) if images else ())
        for item in batch:
            row = None if item.image is None else next(probabilities)
            if row is None or np.isfinite(row).all():
                yield Prediction(item.name, row, item.error, item.place)
            else:
                yield Prediction(item.name, None, "the network's output is not finite", item.place)
