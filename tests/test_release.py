"""What is checked before a release, and on which versions: the workflows, the Makefile and pyproject.toml agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("pip._vendor.tomli")

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))["jobs"]


def test_every_python_that_is_promised_is_tested_and_one_thing_differs_at_a_time() -> None:
    cases = jobs("ci.yml")["test"]["strategy"]["matrix"]["include"]
    promised = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: Python :: 3\.\d+$", name)}
    assert {case["python"] for case in cases} == promised == {"3.10", "3.11", "3.12", "3.13"}
    assert min(promised) == PROJECT["requires-python"].removeprefix(">=")
    (default,) = [case for case in cases if case["name"] == "default"]
    for case in cases:
        differing = {key for key in {*case, *default} - {"name"} if case.get(key) != default.get(key)}
        assert len(differing) == (case is not default), case


def test_workflows_run_what_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert WORKFLOWS
    called = set()
    for path in WORKFLOWS:
        for job in jobs(path.name).values():
            for step in job["steps"]:
                for target in re.findall(r"^make (\S+|\$\{\{.*?\}\})$", step.get("run", ""), re.MULTILINE):
                    cases = job.get("strategy", {}).get("matrix", {}).get("include", [])
                    called |= {case["name"] for case in cases} if "matrix" in target else {target}
    assert called == {"test", "check", "docs", "lowest", "newest"}
    assert called <= targets
    assert "twine check" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_publishing_needs_no_secret() -> None:
    publish = jobs("publish.yml")["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")


def test_lower_bounds_are_those_of_pyproject() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "lower_bounds.py"), "viz", "cli"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in told)
    wanted = [
        *PROJECT["dependencies"],
        *(one for name in ("viz", "cli") for one in PROJECT["optional-dependencies"][name]),
    ]
    assert [line.partition("==")[0] for line in told] == [re.match(r"[\w-]+", one)[0] for one in wanted]
    assert "torch==2.5" in told
    assert "torch-pruning==1.6.0" in told


def test_issue_templates_are_forms() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        assert all(part["attributes"]["label"] for part in form["body"])
