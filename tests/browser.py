"""MLflow's pages in Chromium, as a person sees them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import flags, run_cli
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from tiers import needs

SECONDS = 120  # that a page may take on a busy machine
# MLflow opens a panel on a person's first visit; its pages keep in the browser that it did.
WITHOUT_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
FEW_AND_MANY = "few and many classes"
RUNS = (  # three trainings of the digits that differ
    {"epochs": 3, "learning_rate": 0.02},
    {"epochs": 2, "learning_rate": 0.005},
    {"epochs": 2, "learning_rate": 0.05, "random_seed": 2},
)
OPTIONS = {
    "architecture": "resnet18",
    "pretrained": False,
    "batch_size": 64,
    "resize_size": 32,
    "crop_size": 32,
    "random_resized_crop": False,
    "checkpoint_minutes": 0,
}


class Browser:
    """A window on the pages of one MLflow server."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, path: str, *texts: str) -> str:
        """Opens a page and waits until it shows all the texts. Returns what it shows."""
        self.driver.get("about:blank")  # else only what is after the # would change
        self.driver.get(f"{self.url}/#/{path}")
        for text in texts:
            self.wait_for(text)
        return self.text()

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def wait_for(self, text: str) -> None:
        try:
            wait = WebDriverWait(self.driver, SECONDS, ignored_exceptions=[StaleElementReferenceException])
            wait.until(lambda _: text in self.text())
        except TimeoutException:
            pytest.fail(f"{self.driver.current_url} does not show {text!r} but:\n{self.text()}")

    def click(self, text: str) -> None:
        """Clicks on the first element that consists of this text."""
        self.wait_for(text)
        self.driver.find_element(By.XPATH, f"//*[normalize-space(text())='{text}']").click()

    def pictures(self) -> list[tuple[int, int]]:
        """Width and height in pixels, as loaded, of the images that are shown."""
        sizes = "return [...document.images].filter(i => i.complete).map(i => [i.naturalWidth, i.naturalHeight])"
        return [tuple(size) for size in self.driver.execute_script(sizes)]

    def wait_for_picture(self, smallest: int) -> None:
        """Waits until an image of so many pixels along each side is loaded."""
        try:
            wait = WebDriverWait(self.driver, SECONDS)
            wait.until(lambda _: any(min(size) >= smallest for size in self.pictures()))
        except TimeoutException:
            pytest.fail(f"{self.driver.current_url} has only pictures of {self.pictures()} pixels:\n{self.text()}")

    def resize(self, width: int, height: int) -> None:
        self.driver.set_window_size(width, height)

    def type(self, placeholder: str, text: str) -> None:
        """Types into the field that shows the placeholder."""
        self.driver.find_element(By.CSS_SELECTOR, f"input[placeholder='{placeholder}']").send_keys(text)

    def hide(self, selector: str) -> None:
        style = f"<style>{selector} {{ display: none !important }}</style>"
        self.driver.execute_script("document.head.insertAdjacentHTML('beforeend', arguments[0])", style)

    def screenshot(self, path: Path) -> None:
        """What the window shows."""
        self.driver.save_screenshot(str(path))


@contextlib.contextmanager
def browser(url: str, width: int = 1500, height: int = 1150, scale: float = 1) -> Iterator[Browser]:
    """Debian's Chromium without a window; the test is skipped where it is not installed.

    Args:
        scale: pixels of a screenshot for each pixel of the window.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip(needs("Chromium and its driver", "apt-get install chromium chromium-driver"))
    options = Options()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.add_argument(f"--force-device-scale-factor={scale}")
    chrome = webdriver.Chrome(options, Service(driver))
    try:
        chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITHOUT_ASSISTANT})
        yield Browser(chrome, url)
    finally:
        chrome.quit()


def train_three(folder: Path, url: str, per_class: int | None = None) -> None:
    """Trains three networks on handwritten digits, each measured on validation and test images.

    Args:
        per_class: images of each digit; all if it is None.
    """
    from mlflow_resnet import split
    from mlflow_resnet.images.digits import write_digits
    from mlflow_resnet.options import SplitOptions

    write_digits(folder / "images")
    for digit in (folder / "images").iterdir() if per_class else ():
        for unused in sorted(digit.iterdir())[per_class:]:
            unused.unlink()
    for whole, first, second in (("images", "rest", "test"), ("rest", "train", "val")):
        places = {"image_dir": whole, "train_dir": first, "val_dir": second}
        given = {name: str(folder / part) for name, part in places.items()}
        split(SplitOptions(**given, fraction=0.8, duplicates="ignore"))
    parts = {f"{part}_dir": part for part in ("train", "val", "test")}
    for number, changes in enumerate(RUNS):
        alias = {"alias": "champion"} if number == 0 else {}
        train(folder, url, parts | {"registered_model_name": "digits"} | changes | alias)


def train_two_and_hundred_classes(folder: Path, url: str) -> None:
    """Trains, after `train_three`, on the digits 0 and 1, and on pairs of digits, which are 100 classes."""
    digits = [sorted((folder / "images" / str(digit)).iterdir()) for digit in range(10)]
    for number in (0, 1):
        shutil.copytree(folder / "images" / str(number), folder / "two" / str(number))
    for number in range(100):
        pairs = folder / "hundred" / f"{number:02d}"
        pairs.mkdir(parents=True)
        for left, right in zip(digits[number // 10][:5], digits[number % 10][5:10], strict=True):
            write_beside(left, right, pairs / f"{left.stem}-{right.stem}.png")
    for name in ("two", "hundred"):
        train(folder, url, {"train_dir": name, "epochs": 1, "learning_rate": 0.02}, MLFLOW_EXPERIMENT_NAME=FEW_AND_MANY)


def write_beside(left: Path, right: Path, path: Path) -> None:
    """Writes two pictures of 8x8 pixels as one square picture."""
    both = Image.new("L", (16, 16))
    for picture, x in ((left, 0), (right, 8)):
        both.paste(Image.open(picture), (x, 4))
    both.save(path)


def train(folder: Path, url: str, given: dict[str, object], **environment: str) -> None:
    done = run_cli("train", *flags(OPTIONS | given), cwd=folder, MLFLOW_TRACKING_URI=url, **environment)
    assert done.returncode == 0, done.stderr
