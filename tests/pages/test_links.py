"""What the README and the pages under docs/ point at is there."""

import re
from pathlib import Path

import pytest

import lightning_cosprune

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_pictures_and_pages_that_are_linked_exist(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        target = re.sub(r"^auto_gallery/(plot_\w+)\.rst$", r"gallery/\1.py", link)  # the page is made of that program
        assert (page.parent / target).exists(), link


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#{1,4} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_headings_that_are_linked_exist(page):
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        assert anchor in anchors((page.parent / file) if file else page), f"{file}#{anchor}"


def test_the_reference_lists_every_public_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in lightning_cosprune.__all__:
        assert re.search(rf"::\s+{name}\b", text), name
