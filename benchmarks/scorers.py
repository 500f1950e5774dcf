"""Ways to score a folder of images with the same weights: what people write, what libraries offer, and ours.

Each is a function of (model folder, image paths, batch size, workers) that returns a class index per image, in order.
The models have been read before the clock starts, so `prepare` returns a function of the paths.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mlflow_resnet.images.sources import file_source
from mlflow_resnet.io.process import claim_process
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.engines import OpenVinoEngine, quantize
from mlflow_resnet.model.forwards import load_forward
from mlflow_resnet.model.hardware import keep_freed_memory
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.storage import digest_classifier, read_classifier, write_export

Score = Callable[[Sequence[Path]], np.ndarray]
BATCH_SIZE = 32


def transform_of(classifier: ImageClassifier) -> Callable[[Image.Image], Any]:
    """What torchvision's presets do."""
    seen = classifier.preprocessing
    return transforms.Compose(
        [
            transforms.Resize(seen.resize_size),
            transforms.CenterCrop(seen.crop_size),
            transforms.ToTensor(),
            transforms.Normalize(seen.mean, seen.std),
        ]
    )


def pyfunc_loop(classifier: ImageClassifier, workers: int) -> Score:
    """The loop that people write in a pyfunc: one image after the other."""
    network, transform = classifier.network.eval(), transform_of(classifier)

    @torch.no_grad()
    def score(paths: Sequence[Path]) -> np.ndarray:
        labels = []
        for path in paths:
            image = transform(Image.open(path).convert("RGB"))
            labels.append(int(network(image.unsqueeze(0)).argmax(dim=1)))
        return np.array(labels)

    return score


class Files(Dataset):
    """Images of files, transformed."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def in_batches(network: nn.Module, transform: Callable[[Image.Image], Any], workers: int) -> Score:
    """A DataLoader and the network."""
    network = network.eval()

    @torch.inference_mode()
    def score(paths: Sequence[Path]) -> np.ndarray:
        loader = DataLoader(Files(paths, transform), BATCH_SIZE, num_workers=workers)
        return np.concatenate([network(batch).argmax(dim=1).numpy() for batch in loader])

    return score


def data_loader(classifier: ImageClassifier, workers: int) -> Score:
    return in_batches(classifier.network, transform_of(classifier), workers)


def timm_inference(classifier: ImageClassifier, workers: int) -> Score:
    """timm's network, transforms and loop, as in its inference.py."""
    import timm
    from timm.data import create_transform

    seen = classifier.preprocessing
    network = timm.create_model(classifier.architecture, num_classes=len(classifier.classes))
    network.load_state_dict(classifier.network.state_dict())
    share = seen.crop_size / seen.resize_size
    size = (3, seen.crop_size, seen.crop_size)
    transform = create_transform(size, crop_pct=share, interpolation="bilinear", mean=seen.mean, std=seen.std)
    return in_batches(network, transform, workers)


def transformers_pipeline(classifier: ImageClassifier, workers: int) -> Score:
    """The image-classification pipeline, with timm's network inside, which takes the same weights."""
    import timm
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperImageProcessor, pipeline

    seen, count = classifier.preprocessing, len(classifier.classes)
    reference = timm.create_model(classifier.architecture, num_classes=count)
    cfg = reference.pretrained_cfg | {
        "input_size": (3, seen.crop_size, seen.crop_size),
        "crop_pct": seen.crop_size / seen.resize_size,
        "interpolation": "bilinear",
        "mean": seen.mean,
        "std": seen.std,
        "num_classes": count,
    }
    config = TimmWrapperConfig(architecture=classifier.architecture, num_labels=count, pretrained_cfg=cfg)
    model = TimmWrapperForImageClassification(config).eval()
    model.timm_model.load_state_dict(classifier.network.state_dict())
    processor = TimmWrapperImageProcessor(cfg, classifier.architecture)
    run = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    index = {name: number for number, name in model.config.id2label.items()}

    def score(paths: Sequence[Path]) -> np.ndarray:
        found = run([str(path) for path in paths], batch_size=BATCH_SIZE, num_workers=workers, top_k=1)
        return np.array([index[best[0]["label"]] for best in found])

    return score


def ours(classifier: ImageClassifier, workers: int, **options: Any) -> Score:
    """What `mlflow-resnet score` does with a loaded model, to the finished Parquet file."""
    claim_process()
    keep_freed_memory()
    predictor = Predictor(classifier, "cpu", **options)
    return scored_by(predictor)


def with_openvino(classifier: ImageClassifier, workers: int) -> Score:
    """Ours with OpenVINO in bf16."""
    engine = OpenVinoEngine()
    return ours(classifier, workers, precision="bf16", forward=engine.build_forward(engine.convert(classifier), "bf16"))


def with_int8(exported: Path, classifier: ImageClassifier) -> Score:
    """Ours with what `mlflow-resnet export --precision int8` writes."""
    return ours(classifier, 0, precision="int8", forward=load_forward(classifier, exported))


def scored_by(predictor: Predictor, batch_size: int = BATCH_SIZE) -> Score:
    """Scores to a Parquet file and reads the labels from it."""
    from mlflow_resnet.scoring.columns import SCORED_LABELS
    from mlflow_resnet.scoring.to_file.batch import join, score_to_parts
    from mlflow_resnet.scoring.to_file.parts import Parts

    index = {name: number for number, name in enumerate(predictor.classes)}

    def score(paths: Sequence[Path]) -> np.ndarray:
        import pandas as pd

        with tempfile.TemporaryDirectory() as folder:
            parts = Parts(Path(folder), {})
            score_to_parts(predictor, map(file_source, paths), parts, batch_size=batch_size)
            output = Path(folder) / "scored.parquet"
            join(parts, output, str(output))
            return pd.read_parquet(output, columns=[SCORED_LABELS])[SCORED_LABELS].map(index).to_numpy()

    return score


def decode_alone(classifier: ImageClassifier, workers: int) -> Score:
    """The limit of ours: its decoding, in all threads."""
    from mlflow_resnet.io.parallel import default_threads, map_ordered

    def score(paths: Sequence[Path]) -> np.ndarray:
        load = classifier.preprocessing.prepare
        return np.array(
            [image[0, 0, 0] for image in map_ordered(lambda p: load(p.read_bytes()), paths, default_threads())]
        )

    return score


def forward_alone(classifier: ImageClassifier, workers: int, **options: Any) -> Score:
    """The limit of ours: its network, on images in memory."""
    claim_process()
    keep_freed_memory()
    predictor = Predictor(classifier, "cpu", **options)
    size = classifier.preprocessing.image_size
    images = torch.randint(0, 256, (BATCH_SIZE, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def score(paths: Sequence[Path]) -> np.ndarray:
        return np.concatenate(
            [
                predictor.probabilities(images[: len(paths) - start]).argmax(axis=1)
                for start in range(0, len(paths), BATCH_SIZE)
            ]
        )

    return score


SCORERS: dict[str, Callable[[ImageClassifier, int], Score]] = {
    "pyfunc loop": pyfunc_loop,
    "DataLoader": data_loader,
    "transformers": transformers_pipeline,
    "timm": timm_inference,
    "ours": partial(ours, precision="auto"),
    "ours fp32": partial(ours, precision="fp32"),
    "ours, OpenVINO bf16": with_openvino,
    "limit, decode": decode_alone,
    "limit, forward": forward_alone,
}


INT8 = "ours, OpenVINO int8"


def prepare(name: str, model: Path, workers: int) -> Score:
    """A scorer with its model in memory. For int8 it has been exported to a folder `int8` beside the model's files."""
    classifier = read_classifier(model)[0]
    return with_int8(model / "int8", classifier) if name == INT8 else SCORERS[name](classifier, workers)


def write_int8(model: Path, photos: Sequence[Path]) -> None:
    """Exports the model in int8, calibrated on `photos`, to a folder beside its files."""
    classifier, folder, engine = read_classifier(model)[0], model / "int8", OpenVinoEngine()
    pictures = [classifier.preprocessing.load(path.read_bytes())[None].contiguous().numpy() for path in photos]
    model_in_int8 = quantize(engine, engine.convert(classifier), pictures)
    folder.mkdir()
    engine.save(model_in_int8, folder)
    write_export(folder, "openvino", "int8", digest_classifier(classifier))
