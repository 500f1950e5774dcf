"""MLflow's own door to `evaluate`: `mlflow.models.evaluate(…, model_type="classifier", evaluators="resnet")`.

Where the caller names no evaluator, MLflow (3.17) asks all that there are, and its own fail on a model of ours: they
want one column of labels, and it gives a table. MLflow has no way to tell them, so what they do is replaced: they leave
models of ours to this one.

MLflow loads this module while it is itself imported, so nothing of ours is imported at the top: it may be half made.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models.evaluation import EvaluationArtifact, EvaluationResult, ModelEvaluator, artifacts
from mlflow.utils.import_hooks import register_post_import_hook

if TYPE_CHECKING:
    from mlflow.data.evaluation_dataset import EvaluationDataset
    from mlflow.pyfunc import PyFuncModel

    from mlflow_resnet.options.evaluate import EvaluateOptions

NAME = "resnet"
FLAVOR = "mlflow_resnet"  # `flavor.FLAVOR_NAME`, without importing torch for another's model
ARTIFACTS: dict[str, Callable[[str], EvaluationArtifact]] = {
    ".json": artifacts.JsonEvaluationArtifact,
    ".parquet": artifacts.ParquetEvaluationArtifact,
    ".png": artifacts.ImageEvaluationArtifact,
}

_logger = logging.getLogger(__name__)


class ResnetEvaluator(ModelEvaluator):
    """Measures a model of ours as the command `evaluate` does, on an image directory or a table of paths and labels.

    `evaluator_config` may have options of that command: batch_size, device, num_workers, on_bad_image, precision,
    resolution, tta.
    """

    def __init__(self) -> None:
        self.times_asked = 0

    def can_evaluate(self, *, model_type: Any, evaluator_config: Any, **kwargs: Any) -> bool:  # type: ignore[override]
        """MLflow asks this once before it evaluates, and once more if the caller named no evaluator."""
        self.times_asked += 1
        return model_type == "classifier"

    def evaluate(
        self,
        *,
        dataset: EvaluationDataset,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult | None:
        """Logs metrics and report to the run. None for another's model if the caller named no evaluator.

        Raises:
            MlflowResnetError: for anything a user can cause.
        """
        from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError

        flavors = list_flavors(model)
        if self.times_asked > 1 and FLAVOR not in flavors:
            return None
        if extra_metrics or custom_artifacts:
            raise InvalidOptionsError([f"the evaluator {NAME} takes no extra_metrics and no custom_artifacts"])
        if FLAVOR not in flavors:
            found = f"its flavors are {', '.join(flavors)}" if flavors else "it is not a saved model"
            raise InvalidModelError("model", f"{found}; the evaluator {NAME} measures those of the flavor {FLAVOR}.")
        if getattr(model, "env_manager", "local") != "local":
            raise InvalidOptionsError([f"env_manager is {model.env_manager!r}; the evaluator {NAME} needs 'local'"])
        return measure_model(model, dataset, read_evaluator_config(model, evaluator_config), run_id, model_id)


def measure_model(
    model: PyFuncModel, dataset: EvaluationDataset, options: EvaluateOptions, run_id: str, model_id: str | None
) -> EvaluationResult:
    """Measures a model of ours and records that in a run.

    Args:
        model_id: of the logged model, if MLflow knows it: then it logs the metrics itself.
    """
    from mlflow_resnet.evaluation.evaluation import evaluate_directory
    from mlflow_resnet.io.notes import Notes
    from mlflow_resnet.mlflow_seams import load_evaluation_artifact
    from mlflow_resnet.model.prediction import Predictor
    from mlflow_resnet.tracking import record
    from mlflow_resnet.tracking.data import check_dataset, get_dataset_images

    data = check_dataset(get_dataset_images(dataset), options.on_bad_image, options.num_workers)
    predictor = Predictor(model.get_raw_model(), options.device, options.num_workers, options.precision)
    predictor = predictor.at_test_time(options.tta, options.resolution)
    evaluation = evaluate_directory(predictor, data.directory, options.batch_size)
    recorder = record.Recorder(Notes(run_id=run_id, model_id=model_id or record.find_known_model_id(model.metadata)))
    files: dict[str, EvaluationArtifact] = {}
    uri = mlflow.get_artifact_uri(record.EVALUATION)

    def load_files(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if kind := ARTIFACTS.get(path.suffix):
                files[path.stem] = kind(f"{uri}/{path.name}")
                load_evaluation_artifact(files[path.stem], path)

    record.log_evaluation(recorder, evaluation, data, predictor, with_metrics=not model_id, look=load_files)
    return EvaluationResult(evaluation.metrics | evaluation.details, files, run_id)


def leave_to_resnet(evaluate: Callable[..., EvaluationResult | None]) -> Callable[..., EvaluationResult | None]:
    """Wraps `evaluate` of MLflow's own evaluators so that they skip classifiers of this package."""

    @functools.wraps(evaluate)
    def evaluate_others(self: ModelEvaluator, **given: Any) -> EvaluationResult | None:
        if given.get("model_type") != "classifier" or FLAVOR not in list_flavors(given.get("model")):
            return evaluate(self, **given)
        _logger.warning("MLflow's evaluator %s leaves this model to evaluators=%r", getattr(self, "name", ""), NAME)
        return None

    return evaluate_others


def list_flavors(model: Any) -> list[str]:
    """The flavors of a model that MLflow has loaded; none of a function, or of predictions without a model."""
    return list(model.metadata.flavors) if getattr(model, "metadata", None) else []


def read_evaluator_config(model: PyFuncModel, config: Mapping[str, Any]) -> EvaluateOptions:
    """The options of `evaluate` that `evaluator_config` gives; device and precision are by default the model's own.

    Raises:
        InvalidOptionsError: if it has others, or values that cannot work, or the model has another backend than torch.
    """
    from mlflow_resnet.errors import InvalidOptionsError
    from mlflow_resnet.options.evaluate import EvaluateOptions
    from mlflow_resnet.scoring.configuration import DEFAULT_MODEL_CONFIG, choose_device

    configured = DEFAULT_MODEL_CONFIG | dict(model.model_config or {})
    defaults = {field.name: field.default for field in fields(EvaluateOptions) if field.default is not MISSING}
    del defaults["backend"], defaults["follow_links"]  # the images are listed already
    problems = []
    if (backend := configured["backend"]) != DEFAULT_MODEL_CONFIG["backend"]:
        problems.append(
            f"the model predicts with {backend}; `mlflow-resnet evaluate` measures that, this evaluator not"
        )
    for name, value in config.items():
        if name not in defaults:
            problems.append(f"evaluator_config has {name!r}; it may have {', '.join(defaults)}")
        elif not isinstance(value, type(defaults[name])):
            problems.append(f"{name} is {value!r}; it must be of type {type(defaults[name]).__name__}")
    if problems:
        raise InvalidOptionsError(problems)
    given = {"device": choose_device(configured), "precision": configured["precision"]} | dict(config)
    return EvaluateOptions(model_uri="", image_dir="", **given)


def leave_models_of_ours(module: Any) -> None:
    """Has the evaluators of MLflow that are in `module` leave models of ours to this one."""
    from mlflow_resnet.mlflow_seams import wrap_builtin_evaluate

    wrap_builtin_evaluate(module, leave_to_resnet)


register_post_import_hook(leave_models_of_ours, "mlflow.models.evaluation.default_evaluator")
