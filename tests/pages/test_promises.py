"""No row of a table in the docs without a test behind it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from pages.promises import BEHIND, MEASURED, READ_WHOLE

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def rows(page: str, text: str) -> list[str]:
    """First cells of the tables that a page's promises are in."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *lines = table.splitlines()
        if page not in MEASURED and not any(page == held and header.startswith(start) for held, start in READ_WHOLE):
            found += [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines]
    return found


@cache
def names(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_has_a_test(page: Path) -> None:
    told = rows(page.name, page.read_text(encoding="utf-8"))
    assert sorted(told) == sorted(BEHIND.get(page.name, {})), (
        "name the tests behind each row in tests/pages/promises.py"
    )


def test_every_test_that_is_named_exists() -> None:
    named = [test for page in BEHIND.values() for tests in page.values() for test in tests] + list(READ_WHOLE.values())
    assert len(named) > 80
    for test in named:
        file, _, name = test.partition("::")
        assert (TESTS / file).is_file(), test
        assert name.startswith("test_"), test
        assert name in names(TESTS / file), test
    assert all(tests for page in BEHIND.values() for tests in page.values())


def test_what_is_exempt_is_there() -> None:
    for page, start in READ_WHOLE:
        assert f"\n{start}" in (ROOT / "docs" / page).read_text(encoding="utf-8")
    for page, recipe in MEASURED.items():
        assert (ROOT / recipe).is_file()
        assert (ROOT / "docs" / page).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_do_not_name_tests(page: Path) -> None:
    assert not re.search(r"\btests?/|\btest_\w+", page.read_text(encoding="utf-8"))


def test_a_new_row_is_noticed() -> None:
    text = (ROOT / "docs" / "prune.md").read_text(encoding="utf-8")
    grown = text.replace("| LBFGS |", "| Lion | works |\n| LBFGS |")
    assert set(rows("prune.md", grown)) - set(BEHIND["prune.md"]) == {"Lion"}
