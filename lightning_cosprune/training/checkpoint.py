"""The structure of a pruned network in its checkpoints: written beside the weights, restored before they are loaded."""

from __future__ import annotations

import functools
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_cosprune.arguments import check_kind, check_module
from lightning_cosprune.network.rollback import Snapshot, whole_or_not_at_all
from lightning_cosprune.network.structure import (
    STRUCTURE,
    describe_structure,
    part_of_structure,
    restore_structure,
    take_data_types,
)
from lightning_cosprune.training.averages import averaged_modules

__all__ = [
    "PrunableMixin",
    "forget_structure",
    "keep_structure",
    "load_pruned",
]

Module = TypeVar("Module", bound=nn.Module)


def load_pruned(
    module_class_or_factory: Callable[..., Module] | Module,
    checkpoint: str | os.PathLike[str] | IO[bytes] | Mapping[str, Any],
    *,
    prefix: str = "",
    ignore_extra: bool = False,
    **kwargs: Any,
) -> Module:
    """A network as it was saved after pruning, with nothing else at hand.

    The network is built dense, cut to the structure that the checkpoint holds, and given its weights, in their own data
    types. A checkpoint without a structure, such as a plain ``state_dict``, is cut to the shapes of its weights.

    Args:
        module_class_or_factory: Class of the network, or a function that builds it dense. A LightningModule is given
            the hyper-parameters that it saved. A network that is built already is changed in place, whole or not at
            all.
        checkpoint: Path, open file or content of a Lightning checkpoint, of a mapping with a ``"state_dict"`` (or a
            ``"model"``, as PANNs have it), or of a plain state dict. Files are loaded with ``weights_only=True``, to
            the CPU.
        prefix: Begin of the names of the weights that are meant, such as ``"student."`` for one part of what was saved;
            the hyper-parameters are then those of another class and not used.
        ignore_extra: Leave out weights that the network has no place for; they are an error otherwise.
        **kwargs: Arguments for the class or function; they take the place of saved hyper-parameters.

    Returns:
        The network, in training mode as it is built.

    Raises:
        TypeError: It builds no network, or the checkpoint is none, or there are arguments for a network that is built.
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or holds no weights, none of that ``prefix`` or more than the network has, or
            its structure does not fit the network; the layer is named.
        RuntimeError: It lacks weights of the network, or they have another number of axes; from PyTorch.

    Example:
        >>> from lightning_cosprune import apply_plan, plan_pruning
        >>> def dense():
        ...     return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
        >>> model, example = dense(), torch.zeros(1, 1, 8, 8)
        >>> report = apply_plan(model, plan_pruning(model, example, pruning_ratio=0.5), example)
        >>> load_pruned(dense, model.state_dict())[0].out_channels
        4
    """
    if not callable(module_class_or_factory):
        raise TypeError(
            "`load_pruned(module_class_or_factory=...)`: expected the class of the network, a function that builds it, "
            f"or the network, found a {type(module_class_or_factory).__name__}. Pass the class itself, without "
            "brackets."
        )
    if isinstance(module_class_or_factory, nn.Module) and kwargs:
        raise TypeError(
            f"`load_pruned({type(module_class_or_factory).__name__}(...), {', '.join(f'{key}=...' for key in kwargs)})"
            "`: expected no arguments for a network that is built already, found some. Pass its class in its place."
        )
    check_kind(prefix, str, "`load_pruned(prefix=...)`", 'Write the begin of names, such as "student.".')
    check_kind(ignore_extra, bool, "`load_pruned(ignore_extra=...)`", "Write True to leave out what does not fit.")
    if not isinstance(checkpoint, (str, os.PathLike, Mapping)) and not hasattr(checkpoint, "read"):
        raise TypeError(
            f"`load_pruned(checkpoint={_shown(checkpoint)})`: expected a path, an open file or a mapping, found a "
            f"{type(checkpoint).__name__}. Pass the path of the checkpoint."
        )
    found = checkpoint if isinstance(checkpoint, Mapping) else _read(checkpoint)
    state = found.get("state_dict", found.get("model", found))
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"`load_pruned(checkpoint={_shown(checkpoint)})`: expected a Lightning checkpoint, a mapping with a "
            f"`state_dict`, or a state dict, found a mapping with the keys {', '.join(map(str, list(found)[:8]))}. "
            "Pass `network.state_dict()`, or the path of a checkpoint."
        )
    prefix = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    state, structure = _part(state, prefix), part_of_structure(found.get(STRUCTURE), prefix)
    if isinstance(module_class_or_factory, nn.Module):
        module = cast(Module, module_class_or_factory)
        with whole_or_not_at_all(module):
            _load_weights(module, state, structure, ignore_extra)
        return module
    bases = getattr(module_class_or_factory, "__mro__", ())
    if not prefix and any(base.__name__ == "LightningModule" for base in bases):
        accepted = inspect.signature(module_class_or_factory).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        saved = found.get("hyper_parameters", {})
        kwargs = {**{name: value for name, value in saved.items() if takes_all or name in accepted}, **kwargs}
    module = module_class_or_factory(**kwargs)
    check_module(module, "`load_pruned(module_class_or_factory=...)`: what it returned")
    _load_weights(module, state, structure, ignore_extra)
    return module


def _part(state: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """The weights whose names begin with ``prefix``, without it, and what PyTorch says beside them of its releases."""
    if not prefix:
        return state
    part = OrderedDict((name[len(prefix) :], value) for name, value in state.items() if name.startswith(prefix))
    if not part:
        begins = dict.fromkeys(f"{name.partition('.')[0]}." for name in state if "." in name)
        raise ValueError(
            f"`load_pruned(prefix={prefix!r})`: expected weights whose names begin so, found none. Begins of names "
            f"that there are: {', '.join(map(repr, begins)) or 'none'}."
        )
    versions = getattr(state, "_metadata", {})
    vars(part)["_metadata"] = {
        f"{name}."[len(prefix) :].removesuffix("."): version
        for name, version in versions.items()
        if f"{name}.".startswith(prefix)
    }
    return part


def _load_weights(module: nn.Module, state: Mapping[str, Tensor], structure: Any, ignore_extra: bool) -> None:
    if ignore_extra:
        structure = part_of_structure(structure, "", dict(module.named_modules()))
    restore_structure(module, state, structure)
    take_data_types(module, state)
    if ignore_extra:
        # What PyTorch leaves out then may also be missing.
        missing = module.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(module).__name__}: Missing key(s): {', '.join(missing)}."
            )
        return
    try:
        # The mapping itself, for some layers read from it which release of theirs saved the weights.
        module.load_state_dict(state)
    except RuntimeError as error:
        own = module.state_dict()
        extra = [name for name in state if name not in own]
        if "Unexpected key" not in str(error) or not extra:
            raise
        first = next(iter(own), "")
        begins = {name.removesuffix(first) for name in extra if first and name.endswith(f".{first}")}
        fitting = [begin for begin in sorted(begins) if all(begin + name in state for name in own)]
        raise ValueError(
            f"`load_pruned(module_class_or_factory={type(module).__name__}, ...)`: expected its weights alone, found "
            f"{len(extra)} more: {', '.join(extra[:8])}{', ...' if len(extra) > 8 else ''}. "
            + (f"Its own begin with {fitting[0]!r}: pass `prefix={fitting[0]!r}`. " if fitting else "")
            + "To leave out what it has no place for pass `ignore_extra=True`."
        ) from error


class PrunableMixin:
    """Lets a module load pruned checkpoints of itself by its own ``load_state_dict`` and ``load_from_checkpoint``.

    Put it before the base class: ``class Tagger(PrunableMixin, LightningModule)``. Then no callback is needed to read a
    pruned checkpoint: not in ``Tagger.load_from_checkpoint(path)``, not in a Trainer that only tests, and not where the
    weights come back from other processes (``ddp_spawn``). Every Lightning checkpoint holds the structure; a plain
    state dict is cut to its shapes.
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the structure beside the weights."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint[STRUCTURE] = describe_structure(self)  # type: ignore[arg-type]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take on the structure that the checkpoint holds."""
        _restore(self, checkpoint)  # type: ignore[arg-type]
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take on the shapes of ``state_dict``, whatever they are, then load it.

        Returns:
            What ``torch.nn.Module.load_state_dict`` returns; where it raises, the shapes are as they were.
        """
        before = Snapshot(self)  # type: ignore[arg-type]
        try:
            restore_structure(self, state_dict)  # type: ignore[arg-type]
            return super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]
        except Exception:
            before.restore()
            raise


def keep_structure(module: LightningModule) -> None:
    """Change ``module`` in place: its own checkpoint hooks write and restore the structure, until told to forget it.

    A callback cannot do that by hooks of its own: Lightning calls those after the weights are loaded, and not at all
    for checkpoints of weights alone.
    """
    if isinstance(module, PrunableMixin):
        return
    for name, ours in (("on_save_checkpoint", _save), ("on_load_checkpoint", _load)):
        own = vars(module).get(name)
        if not _is_lent(own):
            # Partial functions of this file's own travel through pickle and deepcopy with the module.
            setattr(module, name, functools.partial(ours, module, own))


def forget_structure(module: LightningModule) -> None:
    """Undo :func:`keep_structure`."""
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        lent: Any = vars(module).get(name)
        if _is_lent(lent):
            delattr(module, name)
            if lent.args[1] is not None:
                setattr(module, name, lent.args[1])


def _is_lent(hook: Any) -> bool:
    return isinstance(hook, functools.partial) and hook.func in (_save, _load)


def _save(module: LightningModule, own: Callable[..., None] | None, checkpoint: dict[str, Any]) -> None:
    (own or functools.partial(type(module).on_save_checkpoint, module))(checkpoint)
    checkpoint[STRUCTURE] = describe_structure(module)


def _load(module: LightningModule, own: Callable[..., None] | None, checkpoint: dict[str, Any]) -> None:
    _restore(module, checkpoint)
    (own or functools.partial(type(module).on_load_checkpoint, module))(checkpoint)


def _restore(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    # Callbacks load the averaged weights they hold a little later, each in its turn.
    for network in (module, *averaged_modules(getattr(module, "_trainer", None))):
        restore_structure(network, checkpoint["state_dict"], checkpoint.get(STRUCTURE))


def _read(checkpoint: Any) -> Mapping[str, Any]:
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # A file that was cut short makes PyTorch seek before its start, which is an OSError of another kind.
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else error.strerror or "no such file"
        raise type(error)(
            f"`load_pruned(checkpoint={_shown(checkpoint)})`: expected a file that can be read, found {found}. "
            "A Trainer's checkpoints end in .ckpt and lie where its ModelCheckpoint says."
        ) from error
    except Exception as error:  # pickle, zip and PyTorch each have their own ways to say that a file is no checkpoint
        raise ValueError(
            f"`load_pruned(checkpoint={_shown(checkpoint)})`: expected a checkpoint that loads with "
            f"`weights_only=True`, found {type(error).__name__}: {error!s:.300}. A file that was cut short or "
            "changed has to be saved again."
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"`load_pruned(checkpoint={_shown(checkpoint)})`: expected a mapping, found {type(found).__name__}. Save a "
            "state dict, not the network."
        )
    return found


def _shown(checkpoint: Any) -> str:
    return repr(str(checkpoint)) if isinstance(checkpoint, (str, os.PathLike)) else f"<{type(checkpoint).__name__}>"
