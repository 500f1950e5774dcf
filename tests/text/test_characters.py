"""What a terminal may be shown."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest
from helpers import run_main, write_picture

from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError
from mlflow_resnet.io import console
from mlflow_resnet.io.reasons import MAX_REASON_CHARACTERS, one_line
from mlflow_resnet.io.text.characters import all_encodable, encodable, presentable, printable

ORDERS = {
    "\x1b[2J": r"\x1b[2J",  # clears the screen
    "a\nb": r"a\nb",
    "a\rb": r"a\rb",
    "a\tb": r"a\tb",
    "a\0b": r"a\x00b",
    "\x7f": r"\x7f",
    "\x9b31m": r"\x9b31m",  # the same as an escape and a bracket
    "\u202egnp.exe": r"\u202egnp.exe",  # is read backwards
    "\u2066\u2069": r"\u2066\u2069",
    "\u200e": r"\u200e",
    "\u2028": r"\u2028",
    "\ufeff": r"\ufeff",
    "\U000e0041": r"\U000e0041",  # a tag, which is not seen
    "caf\udce9": r"caf\xe9",  # a byte of a path that is no UTF-8
    "\ud800": r"\ud800",
}
WORDS = ["naïve", "写真　一", "می‌خواهم", "👩‍🚒", "C:\\photos", "50 %", "tür.png", ""]


@pytest.mark.parametrize("text", ORDERS)
def test_no_text_orders_a_terminal_about(text: str) -> None:
    assert printable(text) == presentable(text) == ORDERS[text]
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", WORDS)
def test_words_of_all_languages_are_shown_as_they_are(text: str) -> None:
    assert printable(text) == encodable(text) == text


def test_data_keep_all_that_can_be_encoded() -> None:
    assert encodable("a\x1b\nb\udce9\ud800") == "a\x1b\nb\\xe9\\ud800"
    assert encodable("gr\udcc3\udcbcn") == "grün"  # as Python has it where the locale has no encoding


def test_facts_that_json_can_hold_become_encodable():
    assert all_encodable({"a\udce9": ["\udce9", 1, None, {"b": ("c",)}]}) == {
        r"a\xe9": [r"\xe9", 1, None, {"b": ["c"]}]
    }
    assert encodable(Path(os.fsdecode(b"gr\xfcn"))) == r"gr\xfcn"


def test_messages_are_one_line_that_shows_everything() -> None:
    assert InvalidImageError("bad\x1b[2J\nname").message == r"bad\x1b[2J\nname"
    error = InvalidDatasetError("a\nb\u202e", "no\x07thing")
    assert error.message == str(error) == r"a\nb\u202e: no\x07thing"
    assert (
        one_line(ValueError("load \x1b[1mfailed\x1b[0m\nhere\x1b]0;title\x07")) == r"load failed here\x1b]0;title\x07"
    )


def test_a_long_reason_keeps_its_first_sentence_and_the_remedy_at_its_end() -> None:
    """MLflow's about its file store, and Databricks', were cut in the middle of a word, before what helps."""
    store = f"The store (e.g., './mlruns') is frozen. {'Please migrate it soon. ' * 14}Set A=true to opt out."
    assert one_line(ValueError(store)) == store
    long = one_line(
        ValueError(f"It failed, for a reason. {'Much else is to be said about this. ' * 40}Log in.\nSee x.")
    )
    assert long.startswith("It failed, for a reason. … Much else")
    assert long.endswith(" Log in. See x.")
    assert len(long) <= MAX_REASON_CHARACTERS
    one = one_line(ValueError("words without an end " * 100))
    assert (one[-8:], len(one) <= MAX_REASON_CHARACTERS) == (" words …", True)
    assert len(one_line(ValueError("x" * 1000))) == MAX_REASON_CHARACTERS


def test_what_is_said_and_logged_is_shown_the_same_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("somebody else's")
    logger.addHandler(handler)
    console.make_logs_presentable()
    try:
        logger.warning("open %s of %d: %s", "a\x1b[2J\nb", 3, ValueError("http://me:secret@host/"))
        logger.warning("two\nlines of http://me:secret@host/")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert stream.getvalue() == "open a\\x1b[2J\nb of 3: http://host/\ntwo\nlines of http://host/\n"
    console.say("going on\x1b[2J in a\nb", "", "http://me:secret@host/")
    assert capsys.readouterr().err == "going on\\x1b[2J in a\\nb; http://host/\n"


HOSTILE = "\x1b[2Jforged\nmlflow-resnet: all is well\u202e"


def test_names_of_files_reach_the_terminal_in_no_command(tmp_path: Path) -> None:
    photos = tmp_path / f"photos{HOSTILE}"
    write_picture(photos / f"cat{HOSTILE}" / "1.png", (9, 9, 9), 1)
    write_picture(photos / f"cat{HOSTILE}" / "2.png", (9, 9, 9), 1)
    (photos / f"cat{HOSTILE}" / f"3{HOSTILE}.png").write_text("no image")
    for arguments in (
        ["convert", "--source", photos, "--output-dir", tmp_path / f"out{HOSTILE}"],
        ["split", "--image-dir", photos, "--train-dir", tmp_path / "t", "--val-dir", tmp_path / f"v{HOSTILE}"],
        ["transform", "--image-dir", photos, "--output-dir", tmp_path / f"png{HOSTILE}"],
        ["audit", "--train-dir", tmp_path / f"nothing{HOSTILE}"],
        ["score", "--model-uri", f"x{HOSTILE}", "--image-dir", photos, "--output", tmp_path / f"s{HOSTILE}"],
        ["sync", tmp_path / f"nothing{HOSTILE}"],
        ["convert", f"--no-such{HOSTILE}"],
        [f"no-such{HOSTILE}"],
        ["serve", f"models:/x{HOSTILE}/1", "--port", f"1{HOSTILE}"],
    ):
        done = run_main(*arguments)
        assert arguments[0] == "transform" or arguments[0] in ("convert", "split") or done.returncode == 2
        for character in "\x1b\u202e":
            assert character not in done.stdout + done.stderr, arguments
        assert "forged" in done.stdout + done.stderr or arguments[0] == "split"
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("mlflow-resnet: all")]


def test_an_error_of_the_machine_is_one_line_and_one_of_ours_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow_resnet.verbs import convert

    def broken(error: Exception) -> object:
        def convert(options: object) -> None:
            raise error

        return convert

    arguments = ("convert", "--source", tmp_path, "--output-dir", tmp_path / "out")
    monkeypatch.setattr(convert, "convert", broken(PermissionError(13, "no", "/etc/a\nb")))
    done = run_main(*arguments)
    assert done.returncode == 2
    assert done.stderr == "mlflow-resnet: /etc/a\\nb: permission denied\n"
    monkeypatch.setattr(convert, "convert", broken(KeyError("a mistake in this program")))
    with pytest.raises(KeyError):
        run_main(*arguments)
    assert sys.argv[0] != "mlflow-resnet"
