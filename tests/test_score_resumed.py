"""Scoring that was interrupted and goes on. How it is killed for real: tests/faults/test_scoring_killed.py."""

import os
import shutil
import signal
from dataclasses import replace

import pandas as pd
import pytest
from helpers import run_main, start_cli, upload, wait_for, write_picture
from proxy import faulty

import mlflow_resnet
from mlflow_resnet.io.owned import lock_directory
from mlflow_resnet.options import ConvertOptions, ScoreOptions
from mlflow_resnet.scoring.to_file import batch
from mlflow_resnet.scoring.to_file.parts import Parts
from mlflow_resnet.verbs.score import score

MODEL = "models:/colors@champion"
NAMES = ("b/2.jpg", "b/10.jpg", "b.jpg", "b c/1.jpg", "b/c/1.jpg", "a/ü.jpg", "z\udcff/1.jpg", "z.jpg", "Z/1.jpg")


@pytest.fixture
def folder(images, tmp_path):
    """Names of which the order needs care, one not UTF-8; one picture cannot be read."""
    colors = sorted((images / "val").glob("*/*.jpg"))
    for name, source in zip(NAMES, colors, strict=False):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
    (tmp_path / "photos" / "a" / "text.jpg").write_text("just text")
    return tmp_path / "photos"


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    from mlflow_resnet.images import sources

    names, before = [], sources.read_bytes
    monkeypatch.setattr(sources, "read_bytes", lambda path: names.append(os.fspath(path)) or before(path))
    return names


def options(folder, output, **changes):
    given = {"model_uri": MODEL, "image_dir": str(folder), "output": str(output), "batch_size": 1, "num_workers": 1}
    return ScoreOptions(**given | changes)


def score_until(parts, given):
    """Scores, is interrupted after so many parts, and leaves no output."""
    add = Parts.add

    def interrupting(self, *args):
        add(self, *args)
        if self.progress.parts == parts:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(batch, "SECONDS_PER_PART", 0.0)
        patch.setattr(Parts, "add", interrupting)
        score(given)
    assert not os.path.exists(given.output)
    assert os.path.isdir(hidden(given))


def hidden(given):
    return os.path.join(os.path.dirname(given.output), f".{os.path.basename(given.output)}.partial")


@pytest.mark.parametrize(
    ("suffix", "stops"),
    [pytest.param(".csv", range(1, 11), marks=pytest.mark.slow), (".csv", [1]), (".jsonl", [4]), (".parquet", [4])],
)
def test_it_goes_on_after_any_row_and_reads_no_image_again(suffix, stops, trained, folder, read, tmp_path):
    whole = score(options(folder, tmp_path / f"whole{suffix}"))
    order = list(read)
    assert len(set(order)) == whole.rows == 10
    for parts in stops:
        given = options(folder, tmp_path / f"scored{suffix}")
        score_until(parts, given)
        read.clear()
        scored = score(given)
        assert read == order[parts:]
        assert (scored.rows, scored.unreadable) == (10, 1)
        assert (tmp_path / f"scored{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
        assert not os.path.exists(hidden(given))
        os.remove(given.output)


def test_images_that_come_and_go_meanwhile(trained, folder, read, tmp_path):
    given = options(folder, tmp_path / "scored.parquet")
    score_until(5, given)
    done, last = [os.path.relpath(name, folder) for name in read[:5]], read[4]
    assert os.path.relpath(last, folder) == "a/ü.jpg"
    os.remove(last)
    os.remove(folder / "z\udcff" / "1.jpg")
    write_picture(folder / "a" / "a.jpg", (200, 60, 40), 1)  # before the last row: not seen
    write_picture(folder / "a" / "ü2.jpg", (200, 60, 40), 1)
    score(given)
    names = [os.path.relpath(name, folder) for name in pd.read_parquet(given.output)["image"]]
    assert names == [*done, "a/ü2.jpg", "b/10.jpg", "b/2.jpg", "b/c/1.jpg", "b c/1.jpg"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"top_k": 1}, "top_k"),
        pytest.param({"min_confidence": 0.9}, "min_confidence", marks=[pytest.mark.slow, pytest.mark.thorough]),
        pytest.param({"tta": "flip"}, "tta", marks=[pytest.mark.slow, pytest.mark.thorough]),
        pytest.param({"resolution": 64}, "resolution", marks=[pytest.mark.slow, pytest.mark.thorough]),
        ({"image_dir": "."}, "image_dir"),
        ({"shard": "1/2"}, "shard"),
        ({"model_uri": "other"}, "model"),
    ],
)
def test_rows_of_another_call_are_not_mixed_in(changes, what, trained, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    if what == "model":
        classifier = trained.classifier
        random = mlflow_resnet.new_classifier("resnet18", classifier.classes, classifier.preprocessing)
        random = replace(classifier, network=random.network)  # at the same precision
        mlflow_resnet.flavor.save_model(random, tmp_path / "other")
        changes = {"model_uri": str(tmp_path / "other")}
    score(options(folder, tmp_path / "whole.csv", **changes))
    score_until(4, options(folder, tmp_path / "scored.csv"))
    capsys.readouterr()
    score(options(folder, tmp_path / "scored.csv", **changes))
    line = f"{tmp_path}/.scored.csv.partial holds rows of a call with another {what}; scoring begins anew"
    assert line in capsys.readouterr().err.splitlines()
    assert (tmp_path / "scored.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_batch_size_goes_on(trained, folder, read, tmp_path):
    score_until(4, options(folder, tmp_path / "scored.csv"))
    read.clear()
    score(options(folder, tmp_path / "scored.csv", batch_size=8))
    assert len(read) == len(set(read)) == 6


THOROUGH = [pytest.mark.slow, pytest.mark.thorough]


@pytest.mark.parametrize("length", [pytest.param(0, marks=THOROUGH), pytest.param(100, marks=THOROUGH), -1])
def test_a_damaged_part_costs_only_what_follows(length, trained, folder, read, tmp_path, capsys):
    score(options(folder, tmp_path / "whole.csv"))
    given = options(folder, tmp_path / "scored.csv")
    score_until(6, given)
    read.clear()
    part = os.path.join(hidden(given), "00000004.arrow")
    os.truncate(part, length if length >= 0 else os.path.getsize(part) + length)
    score(given)
    assert "00000004.arrow is damaged" in capsys.readouterr().err
    assert len(read) == 7
    assert (tmp_path / "scored.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_second_process_is_told_to_wait(trained, folder, tmp_path):
    given = options(folder, tmp_path / "scored.csv")
    score_until(4, given)
    before = sorted(os.listdir(hidden(given)))
    with lock_directory(tmp_path / ".scored.csv.partial", tmp_path / "scored.csv"):
        result = run_main("score", "--model-uri", MODEL, "--image-dir", folder, "--output", given.output)
    assert result.returncode == 2
    assert result.stderr == (
        f"mlflow-resnet: {tmp_path}/scored.csv: is being written by another process; wait for it\n"
    )
    assert sorted(os.listdir(hidden(given))) == before


def test_a_prefix_in_s3_is_not_fetched_again(trained, folder, tmp_path, s3, monkeypatch):
    shutil.rmtree(folder / "z\udcff")
    uri = upload(s3, folder, "score-resumed")
    score(options(uri, tmp_path / "whole.csv"))
    given = options(uri, tmp_path / "scored.csv")
    score_until(4, given)
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        score(given)
        fetched = [path for method, path, _ in server.requests if method == "GET" and "list-type" not in path]
    assert len(fetched) == 5
    assert (tmp_path / "scored.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_images_that_an_index_refers_to(trained, folder, read, tmp_path):
    from mlflow_resnet.verbs.convert import convert

    shutil.rmtree(folder / "z\udcff")
    convert(ConvertOptions(source=str(folder), output_dir=str(tmp_path / "index"), transfer="reference"))
    score(options(tmp_path / "index", tmp_path / "whole.csv"))
    given = options(tmp_path / "index", tmp_path / "scored.csv")
    score_until(4, given)
    read.clear()
    score(given)
    assert len(read) == len(set(read)) == 4
    assert (tmp_path / "scored.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.fixture
def listed(folder, tmp_path):
    """A list of the pictures, two that are missing, and all pictures again."""
    names = [f"photos/{name}" for name in (*NAMES, "a/text.jpg")]
    lines = [*names, "missing.jpg", "", *names]
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    return path


@pytest.mark.parametrize("shard", ["", "2/3"])
def test_a_list_goes_on_after_the_line_it_came_to(shard, trained, listed, read, tmp_path):
    whole = score(options(listed, tmp_path / "whole.csv", shard=shard))
    order = list(read)
    assert whole.rows == (7 if shard else 22)
    given = options(listed, tmp_path / "scored.csv", shard=shard)
    score_until(5, given)
    read.clear()
    scored = score(given)
    assert read == order[5:]
    assert scored.reasons == whole.reasons
    assert sum(reason.count for reason in scored.reasons) == scored.unreadable
    assert (tmp_path / "scored.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_list_that_was_changed_begins_anew(trained, listed, tmp_path, capsys):
    given = options(listed, tmp_path / "scored.csv")
    score_until(3, given)
    with open(listed, "a") as file:
        file.write("photos/b.jpg\n")
    assert score(given).rows == 23
    assert "holds rows of a call with another list of images; scoring begins anew" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_done(sent, code, trained, folder, tmp_path):
    (tmp_path / "many").mkdir()
    for i in range(20_000):
        os.link(folder / "b.jpg", tmp_path / "many" / f"{i:05d}.jpg")
    (tmp_path / "scored.csv").write_text("old")
    command = ["score", "--model-uri", MODEL, "--image-dir", tmp_path / "many", "--output", tmp_path / "scored.csv"]
    with start_cli(*command) as process:
        wait_for(lambda: list((tmp_path / ".scored.csv.partial").glob("*1.arrow")), 120, 0.05, process)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "scored.csv").read_text() == "old"
    result = run_main(*command)
    assert result.returncode == 0, result.stderr
    assert "going on after" in result.stderr
    frame = pd.read_csv(tmp_path / "scored.csv")
    assert list(frame["image"]) == [f"{tmp_path}/many/{i:05d}.jpg" for i in range(20_000)]
