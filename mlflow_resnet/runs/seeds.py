"""Trainings that differ in nothing but their seed: child runs of one run, which tells their mean and its interval."""

from __future__ import annotations

import json
import math
import statistics
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy.stats import t as student

from mlflow_resnet import flavor
from mlflow_resnet._version import __version__
from mlflow_resnet.evaluation.metrics import LEVEL
from mlflow_resnet.images.layout import name_data_set
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.mlflow_seams import NOTE_TAG
from mlflow_resnet.options.metric_names import FRACTIONS, LOWER_IS_BETTER
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.registry.versions import parse_model_id
from mlflow_resnet.runs.folder import default_folder, open_training_folder, training_folder
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.card import seeds_card
from mlflow_resnet.tracking.pieces import add_output
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import SEEDS_TAG, enter_run
from mlflow_resnet.tracking.training_record import TrainingRecord, TrainResult

SEEDS_NOTES = "seeds.json"
NOT_AVERAGED = ("interval/",)  # metrics that say something about one training


@dataclass(frozen=True)
class Spread:
    """What a metric was over several seeds: mean, standard deviation, and the 95 % interval of the mean.

    The interval is Student's t for a few normal values: what another seed would give on average, on the same images. It
    ends where the metric does.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SeedsResult(TrainResult):
    """What `train` with several seeds leaves: the training that is best on the validation images, and all of them.

    Attributes:
        parent_run_id: of the run that the trainings are child runs of.
        best_seed: of the training whose result this is.
        records: of all trainings, by seed.
        spreads: of each metric that all trainings have.
    """

    parent_run_id: str
    best_seed: int
    records: Mapping[int, TrainingRecord]
    spreads: Mapping[str, Spread]


def vary_seed(options: TrainOptions) -> dict[int, TrainOptions]:
    """Returns the options of each training by its seed: the same split, a folder of its own, nothing registered."""
    first, folder = options.random_seed, folder_of_seeds(options)
    shared = replace(options, seeds=1, split_seed=options.seed_of_split, registered_model_name="", alias="")
    return {
        seed: replace(shared, random_seed=seed, checkpoint_dir=str(folder / f"seed-{seed}"))
        for seed in range(first, first + options.seeds)
    }


def folder_of_seeds(options: TrainOptions) -> Path:
    """Where the folders of all trainings are. More seeds are more folders in the same one."""
    return Path(options.checkpoint_dir or f"{default_folder(options)}-seeds")


@contextmanager
def enter_run_of_seeds(options: TrainOptions) -> Iterator[Run]:
    """The run that the trainings are child runs of; that of an earlier call with these options goes on."""
    name = f"{options.seeds} seeds of {options.architecture} on {name_data_set(options.train_dir)}"
    params = known_params(options)
    folder = folder_of_seeds(options)
    with training_folder(replace(options, checkpoint_dir=str(folder))):  # for this process alone
        notes = Notes(folder / SEEDS_NOTES)
        if options.resume == "never":
            notes.clear()
        record_id = notes.get("record_id") or uuid.uuid4().hex
        with enter_run(name, params, record_id, notes.get("run_id")) as run:
            notes.note(record_id=record_id, run_id=run.info.run_id)
            mlflow.set_tags({SEEDS_TAG: "{}", "mlflow_resnet.version": __version__})
            record.log_params(make_recorder(run), params)
            yield run


def known_params(options: TrainOptions) -> dict[str, object]:
    """What all trainings share; later calls may add seeds, and a run's params cannot be changed."""
    return {name: value for name, value in asdict(options).items() if name not in ("seeds", "random_seed")}


def record_seeds(options: TrainOptions, records: Mapping[int, TrainingRecord], run: Run) -> SeedsResult:
    """Logs the means to the run of all, and registers the best training's model if a name is given."""
    spreads = measure_spreads([each.metrics for each in records.values()])
    metric, sign = options.best_metric, -1 if options.best_metric in LOWER_IS_BETTER else 1
    best_seed = max(records, key=lambda seed: sign * records[seed].metrics[metric])
    best = records[best_seed]
    if options.registered_model_name:
        best = register_training(vary_seed(options)[best_seed], options)
    logged = {name: spread.mean for name, spread in spreads.items()}
    logged |= {f"seeds/{name}_{end}": getattr(spreads[name], end) for name in spreads for end in ("low", "high")}
    mlflow.log_metrics({name: value for name, value in logged.items() if math.isfinite(value)})
    if model_id := parse_model_id(best.model_uri):
        add_output(MlflowClient(), run.info.run_id, model_id, best.best_epoch)
    runs = {seed: each.run_id for seed, each in records.items()}
    values = {seed: each.metrics for seed, each in records.items()}
    mlflow.set_tags({SEEDS_TAG: json.dumps(runs), NOTE_TAG: seeds_card(options, values, spreads, best_seed)})
    return SeedsResult(
        **vars(best),
        classifier=flavor.load_model(best.model_uri),
        parent_run_id=run.info.run_id,
        best_seed=best_seed,
        records=records,
        spreads=spreads,
    )


def register_training(own: TrainOptions, options: TrainOptions) -> TrainingRecord:
    """Registers the model of a finished training. Returns its record with the version."""
    with open_training_folder(own.checkpoint_dir) as folder:
        folder.register(options.registered_model_name, options.alias)
        return folder.read_record()


def drop_classifier(result: TrainResult) -> TrainingRecord:
    """Returns a result without its classifier, of which several could fill the memory."""
    return TrainingRecord(**{name: value for name, value in vars(result).items() if name != "classifier"})


def measure_spreads(metrics: list[Mapping[str, float]]) -> dict[str, Spread]:
    """Returns the spread of each metric that all of several trainings have."""
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    return {
        name: measure_spread([each[name] for each in metrics], *find_limits(name))
        for name in shared
        if not name.startswith(NOT_AVERAGED)
    }


def find_limits(metric: str) -> tuple[float, float]:
    """Returns the least and the largest value that a metric of a training can have."""
    if metric.partition("_")[2] in FRACTIONS:
        return 0.0, 1.0
    return (0.0 if metric.endswith("_loss") else -math.inf), math.inf


def measure_spread(values: list[float], least: float = -math.inf, most: float = math.inf) -> Spread:
    """Returns the spread of two or more values, which can be from `least` to `most`."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = student.ppf((1 + LEVEL) / 2, len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, max(mean - half, least), min(mean + half, most))
