"""How long a forward pass takes on this machine, fairly compared."""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.arguments import real_number, whole_number
from lightning_cosprune.network.forward import as_call, call, eager, evaluating, forward_failed, unchanged
from lightning_cosprune.network.layers import check_model
from lightning_cosprune.network.rollback import Snapshot

__all__ = [
    "BACKENDS",
    "FAST_BLOCK",
    "Contender",
    "Latency",
    "check_backend",
    "contender",
    "machine_name",
    "measure_latency",
    "summarised",
    "time_interleaved",
]

BACKENDS = ("eager", "channels_last", "onnxruntime")

FAST_BLOCK = 8
"""Filters that a float32 kernel of a processor with AVX2 computes at once: 9 to 16 of them take the same time."""

_WARM_UP = 4
_BLOCK = 0.01
"""Seconds of calls that are timed together."""
_LONG = 0.1
"""Seconds of a call that is the same with cold caches, and needs little warming up."""


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        min: Least time of all rounds, in seconds.
        median: The median of them.
        spread: Distance of their quartiles, as a part of the median.
        rounds: How often it was timed.
        ratio: Median over all rounds of this network's time to that of the one beside it, or ``None``.
        backend: What ran it.
        threads: How many threads.
        input_shape: Shape of each input tensor.
        machine: Name of the processor.
    """

    min: float
    median: float
    spread: float
    rounds: int
    ratio: float | None
    backend: str
    threads: int
    input_shape: tuple[tuple[int, ...], ...]
    machine: str

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.input_shape)
        ratio = "" if self.ratio is None else f", {self.ratio:.2f} of the network beside it"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"{1e3 * self.median:.3f} ms a pass at {shapes} (min {1e3 * self.min:.3f}, spread {self.spread:.0%})"
            f"{ratio}; {self.backend}, {threads}, {self.machine}"
        )


@dataclass(frozen=True)
class Contender:
    """Something to time: ``prepare`` is called before each round, untimed.

    Where it works elsewhere than on the processor, ``finish`` waits for it.
    """

    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    finish: Callable[[], Any] | None = None


def measure_latency(
    model: nn.Module,
    example_inputs: Any,
    *,
    beside: nn.Module | None = None,
    backend: str = "eager",
    threads: int = 1,
    seconds: float = 2.0,
) -> Latency:
    """Time ``model`` on ``example_inputs``, in evaluation mode and without gradients.

    With one thread the processor's time is taken, not the clock's, so that what else the machine does counts little;
    of what runs on a GPU the clock's, until it is done.
    Two networks are timed in turns, some ten milliseconds each, so that a machine that slows down slows both.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        beside: Another network for the same inputs, such as the dense one.
        backend: ``"eager"``; ``"channels_last"``, which changes the memory format of weights and inputs meanwhile; or
            ``"onnxruntime"`` (needs the packages onnxruntime, onnx and onnxscript).
        threads: Threads of PyTorch or ONNX Runtime meanwhile. With more than one the clock's time is taken.
        seconds: About how long it takes.

    Returns:
        The times of ``model``.

    Raises:
        ValueError: An argument is out of range.
        ModuleNotFoundError: A package that the backend needs is not installed.

    Example:
        >>> dense, pruned = nn.Conv2d(1, 64, 7), nn.Conv2d(1, 8, 7)
        >>> measure_latency(pruned, torch.zeros(1, 1, 40, 100), beside=dense, seconds=0.2).ratio < 1
        True
    """
    check_backend(backend, "measure_latency", "backend")
    check_model(model, "measure_latency")
    if beside is not None:
        check_model(beside, "measure_latency", "beside")
    threads = whole_number(threads, "`measure_latency(threads={})`", 1, 1024)
    expected = "a positive number of seconds, at most 3600"
    seconds = real_number(seconds, "`measure_latency(seconds={})`", expected, above=0, most=3600)
    networks = [model] if beside is None else [model, beside]
    for network in networks:
        _check_runs(network, example_inputs)
    before = [Snapshot(network) for network in networks]
    try:
        contenders = [contender(network, example_inputs, backend, threads) for network in networks]
        times = time_interleaved(contenders, threads=threads, seconds=seconds)
    finally:
        for snapshot in before:
            snapshot.restore()
    return summarised(times, example_inputs, backend, threads)


def _check_runs(network: nn.Module, example_inputs: Any) -> None:
    try:
        with unchanged(network), evaluating(network), torch.no_grad():
            call(network, example_inputs)
    except Exception as error:  # a network may fail in any way
        raise forward_failed(network, error) from error


def summarised(times: np.ndarray, example_inputs: Any, backend: str, threads: int) -> Latency:
    """Times of the first contender, beside the second if there is one, ``(contenders, rounds)``."""
    own = times[0]
    low, median, high = np.quantile(own, (0.25, 0.5, 0.75))
    return Latency(
        min=float(own.min()),
        median=float(median),
        spread=float((high - low) / median),
        rounds=len(own),
        ratio=float(np.median(own / times[1])) if len(times) > 1 else None,
        backend=backend,
        threads=threads,
        input_shape=tuple(tuple(leaf.shape) for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)),
        machine=machine_name(),
    )


def check_backend(backend: str, caller: str, parameter: str) -> None:
    """Refuse a backend of an unknown name.

    Raises:
        ValueError: With the names that there are.
    """
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(
            f"`{caller}({parameter}={backend!r})`: expected {' or '.join(map(repr, BACKENDS))}. Choose one."
        )


def time_interleaved(contenders: Sequence[Contender], *, threads: int = 1, seconds: float = 2.0) -> np.ndarray:
    """Seconds of one call of each contender, in rounds of all of them one after the other.

    Args:
        contenders: What to time.
        threads: Threads of PyTorch meanwhile.
        seconds: About how long it takes.

    Returns:
        ``(contenders, rounds)``; five rounds at least.
    """
    waits = [one.finish for one in contenders if one.finish is not None]
    clock = time.process_time if threads == 1 and not waits else time.perf_counter

    def passes(one: Contender, count: int) -> None:
        for _ in range(count):
            one.run()
        if one.finish is not None:
            one.finish()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), eager():
            calls, first = [], []
            for one in contenders:
                one.prepare()
                for place in range(_WARM_UP):
                    start = clock()
                    passes(one, 1)
                    took = clock() - start
                    if place and took > _LONG:  # the first may have had something to set up
                        break
                calls.append(max(1, round(_BLOCK / max(took, 1e-7))))
                # What the other one left in the caches is no matter of this one; of a long pass it is next to nothing.
                first.append(int(took < _LONG))
            rounds: list[list[float]] = []
            until = clock() + seconds
            while len(rounds) < 5 or clock() < until:
                rounds.append([])
                for one, count, unmeasured in zip(contenders, calls, first, strict=True):
                    one.prepare()
                    passes(one, unmeasured)
                    start = clock()
                    passes(one, count)
                    rounds[-1].append((clock() - start) / count)
    finally:
        torch.set_num_threads(before)
    return np.array(rounds).T


def contender(model: nn.Module, example_inputs: Any, backend: str, threads: int) -> Contender:
    """``model`` in the state that it is in now, whatever becomes of it before it is timed.

    Its ``prepare`` changes ``model`` into that state, in evaluation mode; who times it puts a snapshot of his own back.

    Returns:
        What to time.
    """
    if backend == "onnxruntime":
        return Contender(_exported(model, example_inputs, threads))
    before = Snapshot(model)
    model.eval()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()  # for code may write into them
        if backend != "channels_last":
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim == 4:
                changed = parameter.detach().contiguous(memory_format=torch.channels_last)
                module._parameters[name] = nn.Parameter(changed, requires_grad=parameter.requires_grad)
    then = Snapshot(model)
    before.restore()
    args, kwargs = as_call(
        tree_map(_in_channels_last, example_inputs) if backend == "channels_last" else example_inputs
    )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    finish = partial(torch.cuda.synchronize, device) if device.type == "cuda" else None
    return Contender(lambda: model(*args, **kwargs), then.restore, finish)


def _in_channels_last(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.ndim == 4:
        return leaf.contiguous(memory_format=torch.channels_last)
    return leaf


def _exported(model: nn.Module, example_inputs: Any, threads: int) -> Callable[[], Any]:
    """One pass of ONNX Runtime."""
    try:
        for needed in ("onnx", "onnxscript"):
            importlib.import_module(needed)
        onnxruntime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'`measure_latency(backend="onnxruntime")` needs {error.name}, which is not installed: pip install '
            "'lightning-cosprune[onnx]' onnxruntime.",
            name=error.name,
        ) from error
    args, kwargs = as_call(example_inputs)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, unchanged(model), evaluating(model), torch.no_grad(), quiet:
        file = Path(folder) / "network.onnx"
        torch.onnx.export(model, args, file, kwargs=kwargs or None, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    leaves = [leaf for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)]
    feed = {slot.name: leaf.numpy(force=True) for slot, leaf in zip(session.get_inputs(), leaves, strict=True)}
    return lambda: session.run(None, feed)


def machine_name() -> str:
    """The processor by its name, or what the platform calls it."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
