"""The structure of a network, as plain numbers: written beside its weights, restored before they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_cosprune.network.computed import computed_weight, is_computed
from lightning_cosprune.network.norms import last_axis, length_of_tensors, resized, size_names
from lightning_cosprune.network.sizes import sizes_changed, write_sizes

__all__ = ["STRUCTURE", "describe_structure", "part_of_structure", "restore_structure", "take_data_types"]

STRUCTURE = "lightning_cosprune"
"""Key of the structure in a Lightning checkpoint."""

_VERSION = 1

# What layers say of their own size; a shape alone does not always tell it.
_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (_ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (_NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_groups", "num_channels")),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.RMSNorm, ("normalized_shape",)),
    (nn.PReLU, ("num_parameters",)),
    (nn.RNNBase, ("input_size", "hidden_size", "proj_size")),
    (nn.Embedding, ("num_embeddings", "embedding_dim")),
)


_SILENT = ("num_features", "num_channels", "normalized_shape")
"""The sizes of norms, which may have no tensors that would show them."""


def describe_structure(module: nn.Module) -> dict[str, Any]:
    """The sizes of a network's layers and the shapes of its tensors.

    Returns:
        Plain dicts, lists, strings and ints, which load with ``weights_only=True``: ``version``, and for every module
        with tensors or sizes of its own ``sizes`` (attribute -> number or numbers) and ``shapes`` (tensor -> shape);
        where a cut has changed the sizes of parts, ``parts`` too (attribute -> number or numbers).
    """
    modules = {}
    for name, layer in module.named_modules():
        sizes = {key: _plain(getattr(layer, key)) for key in _size_names(layer)}
        shapes = {key: list(tensor.shape) for key, tensor in _tensors(layer).items()}
        parts = {key: _plain(size) for key, size in sizes_changed(layer).items()}
        if sizes or shapes or parts:
            modules[name] = {"sizes": sizes, "shapes": shapes, **({"parts": parts} if parts else {})}
    return {"version": _VERSION, "modules": modules}


def part_of_structure(structure: Any, prefix: str, known: Iterable[str] | None = None) -> Any:
    """What a structure says of one part of its network.

    Args:
        structure: What :func:`describe_structure` wrote, or ``None``; one that is damaged is handed on as it is.
        prefix: Begin of the names in the part, such as ``"student."``; empty for all of the network.
        known: Names of modules; what it says of others is left out.

    Returns:
        A structure of the part alone.
    """
    if not isinstance(structure, Mapping) or not isinstance(structure.get("modules"), Mapping):
        return structure
    kept = None if known is None else set(known)
    modules = {
        f"{name}."[len(prefix) :].removesuffix("."): entry
        for name, entry in structure["modules"].items()
        if f"{name}.".startswith(prefix)
    }
    return {**structure, "modules": {name: entry for name, entry in modules.items() if kept is None or name in kept}}


def restore_structure(module: nn.Module, state_dict: Mapping[str, Any], structure: Any = None) -> None:
    """Change ``module`` in place: its layers take on the sizes that a checkpoint's weights have, smaller or larger.

    Tensors whose shape changes hold no values afterwards; loading ``state_dict`` is the next step. All others stay as
    they are. Where anything does not fit, nothing is changed.

    Args:
        module: The network.
        state_dict: The weights that are loaded next.
        structure: What :func:`describe_structure` wrote; where ``None``, it is told from the shapes of the weights.

    Raises:
        ValueError: The structure is damaged, of an unknown version, or of another network than ``module`` or
            ``state_dict``; the layer is named.
    """
    layers = dict(module.named_modules())
    recorded = _deduce(layers, state_dict) if structure is None else _check(structure, layers, module)
    changes: list[tuple[nn.Module, dict[str, Any], dict[str, list[int]]]] = []
    for name, entry in recorded.items():
        layer = layers[name]
        tensors = _tensors(layer)
        shapes = {key: shape for key, shape in entry["shapes"].items() if list(tensors[key].shape) != shape}
        for key, shape in entry["shapes"].items():
            full = f"{name}.{key}" if name else key
            held = state_dict.get(full)
            if (held is None and key in shapes) or (held is not None and list(held.shape) != shape):
                raise ValueError(
                    f"The checkpoint's structure says that {full} has shape {tuple(shape)}, but its weights "
                    f"{'lack it' if held is None else f'have shape {tuple(held.shape)}'}. The checkpoint is damaged, "
                    "or was put together from two networks. Save it again from the network itself."
                )
        changes.append((layer, entry["sizes"], shapes))
    renewed: dict[int, nn.Parameter] = {}  # a parameter that two modules share stays shared
    for name, entry in recorded.items():
        write_sizes(layers[name], {key: _like(vars(layers[name])[key], size) for key, size in _parts(entry).items()})
    for layer, sizes, shapes in changes:
        for key, size in sizes.items():
            if _plain(getattr(layer, key)) != size:
                setattr(layer, key, tuple(size) if isinstance(size, list) else size)
        for key, shape in shapes.items():
            old = _tensors(layer)[key]
            new = torch.empty(shape, dtype=old.dtype, device=old.device)
            if old.ndim == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last):
                new = new.to(memory_format=torch.channels_last)
            _put(layer, key, new, renewed)


def take_data_types(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Change ``module`` in place: its floating-point tensors take on the data types of those in ``state_dict``.

    A tensor that ``state_dict`` lacks, such as a buffer that is not saved, goes with those that had its data type,
    where they all go to the same.
    """
    moved: dict[torch.dtype, set[torch.dtype]] = {}
    waiting: list[tuple[nn.Module, str, Tensor, torch.dtype | None]] = []
    for name, layer in module.named_modules():
        for key, tensor in _tensors(layer).items():
            if tensor.is_floating_point():
                held = state_dict.get(f"{name}.{key}" if name else key)
                dtype = held.dtype if isinstance(held, Tensor) and held.is_floating_point() else None
                waiting.append((layer, key, tensor, dtype))
                if dtype is not None:
                    moved.setdefault(tensor.dtype, set()).add(dtype)
    together = {old: min(new, key=str) for old, new in moved.items() if len(new) == 1}
    renewed: dict[int, nn.Parameter] = {}
    for layer, key, tensor, dtype in waiting:
        wanted = dtype or together.get(tensor.dtype, tensor.dtype)
        if wanted != tensor.dtype:
            _put(layer, key, tensor.detach().to(wanted), renewed)
    for part in module.modules():
        own = vars(part).get("_dtype")  # what a LightningModule says of itself
        if isinstance(own, torch.dtype):
            vars(part)["_dtype"] = together.get(own, own)


def _put(layer: nn.Module, key: str, new: Tensor, renewed: dict[int, nn.Parameter]) -> None:
    """Put ``new`` in the place of a tensor; a parameter passes on all that belongs to it."""
    old = _tensors(layer)[key]
    if isinstance(old, nn.Parameter):
        parameter = renewed.get(id(old))
        if parameter is None:
            parameter = renewed[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
            parameter.__dict__.update(old.__dict__)
        new = parameter
    setattr(layer, key, new)  # recurrent layers refresh their list of weights here


def _check(structure: Any, layers: Mapping[str, nn.Module], module: nn.Module) -> dict[str, dict[str, Any]]:
    """The modules of a stored structure that are worth trusting."""

    def refuse(found: str) -> ValueError:
        return ValueError(
            f"The checkpoint's structure does not fit {type(module).__name__}: {found}. Build the network as it was "
            "built for training, or load the checkpoint that belongs to it."
        )

    if not isinstance(structure, Mapping) or not isinstance(structure.get("modules"), Mapping):
        raise ValueError(
            f"The checkpoint's entry {STRUCTURE!r}: expected a mapping with `version` and `modules`, found "
            f"{structure!r:.80}. It is damaged; save the checkpoint again."
        )
    if structure.get("version") != _VERSION:
        raise ValueError(
            f"The checkpoint's entry {STRUCTURE!r}: expected version {_VERSION}, found {structure.get('version')!r}. "
            "Load it with the release of lightning_cosprune that wrote it."
        )
    for name, entry in structure["modules"].items():
        layer = layers.get(name)
        if layer is None:
            raise refuse(
                f"it has a layer {name!r}, which the network has not (`load_pruned` takes one part of what was saved "
                "by `prefix=`, and leaves out what the network lacks by `ignore_extra=True`)"
            )
        parts = [entry.get(part) for part in ("sizes", "shapes")] if isinstance(entry, Mapping) else []
        if len(parts) != 2 or not all(isinstance(part, Mapping) for part in parts):
            raise refuse(f"expected `sizes` and `shapes` of layer {name!r}, found {entry!r:.80}")
        for key, size in _parts(entry).items():
            if _form(vars(layer).get(key)) is None or _form(vars(layer)[key]) != _form(size):
                raise refuse(f"expected an attribute {key!r} of layer {name!r} like {size!r:.80}, found none")
        own = _size_names_of_own_norm(layer)
        if set(entry["sizes"]) != set(_size_names(layer)) and not (own and set(entry["sizes"]) <= set(own)):
            raise refuse(
                f"layer {name!r} has the sizes {', '.join(entry['sizes']) or '(none)'}, in the network it is a "
                f"{type(layer).__name__}"
            )
        missing = set(entry["shapes"]) - set(_tensors(layer))
        if missing:
            raise refuse(f"layer {name!r} has a tensor {min(missing)!r}, in the network it has none of that name")
        for key, size in (*entry["sizes"].items(), *entry["shapes"].items()):
            numbers = size if isinstance(size, list) else [size]
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise refuse(f"expected whole numbers for {key!r} of layer {name!r}, found {size!r:.80}")
            if key in entry["shapes"] and len(numbers) != _tensors(layer)[key].ndim:
                raise refuse(f"expected {_tensors(layer)[key].ndim} axes for {key!r} of layer {name!r}, found {size!r}")
        # Some norms have a size and no tensor that would show it.
        shapes = _with_weight(name, layer, entry["shapes"], structure["modules"])
        told = _sizes_of(layer, shapes) if shapes else entry["sizes"]
        told = {key: size for key, size in told.items() if key in entry["sizes"] or not own}
        if entry["sizes"] != told:
            raise refuse(f"layer {name!r} has the sizes {entry['sizes']}, the shapes of its tensors say {told}")
    modules: dict[str, dict[str, Any]] = dict(structure["modules"])
    return modules


def _deduce(layers: Mapping[str, nn.Module], state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The structure that the shapes of the weights tell, for those layers whose shapes are not what they are now."""
    recorded = {}
    for name, layer in layers.items():
        own = {key: state_dict.get(f"{name}.{key}" if name else key) for key in _tensors(layer)}
        shapes = {key: list(tensor.shape) for key, tensor in own.items() if isinstance(tensor, Tensor)}
        now = {key: list(tensor.shape) for key, tensor in _tensors(layer).items()}
        # Another number of axes is no pruned layer: PyTorch's own message says what is wrong.
        changed = [key for key, shape in shapes.items() if shape != now[key] and len(shape) == len(now[key])]
        held = f"{name}.parametrizations.weight" if name else "parametrizations.weight"
        inside = {key: state_dict.get(f"{held}.{key}") for key in ("original", "original1")}
        within = {held: {"shapes": {key: list(one.shape) for key, one in inside.items() if isinstance(one, Tensor)}}}
        full = _with_weight(name, layer, shapes, within)
        sizes = {key: _plain(getattr(layer, key)) for key in _size_names(layer)}
        if changed or (full != shapes and _sizes_of(layer, full) != sizes):
            own_sizes = set(_size_names_of_own_norm(layer)) - {"normalized_shape"}  # a block may have a `dim` too
            told = {key: size for key, size in _sizes_of(layer, full).items() if key not in own_sizes}
            recorded[name] = {
                "sizes": told,
                "shapes": {key: shapes[key] for key in changed},
            }
    return recorded | _deduce_silent(layers, recorded)


def _deduce_silent(
    layers: Mapping[str, nn.Module], recorded: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The sizes of norms without tensors: those of the last layer before them that had as many channels.

    Batch and group norms compute the same whatever they say of their size; a layer norm of another refuses its input.

    Returns:
        As :func:`_deduce`, for those whose size is another now.
    """
    found: dict[str, dict[str, Any]] = {}
    sizes: dict[int, int] = {}
    for name, layer in layers.items():
        known = _size_names(layer)
        if "out_channels" in known or "out_features" in known:
            key = "out_channels" if "out_channels" in known else "out_features"
            sizes[int(getattr(layer, key))] = recorded.get(name, {"sizes": {}})["sizes"].get(key, getattr(layer, key))
        elif not _tensors(layer) and (silent := [one for one in known if one in _SILENT]):
            now = {one: _plain(getattr(layer, one)) for one in known}
            shape = now[silent[0]]
            channels = shape[-1] if isinstance(shape, list) else shape
            size = sizes.get(channels, channels)
            if size != channels and shape in (channels, [channels]):
                found[name] = {"sizes": {**now, silent[0]: _plain(resized(shape, size))}, "shapes": {}}
    return found


def _with_weight(
    name: str, layer: nn.Module, shapes: Mapping[str, list[int]], modules: Mapping[str, Any]
) -> Mapping[str, list[int]]:
    """``shapes``, and that of the layer's weight where it is computed from others, see :mod:`.computed`."""
    if "weight_g" in shapes or "weight_orig" in shapes:
        return {**shapes, "weight": shapes.get("weight_orig") or shapes["weight_v"]}
    computed = computed_weight(layer) if is_computed(layer) else None
    if computed is None or computed.by_hook:
        return shapes
    entry = modules.get(f"{name}.parametrizations.weight" if name else "parametrizations.weight")
    held = entry.get("shapes") if isinstance(entry, Mapping) else None
    found = (held.get("original1") or held.get("original")) if isinstance(held, Mapping) else None
    return {**shapes, "weight": found} if found else shapes


def _sizes_of(layer: nn.Module, shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """The sizes of a layer whose tensors have these shapes."""
    sizes = {key: _plain(getattr(layer, key)) for key in _size_names(layer)}
    weight = shapes.get("weight")
    if isinstance(layer, _ConvNd) and weight:
        first, second = weight[:2]
        if layer.groups == layer.in_channels == layer.out_channels > 1:  # depthwise; others keep their groups
            return {"in_channels": first, "out_channels": first, "groups": first}
        inputs, outputs = (first, second) if layer.transposed else (second, first)
        scaled = {"in_channels": inputs, "out_channels": outputs}
        grouped = "out_channels" if layer.transposed else "in_channels"
        return {**scaled, grouped: scaled[grouped] * layer.groups, "groups": layer.groups}
    if isinstance(layer, nn.Linear) and weight:
        return {"in_features": weight[1], "out_features": weight[0]}
    if isinstance(layer, nn.RNNBase):
        return {**sizes, "input_size": shapes["weight_ih_l0"][1]}
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and weight:
        return {"normalized_shape": weight}
    if isinstance(layer, nn.Embedding) and weight:
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    counted = {_NormBase: "num_features", nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}
    for kind, key in counted.items():
        if isinstance(layer, kind):
            return {**sizes, key: (weight or shapes["running_mean"])[0]}
    lengths = {shape[axis] for shape in shapes.values() if (axis := last_axis(shape)) is not None}
    if _size_names_of_own_norm(layer) and len(lengths) == 1:
        return {key: _plain(resized(getattr(layer, key), min(lengths))) for key in sizes}
    return sizes


def _size_names(layer: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in _SIZES if isinstance(layer, kind)), _size_names_of_own_norm(layer))


def _size_names_of_own_norm(layer: nn.Module) -> tuple[str, ...]:
    """The attributes by which a module of the user's own says how long all its tensors are, as norms do."""
    if any(isinstance(layer, kind) for kind, _ in _SIZES):
        return ()
    channels = length_of_tensors(_tensors(layer).values())
    return () if channels is None else tuple(size_names(layer, channels))


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the layer itself, by name."""
    return {key: tensor for key, tensor in (*layer._parameters.items(), *layer._buffers.items()) if tensor is not None}


def _parts(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a stored module says of the sizes of parts that it divides channels into."""
    parts = entry.get("parts", {})
    return parts if isinstance(parts, Mapping) else {}


def _form(size: Any) -> int | None:
    """How many whole numbers a size is, -1 for one by itself; ``None`` where it is none."""
    if type(size) is int:
        return -1
    return len(size) if isinstance(size, (list, tuple)) and all(type(one) is int for one in size) else None


def _like(now: Any, size: Any) -> Any:
    return size if type(now) is int else type(now)(size)


def _plain(size: Any) -> int | list[int]:
    return list(size) if isinstance(size, (tuple, list)) else int(size)
