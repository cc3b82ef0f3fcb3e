# Question: what do pruning, repair, distillation and training from scratch give, on any set of scenes?
# Command:  .venv/bin/python -m recipes.main run --study recipes/interspeech2022 --data path      (resumable)
# Measured: the table of each study, recipes/README.md.
"""The studies: every run is a YAML file, every study a folder of them.

    python -m recipes.main fit --config recipes/interspeech2022/dense.yaml --data FOLDER --fold 1 --seed 0
    python -m recipes.main prune --config recipes/interspeech2022/cosine.yaml --data FOLDER --fold 1 --seed 0
    python -m recipes.main test --config recipes/interspeech2022/cosine.yaml --data FOLDER --fold 1 --seed 0

`fit` trains a network, `prune` cuts one that `fit` has left and trains it on, `test` measures what a run has left.
--data is a folder in DCASE layout, such as those of the TAU sets, or that of ESC-10; without it the scenes are
synthetic. Any key of the YAML file may be given as an option: `fit --help` lists them. A run that is there is not done
again.

    python -m recipes.main run --study recipes/interspeech2022 --data FOLDER
    python -m recipes.main summarize --study recipes/interspeech2022

`run` does all runs of a study, or with --index one of them, or with --smoke its small form on synthetic scenes; --list
shows them. `summarize` makes the study's csv, tables and picture from the rows that the runs have left.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("fit", "prune", "test", "run", "summarize")


def one(command: str, arguments: Sequence[str]) -> str:
    """Do one run, and say what came of it."""
    from recipes.study.cli import read
    from recipes.study.experiment import Experiment

    row = Experiment(command, read(arguments), [*arguments]).run()
    if os.environ.get("WANDB_SWEEP_ID"):
        _tell_sweep(row)
    return (
        f"{row.study} {row.run}{f' ({row.variant})' if row.variant else ''}, fold {row.fold}, seed {row.seed}: "
        f"accuracy {row.accuracy:.4f}, {row.params:,} parameters, {row.macs / 1e6:,.2f} M MACs, filters {row.kept}"
    )


def _tell_sweep(row: object) -> None:
    """Let the agent of a W&B sweep, which has started this process, know what came of its run."""
    import wandb

    with wandb.init(name=f"{row.run} {row.variant}".strip()) as told:  # type: ignore[attr-defined]
        told.summary.update(vars(row))


def run(options: argparse.Namespace) -> int:
    """Do the runs of a study; a run that fails is named and does not stop the others."""
    from recipes.study.grid import Grid, Job, chosen

    grid = Grid(options.study, options.smoke)
    jobs = chosen([job for job in grid.jobs() if _wanted(job, options)], options.only)
    if options.list:
        for number, job in enumerate(jobs):
            print(f"{number:5d}  {job.run:24} {job.variant:24} fold {job.fold} seed {job.seed}")
        return 0
    if options.index is not None and not 0 <= options.index < len(jobs):
        raise ValueError(
            f"`--index {options.index}`: expected a number from 0 to {len(jobs) - 1}, as `--list` shows them. Lower it."
        )
    todo: list[Job] = jobs if options.index is None else [jobs[options.index]]
    failed = 0
    data, done = ("synthetic" if options.smoke else options.data), set()
    out = options.out / "smoke" if options.smoke else options.out
    for number, job in enumerate(todo):
        for step in (*grid.needed(job), job):
            arguments = step.arguments(data, out)
            if tuple(arguments) in done:
                continue
            start = time.perf_counter()
            try:
                told = one(arguments[0], arguments[1:])
            except (ValueError, OSError, RuntimeError) as error:
                failed += 1
                print(f"failed: {' '.join(arguments)}\n  {error}", file=sys.stderr, flush=True)
                break
            done.add(tuple(arguments))
            print(f"[{number + 1}/{len(todo)}] {told} ({time.perf_counter() - start:.0f} s)", flush=True)
    return min(failed, 100)


def _wanted(job: object, options: argparse.Namespace) -> bool:
    return all(not wanted or getattr(job, name[:-1]) in wanted for name, wanted in _filters(options))


def _filters(options: argparse.Namespace) -> list[tuple[str, list[int]]]:
    return [("folds", options.folds), ("seeds", options.seeds)]


def quieten() -> None:
    """Hide what Lightning says of each of many trainers."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import lightning.pytorch  # noqa: F401 - the levels are set when it is imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.* is deprecated.*",
        "Checkpoint directory .* exists and is not empty",
        "The number of training batches",
        "The dirpath has changed",
        "It is recommended to use `self.log",  # the metrics come together by themselves
        "You defined a `validation_step` but have no `val_dataloader`",
    ):
        warnings.filterwarnings("ignore", message=message)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m recipes.main {{{','.join(COMMANDS)}}} ...\n\n{__doc__}")
        print("Options of run and summarize: --study --data --out --folds --seeds --only --index --list --smoke.")
        print("Options of fit, prune and test: --config --data --fold --seed, and every key of a YAML file, such as")
        print("--model.weights --trainer.strategy --trainer.devices.")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise ValueError(f"`recipes.main {command}`: expected one of {', '.join(COMMANDS)}. Write it first.")
    quieten()
    if command in ("fit", "prune", "test"):
        print(one(command, rest))
        return 0
    parser = argparse.ArgumentParser(prog=f"recipes.main {command}")
    add = parser.add_argument
    add("--study", type=Path, required=True, help="folder of the study, such as recipes/interspeech2022")
    add("--out", type=Path, default=Path("runs"), help="where runs are left (default: runs)")
    if command == "run":
        add("--data", default="synthetic", help="folder of the scenes (default: synthetic ones)")
        add("--folds", type=int, nargs="+", default=[], help="only these")
        add("--seeds", type=int, nargs="+", default=[], help="only these")
        add("--only", nargs="+", default=[], help="patterns of the names of runs or variants")
        add("--index", type=int, help="do this one run, for job arrays and sweeps")
        add("--list", action="store_true", help="show the runs with their numbers, and do nothing")
        add("--smoke", action="store_true", help="the small form, on synthetic scenes")
        return run(parser.parse_args(rest))
    add("--into", type=Path, help="folder of results.csv and tables.md (default: that of the study)")
    add("--figures", type=Path, default=Path("docs/images"), help="folder of the picture (default: docs/images)")
    from recipes.study.summarize import summarize

    print(summarize(parser.parse_args(rest)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
