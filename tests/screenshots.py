"""Makes the pictures of the documentation: `python -m tests.screenshots`. They show handwritten digits only."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import mlflow  # noqa: E402
from browser import browser, tracking_server, train_three  # noqa: E402

DOCS = Path(__file__).parent.parent / "docs"
ARTIFACTS = ("confidence", "confusion_matrix", "confident_mistakes", "confident_mistakes_explained")


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "digits")  # the runs are named after it
        folder.mkdir()
        with tracking_server(folder) as url, browser(url) as window:
            train_three(folder, url)
            mlflow.set_tracking_uri(url)
            runs = mlflow.MlflowClient().search_runs(["0"], order_by=["start_time"])
            first = f"experiments/0/runs/{runs[0].info.run_id}"
            ids = ",".join(f'"{run.info.run_id}"' for run in runs)
            pages = {
                "experiment": ("experiments/0/runs", "3 matching runs"),
                "run": (first, "Show more"),
                "version": ("models/digits/versions/1", "test_top1_accuracy"),
                "comparison": (f'compare-runs?runs=[{ids}]&experiments=["0"]', "Parallel Coordinates Plot"),
            }
            for page, (path, text) in pages.items():
                window.open(path, text)
                if page == "run":
                    window.click("Show more")
                window.screenshot(DOCS / f"{page}.png")
            window.open(f"{first}/artifacts/validation/confident_mistakes.png", "confident_mistakes.png")
            window.wait_for_picture(smallest=200)
            window.screenshot(DOCS / "artifacts.png")
            for artifact in ARTIFACTS:
                path = mlflow.artifacts.download_artifacts(
                    run_id=runs[0].info.run_id, artifact_path=f"validation/{artifact}.png", dst_path=folder
                )
                shutil.copy(path, DOCS / f"{artifact}.png")


if __name__ == "__main__":
    main()
