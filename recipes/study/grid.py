"""All runs of a study, in an order that every machine agrees on: one run is one command with a number."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

_KEYS = {"folds", "seeds", "runs", "smoke", "against", "published", "figure", "levels", "note", "columns"}
_ENTRY = {"command", "configs", "vary", "folds", "seeds"}
_SMOKE = {"set", "variants", "folds", "seeds"}


@dataclass(frozen=True)
class Job:
    """One run: what is asked of which file, which case of it, and what that case sets."""

    command: str
    config: Path
    variant: str
    settings: Mapping[str, Any]
    fold: int
    seed: int

    @property
    def run(self) -> str:
        return self.config.stem

    def arguments(self, data: str, out: Path) -> list[str]:
        """The command, as one would write it."""
        found = [self.command, "--config", str(self.config), "--data", data]
        found += ["--fold", str(self.fold), "--seed", str(self.seed)]
        if self.variant:
            found += ["--study.variant", self.variant]
        if out != Path("runs"):
            found += ["--study.out", str(out)]
        for key, value in self.settings.items():
            found += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return found


class Grid:
    """What ``grid.yaml`` of a study says.

    ``runs`` is a list of entries with ``command`` (``fit`` or ``prune``), ``configs``, and ``vary``, a list of mappings
    from a label to the keys that it sets; every choice of one label from each is a variant. Runs that others build on
    come first. ``smoke`` says what its small form sets, and which variants it has; a label "smoke" is for it alone.

    Args:
        folder: Of the study.
        smoke: Whether this is the small form, on synthetic scenes.

    Raises:
        ValueError: The file is missing or has a key that is not known.
    """

    def __init__(self, folder: Path, smoke: bool = False) -> None:
        self.folder = folder
        file = folder / "grid.yaml"
        if not file.is_file():
            known = sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/grid.yaml"))
            raise ValueError(
                f"`--study {folder}`: expected a folder with grid.yaml, found none. The studies are recipes/"
                f"{', recipes/'.join(known)}."
            )
        self.content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._check("", self.content, _KEYS)
        self.smoke: dict[str, Any] = self.content.get("smoke", {}) if smoke else {}
        self._check("smoke", self.smoke, _SMOKE)
        self.folds: list[int] = self.smoke.get("folds", self.content.get("folds", [1]))
        self.seeds: list[int] = self.smoke.get("seeds", self.content.get("seeds", [0]))

    def _check(self, place: str, found: Mapping[str, Any], known: set[str]) -> None:
        unknown = sorted(set(found) - known)
        if unknown:
            raise ValueError(
                f"{self.folder / 'grid.yaml'}: expected the keys {', '.join(sorted(known))}"
                f"{f' in {place!r}' if place else ''}, found {unknown[0]!r}. Correct the name."
            )

    def jobs(self) -> list[Job]:
        """Every run; those of one fold and seed stand together, so that what is there early can be compared."""
        return [job for seed in self.seeds for fold in self.folds for job in self._of(fold, seed)]

    def _of(self, fold: int, seed: int) -> Iterator[Job]:
        for entry in self.content["runs"]:
            self._check("runs", entry, _ENTRY)
            if fold not in entry.get("folds", self.folds) or seed not in entry.get("seeds", self.seeds):
                continue
            for choice in itertools.product(*(axis.items() for axis in entry.get("vary", []))):
                variant = ", ".join(label for label, _ in choice)
                if variant and variant not in self.smoke.get("variants", [variant]):
                    continue
                if not self.smoke and any(label == "smoke" for label, _ in choice):
                    continue
                settings: dict[str, Any] = dict(self.smoke.get("set", {}))
                for _, sets in choice:
                    settings |= sets
                for config in entry["configs"]:
                    yield Job(entry["command"], self.folder / config, variant, settings, fold, seed)

    def needed(self, job: Job) -> list[Job]:
        """What it builds on: the runs of its fold and seed whose networks it cuts or learns from."""
        found = []
        for name in sorted({self._dense(job), self._teacher(job)} - {None, job.run}, key=str):
            cases = {one.variant: one for one in self._of(job.fold, job.seed) if one.run == name}
            found += [cases[variant] for variant in lineage(job.variant) if variant in cases][:1]
        return found

    def _dense(self, job: Job) -> str | None:
        if job.command != "prune":
            return None
        told: str = job.settings.get("study.dense") or (_read(job.config).get("study") or {}).get("dense", "dense")
        return told

    def _teacher(self, job: Job) -> str | None:
        told: str | None = (_read(job.config).get("distillation") or {}).get("teacher")
        return told


def lineage(variant: str) -> list[str]:
    """What a variant is a case of: "2x, 50 %" of "2x", that of the run without a variant.

    >>> lineage("2x, 50 %")
    ['2x, 50 %', '2x', '']
    """
    labels = variant.split(", ") if variant else []
    return [", ".join(labels[:count]) for count in range(len(labels), -1, -1)]


def chosen(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs whose run or variant matches one of the patterns; all where there are none."""
    return [
        job
        for job in jobs
        if not patterns or any(fnmatchcase(name, pattern) for name in (job.run, job.variant) for pattern in patterns)
    ]


def _read(config: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    return content
