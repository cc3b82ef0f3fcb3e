"""What "Troubleshooting" quotes is what the package says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HOLE = "\0"


def quotes() -> list[str]:
    """What stands in italics at the head of an entry, and what an error or a warning is said to say."""
    lines = re.sub(r"\n +", " ", PAGE)
    heads = [re.split(r"(?<=\*):|: |; ", entry, maxsplit=1)[0] for entry in re.findall(r"^- (\*[^*].*)", lines, re.M)]
    told = [quote for head in heads for quote in re.findall(r"\*([^*]+)\*", head)]
    return told + [quote for entry in re.findall(r'says ("[^.]*)', lines) for quote in re.findall(r'"([^"]+)"', entry)]


@cache
def messages() -> str:
    """All strings of the package, with a hole where a value is put in."""
    found = []
    for path in sorted((ROOT / "lightning_cosprune").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def pattern(quote: str) -> str:
    """The quote, in which ``...``, a number or a name may stand for a value that is put in."""
    words = []
    for word in quote.split():
        value = rf"(?:{re.escape(word)}|{HOLE},?)"
        words.append(
            rf"[^\n]*{HOLE}?[^\n]*" if "..." in word else value if re.search(r"\d|wandb", word) else re.escape(word)
        )
    return r"\s+".join(words)


def test_there_are_quotes() -> None:
    assert len(quotes()) > 12


@pytest.mark.parametrize("quote", sorted(set(quotes())))
def test_what_is_quoted_is_what_is_said(quote: str) -> None:
    assert re.search(pattern(quote), messages()), quote
