import mlflow
import pytest
import torch
from helpers import TINY, learn
from rounding import about

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.model.network import build_network, find_stage, freeze_stages, train_mode
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.optimizer import build_optimizer, set_learning_rate
from mlflow_resnet.training.recipe import RECIPES, decide_recipe, phases
from mlflow_resnet.verbs.train import train

pytestmark = pytest.mark.networks

CLASSES = ("cat", "dog")
FAST = TINY | {"epochs": 2, "num_workers": 1}


def decided(classes=CLASSES, images=1000, **given):
    return decide_recipe(TrainOptions(train_dir="images", **given), classes, images)


def options(images, **changes):
    return TrainOptions(**{"train_dir": str(images / "train"), "val_dir": str(images / "val")} | FAST | changes)


@pytest.fixture
def from_trained(trained_weights):
    """Options that start from the model that the session trained."""
    return {"weights": trained_weights, "learning_rate": 0.01, "batch_size": 8}


def changed_stages(before, after):
    """Stages of which a parameter or a statistic differs."""
    pairs = ((name, before[name], after[name]) for name in before)
    return {find_stage(name) for name, old, new in pairs if not torch.equal(old, new)}


def test_auto_trains_from_scratch_without_weights_and_probes_first_with_them():
    assert decided(pretrained=False).strategy == "scratch"
    assert decided().strategy == "probe_then_finetune"
    assert decided(pretrained=False, weights="own.pth").strategy == "probe_then_finetune"


def test_what_is_given_wins_over_the_recipe():
    recipe = decided(strategy="finetune", epochs=7, optimizer="adamw", random_resized_crop=False, mixup=0.2)
    assert (recipe.epochs, recipe.optimizer, recipe.random_resized_crop, recipe.mixup) == (7, "adamw", False, 0.2)
    assert recipe.learning_rate == RECIPES["finetune"].learning_rate


def test_the_designer_recipe_is_the_designers_training():
    """Train PyTorch Model and the default transformations, as its documentation and code have them."""
    recipe = decided(recipe="designer")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.patience) == (5, 16, 0.001, 3)
    assert (recipe.optimizer, recipe.schedule, recipe.weight_decay, recipe.decay_all) == (
        "sgd",
        "polynomial",
        1e-4,
        True,
    )
    assert (recipe.warmup_epochs, recipe.label_smoothing, recipe.layer_decay) == (0, 0, 1)
    assert (recipe.random_resized_crop, recipe.random_horizontal_flip) == (False, True)
    assert [phase.strategy for phase in phases(recipe)] == ["finetune"]


def test_the_designer_recipe_normalizes_with_one_half(images):
    result = learn(options(images, recipe="designer"))
    assert result.classifier.preprocessing.mean == result.classifier.preprocessing.std == (0.5, 0.5, 0.5)


def test_digits_and_letters_are_not_mirrored():
    assert not decided(classes=tuple("0123"), pretrained=False).random_horizontal_flip
    assert decided(classes=("cat", "7"), pretrained=False).random_horizontal_flip
    assert decided(classes=tuple("ab"), pretrained=False, random_horizontal_flip=True).random_horizontal_flip


def test_two_fifths_of_the_epochs_and_at_most_five_are_a_probe():
    probes = [decided(epochs=epochs).probe_epochs for epochs in (1, 2, 3, 5, 100)]
    assert probes == [0, 0, 1, 2, 5]
    assert [phase.epochs for phase in phases(decided(epochs=3))] == [1, 2]


def test_a_few_images_make_a_batch_of_their_own():
    assert decided(images=7).batch_size == 7
    assert decided(images=7, processes=2).batch_size == 6


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"strategy": "linear_probe", "pretrained": False}, "so the features would be random"),
        ({"strategy": "scratch", "weights": "a.pth"}, "strategy is 'scratch' but weights is 'a.pth'"),
        ({"strategy": "linear_probe", "freeze_until": "layer1"}, "leave freeze_until out"),
        ({"strategy": "linear_probe", "mixup": 0.2}, "mixup and cutmix do not apply"),
        ({"recipe": "designer", "strategy": "linear_probe"}, "recipe 'designer' trains all layers"),
        ({"epochs": 5, "warmup_epochs": 6.0}, "warmup_epochs 6 is more than the 5 epochs"),
        ({"epochs": 3, "probe_epochs": 3}, "probe_epochs 3 leaves none of the 3 epochs to finetune in"),
        ({"probe_epochs": 50}, "probe_epochs 50 leaves none of the 13 epochs"),
        ({"best_metric": "val_top5_accuracy"}, "which needs more than 5 classes, not 2"),
        ({"batch_size": 15, "processes": 2}, "batch_size 15 cannot be divided among 2 processes"),
        ({"batch_size": 8, "accumulation_steps": 8}, "leaves less than 2 images"),
        ({"random_crop": True, "random_resized_crop": True}, "choose one"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0; it must be at least 0"),
        ({"mixing_until": 1.5}, "mixing_until is 1.5; it must be at most 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        decided(**given)
    assert problem in caught.value.message


def test_earlier_stages_learn_more_slowly():
    network = build_network("resnet18", 3)
    optimizer = build_optimizer(network, decided(strategy="finetune", layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {find_stage(name): rates[id(p)] for name, p in network.named_parameters()}
    halves = {"head": 1, "layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625, "stem": 0.03125}
    assert found == pytest.approx(halves)


def test_weight_decay_spares_norms_and_biases_but_not_in_the_designer():
    network = build_network("resnet18", 3)
    for recipe, dimensions in [(decided(strategy="finetune"), {2, 4}), (decided(recipe="designer"), {1, 2, 4})]:
        groups = build_optimizer(network, recipe).param_groups
        assert {p.ndim for group in groups if group["weight_decay"] for p in group["params"]} == dimensions


def test_frozen_stages_get_no_gradient_and_keep_their_statistics():
    network = build_network("resnet18", 3)
    freeze_stages(network, "layer2")
    train_mode(network, "layer2")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(torch.randn(4, 3, 64, 64)).sum().backward()
    graded = {find_stage(name) for name, p in network.named_parameters() if p.grad is not None}
    assert graded == {"layer3", "layer4", "head"}
    assert changed_stages(before, network.state_dict()) == {"layer3", "layer4"}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({"strategy": "linear_probe"}, {"head"}),
        ({"strategy": "finetune", "freeze_until": "layer3"}, {"layer4", "head"}),
        ({"strategy": "finetune", "learning_rate": 0.001}, {"stem", "layer1", "layer2", "layer3", "layer4", "head"}),
        (
            {"strategy": "probe_then_finetune", "probe_epochs": 1, "learning_rate": 0.001, "patience": 0},
            {"stem", "layer1", "layer2", "layer3", "layer4", "head"},
        ),
    ],
    ids=lambda value: value.get("strategy") if isinstance(value, dict) else "",
)
def test_a_strategy_changes_what_it_says(images, trained, from_trained, given, changed):
    before = {k: v.clone() for k, v in trained.classifier.network.state_dict().items()}
    result = learn(options(images, **from_trained | {"best_metric": "train_loss"} | given))
    after = result.classifier.network.state_dict()
    assert changed_stages(before, after) <= changed
    if result.results[-1].is_best:
        assert changed_stages(before, after) == changed


def test_a_probe_measures_what_scoring_sees(images, from_trained):
    """Its validation comes from features that were computed once, the metric must still be the whole network's."""
    from mlflow_resnet.evaluation.evaluation import evaluate_directory
    from mlflow_resnet.images.directories import list_labeled
    from mlflow_resnet.model.prediction import Predictor

    result = learn(options(images, **from_trained, strategy="linear_probe", epochs=3))
    again = evaluate_directory(Predictor(result.classifier), list_labeled(images / "val")).headline
    assert result.metrics["val_loss"] == about(again["log_loss"])
    assert result.metrics["val_top1_accuracy"] == again["top1_accuracy"]


def test_a_probe_with_augmentation_trains_on_several_views(images, from_trained):
    flipping = {"strategy": "linear_probe", "random_resized_crop": True, "epochs": 2}
    one = learn(options(images, **from_trained, **flipping, feature_views=1))
    two = learn(options(images, **from_trained, **flipping, feature_views=2))
    assert one.metrics["train_loss"] != two.metrics["train_loss"]


def test_the_run_has_what_auto_became(workdir, images):
    result = train(options(images))
    params = mlflow.get_run(result.run_id).data.params
    assert (params["strategy"], params["recipe.strategy"]) == ("auto", "scratch")
    assert params["recipe.label_smoothing"] == str(RECIPES["scratch"].label_smoothing)
    assert mlflow.artifacts.load_dict(f"runs:/{result.run_id}/training.json")["recipe"]["epochs"] == 2


def test_the_model_tells_how_it_was_trained(workdir, images):
    import mlflow_resnet

    result = train(options(images, rotation_degrees=15.0))
    training = mlflow_resnet.load_model(result.model_uri).training
    assert {"name": "RandomRotation", "degrees": 15.0}.items() <= training["transformations"][-1].items()
    assert training["recipe"]["strategy"] == "scratch"
