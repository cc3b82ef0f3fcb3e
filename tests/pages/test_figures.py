"""Accuracies that the pages tell are those that were measured: each is a cell that the study's csv gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from recipes.cells import read
from recipes.repair import esc10, summarize, yamnet

ROOT = Path(__file__).parents[2]
TOLD = re.compile(r"\d+\.\d \([+-]\d+\.\d ± \d+\.\d\)")


@pytest.fixture(scope="module")
def measured() -> set[str]:
    cells = read(ROOT / "recipes" / "repair" / "esc10.csv", esc10.Cell)
    tables = summarize.esc10_table(cells) + summarize.after_training_table(cells)
    tagger = read(ROOT / "recipes" / "repair" / "yamnet.csv", yamnet.Cell)
    return set(TOLD.findall(tables + summarize.yamnet_table(tagger)))


@pytest.mark.parametrize("page", ["README.md", "docs/choose.md", "docs/repair.md", "docs/troubleshooting.md"])
def test_figures_are_those_of_the_csv(page: str, measured: set[str]) -> None:
    told = set(TOLD.findall((ROOT / page).read_text(encoding="utf-8")))
    assert told <= measured


def test_the_pages_do_tell_figures(measured: set[str]) -> None:
    assert len(measured) > 50
    assert len(TOLD.findall((ROOT / "docs" / "choose.md").read_text(encoding="utf-8"))) > 15


def test_how_far_networks_fall_and_come_back() -> None:
    """What the page on symptoms says of all criteria and cuts at once."""
    cells = read(ROOT / "recipes" / "repair" / "esc10.csv", esc10.Cell)
    table = summarize.esc10_table(cells)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[3:]]
    header = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]

    def behind(column: str) -> list[float]:
        return [-float(re.search(r"\(([+-][\d.]+)", row[header.index(column)])[1]) for row in rows]

    cut, repaired = behind("none"), behind("least squares")
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert f"{min(cut)} to {max(cut)} points behind the dense one as cut, and {max(repaired)} at most" in " ".join(
        text.split()
    )
