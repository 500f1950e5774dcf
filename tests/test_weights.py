import argparse
import enum
import hashlib
import io
import pydoc
import socket
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights

import mlflow_resnet
from mlflow_resnet.errors import InvalidOptionsError, WeightsDownloadError, WeightsError, WeightsMismatchError
from mlflow_resnet.model import weights
from mlflow_resnet.model.classifier import new_classifier
from mlflow_resnet.model.network import build_network
from mlflow_resnet.options.train import ARCHITECTURES

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


@pytest.fixture
def offered(tmp_path):
    """A folder, and the address at which its files are had."""
    folder = tmp_path / "offered"
    folder.mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    Thread(target=serving.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def test_a_download_is_what_its_name_says(offered, tmp_path):
    folder, url = offered
    content = bytes(range(256)) * 2**13
    good, bad = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth", "net-00000000.pth"
    for name in (good, bad):
        (folder / name).write_bytes(content)
    weights.fetch(f"{url}/{good}", tmp_path / "cache" / good)
    assert (tmp_path / "cache" / good).read_bytes() == content
    with pytest.raises(OSError, match="SHA-256"):
        weights.fetch(f"{url}/{bad}", tmp_path / "cache" / bad)
    with pytest.raises(OSError, match="404"):
        weights.fetch(f"{url}/nothing.pth", tmp_path / "cache" / "nothing-0.pth")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [good]


def test_a_server_that_sends_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(OSError, match="timed out"),
    ):
        weights.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/net-0.pth", tmp_path / "net-0.pth")


def test_training_never_starts_silently_from_scratch(torch_home, monkeypatch, workdir, images):
    from mlflow_resnet.options import TrainOptions
    from mlflow_resnet.verbs.train import train

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


class Progress(dict):
    """An object of somebody's training script."""


class Kind(enum.Enum):
    BEST = "best"


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


ARGUMENTS = argparse.Namespace(lr=0.1, data_path=Path("imagenet"), model="resnet18", kind=Kind.BEST)
CHECKPOINTS = {
    "model_best.pth.tar": lambda state: {"epoch": 3, "arch": "resnet18", "state_dict": prefixed("module.", state)},
    "checkpoint.pth": lambda state: {  # as torchvision's references/classification/train.py has it
        **{"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3, "args": ARGUMENTS},
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", half(state))},
    },
    "lightning.ckpt": lambda state: {
        "state_dict": {**prefixed("model.", state), "loss.weight": torch.ones(3)},
        "hyper_parameters": Progress(lr=0.1, best=np.float64(0.7), since=datetime.now()),
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(1.0), "history": Progress()}},
    },
    "compiled.pt": lambda state: prefixed("_orig_mod.", state),
    "compiled and parallel.pth": lambda state: {"model": prefixed("_orig_mod.module.", state)},
    "pytorch_model.bin": lambda state: state,
    "tutorial.tar": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}, "loss": 0.4},
    "a teacher.pth": lambda state: {"teacher": prefixed("backbone.", state), "student_head": {"weight": torch.ones(2)}},
    "no suffix": lambda state: {"net": state, "acc": np.float32(93.1), "best": {"same": state}},
}


def half(state):
    return {key: value / 2 for key, value in state.items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_start_from_the_checkpoints_that_people_have(workdir, donor, name, legacy):
    torch.save(CHECKPOINTS[name](donor.state_dict()), name, _use_new_zipfile_serialization=not legacy)
    model = classifier()
    assert "its head for 1000 classes was dropped" in load_starting_weights(model, name)
    assert body_equal(model.network, donor.state_dict())


def test_start_from_safetensors_of_any_name_and_from_a_file_uri(workdir, donor):
    save_file(prefixed("model.", donor.state_dict()), "weights.bin")
    for name in ("weights.bin", (workdir / "weights.bin").as_uri()):
        model = classifier()
        load_starting_weights(model, name)
        assert body_equal(model.network, donor.state_dict())


def test_start_from_the_folder_of_a_saved_model(trained, tmp_path):
    folder = tmp_path / "model"
    mlflow_resnet.save_model(trained.classifier, folder)
    for name in (str(folder), folder.as_uri()):
        model = classifier(classes=trained.classifier.classes)
        assert "head included" in load_starting_weights(model, name)
        assert torch.equal(model.network.fc.weight, trained.classifier.network.fc.weight)


def test_weights_with_nan_are_refused_when_they_are_read(workdir, donor):
    state = donor.state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    state["bn1.running_var"][0] = float("inf")
    torch.save(state, "nan.pth")
    with pytest.raises(
        WeightsError, match=r"nan.pth: NaN or infinity in bn1.running_var, layer1.0.conv1.weight\. Name"
    ):
        load_starting_weights(classifier(), "nan.pth")


UNREADABLE = {
    "whole.pth": (lambda net: net, "holds a pickled object (torchvision.models.resnet.ResNet) and no state_dict"),
    "in model.pth": (lambda net: {"model": net}, "holds a pickled object (torchvision.models.resnet.ResNet)"),
    "arguments.pth": (lambda net: {"args": ARGUMENTS}, "holds a pickled object (argparse.Namespace)"),
    "numbers.pth": (lambda net: {"epoch": 3}, "holds no state_dict"),
    "two.pth": (
        lambda net: {"teacher": net.state_dict(), "student": net.state_dict()},
        "holds several networks: teacher, student. Save one of them as a state_dict",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_holds_no_state_dict_says_what_it_holds(workdir, donor, name):
    make, problem = UNREADABLE[name]
    torch.save(make(donor), name)
    with pytest.raises(WeightsError) as caught:
        load_starting_weights(classifier(), name)
    assert problem in caught.value.message
    assert "\x1b" not in caught.value.message


def test_files_that_are_no_weights(workdir):
    Path("pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), "script.pt")
    for name, problem in (
        ("pointer.pth", "neither a file of torch.save nor of safetensors"),
        ("script.pt", "torchscript"),
    ):
        with pytest.raises(WeightsError, match=f"not a readable state_dict .*{problem}"):
            load_starting_weights(classifier(), name)


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


class Trap:
    def __init__(self, function, *arguments):
        self.called = (function, arguments)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", ["io.open", "builtins.exec", "posix.system", "subprocess.call"])
def test_a_pickle_is_not_run(workdir, donor, function, legacy):
    argument = "open('trapped', 'w')" if function == "builtins.exec" else "trapped"
    trap = Trap(pydoc.locate(function), argument, *["w"] * (function == "io.open"))
    torch.save({**donor.state_dict(), "trap": trap}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"not a readable state_dict \(it would call \S+, which no weights need"):
        load_starting_weights(classifier(), "evil.pth")
    assert not Path("trapped").exists()


def test_objects_of_others_are_not_even_imported(workdir, donor):
    Path("evil_module.py").write_text("open('trapped', 'w')\nclass Settings: pass\n")
    content = io.BytesIO()
    torch.save({"model": donor.state_dict(), "settings": Progress()}, content)
    Path("evil.pth").write_bytes(content.getvalue().replace(b"test_weights\nProgress", b"evil_module_\nSettings"))
    load_starting_weights(classifier(), "evil.pth")
    assert not Path("trapped").exists()


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
