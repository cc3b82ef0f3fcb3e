"""Weights that others have published: a file is read, and its tensors are those of the network, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SHOWN = 6


def read_weights(path: Path, owner: str, kinds: str = "a state dict that loads with `weights_only=True`") -> Any:
    """What ``torch.save`` wrote to a file, without executing anything that it holds.

    Args:
        path: The file.
        owner: Who reads it, the beginning of the error.
        kinds: What the file may be, in the error.

    Returns:
        The mapping in it.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file, or holds no mapping.
    """
    check_file_readable(path, owner)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and PyTorch each have their own ways to say that a file is no checkpoint
        told = " ".join(str(error).split())
        raise ValueError(
            f"{owner}: expected {kinds}, found {type(error).__name__}: {told:.300}. Download the file again."
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{owner}: expected a state dict, found {type(found).__name__}. Save "
            "`network.state_dict()`, not the network."
        )
    return found


def check_file_readable(path: Path, owner: str) -> None:
    """Refuse a file that this user may not read; what is wrong within is told elsewhere.

    Raises:
        OSError: With what the system says, such as a ``PermissionError``.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise type(error)(
            f"{owner}: expected a file that can be read at {path}, found {error.strerror!r}. Give this user the right "
            "to read it."
        ) from error


def check_weights(
    found: Mapping[str, Any], expected: Mapping[str, Tensor], owner: str, network: str
) -> Mapping[str, Any]:
    """Hold tensors against those of a network, before any of them is loaded.

    Args:
        found: Name -> tensor, as read.
        expected: Name -> tensor, those of the network.
        owner: Who reads them, the beginning of the error.
        network: Name of its class.

    Returns:
        ``found``.

    Raises:
        ValueError: Names or shapes differ; those that do are listed.
    """
    absent = [name for name in expected if name not in found]
    unknown = [str(name) for name in found if name not in expected]
    if absent or unknown:
        faults = [f"no {_listed(absent)}"] if absent else []
        faults += [f"the unknown {_listed(unknown)}"] if unknown else []
        raise ValueError(
            f"{owner}: expected the {len(expected)} tensors of {network}, found {len(found)}, {' and '.join(faults)}. "
            "Give its state dict, not that of another network or a whole checkpoint."
        )
    differing = [
        f"{name} of shape {tuple(tensor.shape)}, found {_shape(found[name])}"
        for name, tensor in expected.items()
        if not isinstance(found[name], Tensor) or found[name].shape != tensor.shape
    ]
    if differing:
        raise ValueError(
            f"{owner}: expected {_listed(differing, '; ')}. For weights of a pruned network write "
            f"`load_pruned({network}, path)`."
        )
    return found


def _listed(names: list[str], between: str = ", ") -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + rest


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"
