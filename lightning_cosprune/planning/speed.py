"""What a network's time would be at any widths, on this machine: layers timed at some, once, and kept in a file."""

# ruff: noqa: F722 - jaxtyping writes the axes of an array in a string

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.calibration.observe import observe
from lightning_cosprune.data.disk import writing_to
from lightning_cosprune.network.computed import is_computed
from lightning_cosprune.network.latency import FAST_BLOCK, Contender, contender, machine_name, time_interleaved
from lightning_cosprune.network.layers import is_depthwise, is_layer
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.planning.costs import CostModel

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Stopwatch", "TimeAim", "TimeModel", "TimeTable", "table_file"]

_POINTS = 5
_SECONDS = 0.03
_SECONDS_WHOLE = 2.0
_ATTEMPTS = 6
_ENOUGH = 0.9
"""A network that takes this part of the time that it may take is not looked at again."""

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def table_file() -> Path:
    """Where times are kept: ``latency.json`` below ``$XDG_CACHE_HOME/lightning_cosprune``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lightning_cosprune" / "latency.json"


class TimeTable:
    """Seconds of single layers on this machine; what was measured once is read from a file.

    Args:
        file: The file; written beside and renamed. Times of other machines in it stay.
        backend: ``"eager"`` or ``"channels_last"``.
    """

    def __init__(self, file: Path, backend: str) -> None:
        self._file, self.backend = file, backend
        self._machine = f"{machine_name()} | torch {torch.__version__} | {backend} | 1 thread"
        self._known: dict[str, dict[str, float]] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(file.read_text(encoding="utf-8"))
            self._known = {machine: dict(times) for machine, times in found.items()}

    def seconds(self, layer: nn.Module, inputs: Tensor, given: int, made: int) -> float:
        """Time of a layer like this one that reads ``given`` channels and has ``made`` filters."""
        shape = list(inputs.shape)
        shape[_channel_axis(layer, inputs)] = given
        own = self._known.setdefault(self._machine, {})
        key = f"{_described(layer)} {given}->{made} at {'x'.join(map(str, shape))}"
        if key not in own:
            like = contender(_like(layer, given, made), torch.zeros(shape), self.backend, 1)
            own[key] = float(time_interleaved([like], seconds=_SECONDS)[0].min())
        return own[key]

    def save(self) -> None:
        """Write what is known; a warning where that is not possible, for the plan does not need the file."""
        again = "until then layers are timed anew for each plan"
        try:
            with writing_to(self._file.parent, "Times of layers", again=again):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                partial = self._file.with_name(f"{self._file.name}.{time.time_ns()}.part")
                try:
                    partial.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
                    partial.replace(self._file)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            # Only Lightning's own tells which process this is; a plan needs no Lightning otherwise.
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(str(error))


class Stopwatch:
    """Times one network at any widths: guessed from its layers, and measured in turns with the dense one.

    Args:
        model: The dense network; left as it was found by all that is done here.
        example_inputs: As for ``plan_pruning``.
        backend: As for :func:`measure_latency`.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, backend: str) -> None:
        self._model, self._inputs, self._backend = model, example_inputs, backend
        self._dense = contender(model, example_inputs, backend, 1)
        self._cut: Contender | None = None
        # Layers are exported one by one by nobody: there their own kernels say which widths are fast.
        self._table = TimeTable(table_file(), "channels_last" if backend == "channels_last" else "eager")
        self._seconds: float | None = None

    def beside(self, counts: CostModel) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Costs that know of time too."""
        if self._seconds is None:
            layers = contender(self._model, self._inputs, self._table.backend, 1)
            self._seconds = float(self._timed([layers], 0.5)[0].min())
        times = TimeModel(self._model, self._inputs, counts, self._table, self._seconds)
        return lambda widths: counts(widths) | {"latency": times(np.atleast_2d(widths))}

    def remember(self) -> None:
        """The network is cut now: this state is timed later."""
        self._cut = contender(self._model, self._inputs, self._backend, 1)

    def ratio(self) -> float:
        """Time of the remembered state, as a part of the dense network's."""
        assert self._cut is not None, "remember a state first"
        own, dense = self._timed([self._cut, self._dense], _SECONDS_WHOLE)
        return float(np.median(own / dense))

    def _timed(self, contenders: Sequence[Contender], seconds: float) -> np.ndarray:
        before = Snapshot(self._model)
        try:
            return time_interleaved(contenders, seconds=seconds)
        finally:
            before.restore()


class TimeAim:
    """What the layers, timed by themselves, may take together, so that the network takes as long as it may.

    Args:
        limit: The most that the network may take, as a part of the dense one's time.
    """

    def __init__(self, limit: float) -> None:
        self.limit = self.value = limit
        self._met, self._missed = 0.0, math.inf
        self._attempts = 0

    def reached(self, measured: float) -> bool:
        """Whether to stop at a network that was ``measured``; if not, the aim is another one from now on."""
        self._attempts += 1
        if math.isinf(self.limit) or _ENOUGH * self.limit <= measured <= self.limit or self._attempts == _ATTEMPTS:
            return True
        if measured > self.limit:
            self._missed = self.value
        else:
            self._met = self.value
        proposed = 0.98 * self.value * self.limit / measured
        within = self._met < proposed < self._missed
        self.value = proposed if within else math.sqrt(self._met * self._missed)
        return False


@dataclass
class _Timed:
    """A layer, its times at some widths, how often it is called, and the axis of its weight that says what it reads."""

    weight: Tensor
    outputs: int
    calls: int
    reads: int
    given: np.ndarray
    made: np.ndarray
    times: np.ndarray


class TimeModel:
    """A network's time as a function of how many filters each group keeps, as a part of the dense network's.

    Layers are timed by themselves at up to five widths of what they read and what they make; between them the time is
    taken to be linear. What is left of the network's time belongs to what passes channels on, and shrinks with them.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``plan_pruning``.
        costs: Tells the shapes of its weights at any widths.
        table: Times of layers.
        dense: Seconds of the whole network now.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, costs: CostModel, table: TimeTable, dense: float) -> None:
        self._costs, self._dense = costs, dense
        seen: dict[str, tuple[Tensor, int, int]] = {}

        def note(name: str, given: Tensor, output: Tensor) -> None:
            calls = seen[name][2] + 1 if name in seen else 1
            seen[name] = (
                given,
                output.numel() // max(output.shape[_channel_axis(model.get_submodule(name), output)], 1),
                calls,
            )

        names = [
            name
            for name, module in model.named_modules()
            if is_layer(module) and type(module) in _KINDS and _is_simple(module) and not is_computed(module)
        ]
        observe(model, example_inputs, names, note)
        self._layers: list[_Timed] = []
        for name in tqdm(seen, desc="Timing layers", unit="layer", delay=2, leave=False):
            layer = model.get_submodule(name)
            given, places, calls = seen[name]
            if given.ndim > 1:
                self._layers.append(self._timed(layer, given, places, calls, table))
        table.save()
        whole = costs.filters[None]
        self._rest = max(self._dense - float(self._of_layers(whole)[0]), 0.0)
        self._passed = float(self._channels(whole)[0])

    def __call__(self, widths: Int[np.ndarray, "candidates groups"]) -> Float[np.ndarray, " candidates"]:
        """Time with so many filters of each group left, as a part of the dense network's."""
        rest = self._rest * self._channels(widths) / max(self._passed, 1)
        found: np.ndarray = (self._of_layers(widths) + rest) / (self._of_layers(self._costs.filters[None]) + self._rest)
        return found

    def _timed(self, layer: nn.Module, given: Tensor, places: int, calls: int, table: TimeTable) -> _Timed:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        least, full = (
            self._costs.shapes(weight, widths[None])
            for widths in (np.ones_like(self._costs.filters), self._costs.filters)
        )
        lowest, most = self._ends(layer, least[0]), self._ends(layer, full[0])
        grid = [_points(low, high) for low, high in zip(lowest, most, strict=True)]
        if is_depthwise(layer):
            times = np.array([[table.seconds(layer, given, width, width)] for width in grid[0]])
            return _Timed(weight, places, calls, 0, np.array(grid[0]), np.ones(1), times)
        times = np.array([[table.seconds(layer, given, reads, makes) for makes in grid[1]] for reads in grid[0]])
        return _Timed(weight, places, calls, 1, np.array(grid[0]), np.array(grid[1]), times)

    @staticmethod
    def _ends(layer: Any, shape: np.ndarray) -> tuple[int, int]:
        return int(shape[0] if is_depthwise(layer) else shape[1]), int(shape[0])

    def _of_layers(self, widths: np.ndarray) -> np.ndarray:
        total = np.zeros(len(np.atleast_2d(widths)))
        for one in self._layers:
            shape = self._costs.shapes(one.weight, widths)
            widths_of = _block(shape[:, one.reads]), _block(shape[:, 0])
            total += one.calls * _bilinear(one.given, one.made, one.times, *widths_of)
        return total

    def _channels(self, widths: np.ndarray) -> np.ndarray:
        """Numbers that the layers make."""
        found: np.ndarray = np.sum(
            [one.outputs * self._costs.shapes(one.weight, widths)[:, 0] for one in self._layers], axis=0
        )
        return found


def _points(low: int, high: int) -> list[int]:
    """Widths to time a layer at: whole blocks, evenly spread, and all there are."""
    if high <= max(low, 1):
        return [high]
    first = min(FAST_BLOCK, high)
    spread = np.linspace(first, high, _POINTS) if high > first else np.array([max(1, high // 2), high])
    blocks = {min(high, int(_block(np.array([point]))[0])) for point in spread}
    return sorted(blocks | {high} | ({max(1, low)} if high <= FAST_BLOCK else set()))


def _block(widths: np.ndarray) -> np.ndarray:
    """Widths rounded up to whole blocks, but for the least: a part of a block takes as long as all of it."""
    found: np.ndarray = np.where(widths > FAST_BLOCK, np.ceil(widths / FAST_BLOCK) * FAST_BLOCK, widths)
    return found


def _bilinear(
    rows: np.ndarray, columns: np.ndarray, table: np.ndarray, at_row: np.ndarray, at_column: np.ndarray
) -> np.ndarray:
    def place(known: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(known) == 1:
            return np.zeros(len(at), dtype=int), np.zeros(len(at))
        low = np.clip(np.searchsorted(known, at, side="right") - 1, 0, len(known) - 2)
        share = (at - known[low]) / (known[low + 1] - known[low])
        return low, np.clip(share, -1, 1)

    row, down = place(rows, at_row)
    column, right = place(columns, at_column)
    under, beside = np.minimum(row + 1, len(rows) - 1), np.minimum(column + 1, len(columns) - 1)
    upper = table[row, column] * (1 - right) + table[row, beside] * right
    lower = table[under, column] * (1 - right) + table[under, beside] * right
    found: np.ndarray = np.maximum(upper * (1 - down) + lower * down, 0.0)
    return found


def _is_simple(layer: Any) -> bool:
    return isinstance(layer, nn.Linear) or layer.groups == 1 or is_depthwise(layer)


def _channel_axis(layer: nn.Module, tensor: Tensor) -> int:
    return tensor.ndim - 1 if isinstance(layer, nn.Linear) else tensor.ndim - 1 - len(layer.kernel_size)  # type: ignore[arg-type]


def _like(layer: Any, given: int, made: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(given, made, bias=layer.bias is not None)
    groups = given if is_depthwise(layer) else layer.groups
    new: nn.Module = type(layer)(
        given,
        given if is_depthwise(layer) else made,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )
    return new


def _described(layer: Any) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    groups = "depthwise" if is_depthwise(layer) else f"{layer.groups} groups"
    parts = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return f"{type(layer).__name__} {' '.join(str(part).replace(' ', '') for part in parts)} {groups}"
