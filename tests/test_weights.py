from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights

import mlflow_resnet
from mlflow_resnet.errors import InvalidOptionsError, WeightsDownloadError, WeightsError, WeightsMismatchError
from mlflow_resnet.model import weights
from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.model.network import build_network
from mlflow_resnet.options import ARCHITECTURES

CLASSES = ("cat", "dog", "owl")
load_starting_weights = partial(weights.load_starting_weights, load_model=mlflow_resnet.load_model)


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty cache; whatever is not in it would have to be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "SECONDS_BETWEEN_TRIES", 0.01)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def donor():
    """Stands for ImageNet weights: 1000 classes, its own random numbers."""
    return build_network("resnet18", 1000, random_seed=99)


def classifier(architecture="resnet18", classes=CLASSES):
    return new_classifier(architecture, classes)


def body_equal(network, state):
    own = network.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("fc."))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_one_output_per_class(architecture):
    network = build_network(architecture, 3).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_default_architecture_is_the_designers():
    from mlflow_resnet.options import TrainOptions

    options = TrainOptions(train_dir="images")
    assert (options.architecture, options.pretrained, options.zero_init_residual) == ("resnext101_32x8d", True, False)


def test_zero_init_residual_starts_each_branch_at_zero():
    assert build_network("resnet18", 3, zero_init_residual=True).layer1[0].bn2.weight.abs().sum() == 0
    assert build_network("resnet18", 3).layer1[0].bn2.weight.abs().sum() > 0


def test_the_head_depends_on_the_seed_and_the_global_state_does_not_change():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = (build_network("resnet18", 3, random_seed=seed).fc.weight for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_imagenet_weights_come_from_the_cache_and_get_a_new_head(torch_home, donor, name):
    torch.save(donor.state_dict(), torch_home / "resnet18-f37072fd.pth")
    model = classifier()
    message = load_starting_weights(model, name)
    assert body_equal(model.network, donor.state_dict())
    assert model.network.fc.out_features == 3
    assert "its head for 1000 classes was dropped, a new head for 3 classes was added" in message


def test_a_thousand_classes_of_ones_own_do_not_get_the_imagenet_head(torch_home, donor):
    torch.save(donor.state_dict(), torch_home / "resnet18-f37072fd.pth")
    model = classifier(classes=tuple(f"{i:04d}" for i in range(1000)))
    load_starting_weights(model, "DEFAULT")
    assert not torch.equal(model.network.fc.weight, donor.fc.weight)


def test_half_precision_files_are_cast(torch_home):
    donor = build_network("wide_resnet50_2", 1000)
    half = {key: value.half() if value.is_floating_point() else value for key, value in donor.state_dict().items()}
    torch.save(half, torch_home / "wide_resnet50_2-95faca4d.pth")
    model = classifier("wide_resnet50_2")
    load_starting_weights(model, "IMAGENET1K_V1")
    assert model.network.conv1.weight.dtype == torch.float32
    assert torch.equal(model.network.conv1.weight.half(), half["conv1.weight"])


def test_old_files_without_batch_counters_load(torch_home, donor):
    old = {key: value for key, value in donor.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, torch_home / "resnet18-f37072fd.pth")
    load_starting_weights(classifier(), "DEFAULT")


def test_a_failed_download_names_url_cache_file_and_ways_out(torch_home, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(WeightsDownloadError) as caught:
        load_starting_weights(classifier(), "DEFAULT")
    message = caught.value.message
    assert ResNet18_Weights.DEFAULT.url in message
    assert "3 tries" in message
    assert str(torch_home / "resnet18-f37072fd.pth") in message
    assert "--weights FILE" in message
    assert "--pretrained false" in message
    assert "\n" not in message


def test_training_never_starts_silently_from_scratch(torch_home, monkeypatch, workdir, images):
    from mlflow_resnet.options import TrainOptions
    from mlflow_resnet.pipeline import train

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsDownloadError):
        train(TrainOptions(train_dir=str(images / "train"), architecture="resnet18"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_start_from_a_state_dict_file(tmp_path, donor, suffix):
    path = tmp_path / f"mine{suffix}"
    save_file(donor.state_dict(), path) if suffix == ".safetensors" else torch.save(donor.state_dict(), path)
    model = classifier()
    load_starting_weights(model, str(path))
    assert body_equal(model.network, donor.state_dict())


def test_start_from_a_training_checkpoint_of_data_parallel(tmp_path, donor):
    nested = {"model": {f"module.{key}": value for key, value in donor.state_dict().items()}, "epoch": 3}
    torch.save(nested, tmp_path / "checkpoint.pth")
    model = classifier()
    load_starting_weights(model, str(tmp_path / "checkpoint.pth"))
    assert body_equal(model.network, donor.state_dict())


def test_start_from_s3(tmp_path, donor, s3):
    torch.save(donor.state_dict(), tmp_path / "mine.pth")
    s3.upload_file(str(tmp_path / "mine.pth"), "bucket", "weights/mine.pth")
    model = classifier()
    load_starting_weights(model, "s3://bucket/weights/mine.pth")
    assert body_equal(model.network, donor.state_dict())


def test_a_head_of_the_same_size_is_kept(tmp_path):
    three = build_network("resnet18", 3, random_seed=99)
    torch.save(three.state_dict(), tmp_path / "three.pth")
    model = classifier()
    assert "head included" in load_starting_weights(model, str(tmp_path / "three.pth"))
    assert torch.equal(model.network.fc.weight, three.fc.weight)


def test_fine_tune_a_registered_model(trained):
    same, other = classifier(classes=trained.classifier.classes), classifier()
    assert "head included" in load_starting_weights(same, "models:/colors@champion")
    assert torch.equal(same.network.fc.weight, trained.classifier.network.fc.weight)
    assert "its head for 3 classes was dropped" in load_starting_weights(other, trained.model_uri)
    assert body_equal(other.network, trained.classifier.network.state_dict())


def test_weights_of_another_architecture_list_the_keys(tmp_path, donor):
    torch.save(donor.state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsMismatchError, match="not a state_dict of resnet50") as caught:
        load_starting_weights(classifier("resnet50"), str(tmp_path / "r18.pth"))
    assert "keys missing: layer1.0.bn3.bias" in caught.value.message
    assert "of another shape: layer1.0.conv1.weight" in caught.value.message


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"fc.weight": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="not a readable state_dict"):
        load_starting_weights(classifier(), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere.pth", "no such file"),
        ("IMAGENET1K_V9", "resnet18 has IMAGENET1K_V1, DEFAULT; otherwise name a .pth or .safetensors file"),
        ("models:/nothing/1", "models:/nothing/1"),
        ("cut.pth", "not a readable state_dict"),
    ],
)
def test_weights_that_cannot_be_had(workdir, donor, name, problem):
    torch.save(donor.state_dict(), "whole.pth")
    with open("whole.pth", "rb") as whole, open("cut.pth", "wb") as cut:
        cut.write(whole.read()[:100_000])
    with pytest.raises(WeightsError, match=problem):
        load_starting_weights(classifier(), name)


def test_an_unknown_architecture_lists_the_known():
    with pytest.raises(InvalidOptionsError, match="choose one of resnet18, resnet34, resnet50"):
        build_network("resnet19", 3)


def test_both_sets_of_imagenet_weights_are_offered():
    assert {"IMAGENET1K_V1", "IMAGENET1K_V2"} <= set(ResNet50_Weights.__members__)
    assert weights.imagenet_weights("resnet50", "IMAGENET1K_V2") is ResNet50_Weights.IMAGENET1K_V2
