from dataclasses import MISSING, fields
from importlib import import_module
from inspect import signature
from typing import get_type_hints

import click
import pytest
import yaml
from helpers import ROOT

from mlflow_resnet.cli import cli
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options import VERBS, PromoteOptions, SplitOptions, TrainOptions, options_class
from mlflow_resnet.options.base import Affects, names_affecting
from mlflow_resnet.options.metric_names import EPOCH_METRICS, EVALUATION_METRICS, LOWER_IS_BETTER

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


READ = ("source", "image_dir", "train_dir")


def command(verb):
    return cli.get_command(click.Context(cli), verb.replace("_", "-"))


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_has_the_options_names_and_defaults(verb):
    declared = {f.name: None if f.default is MISSING else f.default for f in fields(options_class(verb))}
    assert {p.name: None if p.required else p.default for p in command(verb).params} == declared


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_function_a_summary_help_and_an_example(verb):
    module = import_module(f"mlflow_resnet.verbs.{verb}")
    assert get_type_hints(getattr(module, verb))["options"] is options_class(verb)
    if verb != "serve":
        assert list(signature(getattr(module, f"summarize_{verb}")).parameters) == ["result", "options"]
    assert f"mlflow-resnet {options_class(verb).verb}" in command(verb).get_help(click.Context(command(verb)))


def test_every_verb_has_its_file_of_options():
    plain = {"__init__", "base", "formats", "metric_names", "predict"}
    assert {path.stem for path in (ROOT / "mlflow_resnet/options").glob("*.py")} == {*VERBS} | plain
    assert {path.stem for path in (ROOT / "mlflow_resnet/verbs").glob("*.py")} == {*VERBS} | {"__init__", "frame"}


def test_mlproject_has_the_verbs_without_arguments_and_declares_the_directories_that_they_read():
    classes = {verb: options_class(verb) for verb in VERBS}
    runnable = {v: k for v, k in classes.items() if not any(f.metadata["is_argument"] for f in fields(k))}
    assert set(ENTRY_POINTS) == {"main"} | {kind.verb for kind in runnable.values()}
    assert ENTRY_POINTS["main"] == ENTRY_POINTS["train"]
    for kind in runnable.values():
        required = [f.name for f in fields(kind) if f.default is MISSING and f.name in READ]
        entry_point = ENTRY_POINTS[kind.verb]
        declared = entry_point.get("parameters", {})
        assert list(declared) == required[:1]  # split writes to the others
        assert all(parameter == {"type": "path"} for parameter in declared.values())
        flags = "".join(f" --{name.replace('_', '-')} {{{name}}}" for name in declared)
        assert entry_point["command"] == f"python -m mlflow_resnet {kind.verb}{flags}"


def test_every_option_of_train_says_what_it_affects_in_one_set():
    kinds = [names_affecting(TrainOptions, kind) for kind in Affects]
    assert sorted(name for names in kinds for name in names) == sorted(f.name for f in fields(TrainOptions))
    assert names_affecting(TrainOptions, Affects.IMAGES) == ("train_dir", "val_dir", "test_dir")
    assert {"learning_rate", "architecture"} <= {*names_affecting(TrainOptions, Affects.WEIGHTS)}
    assert not {"precision", "random_seed"} & {*names_affecting(TrainOptions, Affects.WEIGHTS)}


def test_metrics_say_which_direction_is_better():
    assert {"val_loss", "train_loss", "log_loss"} == LOWER_IS_BETTER
    assert all(name.endswith("loss") == (name in LOWER_IS_BETTER) for name in EPOCH_METRICS + EVALUATION_METRICS)


def test_the_defaults_are_the_designers_or_left_to_the_recipe():
    options = TrainOptions(train_dir="images")
    assert (options.architecture, options.pretrained, options.zero_init_residual) == ("resnext101_32x8d", True, False)
    assert (options.random_seed, options.print_frequency, options.resize_size, options.crop_size) == (1, 10, 256, 224)
    assert {options.epochs, options.batch_size, options.learning_rate, options.patience} == {"auto"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 2"),
        ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0"),
        ({"crop_size": 300}, "crop_size 300 is above resize_size 256; raise resize_size"),
        ({"architecture": "resnet19"}, "architecture is 'resnet19'; choose one of resnet18, resnet34"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0; it must be below 1"),
        ({"on_bad_image": "ignore"}, "on_bad_image is 'ignore'; choose one of error, skip"),
        ({"alias": "champion"}, "registered_model_name is empty; give the name to register under"),
        ({"alias": "latest", "registered_model_name": "m"}, "which MLflow reserves"),
        ({"alias": "v3", "registered_model_name": "m"}, "which MLflow reserves"),
        ({"alias": "a b", "registered_model_name": "m"}, "use letters, digits, _ and - only"),
        ({"random_seed": 2**63}, "random_seed is 9223372036854775808; it must be below 9223372036854775808"),
        ({"registered_model_name": "  "}, "not only spaces"),
        ({"registered_model_name": "a/b"}, "MLflow allows no / and no : in it"),
    ],
)
def test_an_option_that_cannot_work_is_refused(changes, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        TrainOptions(**{"train_dir": "images"} | changes)
    assert problem in caught.value.message


def test_all_problems_are_named_at_once():
    with pytest.raises(InvalidOptionsError) as caught:
        TrainOptions(train_dir="images", epochs=0, batch_size=0, label_smoothing=2.0)
    assert len(caught.value.problems) == 3


def test_other_verbs_check_theirs():
    with pytest.raises(InvalidOptionsError, match="metric is 'accuracy'; choose one of top1_accuracy"):
        PromoteOptions(model_uri="m", image_dir="i", metric="accuracy")
    with pytest.raises(InvalidOptionsError, match="max_drop is -0.1; it must be at least 0"):
        PromoteOptions(model_uri="m", image_dir="i", max_drop=-0.1)
    with pytest.raises(InvalidOptionsError, match="fraction is 0; it must be above 0"):
        SplitOptions(image_dir="i", train_dir="t", val_dir="v", fraction=0)


def test_problems_of_several_fields_are_named_at_once():
    with pytest.raises(InvalidOptionsError) as caught:
        TrainOptions(train_dir="images", crop_size=999, alias="x", batch_size=15, processes=2)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("0.01", 0.01), ("1e-3", 0.001)])
def test_a_number_can_be_left_to_the_recipe(text, value):
    context = click.Context(command("train"))
    command("train").parse_args(context, ["--train-dir", "x", "--learning-rate", text])
    assert context.params["learning_rate"] == value


@pytest.mark.parametrize("text", ["true", "True", "false", "1", "0"])
def test_booleans_are_text_as_mlproject_passes_them(text):
    context = click.Context(command("train"))
    _ = command("train").parse_args(context, ["--train-dir", "x", "--pretrained", text])
    assert context.params["pretrained"] is (text.lower() in ("true", "1"))
