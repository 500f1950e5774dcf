import mlflow
import pandas as pd
import pytest
from helpers import COLORS, run_main, write_picture

import mlflow_resnet
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options import ShadowOptions
from mlflow_resnet.verbs.shadow import ANSWER_COLUMNS, shadow


@pytest.fixture(scope="module")
def challenger(trained):
    """A model with random weights and the classes of the champion, in another order."""
    classes = tuple(reversed(trained.classifier.classes))
    random = mlflow_resnet.new_classifier("resnet18", classes, trained.classifier.preprocessing)
    with mlflow.start_run():
        return mlflow_resnet.log_model(random).model_uri


def test_where_the_challenger_disagrees_is_shown_in_numbers_a_table_and_pictures(trained, challenger, images, tmp_path):
    result = run_main(
        "shadow", "--champion", "models:/colors@champion", "--challenger", challenger, "--image-dir", images / "val"
    )
    assert result.returncode == 0, result.stderr
    run = mlflow.MlflowClient().get_run(result.stdout.split()[-1])
    table = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/shadow/disagreements.parquet")
    )
    assert list(table.columns) == ANSWER_COLUMNS
    assert (table["champion"] != table["challenger"]).all()
    assert set(table["champion"]) | set(table["challenger"]) <= set(COLORS)
    assert run.data.metrics["shadow/agreement"] == pytest.approx(1 - len(table) / 12)
    assert run.data.metrics["shadow/disagreements"] == len(table) > 0
    assert f"agreement {1 - len(table) / 12:.4f} on 12 images, {len(table)} get another label" in result.stdout
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "shadow")}
    assert names == {f"shadow/{name}" for name in ("disagreements.parquet", "changes.json", "disagreements.png")}


def test_a_model_agrees_with_itself_and_unreadable_images_are_counted(trained, tmp_path):
    write_picture(tmp_path / "images" / "a.png", COLORS["007"], seed=1)
    (tmp_path / "images" / "b.png").write_text("no picture")
    uri = "models:/colors@champion"
    result = shadow(ShadowOptions(champion=uri, challenger=uri, image_dir=str(tmp_path / "images")))
    assert (result.images, result.unreadable, result.agreement, len(result.table)) == (1, 1, 1.0, 0)


def test_other_classes_are_refused(trained, images):
    other = mlflow_resnet.new_classifier("resnet18", ("cat", "dog"), trained.classifier.preprocessing)
    with mlflow.start_run():
        uri = mlflow_resnet.log_model(other).model_uri
    with pytest.raises(InvalidOptionsError, match="only one of champion and challenger has the classes .*cat"):
        shadow(ShadowOptions(champion="models:/colors@champion", challenger=uri, image_dir=str(images / "val")))
