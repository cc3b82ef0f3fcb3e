"""Draws small changes of a file, runs its tests on each, and names those that no test notices.

    make mutants FILE=lightning_cosprune/planning/plan.py
    make mutants FILE="lightning_cosprune/ranking/*.py" ARGS="--number 4 --limit 90"

A changed file lies in a copy of the tree, `build/mutants/tree`. What is known is in `build/mutants/found.jsonl`, and a
run that was stopped goes on there; a file that has changed since is drawn anew. Survivors are for reading: a change
that changes nothing (it is equivalent) needs no test, any other is a hole. Needs `os.fork`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lightning_cosprune"
WORK = ROOT / "build" / "mutants"
# Imported once: each run is a fork that has them.
HEAVY = ("pytest", "torch", "lightning.pytorch", "torch_pruning", "pandas", "soundfile", "torchmetrics")

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def sites(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every place that can be changed: its number in the order of ``ast.walk``, and what is done there."""
    untouched: set[int] = set()
    for node in ast.walk(tree):
        # Annotations, messages and lists of names decide nothing.
        parts = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Raise):
            parts.append(node)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith(("_warn", "_info")):
            parts.append(node)
        if isinstance(node, ast.JoinedStr):
            parts.append(node)
        for part in parts:
            untouched |= {id(below) for below in ast.walk(part)} if isinstance(part, ast.AST) else set()
    for number, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.Raise):
            yield number, "does not raise"
        if id(node) in untouched:
            continue
        if (isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS) or (
            isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS
        ):
            yield number, "operator"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            yield number, "no sign"
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            yield number, "constant"
        if isinstance(node, (ast.If, ast.IfExp, ast.While)) and getattr(node.test, "id", "") != "TYPE_CHECKING":
            yield number, "the other way"
        if isinstance(node, ast.Call) and node.keywords:
            yield number, "without its last keyword"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield number, "not called"


def changed(tree: ast.Module, number: int, kind: str) -> tuple[ast.Module, str]:
    """A copy of ``tree`` with one change, and that change in words."""
    tree = copy.deepcopy(tree)
    nodes = list(ast.walk(tree))
    node: Any = nodes[number]
    before = ast.unparse(node).splitlines()[0]
    if kind == "operator" and isinstance(node, ast.Compare):
        node.ops = [SWAPS[type(node.ops[0])]()]
    elif kind == "operator":
        node.op = SWAPS[type(node.op)]()
    elif kind == "constant":
        node.value = not node.value if isinstance(node.value, bool) else node.value * 2 + 1
    elif kind == "the other way":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif kind == "without its last keyword":
        node.keywords = node.keywords[:-1]
    else:
        new = {"no sign": lambda: node.operand, "not called": ast.Pass, "does not raise": ast.Pass}[kind]()
        for parent in nodes:
            for field, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, field, new)
                elif isinstance(value, list) and any(entry is node for entry in value):
                    value[[entry is node for entry in value].index(True)] = new
        node = new
    ast.fix_missing_locations(tree)
    return tree, f"{before} -> {ast.unparse(node).splitlines()[0]}"


def tests_of(file: Path) -> list[str]:
    """The test file that mirrors ``file``; else those that name it, or mirror a file that imports it."""
    tests = ROOT / "tests"
    room = file.parent.relative_to(PACKAGE) if file.parent != Path(PACKAGE) else Path()
    mirror = tests / room / f"test_{file.stem}.py"
    if mirror.is_file():
        return [str(mirror.relative_to(ROOT))]
    module = ".".join(file.with_suffix("").parts)
    found = {path for path in tests.rglob("test_*.py") if module in path.read_text()}
    for reader in (ROOT / PACKAGE).rglob("*.py"):
        if f"from {module} import" in reader.read_text():
            path = tests / reader.relative_to(ROOT / PACKAGE).parent / f"test_{reader.stem}.py"
            found |= {path} if path.is_file() else set()
    return sorted(str(path.relative_to(ROOT)) for path in found or (tests / room).glob("test_*.py"))


def run_tests(tree: Path, tests: list[str], seconds: float) -> tuple[int | None, float]:
    """Run ``tests`` in a fork, within ``seconds``.

    Returns:
        pytest's exit status, ``None`` where it took too long; and the seconds that it took.
    """
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(tree)
        sys.path[0] = str(tree)
        with (WORK / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]))
    status = None
    while status is None and time.monotonic() < start + seconds:
        done, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else None
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # with whatever the tests have started
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status, time.monotonic() - start


def examine(file: Path, known: list[dict[str, Any]], number: int, limit: float, tests: list[str]) -> Iterator[Any]:
    """Draw changes of ``file`` and try those that ``known`` lacks."""
    tree = WORK / "tree"
    original = (tree / file).read_bytes()
    digest = hashlib.sha256(original).hexdigest()[:12]
    parsed = ast.parse(original)
    drawn = list(sites(parsed))
    random.Random(str(file)).shuffle(drawn)
    known = [found for found in known if found["file"] == str(file) and found["digest"] == digest]
    if len(known) >= min(number, len(drawn)):
        return
    status, seconds = run_tests(tree, tests, 3 * limit)
    if status:
        print(f"{file}: its tests fail as it is ({' '.join(tests)}), see {WORK / 'log'}")
        return
    if status is None or seconds > limit:  # every change would be too long
        print(f"{file}: its tests take {seconds:.0f} s as it is, more than --limit {limit:g}. Raise it.")
        return
    for site, kind in drawn[len(known) : number]:
        mutant, change = changed(parsed, site, kind)
        (tree / file).write_text(ast.unparse(mutant))
        for compiled in (tree / file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()
        try:
            status, took = run_tests(tree, tests, min(limit, 30 + 3 * seconds))
        finally:
            (tree / file).write_bytes(original)
        line = getattr(list(ast.walk(parsed))[site], "lineno", 0)
        yield {
            "file": str(file),
            "digest": digest,
            "line": line,
            "change": change,
            "kind": kind,
            "outcome": "survived" if status == 0 else "too long" if status is None else "killed",
            "seconds": round(took, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="files of the package, or patterns of them")
    parser.add_argument("--number", type=int, default=6, help="changes a file")
    parser.add_argument("--limit", type=float, default=120, help="seconds that the tests of one change may take")
    parser.add_argument("--tests", nargs="*", help="test files, in the place of those that mirror the file")
    options = parser.parse_args()
    found_files = (path.relative_to(ROOT) for pattern in options.files for path in sorted(ROOT.glob(pattern)))
    files = [file for file in dict.fromkeys(found_files) if file.stem != "__init__"]
    if not files:
        parser.error(f"expected files such as {PACKAGE}/planning/plan.py, found none at {' '.join(options.files)}")
    for name in HEAVY:
        importlib.import_module(name)
    tree, found = WORK / "tree", WORK / "found.jsonl"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in (PACKAGE, "tests", "recipes", "docs"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree / name)
    results = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    for file in files:
        for result in examine(file, results, options.number, options.limit, options.tests or tests_of(file)):
            results.append(result)
            with found.open("a") as sink:
                sink.write(json.dumps(result) + "\n")
            print(f"{result['outcome']:9} {file}:{result['line']}: {result['change']}", flush=True)
    mine = [result for result in results if result["file"] in map(str, files)]
    survivors = [result for result in mine if result["outcome"] == "survived"]
    told = ", ".join(f"{sum(one['outcome'] == name for one in mine)} {name}" for name in ("killed", "too long"))
    print(f"{len(mine)} changes: {told}, {len(survivors)} survived{':' if survivors else ''}")
    for result in survivors:
        print(f"  {result['file']}:{result['line']}: {result['change']}")


if __name__ == "__main__":
    main()
