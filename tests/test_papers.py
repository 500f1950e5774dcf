"""README and docs: no link leads nowhere, every picture is shown and made by a script, every name is explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

from mlflow_resnet.options import VERBS

DOCS = ROOT / "docs"
PAPERS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md")])


def read_tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def read_links(page: Path) -> list[tuple[Path, str]]:
    """Returns the files that a page links to or shows, each with the heading that is named."""
    targets = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in read_tokens(page)]
    local = [target.partition("#") for target in targets if target and ":" not in target]
    return [((page.parent / unquote(path)).resolve() if path else page, heading) for path, _, heading in local]


def read_headings(page: Path) -> set[str]:
    """Returns the ids that GitHub and mkdocs give to the headings of a page."""
    tokens = list(read_tokens(page))
    titles = [after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.type == "heading_open"]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for path, heading in read_links(page):
        assert path.exists(), path
        assert not heading or heading in read_headings(path), f"{path}#{heading}"


def test_every_picture_is_shown_and_made_by_the_script():
    pictures = {path for path in DOCS.iterdir() if path.suffix == ".png"}
    shown = {path for page in PAPERS for path, _ in read_links(page) if path.suffix == ".png"}
    assert pictures == shown
    script = (ROOT / "tests" / "screenshots.py").read_text(encoding="utf-8")
    assert [path.stem for path in pictures if f'"{path.stem}"' not in script] == []


def test_every_environment_variable_is_explained():
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mlflow_resnet").rglob("*.py"))
    names = set(re.findall(r"MLFLOW_RESNET_[A-Z_]*[A-Z]", code))
    assert len(names) > 5
    assert [name for name in names if name not in page] == []


def test_every_verb_is_in_the_table_of_commands():
    table = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"`{verb.replace('_', '-')}`" not in table] == []
