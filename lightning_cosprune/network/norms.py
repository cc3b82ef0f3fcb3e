"""Norms over channels: which modules are some, and what tells how many channels they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

__all__ = [
    "Normalising",
    "channels_of_norm",
    "check_normalising",
    "declared_norms",
    "is_norm_over_channels",
    "last_axis",
    "length_of_tensors",
    "resized",
    "size_names",
]

Normalising = Sequence[str | type[nn.Module]]
"""Norms over channels of a user's own: their classes, their names in the network, or patterns of names."""

_KNOWN = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)

_SIZES = ("normalized_shape", "num_channels", "num_features", "channels", "channel_size", "dim", "d")
"""Under which names a norm of a user's own may say how many channels it has, as a number or a shape."""


def is_norm_over_channels(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's norms whose statistics range over channels, or of a class derived from one."""
    return isinstance(module, _KNOWN)


def check_normalising(normalising: Any, caller: str) -> None:
    """Refuse what is no sequence of classes and names.

    Raises:
        TypeError: With what was found.
    """
    many = isinstance(normalising, Iterable) and getattr(normalising, "shape", None) != ()
    many = many and not isinstance(normalising, (str, bytes, type))
    strange = [one for one in normalising if not _is_name_or_class(one)] if many else [normalising]
    if strange:
        wrong = strange[0]
        raise TypeError(
            f"`{caller}(normalising={normalising!r:.80})`: expected a sequence of classes of modules, or of names or "
            f"patterns of names, found {'None' if wrong is None else f'a {type(wrong).__name__}, {wrong!r:.60}'}. "
            "Write such as normalising=[GRN] or normalising=['blocks.*.grn'], and [] for none."
        )


def _is_name_or_class(one: Any) -> bool:
    return isinstance(one, str) or (isinstance(one, type) and issubclass(one, nn.Module))


def declared_norms(model: nn.Module, normalising: Normalising, caller: str) -> dict[str, nn.Module]:
    """The modules that a user says normalise over channels, without those of which it is known.

    Args:
        model: The network.
        normalising: Classes, names or patterns of names.
        caller: Whom to name in errors.

    Returns:
        Name -> module, without containers, PyTorch's other modules and those within one that is named.

    Raises:
        TypeError: It is no sequence of those.
        ValueError: One of them matches no such module, or one that holds layers.
    """
    check_normalising(normalising, caller)
    found: dict[str, nn.Module] = {}
    modules = dict(model.named_modules())
    for wanted in normalising:
        matched = {name: module for name, module in modules.items() if _matches(wanted, name, module)}
        own = {
            name: module
            for name, module in matched.items()
            if is_norm_over_channels(module) or not type(module).__module__.startswith("torch.nn.")
        }
        shown = repr(wanted) if isinstance(wanted, str) else wanted.__name__
        if not own:
            of_torch = next(iter(matched.values()), None)
            raise ValueError(
                f"`{caller}(normalising=[{shown}])`: expected the class, the name or a pattern of names of modules of "
                f"the network that normalise over channels, found "
                f"{'none' if of_torch is None else f'a {type(of_torch).__name__} of PyTorch'}. PyTorch's own norms "
                f"need not be named. The network's own classes are: {', '.join(_own_classes(model)) or 'none'}."
            )
        for name, module in own.items():
            layers = [one for one, part in module.named_modules() if isinstance(part, _LAYERS)]
            if layers:
                raise ValueError(
                    f"`{caller}(normalising=[{shown}])`: expected modules that normalise and do nothing else, found "
                    f"that {name or 'the network'} holds the layer {layers[0] or name!r}. Name the norm within it, or "
                    "put it into a module of its own."
                )
        found.update(own)
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found if other != name)]
    return {name: found[name] for name in outer if not is_norm_over_channels(found[name])}


_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


def _matches(wanted: str | type[nn.Module], name: str, module: nn.Module) -> bool:
    if isinstance(wanted, str):
        return any(fnmatchcase(written, wanted) for written in (name, name.replace("_orig_mod.", "")))
    return isinstance(module, wanted)


def _own_classes(model: nn.Module) -> list[str]:
    return sorted(
        {
            type(part).__name__
            for part in model.modules()
            if part is not model and not type(part).__module__.startswith("torch.nn.")
        }
    )


def channels_of_norm(layer: nn.Module) -> int | None:
    """How many channels the tensors of a norm have, or where it has none longer than one, its ``normalized_shape``.

    Returns:
        The number; ``None`` where it cannot be told.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    if any(last_axis(tensor.shape) is not None for tensor in tensors):
        return length_of_tensors(tensors)
    shape = getattr(layer, "normalized_shape", ())
    return int(shape[-1]) if isinstance(shape, Sequence) and len(shape) == 1 else None


def length_of_tensors(tensors: Iterable[Tensor]) -> int | None:
    """How long all tensors are along their last axis that is longer than one.

    Returns:
        The number; ``None`` where they differ, or none has such an axis.
    """
    found = {tensor.shape[axis] for tensor in tensors if (axis := last_axis(tensor.shape)) is not None}
    return found.pop() if len(found) == 1 else None


def last_axis(shape: Sequence[int]) -> int | None:
    """The last axis that is longer than one, if there is one."""
    return next((axis for axis in reversed(range(len(shape))) if shape[axis] > 1), None)


def size_names(module: nn.Module, channels: int) -> list[str]:
    """The attributes by which a norm says that it has so many channels."""
    return [name for name in _SIZES if _says(vars(module).get(name), channels)]


def resized(size: Any, channels: int) -> Any:
    """What such an attribute is of a norm of ``channels`` channels."""
    return (*size[:-1], channels) if isinstance(size, (tuple, list)) else channels


def _says(size: Any, channels: int) -> bool:
    if isinstance(size, (tuple, list)):  # a torch.Size is a tuple
        return bool(size) and size[-1] == channels and all(one == 1 for one in size[:-1])
    return type(size) is int and size == channels
