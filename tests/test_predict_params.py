"""The params of predict."""

import mlflow
import pandas as pd
import pytest
from helpers import COLORS

from mlflow_resnet.errors import InvalidOptionsError

PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]
RANKED = [(f"Top {rank} Label", f"Top {rank} Probability") for rank in (1, 2, 3)]


@pytest.fixture(scope="module")
def model(trained):
    return mlflow.pyfunc.load_model(trained.model_uri)


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


@pytest.mark.parametrize("name", ["top_k", "batch_size"])
def test_negative_params_are_refused(name, model, files):
    with pytest.raises(InvalidOptionsError, match=f"{name} is -1; it must be 0 or more"):
        model.predict([str(files[0])], params={name: -1})
