"""The documentation names files, modules and public names that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOTTED = re.compile(r"`(peerage(?:\.[A-Za-z_]\w*)+)")
FILE = re.compile(r"`((?:\w+/)+\w+\.py)`")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def found(name: str) -> bool:
    """Is `name` a module, or an attribute of a module or class?"""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[n:]:
            value = getattr(value, attribute, None)
        return value is not None
    return False


@each_page
def test_relative_links_point_to_files(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@each_page
def test_headings_of_links_exist(page: Path) -> None:
    missing = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if anchor and "://" not in link:
            headings = re.findall(r"^#+ (.*)$", (page.parent / path if path else page).read_text(), re.MULTILINE)
            if anchor not in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]:
                missing.append(link)
    assert missing == []


@each_page
def test_source_files_exist(page: Path) -> None:
    named = FILE.findall(page.read_text())
    assert [name for name in named if not any((root / name).exists() for root in (ROOT, ROOT / "peerage"))] == []


@each_page
def test_names_in_backticks_exist(page: Path) -> None:
    assert [name for name in DOTTED.findall(page.read_text()) if not found(name)] == []


@each_page
def test_names_imported_in_examples_exist(page: Path) -> None:
    names: list[str] = []
    for code in PYTHON.findall(page.read_text()):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peerage"):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    assert [name for name in names if not found(name)] == []
