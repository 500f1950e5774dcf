"""Images per second from a JPEG file's bytes to what the network takes: ours, and what others do.

Resized to 256 pixels and cropped to 224, in one thread and in as many as there are cores. Ours decodes a large JPEG at
a smaller scale; the second table says how far that is from decoding it in full, in levels of 255, and the third how
many of a network's labels change. torchvision.io and simplejpeg are shown for the record: they read fewer kinds of
files, and torchvision.io has been crashed by a file of 57 bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import cpu_count
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from alternate import Measurement, alternate, print_machine, print_table, ratio, spread, values_of
from command import common
from PIL import Image
from setting import Setting, fit

RESIZE_SIZE, CROP_SIZE = 256, 224  # pixels
SECONDS, QUICK_SECONDS = 4.0, 0.2  # of each measurement
SIZES = {"0.3 megapixels": (640, 480), "12 megapixels": (4000, 3000)}
COUNT = 32  # files of each size
ONE, ALL = "1 thread", "all cores"
PEER = "torchvision"
EPOCHS, QUICK_EPOCHS = 8, 1  # of the networks whose labels are compared
GRAIN, QUALITY = 4, 93  # levels; with these, files have the bytes per pixel of a camera's: 3 to 5 MB for 12 megapixels


def sized_photos(folder: Path, size: tuple[int, int], count: int) -> list[bytes]:
    """Photographs as JPEGs of `size`, with the grain of a camera: enlarged ones would decode faster without it."""
    paths = sorted(folder.rglob("*.jpg"))[:: max(1, len(list(folder.rglob("*.jpg"))) // count)][:count]
    return [sized_photo(path, size, seed) for seed, path in enumerate(paths)]


def sized_photo(path: Path, size: tuple[int, int], seed: int) -> bytes:
    picture = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.int16)
    grain = np.random.default_rng(seed).normal(0, GRAIN, picture.shape[:2]).astype(np.int16)
    noisy = np.clip(picture + grain[..., None], 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def ours(content: bytes) -> Any:
    from mlflow_resnet.model.preprocessing import Preprocessing

    return Preprocessing(RESIZE_SIZE, CROP_SIZE).prepare(content)


def torchvision(content: bytes) -> Any:
    """What ImageFolder's loader and the transforms of torchvision's presets do, up to the tensor."""
    from torchvision.transforms import functional

    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    return functional.pil_to_tensor(functional.center_crop(functional.resize(picture, RESIZE_SIZE), CROP_SIZE))


def torchvision_io(content: bytes) -> Any:
    import torch
    from torchvision.io import decode_jpeg
    from torchvision.transforms import functional

    picture = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return functional.center_crop(functional.resize(picture, RESIZE_SIZE, antialias=True), CROP_SIZE)


def simplejpeg(content: bytes) -> Any:
    """Decodes at the smallest scale that leaves enough pixels, too."""
    import simplejpeg

    array = simplejpeg.decode_jpeg(content, min_height=RESIZE_SIZE, min_width=RESIZE_SIZE)
    height, width = array.shape[:2]
    side = min(width, height) * CROP_SIZE / RESIZE_SIZE
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(array).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR, box=box))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "ours": ours,
    PEER: torchvision,
    "torchvision.io": torchvision_io,
    "simplejpeg": simplejpeg,
}


def speed_job(decoder: str, contents: list[bytes], seconds: float, repetition: int) -> Measurement:
    """Images per second in one thread and in all."""
    import torch

    torch.set_num_threads(1)  # each thread decodes on its own
    decode = DECODERS[decoder]
    for content in contents[:4]:
        decode(content)
    with ThreadPoolExecutor(cpu_count()) as pool:
        return {
            ONE: speed(lambda: [decode(content) for content in contents], len(contents), seconds),
            ALL: speed(lambda: list(pool.map(decode, contents)), len(contents), seconds),
        }


def speed(work: Callable[[], object], images: int, seconds: float) -> float:
    started, done = perf_counter(), 0
    while (elapsed := perf_counter() - started) < seconds or not done:
        work()
        done += images
    return done / elapsed


def print_speeds(title: str, results: dict[str, list[Measurement]]) -> None:
    rows = []
    for name, measurements in results.items():
        cells = []
        for column in (ONE, ALL):
            values = values_of(measurements, column)
            cells += [spread(values), ratio(values_of(results["ours"], column), values)]
        rows.append([name, *cells])
    print_table(title, ["images/s", ONE, "ours to it", ALL, "ours to it"], rows)


def differences(contents: list[bytes]) -> Iterator[np.ndarray]:
    """Of each image: levels between ours and the same region of the image decoded in full."""
    from mlflow_resnet.images.decoding.decode import decode
    from mlflow_resnet.model.preprocessing import Preprocessing

    preprocessing = Preprocessing(RESIZE_SIZE, CROP_SIZE)
    for content in contents:
        picture = decode(content)
        box = preprocessing.center_region(*picture.size)
        full = picture.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR, box=box)
        yield np.abs(preprocessing.prepare(content).astype(int) - np.asarray(full, dtype=int))


def print_differences(sets: dict[str, list[bytes]]) -> None:
    rows = []
    for name, contents in sets.items():
        found = np.stack(list(differences(contents)))
        cells = [f"{found.max()}", f"{np.percentile(found, 99.9):.0f}", f"{found.mean():.2f}"]
        rows.append([name, *cells])
    print_table("ours to decoding in full, levels of 255", ["", "greatest", "99.9 %", "mean"], rows)


def agreement(data_set: str, setting: Setting, images: Path, enlarge: bool) -> list[str]:
    """Labels of a network on files decoded by ours and decoded in full.

    Args:
        enlarge: have the network look at the photographs as 12-megapixel JPEGs.
    """
    from mlflow_resnet.images.decoding.decode import decode
    from mlflow_resnet.images.sources import ImageSource
    from mlflow_resnet.model.classifier import ImageClassifier
    from mlflow_resnet.model.prediction import Predictor
    from mlflow_resnet.model.preprocessing import Preprocessing

    trained = fit("ours", setting)
    preprocessing = Preprocessing(setting.resize_size, setting.crop_size)
    classes = tuple(sorted(path.name for path in setting.train_dir.iterdir()))
    predictor = Predictor(ImageClassifier(setting.architecture, classes, preprocessing, trained.network))
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    if enlarge:
        files = [sized_photo(path, SIZES["12 megapixels"], seed) for seed, path in enumerate(paths)]
    else:
        files = [path.read_bytes() for path in paths]
    in_full = [as_png(decode(content)) for content in files]
    labels = [
        [int(np.argmax(each.probabilities)) for each in predictor.predict(sources(contents, ImageSource), 32)]
        for contents in (files, in_full)
    ]
    same = sum(first == second for first, second in zip(*labels, strict=True))
    return [data_set, str(len(files)), f"{100 * same / len(files):.2f} %"]


def sources(contents: list[bytes], kind: Callable[[str, Callable[[], bytes]], Any]) -> Iterator[Any]:
    return (kind(str(number), partial(bytes, content)) for number, content in enumerate(contents))


def as_png(picture: Image.Image) -> bytes:
    """A file that is always decoded in full."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@click.command(help=__doc__)
@common
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="class folders of your own photographs")
def main(data_dir: Path, quick: bool, repetitions: int, device: str, ours: dict[str, Any], photos: Path | None) -> None:
    import data

    print_machine()
    folder = data.photos(data_dir, photos)
    count = 4 if quick else COUNT
    sets = {name: sized_photos(folder, size, count) for name, size in SIZES.items()}
    for name, contents in sets.items():
        seconds = QUICK_SECONDS if quick else SECONDS
        jobs = {each: partial(speed_job, each, contents, seconds) for each in DECODERS}
        bytes_per_pixel = np.mean([len(content) for content in contents]) / math.prod(SIZES[name])
        title = f"{name}, {count} JPEGs of {bytes_per_pixel:.2f} bytes per pixel"
        print_speeds(title, alternate(jobs, 1 if quick else repetitions))
    print_differences(sets)
    solar = data.prepared(data_dir, "solar")
    few = 64 if quick else 320
    epochs = QUICK_EPOCHS if quick else EPOCHS
    settings = {
        "solar cells, 300 x 300 PNG": (
            Setting(solar.train, solar.val, 96, epochs=epochs, ours=ours),
            solar.test,
            False,
        ),
        "photographs as 12-megapixel JPEGs": (
            Setting(data.with_count(folder, few, data_dir), data.with_count(folder, 16, data_dir), 96, epochs=epochs),
            data.with_count(folder, 16 if quick else 200, data_dir),
            True,
        ),
    }
    rows = [agreement(name, *arguments) for name, arguments in settings.items()]
    print_table("labels of a resnet18@96", ["images", "number", "same label as decoded in full"], rows)


if __name__ == "__main__":
    main()
