"""The params of predict."""

import base64
import io
import logging
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import COLORS
from mlflow.models import infer_signature
from PIL import Image
from rounding import assert_same_probabilities

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.predict import PARAMS
from mlflow_resnet.scoring.pyfunc import ScoringModel

pytestmark = pytest.mark.networks

PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]
RANKED = [(f"Top {rank} Label", f"Top {rank} Probability") for rank in (1, 2, 3)]


@pytest.fixture(scope="module")
def model(trained):
    return mlflow.pyfunc.load_model(trained.model_uri, model_config={"precision": "fp32"})


@pytest.fixture(scope="module")
def files(images):
    return sorted((images / "val").rglob("*.jpg"))


@pytest.mark.parametrize(("top_k", "ranks"), [(1, 1), (2, 2), (3, 3), (50, 3)])
def test_top_k_gives_the_most_probable_classes(top_k, ranks, model, files):
    everything = model.predict([str(files[0]), "/nope"])
    row, bad_row = model.predict([str(files[0]), "/nope"], params={"top_k": top_k}).to_dict("records")
    best = everything.loc[0, PROBABILITIES].astype(float).nlargest(ranks).items()
    names = [(name.removeprefix("Scored Probabilities_"), probability) for name, probability in best]
    assert list(row.values()) == [str(files[0]), names[0][0], *sum(names, ()), ""]
    assert list(row) == ["image", "Scored Labels", *sum(RANKED[:ranks], ()), "error"]
    assert [pd.isna(bad_row[column]) for pair in RANKED[:ranks] for column in pair] == [True] * 2 * ranks


@pytest.fixture(scope="module")
def picture():
    """36 x 36 pixels, of which the model sees the middle 32 x 32 as they are."""
    return np.random.default_rng(1).integers(0, 255, (36, 36, 3), dtype=np.uint8)


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def probabilities(frame):
    return frame[PROBABILITIES].to_numpy(float)


def test_flip_averages_the_probabilities_of_a_picture_and_its_mirror_image(model, picture):
    pictures = [png(picture), png(picture[:, ::-1])]
    one, mirrored = probabilities(model.predict(pictures))
    assert not np.allclose(one, mirrored, atol=1e-3)
    both = probabilities(model.predict(pictures, params={"tta": "flip"}))
    assert_same_probabilities(both, [(one + mirrored) / 2] * 2)
    np.testing.assert_array_equal(probabilities(model.predict(pictures, params={"tta": ""})), [one, mirrored])


def seen_at_64(classifier, picture):
    """What the network says of the middle 64 x 64 pixels."""
    images = torch.from_numpy(picture[4:68, 4:68].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = classifier.network(classifier.preprocessing.normalize(images))
    return (logits / classifier.temperature).softmax(dim=1)[0].numpy()


def test_resolution_shows_the_same_part_of_a_picture_in_more_pixels(model, trained, picture):
    large = picture.repeat(2, axis=0).repeat(2, axis=1)
    at_64 = probabilities(model.predict(png(large), params={"resolution": 64}))[0]
    assert_same_probabilities(at_64, seen_at_64(trained.classifier, large))
    assert not np.allclose(at_64, probabilities(model.predict(png(large)))[0], atol=1e-3)
    as_trained = probabilities(model.predict(png(large), params={"resolution": 32}))
    np.testing.assert_array_equal(as_trained, probabilities(model.predict(png(large))))


def test_another_backend_takes_pictures_of_the_trained_resolution_only(trained):
    forward = Predictor(trained.classifier).probabilities
    predictor = Predictor(trained.classifier, forward=lambda images: forward(images))
    assert predictor.at_test_time(resolution=32).preprocessing == trained.classifier.preprocessing
    with pytest.raises(InvalidOptionsError, match="resolution is 64, but only the backend torch"):
        predictor.at_test_time(resolution=64)


def test_all_parameters_at_once_with_a_heat_map_of_that_resolution(model, files):
    params = {"tta": "flip", "resolution": 96, "explain": True, "top_k": 1, "batch_size": 2, "min_confidence": 0.1}
    frame = model.predict([str(file) for file in files[:3]], params=params)
    assert list(frame.columns) == ["image", "Scored Labels", *RANKED[0], "explanation", "error"]
    sizes = {Image.open(io.BytesIO(base64.b64decode(text))).size for text in frame["explanation"]}
    assert sizes == {(96, 96)}


def test_threads_with_other_parameters_do_not_disturb_each_other(model, picture):
    asked = [{}, {"tta": "flip"}, {"resolution": 64}, {"resolution": 96, "tta": "flip"}] * 8
    content = png(picture)
    expected = [probabilities(model.predict(content, params=params)) for params in asked[:4]] * 8
    with ThreadPoolExecutor(8) as pool:
        answered = list(pool.map(lambda params: probabilities(model.predict(content, params=params)), asked))
    assert_same_probabilities(answered, expected)


def test_over_http_no_params_make_a_batch_larger_than_configured(trained, picture, monkeypatch):
    model = ScoringModel(Predictor(trained.classifier), batch_size=8)
    forward, seen = model._predictor.probabilities, []

    def noted(images):
        seen.append(tuple(images.shape[::2]))
        return forward(images)

    monkeypatch.setattr(model._predictor, "probabilities", noted)
    pictures = [png(picture)] * 10
    asked = [{}, {"batch_size": 10}, {"batch_size": 5}, {"resolution": 64}]
    for params in asked:
        model.predict(pictures, params=params)
    monkeypatch.setenv("MLFLOW_RESNET_SERVING", "true")
    for params in asked:
        model.predict(pictures, params=params)
    alone = [(8, 32), (2, 32), (10, 32), (5, 32), (5, 32), (2, 64), (2, 64), (2, 64), (2, 64), (2, 64)]
    served = [(8, 32), (2, 32), (8, 32), (2, 32), (5, 32), (5, 32), (2, 64), (2, 64), (2, 64), (2, 64), (2, 64)]
    assert seen == alone + served


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 0"),
        ({"min_confidence": float("nan")}, "min_confidence is nan; it must be at least 0"),
        ({"tta": "rotate"}, "tta is 'rotate'; choose one of empty, flip"),
        ({"resolution": 31}, "resolution is 31; it must be 0, or from 32 to 1024"),
        ({"resolution": 1025}, "resolution is 1025; it must be 0, or from 32 to 1024"),
        ({"resolution": -32}, "resolution is -32; it must be 0, or from 32 to 1024"),
        ({"topk": 3, "tta": "flip"}, f"unknown params 'topk'; predict takes {', '.join(sorted(PARAMS))}"),
        ({"x" * 10**6: 1}, "unknown params 'xxx"),
    ],
)
def test_params_that_cannot_work_are_refused_in_one_short_line(params, problem, model, files):
    for predict in (model.predict, model._model_impl.predict):  # with MLflow's checks before ours, and without
        with pytest.raises(InvalidOptionsError) as caught:
            predict([str(files[0])], params=params)
        assert caught.value.message.startswith(problem)
        assert len(caught.value.message) < 200


def test_unknown_params_are_refused_also_where_mlflows_warnings_are_not_shown(model, caplog):
    with caplog.at_level(logging.CRITICAL, logger="mlflow"), pytest.raises(InvalidOptionsError, match="'topk'"):
        model.predict(b"", params={"topk": 3})


def test_of_a_model_of_another_flavor_mlflow_drops_them_as_ever(model, tmp_path, caplog, monkeypatch):
    class Another(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return [str(params)]

    signature = infer_signature(pd.DataFrame({"a": [1]}), params={"top_k": 1})
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Another(), signature=signature, pip_requirements=[])
    another = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    assert another.predict(pd.DataFrame({"a": [1]}), params={"topk": 3}) == ["{'top_k': 1}"]
    assert "Unrecognized params ['topk'] are ignored for inference" in caplog.text
