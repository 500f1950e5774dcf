"""Files that were made to break a decoder, and thousands of damaged ones: none may crash, hang or fill the memory."""

from __future__ import annotations

import base64
import json
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from helpers import TINY
from made_images import encoded, photo, with_orientation
from PIL import Image

from mlflow_resnet import audit, score, train
from mlflow_resnet.options import AuditOptions, ScoreOptions, TrainOptions
from mlflow_resnet.tracking.training_record import TrainResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata

PILLOW = "pillow==12.0.0"  # its source distribution holds the files that its own tests decode
PICTURE = photo(96, 64)
TRANSPARENT = PICTURE.copy()
TRANSPARENT.putalpha(Image.linear_gradient("L").resize((96, 64)))
ANIMATION = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
GOOD = {
    "JPEG": encoded(PICTURE, "JPEG"),
    "progressive JPEG": encoded(PICTURE, "JPEG", progressive=True),
    "CMYK JPEG": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "turned JPEG": with_orientation(PICTURE, 6, "JPEG"),
    "PNG": encoded(PICTURE, "PNG"),
    "palette PNG": encoded(PICTURE.convert("P"), "PNG", transparency=3),
    "16-bit PNG": encoded(Image.fromarray(np.arange(6144, dtype=np.uint16).reshape(64, 96)), "PNG"),
    "turned PNG": with_orientation(TRANSPARENT, 6, "PNG"),
    "BMP": encoded(PICTURE, "BMP"),
    "palette BMP": encoded(PICTURE.convert("P"), "BMP"),
    "TIFF": encoded(PICTURE, "TIFF"),
    "LZW TIFF": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encoded(PICTURE, "TIFF", compression="jpeg"),
    "WEBP": encoded(PICTURE, "WEBP"),
    "lossless WEBP": encoded(TRANSPARENT, "WEBP", lossless=True),
    "animated WEBP": encoded(PICTURE, "WEBP", **ANIMATION),
    "GIF": encoded(PICTURE, "GIF"),
    "animated GIF": encoded(PICTURE, "GIF", transparency=3, **ANIMATION),
    "PPM": encoded(PICTURE, "PPM"),
    "text PPM": b"P3 8 6 255 # eight by six\n" + b" ".join(b"%d" % (n % 256) for n in range(144)),
}
MUTATIONS_OF_EACH = 120
ROOM = 2**30  # bytes of memory to read a file with; 64 megapixels take 256 MB, and as much again while they are turned
# Reads files one after the other with little memory and a time limit for each, as the scan and as training does.
# Prints name -> [reason of the scan, reason of the training], "" for a picture; on stderr each name before it is read.
READER = f"""
import json, resource, signal, sys
from pathlib import Path
from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.audit.image_facts import inspect_file
from mlflow_resnet.images.decoding.decode import read_bytes, read_region

def reason_of_training(path):
    try:
        read_region(read_bytes(path), lambda width, height: (0, 0, width, height), (32, 32))
    except InvalidImageError as error:
        return error.message
    return ""

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {ROOM},) * 2)
found = {{}}
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    signal.alarm(30)
    found[path.name] = [inspect_file(str(path)).problem, reason_of_training(str(path))]
    signal.alarm(0)
print(json.dumps(found))
"""


def cut(content: bytearray, draw: random.Random) -> bytes:
    return bytes(content[: draw.randrange(len(content))])


def flip_bits(content: bytearray, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 20)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def lie_in_the_header(content: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(min(64, len(content) - 4))
    content[place : place + 4] = draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, draw.randbytes(4)])
    return bytes(content)


def lie_about_the_size(content: bytearray, draw: random.Random) -> bytes:
    return resized(bytes(content), *draw.choice([(2000, 2000), (20_000, 20_000), (65_000, 1), (1, 65_000)]))


def resized(content: bytes, width: int, height: int) -> bytes:
    """The file, with another size written wherever its own may be. Lossless WebP hides it too well."""
    for order in ("<HH", "<II", ">HH", ">II"):
        content = content.replace(struct.pack(order, 96, 64), struct.pack(order, width, height))
    content = content.replace(struct.pack(">HH", 64, 96), struct.pack(">HH", height, width))  # JPEG
    for tag, old, new in ((256, 96, width), (257, 64, height)):  # TIFF
        content = content.replace(struct.pack("<HHII", tag, 4, 1, old), struct.pack("<HHII", tag, 4, 1, new))
    content = content.replace(b"96 64", b"%d %d" % (width, height))  # PPM
    if content.startswith(b"\x89PNG"):
        content = content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]
    return content


def drop_or_double(content: bytearray, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content)) for _ in range(2))
    return bytes(content[:first] + content[first:last] * draw.choice([0, 2]) + content[last:])


MUTATIONS: list[Callable[[bytearray, random.Random], bytes]] = [
    cut,
    flip_bits,
    lie_in_the_header,
    lie_about_the_size,
    drop_or_double,
]


def read_all(folder: Path) -> dict[str, list[str]]:
    """What a process of its own found in each file of `folder`. Fails with the file that ended it."""
    done = subprocess.run([sys.executable, "-c", READER, str(folder)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"exit code {done.returncode} at {done.stderr[-1000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was found in files that are damaged in `MUTATIONS_OF_EACH` ways, and in one that claims to be large."""
    folder = tmp_path_factory.mktemp("damaged")
    for kind, content in GOOD.items():
        draw = random.Random(kind)
        for number in range(MUTATIONS_OF_EACH):
            mutation = MUTATIONS[number % len(MUTATIONS)]
            path = folder / f"{kind}, {mutation.__name__} {number}"
            path.write_bytes(mutation(bytearray(content), draw))
        (folder / f"{kind}, 62 megapixels").write_bytes(resized(content, 7900, 7900))
    return read_all(folder)


@pytest.mark.process
@pytest.mark.parametrize("kind", GOOD)
def test_a_damaged_file_is_a_picture_or_a_clear_error(kind: str, damaged: dict[str, list[str]]) -> None:
    found = [reasons for name, reasons in damaged.items() if name.startswith(f"{kind}, ")]
    assert len(found) == MUTATIONS_OF_EACH + 1
    assert sum(scan != "" for scan, _ in found) > 12
    assert not [reason for reasons in found for reason in reasons if "\n" in reason or len(reason) > 300]
    assert not [reasons for reasons in found if bool(reasons[0]) != bool(reasons[1])]


@pytest.fixture(scope="module")
def corpus(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of Pillow's Tests/images in two class folders, each called .png whatever it is."""
    folder = pytestconfig.cache.mkdir(PILLOW)  # type: ignore[union-attr]
    if not list(folder.glob("*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", PILLOW]
        done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the source distribution of Pillow cannot be had: {done.stderr[-300:]}")
    output = tmp_path_factory.mktemp("pillow")
    for name in ("even", "odd"):
        (output / name).mkdir()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        members = [each for each in archive if each.isfile() and "/Tests/images/" in each.name]
        for number, member in enumerate(members):
            file = archive.extractfile(member)
            assert file is not None
            name = f"{number:04d}-{Path(member.name).name}.png"
            (output / ("even", "odd")[number % 2] / name).write_bytes(file.read())
    return output


@pytest.fixture(scope="module")
def reasons(corpus: Path) -> dict[str, str]:
    """Path below the corpus -> why the file is no picture, "" if it is one."""
    found = {
        f"{folder.name}/{name}": reasons for folder in corpus.iterdir() for name, reasons in read_all(folder).items()
    }
    assert not [name for name, (scan, training) in found.items() if bool(scan) != bool(training)]
    return {name: scan for name, (scan, _) in found.items()}


@pytest.mark.slow
def test_pillows_own_test_files_neither_crash_nor_hang_nor_fill_the_memory(reasons: dict[str, str]) -> None:
    assert len(reasons) > 1000
    assert sum(reason == "" for reason in reasons.values()) > 600
    assert all("\n" not in reason for reason in reasons.values())


@pytest.mark.slow
def test_pillows_own_test_files_through_audit_and_training(
    corpus: Path, reasons: dict[str, str], workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unreadable = sum(reason != "" for reason in reasons.values())
    result = audit(AuditOptions(train_dir=str(corpus)))
    found = next(finding for finding in result.findings if finding.kind == "unreadable")
    assert (result.images, found.images) == (len(reasons), unreadable)
    train(TrainOptions(train_dir=str(corpus), val_fraction=0.2, on_bad_image="skip", **TINY | {"epochs": 1}))
    assert f"left out {unreadable} unreadable images" in capfd.readouterr().err


@pytest.mark.slow
def test_pillows_own_test_files_are_scored_in_files_and_over_http(
    corpus: Path, reasons: dict[str, str], tmp_path: Path, trained: TrainResult, served: str
) -> None:
    output = tmp_path / "scored.parquet"
    scored = score(ScoreOptions(model_uri=trained.model_uri, image_dir=str(corpus), output=str(output)))
    assert scored.rows == len(reasons)
    rows = pd.read_parquet(output)
    assert dict(zip(rows.image, rows.error, strict=True)) == {str(corpus / name): why for name, why in reasons.items()}
    names = list(reasons)
    for first in range(0, len(names), 50):
        some = [name for name in names[first : first + 50] if (corpus / name).stat().st_size < 2**20]
        contents = [base64.b64encode((corpus / name).read_bytes()).decode() for name in some]
        answer = requests.post(f"{served}/invocations", json={"inputs": contents}, timeout=120)
        assert answer.status_code == 200, answer.text[:300]
        refused = [row["error"] != "" for row in answer.json()["predictions"]]  # by other words: it may be a path
        assert refused == [reasons[name] != "" for name in some]
