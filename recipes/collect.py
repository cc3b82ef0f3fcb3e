# Question: what did all these runs find?
# Command:  .venv/bin/python -m recipes.collect --runs runs/sweep/wandb     offline runs, without an account
#           .venv/bin/python -m recipes.collect --project entity/name       runs that were uploaded
# Hardware: none; two seconds a run on one core.
"""Turn W&B runs into one tidy csv, a line a run, and one page, a network a setting with its spread over seeds.

Offline runs are read by wandb's own ``wandb leet inspect``. Runs that did not finish, or have no ``test/accuracy``, are
named and left out of the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cosprune import Outcome, RunRecord, write_report
from lightning_cosprune.reports.tables import format_outcomes

SETTING = ("network", "criterion", "pruning_ratio", "max_macs", "repair", "data/fraction", "seed")
"""What runs are compared by, as their config names it; what a run has not is left empty."""

NUMBERS = ("test/accuracy", "test/log_loss", "pruning/macs", "pruning/macs_removed", "pruning/params", "energy/kwh")
"""Numbers of a run's summary that come first in the csv; those of devices, scenes and layers follow."""

FAMILIES = ("test/accuracy_device_", "test/accuracy_scene_", "pruning/ratio/", "pruning/accuracy_")


@dataclass(frozen=True)
class Run:
    """One run: its name, its setting and its last numbers."""

    name: str
    state: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    runs = read_offline(options.runs) if options.runs else read_project(options.project)
    tested = [run for run in runs if "test/accuracy" in run.summary and run.state == "finished"]
    for run in runs:
        if run not in tested:
            print(f"left out: {run.name} ({run.state}, test/accuracy {run.summary.get('test/accuracy', 'unknown')})")
    if not tested:
        raise ValueError(f"no finished run with test/accuracy among {len(runs)} in {options.runs or options.project}")
    table, page = options.out / "runs.csv", options.out / "report.html"
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(table, runs)
    record = record_of(tested, str(options.runs or options.project))
    write_report(page, record)
    print(f"{format_outcomes(record)}\n{len(runs)} runs: {table}\nReport: {page}")


def read_offline(folder: Path) -> list[Run]:
    """The runs in a wandb folder, in the order in which they began."""
    logs = sorted(folder.glob("*run-*/*.wandb"))
    if not logs:
        raise ValueError(f"no *run-*/*.wandb in {folder}: expected the folder `wandb` that runs were kept in")
    found = []
    for log in logs:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log)]
        environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
        told = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if told.returncode:
            raise ValueError(f"{log}: {told.stderr.strip()[-300:] or 'wandb leet inspect failed'}")
        run = json.loads(told.stdout)
        found.append(Run(run["name"] or run["run_id"], run["state"], run["config"], run["summary"]))
    return found


def read_project(project: str) -> list[Run]:
    """The runs of a project, over the network and with the account that wandb is logged in to."""
    import wandb

    return [Run(run.name, run.state, dict(run.config), dict(run.summary)) for run in wandb.Api().runs(project)]


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    names = sorted({name for run in runs for name in run.summary if name.startswith(FAMILIES)})
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "state", *SETTING, *NUMBERS, *names])
        for run in runs:
            setting = [run.config.get(name, "") for name in SETTING]
            writer.writerow(
                [run.name, run.state, *setting, *(run.summary.get(name, "") for name in (*NUMBERS, *names))]
            )
    partial.replace(path)


def record_of(runs: Iterable[Run], source: str) -> RunRecord:
    """One network for each setting, seeds together; runs of one criterion and repair are a series."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(str(run.config.get(name, "")) for name in SETTING if name != "seed")
        groups.setdefault(key, []).append(run)
    outcomes = [outcome_of(group) for group in groups.values()]
    outcomes.sort(key=lambda outcome: (outcome.role == "rival", -statistics.mean(outcome.accuracy)))
    dense = [outcome for outcome in outcomes if outcome.role == "dense"] or dense_of(
        [run for group in groups.values() for run in group]
    )
    others = [outcome for outcome in outcomes if outcome.role != "dense"]
    notes = ["Accuracies are those of the test clips at the end of each run, the most accurate network first."]
    if sum(outcome.role == "tuned" for outcome in others) > 1:
        notes.append("The figures above are those of the first: chosen on the test clips, it looks better than it is.")
    return RunRecord(
        "What the runs found",
        {"runs": str(sum(map(len, groups.values()))), "from": source},
        (*dense, *others),
        notes=notes,
    )


def dense_of(runs: Sequence[Run]) -> list[Outcome]:
    """The dense network that runs began with, where they say how accurate it was; one accuracy a seed."""
    told = {
        str(run.config.get("seed")): run.summary
        for run in runs
        if run.summary.get("pruning/macs_removed", 1) < 1 and "pruning/accuracy_dense" in run.summary
    }
    if not told:
        return []

    def costs(name: str) -> tuple[float, ...]:
        return tuple(
            float(round(one[f"pruning/{name}"] / (1 - one[f"pruning/{name}_removed"]))) for one in told.values()
        )

    accuracy = tuple(float(one["pruning/accuracy_dense"]) for one in told.values())
    return [Outcome("dense", "dense", accuracy, (), *map(costs, ("macs", "params", "bytes")))]


def outcome_of(runs: Sequence[Run]) -> Outcome:
    config = runs[0].config
    criterion, repair = (str(config.get(name, "none")) for name in ("criterion", "repair"))
    fraction = config.get("data/fraction")
    dense = config.get("network") == "dense"
    told = [
        "" if repair == "none" else f"repair {repair.replace('_', ' ')}",
        f"{float(config['pruning_ratio']):.0%} of the filters" if _is_number(config.get("pruning_ratio")) else "",
        f"{float(config['max_macs']):.0%} of the MACs" if _is_number(config.get("max_macs")) else "",
        f"{fraction:.0%} of the data" if _is_number(fraction) else "",
    ]
    label = ", ".join([criterion, *filter(None, told)])
    # Runs of the quickstart say themselves what their network is called.
    own_name = "network" in config and {"pruning_ratio", "max_macs"}.isdisjoint(config)
    label = str(config["network"]) if own_name else label
    trained = _is_number(fraction) and fraction > 0
    role = "tuned" if trained else "repaired" if repair != "none" else "cut"

    def numbers(name: str) -> tuple[float, ...]:
        return tuple(float(run.summary[name]) for run in runs if name in run.summary)

    def grouped(prefix: str) -> dict[str, float]:
        names = sorted({name for run in runs for name in run.summary if name.startswith(prefix)})
        return {name.removeprefix(prefix): statistics.mean(numbers(name)) for name in names}

    return Outcome(
        label,
        "dense" if dense else "rival" if criterion == "none" else role,
        numbers("test/accuracy"),
        numbers("test/log_loss"),
        numbers("pruning/macs"),
        numbers("pruning/params"),
        numbers("pruning/bytes"),
        fraction=float(fraction) if trained else None,
        series="" if dense or criterion == "none" else f"{criterion}, {told[0]}" if trained and told[0] else criterion,
        by_device=grouped("test/accuracy_device_"),
        by_scene=grouped("test/accuracy_scene_"),
        ratios=grouped("pruning/ratio/"),
        kwh=numbers("energy/kwh"),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="collect", description=str(__doc__).split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, help="folder `wandb` of offline runs")
    source.add_argument("--project", help="entity/name of a project that runs were uploaded to")
    parser.add_argument("--out", type=Path, default=Path("runs/collected"), help="default: runs/collected")
    return parser.parse_args(arguments)


def guarded(program: Callable[[], None]) -> None:
    """Run a program; wrong input is one line on the screen."""
    try:
        program()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    guarded(main)
