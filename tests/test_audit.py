import json
import os
import sys
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import TINY, run_main, upload
from PIL import Image

from mlflow_resnet import audit, train
from mlflow_resnet.errors import AuditFailedError, InvalidOptionsError, MissingPackageError
from mlflow_resnet.images.audit import image_facts as facts_module
from mlflow_resnet.images.audit.audit_report import render_page
from mlflow_resnet.images.audit.findings import AuditedImage, findings
from mlflow_resnet.options import AuditOptions, TrainOptions


def picture(seed, size=(96, 80), colors=12):
    """A picture with edges that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (colors, colors, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path):
    """Training and validation folders of two classes, 12 and 4 images each, with nothing wrong."""
    for number, (part, count) in enumerate((("train", 12), ("val", 4))):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for image in range(count):
                seed = 1000 * number + 100 * (label == "dog") + image
                picture(seed).save(tmp_path / part / label / f"{image}.png")
    return tmp_path


def audited(folders, **changes):
    return audit(AuditOptions(train_dir=str(folders / "train"), val_dir=str(folders / "val"), **changes))


def found(result):
    return {
        finding.kind: sorted(str(image) for group in finding.groups for image in group) for finding in result.findings
    }


def artifact(result, name):
    return mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/audit/{name}")


def test_nothing_is_found_where_nothing_is_wrong(workdir, folders):
    result = audited(folders)
    assert (result.images, result.findings) == (32, [])


def test_the_same_picture_in_training_and_validation(workdir, folders):
    Image.open(folders / "train/cat/1.png").save(folders / "val/cat/copy.bmp")
    assert found(audited(folders)) == {"leak": ["train/cat/1.png", "val/cat/copy.bmp"]}


def test_the_same_picture_under_two_labels(workdir, folders):
    Image.open(folders / "train/cat/1.png").save(folders / "train/dog/copy.png")
    assert found(audited(folders)) == {"conflict": ["train/cat/1.png", "train/dog/copy.png"]}


def test_the_same_picture_several_times(workdir, folders):
    for number in range(3):
        Image.open(folders / "train/cat/1.png").save(folders / f"train/cat/copy{number}.tif")
    assert found(audited(folders)) == {"duplicate": ["train/cat/1.png", *(f"train/cat/copy{n}.tif" for n in range(3))]}


def test_pictures_that_look_alike(workdir, folders):
    picture(70000, (300, 300)).save(folders / "train/cat/large.png")
    picture(70000, (300, 300)).resize((200, 200)).save(folders / "train/cat/small.jpg", quality=70)
    picture(80000, (300, 300)).save(folders / "train/cat/other.png")
    picture(80000, (300, 300)).save(folders / "val/cat/other.jpg", quality=60)
    assert found(audited(folders)) == {
        "near_leak": ["train/cat/other.png", "val/cat/other.jpg"],
        "near_duplicate": ["train/cat/large.png", "train/cat/small.jpg"],
    }
    assert audited(folders, near_duplicates=False).findings == []


def test_bad_pictures(workdir, folders):
    (folders / "train/cat/cut.png").write_bytes((folders / "train/cat/1.png").read_bytes()[:-40])
    Image.new("RGB", (90, 90), (90, 120, 30)).save(folders / "train/cat/blank.png")
    picture(10001).point(lambda value: value // 16).save(folders / "train/cat/dark.png")
    picture(20001).point(lambda value: 238 + value // 15).save(folders / "train/cat/bright.png")
    picture(30001, colors=3).resize((400, 400), Image.Resampling.BICUBIC).resize((401, 400)).resize((3, 3)).resize(
        (400, 400), Image.Resampling.BICUBIC
    ).save(folders / "train/cat/blurry.png")
    picture(40001, (400, 80)).save(folders / "train/cat/long.png")
    assert found(audited(folders)) == {
        "unreadable": ["train/cat/cut.png"],
        "blank": ["train/cat/blank.png"],
        "dark": ["train/cat/dark.png"],
        "bright": ["train/cat/bright.png"],
        "blurry": ["train/cat/blurry.png"],
        "odd_aspect": ["train/cat/long.png"],
    }


def test_small_classes(workdir, folders):
    for number, count in (("few", 3), ("dozen", 11)):
        (folders / "train" / number).mkdir()
        for image in range(count):
            picture(5000 + image + 100 * count).save(folders / "train" / number / f"{image}.png")
    for image in range(120):
        picture(9000 + image).save(folders / "train" / "cat" / f"more{image}.png")
    result = audited(folders, near_duplicates=False)
    assert {finding.kind: finding.images for finding in result.findings} == {"tiny_class": 3, "imbalance": 23}
    assert str(result.findings[0]) == "tiny_class: 3 images are in a class of fewer than 10: few (3)"


def test_everything_is_logged(workdir, folders):
    Image.open(folders / "train/cat/1.png").save(folders / "val/cat/copy.png")
    result = audited(folders)
    run = mlflow.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"audit_leak": 2}
    table = pd.read_parquet(artifact(result, "images.parquet"))
    assert len(table) == 33
    assert Counter(table.findings) == {"": 31, "leak": 2}
    row = table[table.name == "cat/1.png"].iloc[0]
    assert (row.part, row.label, row.width, row.height, row.problem) == ("train", "cat", 96, 80, "")
    html = Path(artifact(result, "report.html")).read_text(encoding="utf-8")
    assert html.count('<img alt="" src="data:image/jpeg;base64,') == 2
    assert "val/cat/copy.png" in html


def test_names_cannot_smuggle_markup_into_the_report(tmp_path):
    name = "<script>alert(1)</script>.png"
    facts = facts_module.ImageFacts(problem="<b>bad</b>")
    images = [AuditedImage("train", f"<i>cat/{name}", "<i>cat", str(tmp_path / "x"), facts)]
    html = render_page(images, findings(images))
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in html


def test_a_pipeline_fails_on_what_it_names(workdir, folders):
    Image.open(folders / "train/cat/1.png").save(folders / "val/cat/copy.png")
    with pytest.raises(AuditFailedError, match="^leak: 2 images are in training and in validation: train/cat/1.png = "):
        audited(folders, fail_on="conflict, leak")
    assert audited(folders, fail_on="conflict").images == 33
    with pytest.raises(InvalidOptionsError, match="fail_on has leek; choose of unreadable, leak, "):
        audited(folders, fail_on="leek")


def test_the_command(workdir, folders):
    Image.open(folders / "train/cat/1.png").save(folders / "val/cat/copy.png")
    command = ["audit", "--train-dir", folders / "train", "--val-dir", folders / "val"]
    result = run_main(*command)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "33 images",
        "leak: 2 images are in training and in validation: train/cat/1.png = val/cat/copy.png",
    ]
    assert lines[2].startswith("report    audit/report.html in run ")
    result = run_main(*command, "--fail-on", "leak")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("mlflow-resnet: leak: 2 images")


def test_a_second_audit_reads_only_what_has_changed(workdir, folders, monkeypatch):
    audited(folders)
    read = []
    find = facts_module.inspect_file
    monkeypatch.setattr(
        "mlflow_resnet.images.scan.inspect_file", lambda path, looks: read.append(path) or find(path, looks)
    )
    picture(1234).save(folders / "train/cat/1.png")
    picture(1235).save(folders / "train/cat/new.png")
    assert audited(folders).images == 33
    assert sorted(map(os.path.basename, read)) == ["1.png", "new.png"]
    audited(folders, near_duplicates=False)
    assert len(read) == 2


def test_an_audit_of_s3(workdir, folders, s3):
    uri = upload(s3, folders / "train", "to-audit")
    result = audit(AuditOptions(train_dir=uri))
    assert result.images == 24


def test_without_imagehash_the_command_says_how_to_install_it(workdir, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(MissingPackageError, match="pip install 'imagehash>=4.3'"):
        audited(folders)
    assert audited(folders, near_duplicates=False).images == 32


def test_training_audits_first_unless_told_otherwise(workdir, folders, capsys):
    Image.open(folders / "train/cat/1.png").save(folders / "val/cat/copy.png")
    given = TINY | {"train_dir": str(folders / "train"), "val_dir": str(folders / "val")}
    result = train(TrainOptions(**given))
    assert "audit: leak 2 images; see audit/report.html in the run" in capsys.readouterr().err
    assert mlflow.get_run(result.run_id).data.metrics["audit_leak"] == 2
    assert os.path.exists(artifact(result, "report.html"))
    result = train(TrainOptions(**given, audit=False))
    assert "audit_leak" not in mlflow.get_run(result.run_id).data.metrics


def test_facts_survive_a_killed_audit(tmp_path, folders):
    from mlflow_resnet.images.audit.image_facts import FactsJournal

    path = str(folders / "train/cat/1.png")
    with FactsJournal(tmp_path, "x") as journal:
        facts = journal.find_once(facts_module.inspect_file, path, looks=False)
    with open(journal.path, "a") as file:
        file.write(json.dumps(["cut", 1])[:-3])
    with FactsJournal(tmp_path, "x") as journal:
        assert list(journal.known.values()) == [facts]
