"""What a YAML file may say: LightningCLI's keys of trainer, data and model, and those of pruning and the study."""

from __future__ import annotations

import argparse
import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_cosprune import CosineFilterPruning
from recipes.study.networks import scene_classifier
from recipes.study.scenes import open_scenes

OURS = ("data", "model", "pruning", "distillation", "study", "trainer")


@dataclass
class Distillation:
    """How a network learns from another, as KnowledgeDistillation has it.

    Args:
        teacher: Run of this study whose network teaches; without one the network as it was before it is pruned.
        alpha: The teacher's share of the loss, in (0, 1].
        temperature: Of the divergence of softmax scores; the squared error of the scores without one.
        batch_norm: Whether batch norms keep their statistics, "frozen", or learn, "training".
        dropout: Whether the network drops units while it learns.
    """

    teacher: str | None = None
    alpha: float = 1.0
    temperature: float | None = None
    batch_norm: Literal["frozen", "training"] = "frozen"
    dropout: bool = False


@dataclass
class Study:
    """Which run of which study this is, and what is written.

    Args:
        name: Of the study; the folder of the YAML file where it is not given.
        run: Of the run; the YAML file's own name where it is not given.
        variant: What it is a case of, such as "C1, 50 %".
        out: Folder below which everything is written.
        dense: Run of this study whose network is pruned.
        weights: "dense" goes on with the weights that are kept, "scratch" begins with random ones of the same size.
        checkpoint_every: Epochs from one checkpoint to the next, from which a killed run goes on; 0 for none.
        curve_every: Epochs from one look at the test clips to the next, which decides nothing; 0 for none.
        energy: Whether the energy of training is estimated; needs the extra "energy".
    """

    name: str = ""
    run: str = ""
    variant: str = ""
    out: str = "runs"
    dense: str = "dense"
    weights: Literal["dense", "scratch"] = "dense"
    checkpoint_every: int = 10
    curve_every: int = 0
    energy: bool = False


class StudyCLI(LightningCLI):
    """LightningCLI for a scene classifier that is trained, pruned or tested."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(CosineFilterPruning, "pruning")
        parser.add_argument("--distillation", type=Distillation | None, default=None, help="learn from a teacher")
        parser.add_class_arguments(Study, "study")
        parser.link_arguments("data", "model.scenes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "pruning.seed")


def read(arguments: Sequence[str]) -> StudyCLI:
    """What the files and arguments say, as objects.

    Raises:
        ValueError: A key is not known, or a value does not fit, with the nearest key there is.
    """
    with warnings.catch_warnings():
        # Said of every call from Python; both parts of that are meant here.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            return StudyCLI(
                scene_classifier,
                open_scenes,
                save_config_callback=None,
                trainer_class=Trainer,
                trainer_defaults={
                    "logger": False,
                    "enable_checkpointing": False,
                    "enable_model_summary": False,
                    "enable_progress_bar": False,
                    "limit_val_batches": 0,
                },
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False},
                run=False,
                auto_configure_optimizers=False,
                args=_shortened(arguments),
            )
        except argparse.ArgumentError as error:
            raise ValueError(_told(error.message or str(error))) from error


def config_file(arguments: Sequence[str]) -> Path | None:
    """The last YAML file that is named, which gives the run its name."""
    for place in range(len(arguments) - 1, -1, -1):
        key, equals, value = arguments[place].partition("=")
        if key in ("--config", "-c"):
            return Path(value) if equals else Path(arguments[place + 1]) if place + 1 < len(arguments) else None
    return None


def _shortened(arguments: Sequence[str]) -> list[str]:
    """``--data FOLDER`` and ``--fold 2`` stand for ``--data.root FOLDER`` and ``--data.fold 2``."""
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = {"--data": "--data.root", "--fold": "--data.fold", "--seed": "--seed_everything"}.get(key, key)
        found.append(f"{key}{equals}{value}")
    return found


_UNKNOWN = re.compile(
    r"does not accept option '([^']+)'|unrecognized arguments: (\S+)|no action for key \"([^\"]+)\"|key '([^']+)'", re.I
)


def _told(message: str) -> str:
    """What jsonargparse says, in one line, with the key that may have been meant; older releases say it otherwise."""
    message = " ".join(message.split()).rstrip(".")
    unknown = _UNKNOWN.search(message)
    if not unknown:
        return f"{message}. See `python -m recipes.main prune --help` for every key."
    key = next(found for found in unknown.groups() if found).lstrip("-").split("=")[0]
    named = re.search(r"Group '([^']+)'", message)
    group, _, rest = (named[1], "", key) if named else key.rpartition(".")
    key, group = (rest, group) if group in OURS else (key, "")
    known = _keys(group)
    of_it = [name for name in known if key in name.replace(".", "_").split("_")]
    close = of_it or difflib.get_close_matches(key, known, 1, 0.5)
    hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(known)}."
    return f"unknown key {key!r}{f' of {group!r}' if group else ''}. {hint} ({message})"


def _keys(group: str) -> list[str]:
    from inspect import signature

    kinds: dict[str, Any] = {
        "data": open_scenes,
        "model": scene_classifier,
        "pruning": CosineFilterPruning,
        "distillation": Distillation,
        "study": Study,
        "trainer": Trainer,
    }
    if group in kinds:
        return [name for name in signature(kinds[group]).parameters if name != "scenes"]
    nested = [f"{name}.{key}" for name in kinds for key in _keys(name)]
    return [*OURS, "seed_everything", *nested]
