"""Names in descriptions, and cells in CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from mlflow_resnet.io.text.spreadsheets import QUOTED, RAW, is_ours, strip_quote, without_formulas, write_csv
from mlflow_resnet.io.text.templates import code, plain
from mlflow_resnet.scoring.to_file.batch import WRITERS
from mlflow_resnet.scoring.to_file.lists import ImageList

HOSTILE = [
    "`# heading",
    "``x`` [link](http://evil) `",
    "a\n\n# heading\n\n![](http://evil)",
    "a | b | c",
    "<img src=http://evil>",
    "&#47;&lt;img&gt;",
    "\\` <iframe>",
    "**bold** _slanted_ ~~gone~~",
    "```\n",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", [code, plain])
def test_no_name_is_more_than_text_in_a_description(name: str, form) -> None:
    renderer = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    row = renderer.render(f"| class | images |\n|---|---|\n| {form(name)} | 3 |\n")
    assert row.count("<td>") == 2
    line = renderer.render(f"Least recall: {form(name)}, 3 of 4.")
    for page in (row, line):
        for element in ("<img", "<iframe", "<h1", "<a ", "<strong", "<em", "<s>", "<pre"):
            assert element not in page, page
    assert form is plain or row.count("<code>") == line.count("<code>") == 1


def test_usual_names_are_written_as_ever() -> None:
    assert code("blue sky") == "`blue sky`"
    assert plain("Starting from ResNet18_Weights.IMAGENET1K_V1; 1e-05 (a) #2!") == (
        "Starting from ResNet18_Weights.IMAGENET1K_V1; 1e-05 (a) #2!"
    )


FORMULAS = [
    "=1+1.png",
    "+cmd.png",
    "-2+3.png",
    "@x.png",
    "\t=1",
    "\r=1",
    "=cmd|'calc'!A0",
    "'=1",
    "''@x",
    "＝1+1",
    "-",
    "+",
]
TEXTS = ["a=1", "'quoted'", "-2", "+3.5e2", "-.5", "cat", "", "it's", "1-2"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_in_a_cell_becomes_text_that_can_be_read_back(cell: str) -> None:
    (quoted,) = without_formulas(pd.DataFrame({"image": [cell]}))["image"]
    assert quoted == f"'{cell}"
    assert strip_quote(quoted) == cell
    assert list(without_formulas(pd.DataFrame({"image": [cell]}), RAW)["image"]) == [cell]


def test_numbers_and_words_stay(tmp_path: Path) -> None:
    table = pd.DataFrame({"image": [*TEXTS, None], "number": [-1.5] * 10, "count": [-3] * 10})
    pd.testing.assert_frame_equal(without_formulas(table), table, check_dtype=False)
    assert [strip_quote(text) for text in TEXTS] == TEXTS
    assert list(without_formulas(pd.DataFrame({"=1+1": [1]}))) == ["'=1+1"]


def test_a_scored_file_is_safe_to_open_and_can_be_scored_again(tmp_path: Path) -> None:
    columns = {
        "image": [*FORMULAS, "cat.png"],
        "Scored Labels": ["=1"] * len(FORMULAS) + [None],
        "Scored Probabilities_=1": [-0.5] * 13,
    }
    table = pa.table({**columns, "error": [""] * 13})
    for formulas in (QUOTED, RAW):
        with WRITERS[".csv"](tmp_path / f"{formulas}.csv", table.schema, formulas) as write:
            write(table)
    with open(tmp_path / "quoted.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert is_ours(header)
    assert all(row[0].startswith("'") and row[1] == "'=1" for row in rows[:-1])
    assert {row[2] for row in rows} == {"-0.5"}
    assert rows[-1][:2] == ["cat.png", ""]
    for formulas in (QUOTED, RAW):
        listed = list(ImageList(str(tmp_path / f"{formulas}.csv")).entries())
        assert listed == columns["image"] if formulas == QUOTED else [each for each in listed if each[:1] != "'"]


def test_cells_of_other_types_are_written_as_ever(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"facts": [{"a": 1}, None], "time": pd.to_datetime(["2026-01-31", None]), "image": ["=1;2", "b"]}
    )
    write_csv(table, tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text()
    assert '"\'=1;2"' in text
    assert "{'a': 1}" in text


def test_an_apostrophe_in_a_list_of_somebody_elses_is_a_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\n'=1.png\n")
    assert list(ImageList(str(tmp_path / "list.csv")).entries()) == ["'=1.png"]


def test_a_card_and_its_command_show_hostile_names_as_they_are() -> None:
    from mlflow_resnet.options import SweepOptions, TrainOptions
    from mlflow_resnet.tracking.card import list_classes, sweep_card

    options = TrainOptions(train_dir="photos\n```\n# heading", weights="https://me:secret@host/w.pth")
    assert "\n" not in options.command()
    assert "secret" not in options.command()
    card = sweep_card(SweepOptions(train_dir="x"), "`\n# study", 3, 1, 0.5, {"optimizer": "a | b\n\n# heading"})
    renderer = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    page = renderer.render(f"{card}\n\n{len(HOSTILE)} classes: {list_classes(tuple(HOSTILE))}.\n")
    assert page.count("<h") == page.count("<h2>") == 1
    assert page.count("<td>") == 2
