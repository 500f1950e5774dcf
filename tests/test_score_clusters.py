"""Spark and Ray give the rows that `score` gives. They are not among what `[test]` installs, as they are large."""

import os
import shutil
import sys

import mlflow
import pandas as pd
import pytest
from helpers import COLORS
from rounding import assert_same_probabilities, assert_same_rows, of_auto
from tiers import needs

import mlflow_resnet
import mlflow_resnet.spark
from mlflow_resnet.options import ScoreOptions
from mlflow_resnet.verbs.score import score

pytestmark = pytest.mark.slow

PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]
SUFFIXES = ["jpg", "jpeg", "png"]


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Pictures in folders whose names need care, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("to score") / "val"
    shutil.copytree(images / "val", folder)
    (folder / "blue sky" / "01 text.jpg").write_text("just text")
    (folder / "grün" / "01 half.jpg").write_bytes((folder / "007" / "00.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not an image, by its name")
    return folder


@pytest.fixture(scope="module")
def engine(trained, folder, tmp_path_factory):
    """Scores the folder with `score`."""

    def rows(**changes):
        output = tmp_path_factory.mktemp("scored") / "scored.parquet"
        given = {"model_uri": trained.model_uri, "image_dir": str(folder), "output": str(output)}
        score(ScoreOptions(**given | changes))
        return pd.read_parquet(output)

    return rows


def assert_scored_alike(rows, expected):
    """In any order, but for rounding, which the size of a batch decides."""
    assert_same_rows(*(frame.sort_values("image", ignore_index=True) for frame in (rows, expected)), of_auto())


@pytest.fixture(scope="module")
def spark():
    pyspark = pytest.importorskip("pyspark", reason=needs("pyspark", "pip install '.[spark]'"))
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip(needs("Java", "apt-get install openjdk-17-jre-headless"))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {"spark.ui.enabled": "false", "spark.sql.execution.arrow.maxRecordsPerBatch": "4"}
    session = pyspark.sql.SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    yield session
    session.stop()
    del os.environ["PYSPARK_PYTHON"]


@pytest.fixture(scope="module")
def files(spark, folder):
    """The files as Spark reads them: path, modificationTime, length, content."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    return reader.option("pathGlobFilter", f"*.{{{','.join(SUFFIXES)}}}").load(str(folder))


@pytest.mark.parametrize("changes", [{}, {"top_k": 2, "min_confidence": 0.9}])
def test_spark_gives_the_rows_of_score(changes, trained, files, engine):
    assert_scored_alike(mlflow_resnet.spark.scored(files, trained.model_uri, **changes).toPandas(), engine(**changes))


def test_mlflows_own_function_has_the_documented_schema(trained, spark, files, engine):
    predict = mlflow.pyfunc.spark_udf(spark, trained.model_uri, env_manager="local")
    scored = files.select("path", predict("content").alias("scored"))
    assert scored.select("scored.*").schema.simpleString() == (
        "struct<image:string,Scored Labels:string,Scored Probabilities_007:double,"
        "Scored Probabilities_blue sky:double,Scored Probabilities_grün:double,error:string>"
    )
    rows = scored.select("path", "scored.*").toPandas().set_index("path")
    expected = engine().set_index("image")
    expected.index = "file:" + expected.index
    assert_same_probabilities(rows.loc[expected.index, PROBABILITIES], expected[PROBABILITIES], of_auto())
    assert list(rows.loc[expected.index, "error"]) == list(expected["error"])


def test_mlflows_own_function_finds_the_images_and_gives_labels_as_text(trained, spark, images):
    from pyspark.sql import functions

    files = sorted((images / "val").rglob("*.jpg"))
    rows = [(number, str(file.parent), file.parent.name, str(file)) for number, file in enumerate(files)]
    table = spark.createDataFrame(rows, ["id", "folder", "label", "path"])
    text = mlflow.pyfunc.spark_udf(spark, trained.model_uri, env_manager="local", result_type="string")
    found, alone = text(functions.struct("id", "folder", "path")).alias("found"), text("path").alias("alone")
    for row in table.select("label", found, alone).collect():
        assert row.found == row.alone == row.label
    struct = mlflow.pyfunc.spark_udf(spark, trained.model_uri, env_manager="local")
    errors = table.select(struct("folder", "path").alias("scored")).select("scored.error").collect()
    assert [row.error.partition(";")[0] for row in errors] == ["a folder"] * len(files)  # spark_udf drops the path


def test_the_driver_of_spark_may_name_paths(trained, spark, images):
    assert set(mlflow.pyfunc.load_model(trained.model_uri).predict(str(images / "val"))["error"]) == {""}


def test_tasks_of_ray_may_name_paths(trained, images):
    ray = pytest.importorskip("ray", reason=needs("ray", "pip install '.[ray]'"))

    def find_errors(model_uri, folder):
        return set(mlflow.pyfunc.load_model(model_uri).predict(folder)["error"])

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(find_errors).remote(trained.model_uri, str(images / "val"))
        assert ray.get(task) == {""}
    finally:
        ray.shutdown()


def test_ray_gives_the_rows_of_score(trained, folder, engine):
    ray = pytest.importorskip("ray", reason=needs("ray", "pip install '.[ray]'"))
    from ray.data import read_binary_files

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        images = read_binary_files(str(folder), include_paths=True, file_extensions=SUFFIXES)
        for changes in ({}, {"top_k": 2, "min_confidence": 0.9}):
            scored = images.map_batches(
                mlflow_resnet.ScoreImages,
                fn_constructor_kwargs={"model_uri": trained.model_uri, **changes},
                batch_size=4,
                concurrency=1,
            )
            assert_scored_alike(scored.to_pandas(), engine(**changes))
    finally:
        ray.shutdown()
