"""Names and files that somebody who means ill may send. To try another one everywhere, add a row."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_images import chunk, encoded, photo, png, tiff
from PIL import Image

GOOD = encoded(photo(40, 40), "PNG")
LABELS = ("007", "grün")  # classes of the model that the tests train

# What it is -> a name, of an index, in an archive, in a table, in annotations, of a key. None may become a path.
NAMES = {
    "out of the folder": "cat/../../../../home/.bashrc",
    "out of the folder, as an image": "cat/../../../../home/1.png",
    "absolute": "/tmp/mlflow-resnet-hostile/1.png",
    "the folder itself": "..",
    "a NUL": "cat/1\0.png",
    "a NUL in a folder": "ca\0t/1.png",
    "nothing": "",
    "nothing between": "cat//1.png",
    "a dot": "cat/./1.png",
    "ends as a folder": "cat/1.png/",
    "a long file": f"cat/{'x' * 300}.png",
    "a long path": f"{'cat/' * 400}1.png",
    "hidden": "cat/.1.png",
    "our index": "index.parquet/1.png",
    "our table": "LEFT_OUT.csv/1.png",
    "our journal": ".journal.jsonl/1.png",
    "our lock": ".out.png.partial/1.png",
}


def long_header(kind: bytes, size: int) -> bytes:
    """A tar whose first header is as long as it claims."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    parts = gzip.compress(b" " * 2**20, 1) * (size // 2**20)
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + parts + gzip.compress(plain_tar())


def plain_tar(name: str = "cat/1.png", times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for _ in range(times):
            info = tarfile.TarInfo(name)
            info.size = len(GOOD)
            archive.addfile(info, io.BytesIO(GOOD))
    return buffer.getvalue()


def endless_sparse_map() -> bytes:
    """A GNU tar whose map of a sparse file goes on and on."""
    header = bytearray(tarfile.TarInfo("cat/1.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482] = b"S", 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    part = (b"%011o " % 1) * 42 + b"\1" + bytes(7)
    return gzip.compress(bytes(header) + part * 400_000, 1)


def headers_upon_headers() -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 512
    return (info.tobuf(tarfile.GNU_FORMAT) + b"a" * 512) * 5000 + plain_tar()


def overlapping_zip() -> bytes:
    """A thousand members, all of them the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/0000.png", GOOD)
        info = archive.infolist()[0]
        for number in range(1, 1000):
            twin = zipfile.ZipInfo(f"cat/{number:04d}.png")
            twin.header_offset, twin.CRC = info.header_offset, info.CRC
            twin.compress_size = twin.file_size = info.file_size
            archive.filelist.append(twin)
    return buffer.getvalue()


def huge_directory() -> bytes:
    return bytes(100) + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 4 * 10**9, 0, 0)


def repeated_values(rows: int, size: int) -> bytes:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * size]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column, "label": column}), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def large_value() -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"image": pa.array([bytes(150 * 2**20)]), "label": ["a"]})
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_statistics=False)
    return buffer.getvalue()


def nested_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/inner.zip", overlapping_zip())
        archive.writestr("cat/1.png", overlapping_zip())
    return buffer.getvalue()


# File -> its content. Each is what `convert` is told to read.
SOURCES: dict[str, Callable[[], bytes]] = {
    "a long name.tar.gz": lambda: long_header(b"L", 600 * 2**20),
    "a pax header.tar.gz": lambda: long_header(b"x", 600 * 2**20),
    "a global header.tgz": lambda: long_header(b"g", 600 * 2**20),
    "a sparse map.tar.gz": endless_sparse_map,
    "headers upon headers.tar": headers_upon_headers,
    "overlapping.zip": overlapping_zip,
    "a huge directory.zip": huge_directory,
    "nested.zip": nested_zip,
    "the folder of our index.tar": lambda: plain_tar("index.parquet/1.png"),
    "repeated values.parquet": lambda: repeated_values(20_000, 100_000),
    "repeated paths.parquet": lambda: repeated_values(2000, 2_000_000),
    "an image of 150 MiB.parquet": large_value,
    "a line without end.csv": lambda: b"image,label\n" + b"a" * 20_000_000,
    "a row without end.csv": lambda: b"image,label\n" + b'"\n",' * 4_000_000,
    "a line without end.jsonl": lambda: b'{"image": "' + b"a" * 20_000_000,
    "deep.jsonl": lambda: b"[" * 1_000_000,
    "a lone surrogate.jsonl": lambda: b'{"image": "\\ud800.png", "label": "\\ud800"}\n',
    "a lone surrogate.json": lambda: json.dumps(
        {
            "images": [{"id": 1, "file_name": "\ud800.png"}],
            "categories": [{"id": 1, "name": "\ud800"}],
            "annotations": [{"image_id": 1, "category_id": 1}],
        }
    ).encode(),
    "deep.json": lambda: b"[" * 1_000_000,
}


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    content = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + b"\xff\xd9"


def giant_tile() -> bytes:
    data = zlib.compress(bytes(2**20), 9)
    return tiff(8, 8, data, {259: [8], 322: [32768], 323: [32768], 324: [4096], 325: [len(data)]})


def rle_bmp(width: int, height: int, body: bytes) -> bytes:
    begin, size = 14 + 40 + 1024, len(body)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, size, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", begin + size, 0, 0, begin) + header + bytes(1024) + body


def within_jpeg(segments: bytes) -> bytes:
    """A JPEG with something before its picture."""
    content = encoded(photo(40, 40), "JPEG")
    return content[:2] + segments + content[2:]


def within_gif(blocks: bytes) -> bytes:
    content = encoded(photo(8, 8), "GIF")
    begin = 13 + 3 * (2 << (content[10] & 7))
    return content[:begin] + blocks + content[begin:]


EXIF = b"\xff\xe1\xff\xff" + b"Exif\0\0II*\0\x08\0\0\0" + bytes(65_533 - 14)
# What it is -> an image that costs much, and why it is refused.
IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans": (lambda: scan_bomb(2000, 250), "more than 200 scans"),
    "scans of a large picture": (lambda: scan_bomb(6000, 100), "more than 71 scans"),
    "arithmetic coding": (lambda: within_jpeg(b"").replace(b"\xff\xc0", b"\xff\xc9"), "arithmetic-coded or lossless"),
    "segments": (lambda: within_jpeg(b"\xff\xfe\0\2" * 500_000), "over 5000 segments"),
    "filling": (lambda: within_jpeg(b"\xff" * 2**20), "bytes between them"),
    "exif": (lambda: within_jpeg(EXIF * 30), "KiB of EXIF"),
    "chunks": (lambda: png(8, 8, 8, 0, bytes(72), chunk(b"prVt", b"") * 100_000), "50000 chunks"),
    "blocks": (lambda: within_gif(b"\x21\xfe\x01a\0" * 200_000), "50000 blocks"),
    "pieces of a comment": (lambda: within_gif(b"\x21\xfe" + b"\1a" * 500_000 + b"\0"), "50000 blocks"),
    "a giant tile": (giant_tile, "its tiles of 32768x32768"),
    "runs of nothing": (lambda: rle_bmp(1000, 1000, b"\1\1" * 2_000_000), "2 MiB of this kind of BMP"),
    "lines of nothing": (lambda: rle_bmp(8000, 7900, b"\1\1\0\0" * 8000), "over the limit of 2 for this kind of BMP"),
}


def write_images(folder: Path) -> Path:
    """Each of `IMAGES`, and many good ones, in two class folders."""
    for label in LABELS:
        (folder / label).mkdir(parents=True)
        for number in range(8):
            picture = encoded(photo(40 + number + 10 * LABELS.index(label), 40), "PNG")
            (folder / label / f"good {number}.png").write_bytes(picture)
    for number, (kind, (make, _)) in enumerate(IMAGES.items()):
        (folder / LABELS[number % 2] / f"{kind}.png").write_bytes(make())
    return folder
