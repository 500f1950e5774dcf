"""A machine that is gone with its disk: another one goes on from the copies of the checkpoints."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Place, Row, wait_for_iteration
from helpers import wait_for
from proxy import faulty

pytestmark = pytest.mark.faults

Make = Callable[..., Place]
Rows = Callable[[str, str], Row]


@pytest.fixture(params=["s3", pytest.param("artifacts", marks=pytest.mark.thorough)])
def mirror(request: pytest.FixtureRequest, s3: Any) -> str:
    """The option, for each kind of store."""
    return "artifacts" if request.param == "artifacts" else f"s3://bucket/{request.node.name}"


def copies(place: Place, s3: Any) -> list[str]:
    """The files in the mirror, such as `000002/SHA256SUMS`."""
    option = str(place.options["checkpoint_mirror"])
    if option == "artifacts":
        found = [path for run in place.runs() for path in Path(run.info.artifact_uri, "checkpoints").rglob("*.*")]
        found += [path for run in place.runs() for path in Path(run.info.artifact_uri, "checkpoints").rglob("*SUMS")]
        return sorted({f"{path.parent.name}/{path.name}" for path in found})
    prefix = option.removeprefix("s3://bucket/")
    listed = s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return sorted("/".join(each["Key"].split("/")[-2:]) for each in listed)


def whole(place: Place, s3: Any) -> list[str]:
    return [name.partition("/")[0] for name in copies(place, s3) if name.endswith("/SHA256SUMS")]


def killed_with_a_copy(place: Place, s3: Any) -> None:
    """Trains until the mirror has two copies, and takes the machine away: its processes and its folder."""
    with place.started() as process:
        wait_for_iteration(process, 2)
        wait_for(lambda: len(whole(place, s3)) >= 2, pause=0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(place.folder)


def moved_images(place: Place, tmp_path: Path) -> dict[str, Path]:
    """The same images at another path, as on another machine."""
    for name in ("train", "val"):
        shutil.copytree(str(place.options[f"{name}_dir"]), tmp_path / "moved" / name)
    return {"train_dir": tmp_path / "moved" / "train", "val_dir": tmp_path / "moved" / "val"}


def test_another_machine_goes_on(
    mirror: str, s3: Any, new_place: Make, unhurt_place: Make, row: Rows, tmp_path: Path
) -> None:
    found = row("SIGKILL, and the checkpoint folder is gone", "goes on from the mirror, in the same run, equal weights")
    unhurt, place = unhurt_place(), new_place("gone", checkpoint_mirror=mirror)
    killed_with_a_copy(place, s3)
    moved = moved_images(place, tmp_path)
    done = place.run(**moved, checkpoint_dir="elsewhere")
    assert done.returncode == 0, done.stderr
    assert "fetched checkpoint" in done.stderr
    assert "going on from the checkpoint" in done.stderr
    assert place.weights() == unhurt.weights()
    assert place.curve() == unhurt.curve()
    assert [run.info.status for run in place.runs()] == ["FINISHED"]
    assert whole(place, s3) == []
    third = place.run(checkpoint_dir="a third")
    assert third.returncode == 0
    assert "this training is complete" in third.stderr
    found.add("equal weights, one run")


def flip_a_byte_of_the_newest(place: Place, s3: Any) -> None:
    name = f"{whole(place, s3)[-1]}/network.safetensors"
    if place.options["checkpoint_mirror"] == "artifacts":
        (path,) = [path for run in place.runs() for path in Path(run.info.artifact_uri).rglob(name)]
        path.write_bytes(flipped(path.read_bytes()))
        return
    (key,) = [each["Key"] for each in s3.list_objects_v2(Bucket="bucket")["Contents"] if each["Key"].endswith(name)]
    s3.put_object(Bucket="bucket", Key=key, Body=flipped(s3.get_object(Bucket="bucket", Key=key)["Body"].read()))


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def test_a_damaged_copy(mirror: str, s3: Any, new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row("the newest copy in the mirror is damaged", "a warning, and on from the one before")
    unhurt, place = unhurt_place(), new_place("gone", checkpoint_mirror=mirror)
    killed_with_a_copy(place, s3)
    flip_a_byte_of_the_newest(place, s3)
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "is damaged (network.safetensors is not what was written), so the one before it is taken" in done.stderr
    assert place.weights() == unhurt.weights()
    found.add("warned, equal weights")


@pytest.fixture
def broken_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server on which nothing can be written."""
    upstream = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    with faulty(upstream, lambda method, path: "403" if method == "PUT" else "") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        yield


def test_the_mirror_takes_nothing(broken_s3: None, new_place: Make, unhurt_place: Make, row: Rows) -> None:
    found = row("the mirror takes no copies", "told once; training goes on to the same weights")
    unhurt, place = unhurt_place(), new_place("place", checkpoint_mirror="s3://bucket/broken")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no copy of a checkpoint reached s3://bucket/broken/") == 1
    assert "Traceback" not in done.stderr
    assert place.weights() == unhurt.weights()
    found.add("told once, equal weights")


def test_a_mirror_that_is_not_there(s3: Any, new_place: Make, row: Rows) -> None:
    found = row("a mirror that is not there", "one line, exit 2, before training")
    place = new_place("place", checkpoint_mirror="s3://no-such-bucket/here")
    done = place.run()
    assert done.returncode == 2
    assert "mlflow-resnet: s3://no-such-bucket/here/" in done.stderr.splitlines()[-1]
    assert place.runs() == []
    found.add("exit 2, no run")


def test_a_signal_leaves_the_last_checkpoint_in_the_mirror(
    s3: Any, new_place: Make, unhurt_place: Make, row: Rows
) -> None:
    found = row("SIGTERM, and the checkpoint folder is gone", "the last checkpoint is in the mirror; equal weights")
    mirror = "s3://bucket/after a signal"
    unhurt, place = unhurt_place(), new_place("gone", checkpoint_mirror=mirror, checkpoint_minutes=10)
    with place.started() as process:
        wait_for_iteration(process, 8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 143  # the copy may take 10 seconds more than saving
    assert len(whole(place, s3)) == 1
    shutil.rmtree(place.folder)
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "fetched checkpoint" in done.stderr
    assert place.weights() == unhurt.weights()
    found.add("exit 143, equal weights")


@pytest.mark.thorough
def test_nothing_of_another_training_is_taken(s3: Any, new_place: Make, row: Rows) -> None:
    found = row("a mirror with copies of another training", "begins anew; both have their place")
    mirror = "s3://bucket/shared"
    place = new_place("gone", checkpoint_mirror=mirror)
    killed_with_a_copy(place, s3)
    before = len(whole(place, s3))
    done = place.run(random_seed=2)
    assert done.returncode == 0, done.stderr
    assert "fetched" not in done.stderr
    assert len(whole(place, s3)) == before
    found.add("begun anew")
