"""The whole road on scikit-learn's handwritten digits: images, split, training, registration, scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow_resnet.images.digits import write_digits
from mlflow_resnet.images.splitting.directory_split import split_directory
from mlflow_resnet.io.atomic import new_directory
from mlflow_resnet.io.text.characters import format_rows, in_lines, presentable
from mlflow_resnet.options.demo import DemoOptions
from mlflow_resnet.options.score import ScoreOptions
from mlflow_resnet.options.split import SplitOptions
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.scoring.to_file.batch import ScoredFile
from mlflow_resnet.tracking.training_record import TrainResult
from mlflow_resnet.verbs.frame import describe_training
from mlflow_resnet.verbs.score import score
from mlflow_resnet.verbs.train import train

DEMO_MARKER = ".mlflow-resnet-demo"  # says that the folder is ours to replace


@dataclass(frozen=True)
class DemoResult:
    """Result of `demo`."""

    folder: Path
    trained: TrainResult
    scored: ScoredFile


def demo(options: DemoOptions) -> DemoResult:
    """Writes, splits, trains on, registers and scores 1,797 digits. Running it again replaces the folder."""
    folder = Path(options.output_dir)
    with new_directory(folder, overwrite=(folder / DEMO_MARKER).exists()) as new:
        (new / DEMO_MARKER).touch()
        write_digits(new / "images")
        split_directory(
            SplitOptions(
                image_dir=str(new / "images"),
                train_dir=str(new / "train"),
                val_dir=str(new / "val"),
                fraction=0.8,
                random_seed=options.random_seed,
                duplicates="ignore",
            )
        )
    val_dir = str(folder / "val")
    recipe = TrainOptions(  # for 8x8 pictures on two cores
        train_dir=str(folder / "train"),
        val_dir=val_dir,
        architecture="resnet18",
        pretrained=False,
        epochs=6,
        batch_size=64,
        learning_rate=0.02,
        warmup_epochs=1,
        random_seed=options.random_seed,
        resize_size=32,
        crop_size=32,
        random_resized_crop=False,
        registered_model_name=options.registered_model_name,
        alias=options.alias,
        checkpoint_minutes=0,
    )
    trained = train(recipe)
    output = str(folder / "scored.csv")
    scored = score(ScoreOptions(model_uri=trained.model_uri, image_dir=val_dir, output=output))
    return DemoResult(folder, trained, scored)


def summarize_demo(result: DemoResult, options: DemoOptions) -> str:
    folder, model = result.folder, f"models:/{options.registered_model_name}@{options.alias}"
    picture = sorted((folder / "val").rglob("*.png"))[0]
    rows = in_lines(format_rows(result.scored.head.iloc[:, :4]))
    return f"""
{describe_training(result.trained, options.registered_model_name)}
scored    {result.scored.rows} held-out images in {presentable(result.scored.path)}, which begins (first columns)

{rows}

Next:
  # look at the run
  mlflow ui --port 5000
  # serve the champion
  mlflow-resnet serve {model} --follow
  # send it a picture
  curl --data-binary "@{presentable(picture)}" --header 'Content-Type: image/png' http://127.0.0.1:5001/invocations
  # train on your own folder of class folders
  mlflow-resnet train --train-dir YOUR_FOLDER --registered-model-name mine --alias champion"""
