import mlflow
import pytest
from helpers import run_main
from mlflow import MlflowClient

import mlflow_resnet
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError
from mlflow_resnet.options import PromoteOptions
from mlflow_resnet.pipeline import promote

NAME = "promoted-colors"


@pytest.fixture
def versions(trained):
    """Version 1, which knows its colors, and version 2, which has random weights. No alias is set."""
    random = mlflow_resnet.new_classifier("resnet18", trained.classifier.classes, trained.classifier.preprocessing)
    client = MlflowClient()
    with mlflow.start_run():
        mlflow_resnet.log_model(trained.classifier, registered_model_name=NAME)
        mlflow_resnet.log_model(random, registered_model_name=NAME)
    yield client
    client.delete_registered_model(NAME)


def champion():
    return str(MlflowClient().get_model_version_by_alias(NAME, "champion").version)


def options(images, version, **changes):
    return PromoteOptions(model_uri=f"models:/{NAME}/{version}", image_dir=str(images / "val"), **changes)


def test_the_first_version_becomes_champion_without_a_comparison(versions, images):
    comparison = promote(options(images, 1))
    assert champion() == "1"
    assert comparison.champion is None
    assert "there is no champion yet" in str(comparison)


def test_a_worse_version_is_refused_with_exit_3_and_the_champion_stays(versions, images):
    promote(options(images, 1))
    result = run_main("promote", "--model-uri", f"models:/{NAME}/2", "--image-dir", images / "val")
    assert result.returncode == 3
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith(
        "mlflow-resnet: not promoted: on 12 images, top1_accuracy of promoted-colors version 2 is"
    )
    assert "of the champion, version 1, 1.0000" in last_line
    assert champion() == "1"
    tags = versions.get_model_version(NAME, "2").tags
    assert tags["mlflow_resnet.promotion.result"] == "refused"
    assert tags["mlflow_resnet.promotion.champion_value"] == "1.0"
    assert tags["mlflow_resnet.promotion.champion_version"] == "1"


def test_a_worse_version_is_promoted_within_max_drop(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    assert champion() == "2"


def test_a_better_version_is_promoted_and_tagged(versions, images):
    promote(options(images, 2))
    result = run_main("promote", "--model-uri", f"models:/{NAME}/1", "--image-dir", images / "val")
    assert result.returncode == 0, result.stderr
    assert "@champion now points to models:/promoted-colors/1" in result.stdout
    assert champion() == "1"
    tags = versions.get_model_version(NAME, "1").tags
    assert (tags["mlflow_resnet.promotion.result"], tags["mlflow_resnet.promotion.value"]) == ("promoted", "1.0")
    assert len(tags["mlflow_resnet.promotion.dataset_digest"]) == 16


def test_the_champion_itself_stays_champion(versions, images):
    promote(options(images, 1))
    promote(options(images, 1))
    assert champion() == "1"


def test_repeated_it_keeps_what_the_version_was_compared_with(versions, images):
    promote(options(images, 1))
    promote(options(images, 2, max_drop=1.0))
    before = versions.get_model_version(NAME, "2").tags
    assert before["mlflow_resnet.promotion.champion_version"] == "1"
    versions.set_model_version_tag(NAME, "2", "mlflow_resnet.promotion.result", "pending")  # cut off before its end
    promote(options(images, 2, max_drop=1.0))
    assert versions.get_model_version(NAME, "2").tags == before
    assert champion() == "2"


def test_a_lower_log_loss_is_better(versions, images):
    promote(options(images, 2))
    promote(options(images, 1, metric="log_loss"))
    assert champion() == "1"
    assert (
        run_main(
            "promote", "--model-uri", f"models:/{NAME}/2", "--image-dir", images / "val", "--metric", "log_loss"
        ).returncode
        == 3
    )


def test_an_alias_that_somebody_moved_meanwhile_is_not_overwritten(versions, images):
    from mlflow_resnet.errors import PromotionRefusedError
    from mlflow_resnet.registry.promotion import Comparison
    from mlflow_resnet.registry.promotion import promote as promote_compared
    from mlflow_resnet.registry.versions import move_alias, resolve

    first, second = (resolve(f"models:/{NAME}/{version}") for version in (1, 2))
    versions.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionRefusedError, match="was moved to version 2 meanwhile"):
        move_alias(first, "champion", None)
    comparison = Comparison(first, None, "top1_accuracy", 1.0, None, 12, "digest")
    with pytest.raises(PromotionRefusedError, match="was moved to version 2 meanwhile"):
        promote_compared(comparison, "champion", 0.0)
    assert versions.get_model_version(NAME, "1").tags["mlflow_resnet.promotion.result"] == "refused"
    move_alias(first, "champion", second)
    assert champion() == "1"


@pytest.mark.parametrize("uri", ["models:/promoted-colors/9", "models:/no-such-name/1", "runs:/abc/model", "folder"])
def test_what_is_no_registered_version_is_refused(versions, images, uri):
    with pytest.raises(InvalidModelError, match=uri):
        promote(PromoteOptions(model_uri=uri, image_dir=str(images / "val")))


def test_top5_of_three_classes_is_no_metric(versions, images):
    with pytest.raises(InvalidOptionsError, match="metric is 'top5_accuracy', which these classes do not have"):
        promote(options(images, 1, metric="top5_accuracy"))
