"""Makes the pictures of the documentation: `python -m tests.screenshots`. They show handwritten digits only."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import mlflow  # noqa: E402
from browser import Browser, browser, train_three  # noqa: E402
from helpers import mlflow_server  # noqa: E402
from PIL import Image  # noqa: E402

DOCS = Path(__file__).parent.parent / "docs"
WIDTH, SCALE = 1400, 1.5  # of the window in CSS pixels; pixels of the picture for each of them
ARTIFACTS = ("confidence", "confusion_matrix", "confident_mistakes", "confident_mistakes_explained")


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "digits")  # the runs are named after it
        folder.mkdir()
        with mlflow_server(folder) as url, browser(url, scale=SCALE) as window:
            train_three(folder, url)
            mlflow.set_tracking_uri(url)
            first = mlflow.MlflowClient().search_runs(["0"], order_by=["start_time"])[0].info.run_id
            show_pages(window, first)
            for artifact in ARTIFACTS:
                path = mlflow.artifacts.download_artifacts(
                    run_id=first, artifact_path=f"validation/{artifact}.png", dst_path=folder
                )
                shutil.copy(path, DOCS / f"{artifact}.png")


def show_pages(window: Browser, run_id: str) -> None:
    """Takes a picture of each page."""
    window.resize(WIDTH, 620)
    window.open("experiments/0/runs", "3 matching runs")
    save_picture(window, "experiment")
    window.resize(WIDTH, 850)
    window.open("experiments/0/runs?compareRunsMode=CHART", "abstention")
    window.hide(".modebar")  # buttons that lie on the charts
    window.type("Search metric charts", "^(val_top1_accuracy|val_loss|train_loss)$")
    window.wait_for("val_top1_accuracy")
    save_picture(window, "comparison")
    window.resize(WIDTH, 1050)
    window.open(f"experiments/0/runs/{run_id}", "Show more")
    window.click("Show more")
    save_picture(window, "run")
    window.open(f"experiments/0/runs/{run_id}/artifacts/validation/confident_mistakes.png", "confident_mistakes.png")
    window.wait_for_picture(smallest=200)
    save_picture(window, "artifacts")
    window.open("models/digits/versions/1", "test_top1_accuracy")
    save_picture(window, "version")


def save_picture(window: Browser, name: str) -> None:
    """Saves what the window shows, in 256 colors: a third of the bytes."""
    path = DOCS / f"{name}.png"
    window.screenshot(path)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
