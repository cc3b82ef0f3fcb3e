"""What a run leaves: one row, in a file of its own, so that the rows of many machines come together by copying."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One network of one fold and seed on the test clips, what it cost, and how to get it again.

    ``clips_seen`` and ``seconds`` are those of this run's training, ``..._in_all`` of all runs that it builds on too.
    ``kwh`` is estimated, and NaN where that was not asked for. ``rule_bytes`` and ``rule_macs`` are those of the DCASE
    rule. ``settings`` tells what the run was asked for from anything else.
    """

    study: str
    run: str
    variant: str
    network: str
    data: str
    fold: int
    seed: int
    fraction: float
    epochs: int
    weights: str
    criterion: str
    ratio: str
    repair: str
    distillation: str
    kept: str
    params: int
    macs: int
    input: str
    rule_bytes: int
    rule_macs: int
    accuracy: float
    class_averaged_accuracy: float
    log_loss: float
    accuracy_real_devices: float
    accuracy_seen_devices: float
    accuracy_unseen_devices: float
    clips_seen: int
    clips_in_all: int
    seconds: float
    seconds_in_all: float
    kwh: float
    machine: str
    versions: str
    commit: str
    settings: str
    command: str

    @property
    def of(self) -> tuple[object, ...]:
        """The run that has left it."""
        return self.study, self.run, self.variant, self.data, self.fold, self.seed

    @property
    def cell(self) -> tuple[str, str]:
        """What it is a repetition of."""
        return self.run, self.variant

    @property
    def pair(self) -> tuple[int, int]:
        """What it is compared within."""
        return self.fold, self.seed


@dataclass(frozen=True)
class Point:
    """Accuracy on the test clips after some epochs; what it took is counted with all runs that it builds on."""

    run: str
    variant: str
    fold: int
    seed: int
    epoch: int
    clips_in_all: int
    seconds_in_all: float
    kwh_in_all: float
    accuracy: float

    @property
    def of(self) -> tuple[object, ...]:
        """The run that has left it."""
        return self.run, self.variant, self.fold, self.seed


def slug(*parts: object) -> str:
    """A file name."""
    text = "-".join(str(part) for part in parts if str(part))
    return re.sub(r"[^A-Za-z0-9.+_=-]+", "_", text.replace("%", "percent")).strip("_")


def machine(device: str) -> str:
    """Kind of processor or accelerator and how many threads; no name of its own."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    return f"{model}, {torch.get_num_threads()} threads"


def versions() -> str:
    names = ("lightning-cosprune", "torch", "lightning", "torch-pruning", "numpy")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def commit() -> str:
    """The commit of this checkout, with a plus where files differ from it; nothing where that cannot be told."""
    try:
        head, changed = (
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else head
