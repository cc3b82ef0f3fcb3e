"""The code in the README, in CONTRIBUTING and on the pages of the docs does what it says.

The Python blocks of a page run one after the other, in one namespace and an empty folder; a diff runs as the script
that it leads to. Of shell blocks what they name must be there. A block of any other language is an error, so that none
is passed over. What stands before a block in ``<!-- the reader has: ... -->`` is made first, see ``reader.py``; a block
that cannot run here says why in ``<!-- not run: reason -->`` and is reported as skipped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pages.reader import HAS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>.+?) -->\n\n)?^```(?P<language>\S*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
# Nothing to run; the last two are Sphinx's, which `make docs` runs.
PROSE = {"text", "{eval-rst}", "{toctree}"}


class Block(NamedTuple):
    line: int
    language: str
    code: str
    note: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["note"] or "")
        for found in BLOCK.finditer(text)
    ]


def after(diff: str, left_out: str = "-", added: str = "+") -> str:
    """The script that a diff leads to."""
    lines = [line for line in diff.splitlines() if not line.startswith(left_out)]
    return "\n".join(line.removeprefix(added).removeprefix(" ") for line in lines)


def run(page: Path, block: Block, code: str, names: dict[str, Any]) -> None:
    """With line numbers of the page, so that a failure points there."""
    exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)


# Lightning's advice on runs as small as these, on packages beside it, and on resuming into a new folder.
@pytest.mark.filterwarnings(
    "ignore:The number of training batches", "ignore:.*tensorboardX` has been removed", "ignore:The dirpath has changed"
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    left_out = []
    for block in blocks(page):
        kind, _, rest = block.note.partition(": ")
        if kind == "not run":
            left_out.append(f"{page.name}:{block.line} was left out: {rest}")
            continue
        if kind == "the reader has":
            for name in rest.split(", "):
                names[name] = HAS[name](names)
        if block.language == "python":
            run(page, block, block.code, names)
        elif block.language == "diff":
            compile(after(block.code, "+", "-"), f"{page.name}, before", "exec")
            run(page, block, after(block.code), names)
        elif block.language == "sh":
            for line in block.code.splitlines():
                check_command(line)
        else:
            assert block.language in PROSE, f"{page.name}:{block.line}: what is to be done with {block.language!r}?"
    if left_out:
        pytest.skip(f"the rest ran, but {'; '.join(left_out)}")


def check_command(line: str) -> None:
    """What a line of a shell block names is there: a target of the Makefile, a recipe and its options."""
    for command in line.partition("#")[0].split("&&"):
        words = command.split()
        if words[:1] == ["make"]:
            targets = [word for word in words[1:] if "=" not in word]
            assert targets
            for target in targets:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), line
        elif words[1:2] == ["-m"]:
            told = subprocess.run(
                [sys.executable, "-m", words[2], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert told.returncode == 0, told.stderr
            for option in (word for word in words if word.startswith("--")):
                assert re.search(rf"{option}\b", told.stdout), (line, option)
        else:
            assert words[:2] in (["pip", "install"], ["git", "clone"]) or words[0] == "cd", f"not known: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_code_is_passed_over(page: Path) -> None:
    """Each fence is one of a block that is seen above, and no code is told by its indentation alone."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)) == 2 * len(blocks(page))
    outside = BLOCK.sub("", text)
    assert not re.search(r"\n\n {4,}(?![-*])", outside), "write it between fences"
    assert len(re.findall(r"<!--", text)) == sum(bool(block.note) for block in blocks(page)), (
        "a comment no block follows"
    )


def test_a_diff_leads_to_a_script() -> None:
    assert after("+import a\n \n-b = 1\n+b = 2\n c = b\n") == "import a\n\nb = 2\nc = b"
    assert after("+import a\n-b = 1\n+b = 2\n", "+", "-") == "b = 1"


@pytest.mark.parametrize("line", ["make nothing", "python -m recipes.nothing", "python -m json.tool --nothing"])
def test_commands_that_do_not_exist_are_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)
