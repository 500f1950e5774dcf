"""Scoring with Spark: `mlflow.pyfunc.spark_udf` over a `binaryFile` DataFrame, with the columns that `score` writes.

    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load("s3a://bucket/photos")
    mlflow_resnet.spark.scored(files, "models:/flowers@champion").write.parquet("s3a://bucket/scored")

`spark_udf` alone writes a missing label as the text `nan` or `None`, and does not know the files' names.
The extra [spark] installs pyspark, which needs Java.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import mlflow

from mlflow_resnet.model.prediction import IMAGE, SCORED_LABELS
from mlflow_resnet.options.predict import PredictOptions
from mlflow_resnet.registry.binding import bind
from mlflow_resnet.scoring.columns import ERROR, probability_columns, text_columns
from mlflow_resnet.scoring.loading import open_verified_model

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LOCAL = "^file:(//)?(?=/)"  # what Spark writes before local paths


def scored(
    files: DataFrame,
    model_uri: str,
    *,
    top_k: int = 0,
    min_confidence: float = 0.0,
    tta: str = "",
    resolution: int = 0,
) -> DataFrame:
    """One row for every row of `files`, with the columns of scored data; computed when Spark comes to it.

    Args:
        files: with the columns `path` and `content`.

    The other arguments are options of `mlflow-resnet score`.

    Raises:
        InvalidModelError: if it is no model of ours, or not what was logged.
    """
    from pyspark.sql import functions as f
    from pyspark.sql.types import DoubleType, StringType, StructField, StructType

    options = PredictOptions(top_k=top_k, min_confidence=min_confidence, tta=tta, resolution=resolution)
    model_uri = bind(model_uri).uri  # an alias may move
    with open_verified_model(model_uri) as stored:  # as each worker does, but here everything about the server is known
        columns = [SCORED_LABELS, *probability_columns(stored.classifier.classes, top_k), ERROR]
    text = text_columns(columns)
    struct = StructType([StructField(name, StringType() if name in text else DoubleType()) for name in columns])
    predict = mlflow.pyfunc.spark_udf(
        files.sparkSession, model_uri, result_type=struct, env_manager="local", params=asdict(options)
    )
    rows = files.select(f.regexp_replace("path", LOCAL, "").alias(IMAGE), predict("content").alias("scored"))
    value = {name: f.col("scored").getField(name) for name in columns}
    first_probability = next(value[name] for name in columns if name not in text)
    labeled = {name: f.when(first_probability.isNotNull(), value[name]) for name in text - {ERROR}}
    labeled[SCORED_LABELS] = f.when(value[ERROR] == "", value[SCORED_LABELS])
    return rows.select(IMAGE, *(labeled.get(name, value[name]).alias(name) for name in columns))
