"""Extends the checks that MLflow makes before it calls a model of ours.

MLflow compares what a caller gives with the model's signature. Of the one unnamed column of our signature, which alone
takes texts, bytes, lists and tables, it makes "the first column", whatever is in it; and it drops params that it does
not know. It has no hook for either, so its function is replaced in a process that loads a model of ours. It is told
whose model it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from mlflow_resnet.options.predict import explain_unknown_params
from mlflow_resnet.scoring.inputs import as_table, image_column
from mlflow_resnet.scoring.over_http.guard import is_serving

LOADER = "mlflow_resnet.flavor"  # `flavor.__name__`, by which MLflow tells whose model it is


def check_input(
    original: Callable[..., Any], data: Any, params: Any, input_schema: Any, params_schema: Any, flavor: Any = None
) -> tuple[Any, Any]:
    """Returns the result of `original`; for models of ours, a table with one column or a list.

    Raises:
        InvalidOptionsError: if a table has no column of images, or a param is unknown.
    """
    if flavor != LOADER:
        return original(data, params, input_schema, params_schema, flavor)
    if params_schema is not None and isinstance(params, dict):
        known = [param.name for param in params_schema.params]
        if unknown := [name for name in params if name not in known]:
            raise explain_unknown_params(() if is_serving() else unknown, known)
    if input_schema is None or input_schema.is_tensor_spec() or input_schema.has_input_names():
        return original(data, params, input_schema, params_schema, flavor)  # a signature of the caller's own
    table = as_table(data)
    given = data if table is None else image_column(table).to_frame()
    checked, params = original(given, params, input_schema, params_schema, flavor)
    if table is None and isinstance(checked, pd.DataFrame):
        checked = checked.iloc[:, 0].tolist()
    return checked, params
