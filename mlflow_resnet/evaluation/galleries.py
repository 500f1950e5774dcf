"""Pictures side by side, each with a few lines of text below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlflow_resnet.errors import printable
from mlflow_resnet.evaluation.evaluation import Evaluation

TILES_PER_ROW = 4
EDGE, TILE_MARGIN = 224, 12  # pixels
FONT_SIZE, LINE = 15, 19  # pixels
WRONG, RIGHT = "#b3400e", "#1b4f8a"  # vermilion and blue, which the color-blind tell apart


@cache
def font() -> ImageFont.FreeTypeFont:
    """Returns matplotlib's font, which covers most alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def gallery(evaluation: Evaluation, indices: Iterable[int], names: Sequence[str], pictures: np.ndarray) -> Image.Image:
    """Pictures with name, truth, prediction and confidence.

    Args:
        indices: of the images in the evaluation.
        names: those of all its images.
        pictures: of the chosen ones, uint8 of shape (number of indices, H, W, 3).
    """
    tiles = []
    for index, picture in zip(indices, pictures, strict=True):
        target, row = int(evaluation.targets[index]), evaluation.probabilities[index]
        truth, predicted = evaluation.classes[target], evaluation.classes[int(row.argmax())]
        is_right = row.argmax() == target
        lines = [f"{row.max():.1%} {predicted}", "right" if is_right else f"true: {row[target]:.1%} {truth}"]
        file = printable(names[index]).rpartition("/")[2]
        tiles.append(tile(picture, [*lines, file], RIGHT if is_right else WRONG))
    return mosaic(tiles)


def mosaic(tiles: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size, a few in each row."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // TILES_PER_ROW)
    whole = Image.new("RGB", (min(len(tiles), TILES_PER_ROW) * width, rows * height), "white")
    for place, each in enumerate(tiles):
        whole.paste(each, (place % TILES_PER_ROW * width, place // TILES_PER_ROW * height))
    return whole


def tile(picture: np.ndarray, lines: Sequence[str], color: str) -> Image.Image:
    """A picture, scaled to `EDGE` without smoothing if it is smaller, with lines of text below."""
    new = Image.new("RGB", (EDGE + 2 * TILE_MARGIN, EDGE + 2 * TILE_MARGIN + len(lines) * LINE), "white")
    filtering = Image.Resampling.NEAREST if picture.shape[0] < EDGE else Image.Resampling.LANCZOS
    new.paste(Image.fromarray(picture).resize((EDGE, EDGE), filtering), (TILE_MARGIN, TILE_MARGIN))
    draw = ImageDraw.Draw(new)
    for number, line in enumerate(lines):
        ink = "black" if number == len(lines) - 1 else color
        # Drawing fails at line breaks and other characters that have no look.
        text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
        draw.text((TILE_MARGIN, EDGE + TILE_MARGIN + 4 + number * LINE), shorten_line(text), ink, font())
    return new


def shorten_line(line: str) -> str:
    """Cuts the middle out of a line that is too long for its picture."""
    kept = line
    while font().getlength(kept) > EDGE and len(line) > 2:
        middle = len(line) // 2
        line = line[: middle - 1] + line[middle + 1 :]
        kept = f"{line[: len(line) // 2]}…{line[len(line) // 2 :]}"
    return kept
