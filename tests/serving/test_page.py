"""The page of a champion server in Chromium: it says what is served, and takes a picture."""

import json

import pytest
import requests
from browser import SECONDS, browser
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from served import PICTURE, serving

pytestmark = pytest.mark.slow


def test_a_person_drops_a_picture_and_sees_the_answer(trained, tmp_path):
    (tmp_path / "picture.png").write_bytes(PICTURE)
    (tmp_path / "broken.png").write_bytes(PICTURE[:100])
    with serving(tmp_path, "colors") as running, browser(running.url) as window:
        chrome = window.driver
        chrome.get(f"{running.url}/")
        window.wait_for("colors, version 1")
        shown = window.text()
        assert running.model()["model_sha256"] in shown
        assert "val_top1_accuracy" in shown
        assert "3 classes" in shown

        chrome.find_element(By.ID, "file").send_keys(str(tmp_path / "picture.png"))
        label = running.ask().json()["predictions"][0]["Scored Labels"]
        WebDriverWait(chrome, SECONDS).until(lambda _: chrome.find_element(By.ID, "label").text == label)
        window.wait_for_picture(48)
        assert len(chrome.find_elements(By.CSS_SELECTOR, "#bars meter")) == 3

        chrome.find_element(By.ID, "explain").click()
        chrome.find_element(By.ID, "file").send_keys(str(tmp_path / "picture.png"))
        heat = chrome.find_element(By.ID, "heat")
        WebDriverWait(chrome, SECONDS).until(lambda _: heat.is_displayed() and heat.get_property("naturalWidth") > 0)

        chrome.find_element(By.ID, "file").send_keys(str(tmp_path / "broken.png"))
        problem = chrome.find_element(By.ID, "problem")
        WebDriverWait(chrome, SECONDS).until(lambda _: problem.text)

        asked = chrome.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert asked
        assert all(name.startswith((f"{running.url}/", "blob:", "data:")) for name in asked), json.dumps(asked)
        severe = [entry for entry in chrome.get_log("browser") if "Content Security Policy" in entry["message"]]
        assert not severe


def test_a_dropped_file_is_taken_too(trained, tmp_path):
    drop = """
        const data = new DataTransfer(), bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
        data.items.add(new File([bytes], "picture.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    """
    from abuse import text_of

    with serving(tmp_path, "colors") as running, browser(running.url) as window:
        window.driver.get(f"{running.url}/")
        window.wait_for("Drop a picture here")
        window.driver.execute_script(drop, text_of(PICTURE))
        WebDriverWait(window.driver, SECONDS).until(lambda _: window.driver.find_element(By.ID, "label").text)


def test_the_page_is_off_with_one_option(trained, tmp_path):
    with serving(tmp_path, "colors", "--page", "false") as running:
        assert requests.get(f"{running.url}/", timeout=60).status_code == 404
