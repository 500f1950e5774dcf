"""Hooks of mkdocs: the API page names what the package exports, and the papers of the root are pages too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import mlflow_resnet
from mlflow_resnet import errors

PAPERS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/RESULTS.md")
PUBLIC_NAMES, ERRORS = "{{ public names }}", "{{ errors }}"


def on_files(files: Files, config: Any) -> Files:
    """Adds the papers, whose links into docs/ become links of the site."""
    root = Path(config.config_file_path).parent
    for paper in PAPERS:
        text = (root / paper).read_text(encoding="utf-8")
        files.append(File.generated(config, paper, content=re.sub(r"\]\((\.\./)*docs/", r"](\1", text)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fills in the public names and the tree of errors, and turns links to papers into links of the site."""
    for paper in PAPERS:
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*{re.escape(paper)})", r"](\1", markdown)
    names = "\n\n".join(map(document, sorted(mlflow_resnet.__all__[1:])))
    return markdown.replace(PUBLIC_NAMES, names).replace(ERRORS, f"```text\n{errors.__doc__}```")


def document(name: str) -> str:
    """Returns what has mkdocstrings document a public name where it is defined."""
    found = getattr(mlflow_resnet, name)
    return f"::: {found.__module__}.{found.__qualname__}"
