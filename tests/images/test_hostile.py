"""Files that were made to break a decoder, and thousands of damaged ones: none may crash, hang or fill the memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from made_images import encoded, photo

from mlflow_resnet.errors import InvalidImageError
from mlflow_resnet.images.decode import decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata

PILLOW = "pillow==12.0.0"  # its source distribution holds the files that its own tests decode
GOOD = {
    "JPEG": encoded(photo(96, 64), "JPEG"),
    "progressive JPEG": encoded(photo(96, 64), "JPEG", progressive=True),
    "CMYK JPEG": encoded(photo(96, 64).convert("CMYK"), "JPEG"),
    "PNG": encoded(photo(96, 64), "PNG"),
    "palette PNG": encoded(photo(96, 64).convert("P"), "PNG"),
    "BMP": encoded(photo(96, 64), "BMP"),
    "TIFF": encoded(photo(96, 64), "TIFF"),
    "LZW TIFF": encoded(photo(96, 64), "TIFF", compression="tiff_lzw"),
    "WEBP": encoded(photo(96, 64), "WEBP"),
    "GIF": encoded(photo(96, 64), "GIF"),
    "PPM": encoded(photo(96, 64), "PPM"),
}
# Reads files one after the other with little memory and a time limit for each; prints name -> "" or the reason.
READER = """
import json, resource, signal, sys
from pathlib import Path
from mlflow_resnet.images.audit.facts import facts_of_file
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    signal.alarm(30)
    try:
        found[path.name] = facts_of_file(str(path)).problem
    except MemoryError:
        found[path.name] = "memory"
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


def drop_or_double(content: bytearray, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content)) for _ in range(2))
    return bytes(content[:first] + content[first:last] * draw.choice([0, 2]) + content[last:])


MUTATIONS: list[Callable[[bytearray, random.Random], bytes]] = [cut, flip_bits, lie_in_the_header, drop_or_double]


@pytest.mark.parametrize("kind", GOOD)
def test_a_damaged_file_is_a_picture_or_a_clear_error(kind: str) -> None:
    draw, outcomes, messages = random.Random(kind), Counter[bool](), list[str]()
    for number in range(300):
        damaged = MUTATIONS[number % len(MUTATIONS)](bytearray(GOOD[kind]), draw)
        try:
            outcomes[decode(damaged).mode == "RGB"] += 1
        except InvalidImageError as error:
            outcomes[False] += 1
            messages.append(error.message)
    assert len(messages) > 30
    assert not [message for message in messages if "\n" in message or len(message) > 300]
    assert not outcomes[False] - len(messages)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of Pillow's Tests/images, each called .png whatever it is."""
    folder = tmp_path_factory.mktemp("pillow")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", PILLOW]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"the source distribution of Pillow cannot be had: {done.stderr[-300:]}")
    output = folder / "files"
    output.mkdir()
    with tarfile.open(archives[0]) as archive:
        members = [each for each in archive if each.isfile() and "/Tests/images/" in each.name]
        for number, member in enumerate(members):
            file = archive.extractfile(member)
            assert file is not None
            (output / f"{number:04d}-{Path(member.name).name}.png").write_bytes(file.read())
    return output


@pytest.mark.slow
def test_pillows_own_test_files_neither_crash_nor_hang_nor_fill_the_memory(corpus: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READER, str(corpus)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-500:]
    found = json.loads(done.stdout)
    assert len(found) > 1000
    assert "memory" not in found.values()
    assert sum(reason == "" for reason in found.values()) > 600
    assert all("\n" not in reason for reason in found.values())


@pytest.mark.slow
def test_pillows_own_test_files_through_audit_score_and_serve(
    corpus: Path, tmp_path: Path, trained: object, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64

    import pandas as pd
    import requests

    from mlflow_resnet import audit, score
    from mlflow_resnet.options import AuditOptions, ScoreOptions

    monkeypatch.setenv("MLFLOW_RESNET_CACHE", str(tmp_path / "cache"))
    paths = sorted(corpus.iterdir())
    (tmp_path / "set" / "all").mkdir(parents=True)
    for path in paths:
        os.link(path, tmp_path / "set" / "all" / path.name)
    result = audit(AuditOptions(train_dir=str(tmp_path / "set"), near_duplicates=False))
    unreadable = next(finding for finding in result.findings if finding.kind == "unreadable").images
    assert result.images == len(paths)
    model_uri = trained.model_uri  # type: ignore[attr-defined]
    scored = score(ScoreOptions(model_uri=model_uri, image_dir=str(corpus), output=str(tmp_path / "scored.parquet")))
    assert (scored.rows, scored.unreadable) == (len(paths), unreadable)
    rows = pd.read_parquet(tmp_path / "scored.parquet")
    assert list(rows.image) == [str(path) for path in paths]
    for first in range(0, len(paths), 50):
        contents = [base64.b64encode(path.read_bytes()).decode() for path in paths[first : first + 50]]
        small = [content for content in contents if 0 < len(content) < 2**20]
        answer = requests.post(f"{served}/invocations", json={"inputs": small}, timeout=120)
        assert answer.status_code == 200, answer.text[:300]
        assert len(answer.json()["predictions"]) == len(small)
