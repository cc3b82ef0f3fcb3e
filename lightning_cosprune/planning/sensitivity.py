"""How much a network suffers where a single group of layers is cut, as values; the figure is drawn in reports."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from lightning_cosprune.arguments import as_real, path_of, whole_number
from lightning_cosprune.calibration.batches import as_batches, check_runs
from lightning_cosprune.data.disk import writing_to, written_beside
from lightning_cosprune.network.channels import ChannelGroup, channel_graph
from lightning_cosprune.network.layers import check_model, prunable_layers
from lightning_cosprune.network.norms import Normalising, declared_norms
from lightning_cosprune.planning.choose import CRITERIA, plan_pruning
from lightning_cosprune.planning.curves import (
    ErrorCurve,
    allowed_widths,
    first_to_go,
    response_curves,
    similarity_curve,
)
from lightning_cosprune.planning.ranked import Criterion, FilterRanking
from lightning_cosprune.planning.rehearsal import as_plan
from lightning_cosprune.ranking.redundancy import check_criterion
from lightning_cosprune.repair.least_squares import refit_least_squares
from lightning_cosprune.surgery.apply import apply_plan

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """One curve for each group of layers that may be cut.

    Attributes:
        measure: ``"response"``: error of the network's outputs, estimated from the layers that read the filters;
            ``"similarity"``: distance of the removed filters to their nearest kept one; ``"score"``: what the user's
            function returned.
        dense: The value with all filters.
        curves: Name of a group, its layers joined by " + " -> number of filters kept -> value, most filters first.
    """

    measure: str
    dense: float
    curves: Mapping[str, Mapping[int, float]]

    def __post_init__(self) -> None:
        sealed = {name: MappingProxyType(dict(curve)) for name, curve in self.curves.items()}
        object.__setattr__(self, "curves", MappingProxyType(sealed))


def sensitivity(
    model: nn.Module,
    example_inputs: Any,
    *,
    calibration: Iterable[Any] | None = None,
    score: Callable[[nn.Module], float] | None = None,
    criterion: Criterion = "response",
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 0.875),
    layers: Sequence[str] | None = None,
    ignored_layers: Sequence[str | nn.Module] = (),
    seed: int = 0,
    kept_in: str | Path | None = None,
    normalising: Normalising = (),
) -> Sensitivity:
    """What removing more and more filters of one group of layers does, the others left whole.

    Args:
        model: The network; left as it was found.
        example_inputs: As for :func:`plan_pruning`.
        calibration: Unlabelled inputs, one entry a forward pass. Without them ``criterion`` must be one of weights.
        score: What a network is worth, such as its accuracy on validation clips; it is given a copy of the network with
            one group cut, and where there are ``calibration`` data repaired. Where ``None``, errors are measured.
        criterion: Which filters go first.
        fractions: Parts of a group's filters that are removed, each rounded down.
        layers: Names or patterns, as for :func:`plan_pruning`.
        ignored_layers: Likewise.
        seed: Start of the draws of ``criterion="random"``.
        kept_in: A csv file that holds the scores so far: with it, a run that was stopped goes on where it was.
        normalising: Norms over channels of your own, as for :func:`plan_pruning`.

    Returns:
        The curves.

    Raises:
        ValueError: An argument is out of range, or the file holds scores of something else.
        OSError: The file cannot be read or written.
    """
    check_model(model, "sensitivity")
    check_criterion(criterion, CRITERIA)
    seed = whole_number(seed, "`sensitivity(seed={})`", 0)
    sheet_path = None if kept_in is None else path_of(kept_in, "`sensitivity(kept_in={})`", "a csv file, or None")
    if score is not None and not callable(score):
        raise TypeError(
            f"`sensitivity(score={score!r:.60})`: expected a function from a network to a number, found a "
            f"{type(score).__name__}. Pass one such as `lambda network: accuracy(network, clips)`."
        )
    if (criterion == "response") and calibration is None:
        raise ValueError(
            '`sensitivity(criterion="response", calibration=None)`: expected calibration data. Pass a list of '
            'unlabelled inputs, or criterion="cosine" to go by the weights.'
        )
    fractions = _fractions(fractions)
    batches = None if calibration is None else as_batches(calibration, "sensitivity")
    if batches is not None:
        check_runs(model, batches, "sensitivity")
    modules = prunable_layers(model)
    # Which layers may be cut at all is asked of the planner, at the price of no ranking.
    able = plan_pruning(
        model,
        example_inputs,
        criterion="random",
        pruning_ratio=max(fractions),
        layers=layers,
        ignored_layers=ignored_layers,
        normalising=normalising,
    )
    declared = declared_norms(model, normalising, "sensitivity")
    groups = channel_graph(model, example_inputs, declared).groups(able.pruned)
    groups = [group for group in groups if group.units_of(able.pruned)]
    ranking = FilterRanking(modules, criterion, round_to={}, min_filters={}, seed=seed, vectors=None)
    curves = _curves(model, example_inputs, groups, ranking, batches, by_output=score is None)
    wanted = {group: _kept(group, fractions) for group in curves}
    if score is None:
        kind = "similarity" if batches is None else "response"
        found = {
            group.name: {width: float(curve.errors[list(curve.widths).index(width)]) for width in wanted[group]}
            for group, curve in curves.items()
        }
        return Sensitivity(kind, 0.0, found)
    sheet = _Sheet(sheet_path, f"{criterion} {seed} {'repaired' if batches else 'cut'}")
    dense = sheet.value("dense", 0, lambda: score(model))
    values: dict[str, dict[int, float]] = {}
    steps = [(group, width) for group in wanted for width in wanted[group]]
    for group, width in tqdm(steps, desc="Scoring", unit="cut", delay=2, leave=False):

        def scored(group: ChannelGroup = group, width: int = width) -> float:
            pruned = copy.deepcopy(model)
            gone = sorted(first_to_go(curves[group].order, group, group.filters - width).tolist())
            report = apply_plan(pruned, as_plan({group: gone}), example_inputs, allow_unpruned=True)
            if report.layers and batches is not None:
                refit_least_squares(pruned, model, batches, report=report)
            return float("nan") if not report.layers else float(score(pruned))

        values.setdefault(group.name, {})[width] = sheet.value(group.name, width, scored)
    return Sensitivity("score", dense, values)


def _fractions(fractions: Sequence[float]) -> list[float]:
    found: list[float] = []
    if isinstance(fractions, Iterable) and not isinstance(fractions, (str, bytes, Mapping, nn.Module, type)):
        several = getattr(fractions, "shape", None) != ()
        found = [math.nan if (one := as_real(fraction)) is None else one for fraction in fractions] if several else []
    if not found or any(not 0 < fraction < 1 for fraction in found):
        raise ValueError(
            f"`sensitivity(fractions={' '.join(f'{fractions!r:.60}'.split())})`: expected fractions between 0 and 1. "
            "Write a list of them, such as [0.25, 0.5]."
        )
    return found


def _kept(group: ChannelGroup, fractions: Sequence[float]) -> list[int]:
    """Filters left after each fraction, most first."""
    size = group.filters // group.blocks
    left = {size - int(fraction * size + 1e-6) for fraction in fractions}
    return [group.blocks * width for width in sorted(left, reverse=True) if width < size]


def _curves(
    model: nn.Module,
    example_inputs: Any,
    groups: Sequence[ChannelGroup],
    ranking: FilterRanking,
    batches: list[Any] | None,
    by_output: bool,
) -> dict[ChannelGroup, ErrorCurve]:
    # Every width: what is asked for must be among them.
    widths = {group: allowed_widths(group, 1, 1, options=group.filters) for group in groups}
    if batches is None:
        return {
            group: similarity_curve(ranking.weight(group), ranking.order(group), group, widths[group])
            for group in groups
        }
    ranked = None if ranking.criterion == "response" else ranking.order
    return response_curves(model, example_inputs, widths, batches, ranked, by_output=by_output)


class _Sheet:
    """Scores in a csv file, written beside its place and renamed."""

    _FIELDS = ("what", "layer", "kept", "score")

    def __init__(self, path: Path | None, what: str) -> None:
        self._path, self._what = path, what
        self._known: dict[tuple[str, int], float] = {}
        if path is None or not path.is_file():
            return
        owner = f"`sensitivity(kept_in={str(path)!r})`"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise type(error)(
                f"{owner}: expected a file that can be read, found {error.strerror!r}. Give this user the right to "
                "read it, or name another file."
            ) from error
        except ValueError as error:
            raise ValueError(f"{owner}: expected scores as csv, found {error}. Name another file.") from error
        for row in rows:
            scored = None
            if tuple(row) == self._FIELDS and row["what"] == what:
                with contextlib.suppress(ValueError, TypeError):
                    scored = int(row["kept"]), float(row["score"])
            if scored is None:
                raise ValueError(
                    f"{owner}: expected scores of {what!r}, found {dict(row)!r:.120}. Name another file, or remove "
                    "this one."
                )
            self._known[row["layer"], scored[0]] = scored[1]

    def value(self, layer: str, kept: int, measure: Callable[[], float]) -> float:
        if (layer, kept) not in self._known:
            self._known[layer, kept] = measure()
            self._write()
        return self._known[layer, kept]

    def _write(self) -> None:
        if self._path is None:
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._FIELDS)
        writer.writerows([self._what, *key, repr(score)] for key, score in self._known.items())
        content = text.getvalue().encode()
        owner = f"`sensitivity(kept_in={str(self._path)!r})`"
        with writing_to(self._path.parent, owner, len(content), "a rerun goes on where this one stopped"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(self._path, to_disk=False) as file:
                file.write(content)
