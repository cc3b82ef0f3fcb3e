"""What the pages under docs/ say of the tests and of the package is so."""

import re
from pathlib import Path

import pytest

import lightning_cosprune

DOCS = Path(__file__).parents[1] / "docs"
TESTS = Path(__file__).parent


def test_every_test_that_backs_a_row_exists():
    text = (DOCS / "prune.md").read_text(encoding="utf-8")
    known = {path.name: path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")}
    rows = [line for line in text.splitlines() if line.startswith("|")]
    named = [
        (file, test) for row in rows for file, test in re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)(?:::(test_\w+))?", row)
    ]
    assert len(named) > 30
    for file, test in named:
        assert file in known, file
        assert f"def {test or 'test_'}" in known[file], (file, test)
    alone = {test for row in rows for test in re.findall(r"`(test_\w+)`", row)}
    for test in alone:
        assert any(f"def {test}(" in text for text in known.values()), test


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pictures_and_pages_that_are_linked_exist(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("auto_gallery/"):
            assert (page.parent / link).exists(), link


def test_the_reference_lists_every_public_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in lightning_cosprune.__all__:
        assert re.search(rf"::\s+{name}\b", text), name
