"""From a plan to a smaller network; the only file that imports torch_pruning.

Torch-Pruning finds which layers share channels and cuts them; this file decides whether to believe it. Each cut is a
trial: the smaller network must compute what the dense one computes when the consumers of the removed channels ignore
them. If it does not, the cut is undone to the last bit and the layer is reported as skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from tqdm.auto import tqdm

from lightning_cosprune.complexity import call, evaluating, measure_complexity
from lightning_cosprune.optim import Replacement, check_optimizers, rebind_optimizers, slices
from lightning_cosprune.report import LayerReport, PruningReport

if TYPE_CHECKING:
    from lightning_cosprune.plan import PruningPlan

__all__ = ["ChannelGroup", "apply_plan", "channel_groups", "num_filters"]

# Summation order differs between a wide and a narrow layer; anything beyond rounding is a wrong cut.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose filters must be removed together, such as those that feed one residual sum.

    Attributes:
        layers: Their names, in the order in which the model registers them.
        filters: How many filters each of them has.
        refusal: Why none of these filters may be removed, or ``None``.
    """

    layers: tuple[str, ...]
    filters: int
    refusal: str | None = None


class _RefusedError(Exception):
    """A cut that cannot be made, or cannot be shown to be right; its message is the reason for the user."""


def channel_groups(model: nn.Module, example_inputs: Any) -> list[ChannelGroup]:
    """Which layers of ``model`` share their output channels, from one traced forward pass.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.

    Returns:
        One group for every convolution and linear layer, or set of coupled ones; depthwise convolutions follow the
        layer that feeds them and have no group of their own.

    Raises:
        ValueError: The forward pass fails, or returns nothing that a gradient could flow from.
    """
    names = {module: name for name, module in model.named_modules()}
    layers = [module for module in names if _has_filters(module)]
    graph = _trace(model, example_inputs)
    groups: list[ChannelGroup] = []
    done: set[nn.Module] = set()
    for layer in layers:
        if layer in done:
            continue
        filters = num_filters(layer)
        if layer not in graph.module2node:
            done.add(layer)
            groups.append(ChannelGroup((names[layer],), filters, "not reached by the example input's forward pass"))
            continue
        coupled, refusal = _coupled_layers(graph, layer, names)
        done.update(coupled)
        ordered = tuple(names[other] for other in layers if other in coupled)
        groups.append(ChannelGroup(ordered, filters, refusal))
    return groups


def apply_plan(
    model: nn.Module, plan: PruningPlan, example_inputs: Any, *, optimizers: Sequence[Optimizer] = ()
) -> PruningReport:
    """Change ``model`` in place: remove the filters that ``plan`` names, with all that belongs to them.

    Batch norms lose the same channels and the layers that read them lose the inputs; kept parameters keep
    ``requires_grad``, gradient, attributes, gradient hooks, memory format, data type and device. Each group of coupled
    layers is cut whole or not at all: after the cut the outputs must equal those of the dense network whose consumers
    ignore the removed channels, else the group is restored bit for bit and named in the report's ``skipped``.

    Args:
        model: The network; its parameters are replaced by smaller ones.
        plan: What to remove, made for this model by :func:`plan_pruning` or by hand.
        example_inputs: As for :func:`plan_pruning`.
        optimizers: Optimizers that hold parameters of ``model``; they are given the new parameters, and their states
            are cut to the kept filters.

    Returns:
        What was removed, what was not and why, and the network's costs before and after.

    Raises:
        ValueError: The plan does not fit the model, or an optimizer's state cannot be cut; nothing is changed then.
    """
    modules = dict(model.named_modules())
    _check_plan(plan, modules)
    check_optimizers(optimizers)
    before = measure_complexity(model, example_inputs)
    skipped = dict(plan.skipped)
    pruned: dict[str, list[int]] = {}
    replacements: list[Replacement] = []
    probe = _probe(example_inputs)

    graph = _trace(model, example_inputs)
    names = {module: name for name, module in modules.items()}
    for name, idxs in tqdm(plan.pruned.items(), desc="Removing filters", unit="layer", delay=2, leave=False):
        if name in pruned or name in skipped or not idxs:
            continue
        coupled = sorted(names[layer] for layer in _coupled_layers(graph, modules[name], names)[0])
        try:
            for other in coupled:
                if plan.pruned.get(other) != idxs:
                    raise _RefusedError(f"coupled to {other}, for which the plan does not name the same filters")
            replacements += _cut(model, graph, modules[name], idxs, probe)
        except _RefusedError as refusal:
            skipped.update(dict.fromkeys(coupled, str(refusal)))
            graph = _trace(model, example_inputs)  # the cut that was undone left its marks on the graph
        else:
            pruned.update(dict.fromkeys(coupled, idxs))

    rebind_optimizers(optimizers, replacements)
    layers = tuple(
        LayerReport(name, plan.filters[name], num_filters(modules[name]), tuple(pruned[name]))
        for name in modules
        if name in pruned
    )
    return PruningReport(before, measure_complexity(model, example_inputs), layers, skipped)


def _check_plan(plan: PruningPlan, modules: Mapping[str, nn.Module]) -> None:
    for name, filters in plan.filters.items():
        layer = modules.get(name)
        if layer is None or not _has_filters(layer):
            raise ValueError(
                f"`apply_plan(plan=...)`: expected layer {name!r} to be a convolution or linear layer of the model, "
                f"found {'no such module' if layer is None else type(layer).__name__}. Make the plan with "
                "`plan_pruning` on this very model."
            )
        if num_filters(layer) != filters:
            raise ValueError(
                f"`apply_plan(plan=...)`: expected layer {name!r} to have the {filters} filters that the plan was made "
                f"for, found {num_filters(layer)}. Make a new plan: the model was changed since."
            )


# Which layers share channels


def _has_filters(module: nn.Module) -> bool:
    """Whether it has filters of its own, unlike a depthwise convolution, which belongs to the layer it reads."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return not _is_depthwise(module)
    return isinstance(module, nn.Linear)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels > 1


def num_filters(layer: nn.Module) -> int:
    """How many filters a convolution or linear layer has."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _coupled_layers(
    graph: tp.DependencyGraph, layer: nn.Module, names: Mapping[nn.Module, str]
) -> tuple[set[nn.Module], str | None]:
    """The layers that lose their filter ``i`` when ``layer`` does, and why none of them may, if that is so."""
    filters = num_filters(layer)
    coupled = {layer}
    refusal = None
    is_read = False
    for item in _pruning_group(graph, layer, list(range(filters))):
        dependency, idxs = item
        module = dependency.target.module
        if dependency.target.type == tp.ops.OPTYPE.OUTPUT:
            refusal = refusal or "its filters are outputs of the network"
        elif (
            isinstance(module, nn.Module)
            and _has_filters(module)
            and graph.is_out_channel_pruning_fn(dependency.handler)
        ):
            coupled.add(module)
            if num_filters(module) != filters or idxs != item.root_idxs:
                refusal = refusal or f"coupled to only a part of {names[module]}"
        refusal = refusal or _refuse_module(module, names)
        is_read = is_read or _reads(dependency)
    return coupled, refusal or (None if is_read else "its filters are outputs of the network")


def _reads(dependency: tp.dependency.Dependency) -> bool:
    """Whether this is a layer that takes the channels in and ends them, not one that passes them on."""
    return bool(dependency.handler.__name__ == "prune_in_channels" and isinstance(dependency.target.module, nn.Module))


def _refuse_module(module: Any, names: Mapping[nn.Module, str]) -> str | None:
    """Why a layer of this kind cannot be cut, if so."""
    name = names.get(module) if isinstance(module, nn.Module) else None
    if name is None:
        return None
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not _is_depthwise(module):
        return f"{name} is a grouped convolution"
    if isinstance(module, nn.GroupNorm):
        return f"{name} normalises over groups of channels"
    if parametrize.is_parametrized(module) or (hasattr(module, "weight_g") and hasattr(module, "weight_v")):
        return f"the weight of {name} is parametrized; remove the parametrization before pruning"
    return None


def _pruning_group(graph: tp.DependencyGraph, layer: nn.Module, idxs: list[int]) -> tp.dependency.Group:
    """What else must be cut with filters ``idxs`` of ``layer``; made afresh, as each cut makes older groups wrong."""
    pruner = graph.get_pruner_of_module(layer)
    with _quiet():
        return graph.get_pruning_group(layer, pruner.prune_out_channels, idxs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Torch-Pruning's notes on operations it has no rule for: where it guesses wrong, the trial fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch_pruning")
        yield


def _trace(model: nn.Module, example_inputs: Any) -> tp.DependencyGraph:
    """Record which layer reads which in one forward pass; the model is left as it was found.

    Every floating-point parameter requires grad meanwhile: Torch-Pruning follows autograd's graph, which has no edges
    through frozen layers.

    Returns:
        Torch-Pruning's graph of the layers.

    Raises:
        ValueError: The forward pass fails.
    """
    frozen = [
        parameter for parameter in model.parameters() if not parameter.requires_grad and parameter.is_floating_point()
    ]
    hooks = {module: module._forward_hooks.copy() for module in model.modules()}
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    graph = tp.DependencyGraph()
    arguments = example_inputs if isinstance(example_inputs, (Mapping, Sequence)) else (example_inputs,)
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for layer in recurrent:
            layer.forward = functools.partial(_as_one_node, layer.forward)
        with evaluating(model), torch.inference_mode(False), torch.enable_grad(), _same_random_state(), _quiet():
            graph.build_dependency(
                model,
                arguments,
                forward_fn=lambda module, inputs: _tensors(call(module, inputs)),
                customized_pruners={type(layer): _RecurrentPruner() for layer in recurrent},
                verbose=False,
            )
    except Exception as error:
        raise ValueError(
            f"The forward pass of {type(model).__name__} on the example input failed, so the layers that read each "
            f"other are unknown: {type(error).__name__}: {error}. Pass `example_inputs` that `forward` accepts: a "
            "tensor, or a tuple of its positional or a mapping of its keyword arguments."
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for layer in recurrent:
            vars(layer).pop("forward", None)
        for module, saved in hooks.items():
            module._forward_hooks.clear()
            module._forward_hooks.update(saved)
    return graph


class _RecurrentPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
    """Lets an LSTM, GRU or RNN lose inputs; its own units are not filters and stay."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        keep = sorted(set(range(layer.input_size)).difference(idxs))
        for name in _input_dims(layer, ""):
            setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), keep, 1))
        layer.input_size = len(keep)
        return layer

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        raise _RefusedError(f"a {type(layer).__name__}'s units cannot be removed, {len(idxs)} would have to be")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


class _OneNode(torch.autograd.Function):
    """Gives ``values`` one common node in autograd's graph that leads straight to ``source``."""

    @staticmethod
    def forward(_: Any, source: Tensor, *values: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tuple(value.clone() for value in values)


def _as_one_node(forward: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer's outputs as one step of the traced graph, where its loop over time would leave hundreds.

    Returns:
        What ``forward`` returns.
    """
    with torch.no_grad():
        outputs = forward(inputs, *args, **kwargs)
    leaves, structure = tree_flatten(outputs)
    moving = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    source = inputs.data if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs
    moved = _OneNode.apply(source, *(leaves[place] for place in moving))  # type: ignore[no-untyped-call]
    for place, leaf in zip(moving, moved, strict=True):
        leaves[place] = leaf
    return tree_unflatten(leaves, structure)


# One cut: trial, check, roll back


def _cut(
    model: nn.Module, graph: tp.DependencyGraph, layer: nn.Module, idxs: list[int], probe: Any
) -> list[Replacement]:
    """Remove filters ``idxs`` of ``layer`` and of all that is coupled to it, or refuse and leave no trace.

    Returns:
        The parameters that were replaced, in the order of their replacement.

    Raises:
        _RefusedError: With the reason; the model is as it was.
    """
    names = {module: name for name, module in model.named_modules()}
    refusal = _coupled_layers(graph, layer, names)[1]
    if refusal is not None:
        raise _RefusedError(refusal)
    group = _pruning_group(graph, layer, idxs)
    _refuse_tied(model, group, names)
    expected = _masked_outputs(model, group, names, probe)
    saved = _save(model)
    try:
        with _careful_slicing() as replacements:
            group.prune(record_history=False)
        with evaluating(model), torch.no_grad(), _same_random_state():
            found = _tensors(call(model, probe))
        _compare(expected, found)
    except _RefusedError:
        _restore(saved)
        raise
    except Exception as error:  # Torch-Pruning and the network may fail in any way; the answer is always to undo.
        _restore(saved)
        raise _RefusedError(f"it cannot be cut: {type(error).__name__}: {error}") from error
    return replacements


def _refuse_tied(model: nn.Module, group: tp.dependency.Group, names: Mapping[nn.Module, str]) -> None:
    """A parameter that two modules share would be cut in one of them and come apart in silence."""
    owners: dict[nn.Parameter, list[str]] = {}
    for module in model.modules():
        for parameter_name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append(f"{names[module]}.{parameter_name}")
    for dependency, _ in group:
        module = dependency.target.module
        own = [module] if isinstance(module, nn.Parameter) else module._parameters.values() if module in names else []
        for parameter in own:
            if parameter is not None and len(owners.get(parameter, ())) > 1:
                raise _RefusedError(f"a weight is shared: {' is '.join(owners[parameter])}")


def _masked_outputs(
    model: nn.Module, group: tp.dependency.Group, names: Mapping[nn.Module, str], probe: Any
) -> list[Tensor]:
    """What the dense network computes when every layer that reads the removed channels multiplies them by zero."""
    masked: dict[str, Tensor] = {}
    for dependency, idxs in group:
        module = dependency.target.module
        if not _reads(dependency):
            continue
        for parameter_name, dim in _input_dims(module, names[module]).items():
            key = f"{names[module]}.{parameter_name}" if names[module] else parameter_name
            weight = masked.setdefault(key, module.get_parameter(parameter_name).detach().clone())
            weight.index_fill_(dim, torch.tensor(idxs, device=weight.device), 0)
    with evaluating(model), torch.no_grad(), _same_random_state():
        return _tensors(torch.func.functional_call(model, masked, *_as_call(probe)))


def _input_dims(module: nn.Module, name: str) -> dict[str, int]:
    """Weights that multiply a layer's input -> the dimension of its input channels."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return {"weight": 0 if module.transposed else 1}
    if isinstance(module, nn.Linear):
        return {"weight": 1}
    if isinstance(module, nn.RNNBase):
        return {parameter: 1 for parameter in dict(module.named_parameters()) if parameter.startswith("weight_ih_l0")}
    raise _RefusedError(f"read by {name}, a {type(module).__name__}, for which the cut cannot be checked")


def _compare(expected: list[Tensor], found: list[Tensor]) -> None:
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        raise _RefusedError("its filters are outputs of the network")
    for wide, narrow in zip(expected, found, strict=True):
        error = (wide.double() - narrow.double()).abs().max() / wide.double().abs().max().clamp(min=1e-30)
        tolerance = _TOLERANCE.get(wide.dtype, 0.0)
        if not error <= tolerance:  # written so that NaN is refused
            raise _RefusedError(
                f"the cut changes what the other channels compute (relative error {error:.1e}, at most {tolerance:.0e} "
                "is rounding)"
            )


def _save(model: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every module's attributes, parameters and buffers, by reference: a cut replaces tensors and writes into none."""

    def kept(key: str, value: Any) -> Any:
        # Recurrent layers keep a list of their weights beside the registry.
        return copy.copy(value) if key in ("_parameters", "_buffers") or isinstance(value, list) else value

    return [
        (vars(module), {key: kept(key, value) for key, value in vars(module).items()}) for module in model.modules()
    ]


def _restore(saved: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for attributes, before in saved:
        attributes.clear()
        attributes.update(before)


@contextlib.contextmanager
def _careful_slicing() -> Iterator[list[Replacement]]:
    """Let Torch-Pruning slice parameters our way: with all that belongs to them, and on record.

    All its layer types pass through one method; as it stands, that method forgets ``requires_grad``, hooks, attributes
    and the memory format.

    Yields:
        A list that fills with what is replaced.
    """
    replacements: list[Replacement] = []
    pruner = tp.pruner.function.BasePruningFunc
    theirs = pruner._prune_parameter_and_grad

    def ours(_: Any, old: nn.Parameter, keep: Any, dim: int) -> nn.Parameter:
        kept = torch.as_tensor(keep, dtype=torch.long, device=old.device)
        new = nn.Parameter(slices(old.detach(), kept, dim), requires_grad=old.requires_grad)
        if old.grad is not None:
            new.grad = slices(old.grad, kept, dim)
        new.__dict__.update(old.__dict__)
        for hook in (old._backward_hooks or {}).values():
            new.register_hook(hook)
        for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
            new.register_post_accumulate_grad_hook(hook)
        replacements.append(Replacement(old, new, kept, dim))
        return new

    pruner._prune_parameter_and_grad = ours
    try:
        yield replacements
    finally:
        pruner._prune_parameter_and_grad = theirs


# Inputs and outputs of the trial


def _probe(example_inputs: Any) -> Any:
    """Noise of the example's shapes where the example is constant: on all zeros a wrong cut may look right."""
    generator = torch.Generator().manual_seed(0)

    def lively(leaf: Any) -> Any:
        if (
            isinstance(leaf, Tensor)
            and leaf.is_floating_point()
            and leaf.numel() > 1
            and bool((leaf == leaf.flatten()[0]).all())
        ):
            return torch.randn(leaf.shape, generator=generator).to(leaf)
        return leaf

    return tree_map(lively, example_inputs)


def _as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _tensors(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a network's output, which may be nested and may be a dataclass."""
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        outputs = [getattr(outputs, entry.name) for entry in dataclasses.fields(outputs)]
    leaves = tree_leaves(outputs)
    if any(dataclasses.is_dataclass(leaf) for leaf in leaves):
        return [tensor for leaf in leaves for tensor in _tensors(leaf)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise ValueError(f"expected `forward` to return a floating-point tensor, found {type(outputs).__name__}")
    return tensors


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """Leave the random streams of training where they are, and draw the same numbers each time."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield
