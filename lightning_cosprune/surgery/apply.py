"""From a plan to a smaller network: each cut is a trial, and what fails it is undone to the last bit."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lightning_cosprune.network.channels import ChannelGraph, ChannelGroup, CutError, Removal, channel_graph
from lightning_cosprune.network.complexity import Complexity, measure_complexity
from lightning_cosprune.network.computed import is_computed, plain_weights
from lightning_cosprune.network.forward import outside_inference_mode
from lightning_cosprune.network.latency import FAST_BLOCK
from lightning_cosprune.network.layers import check_model, is_depthwise, is_layer, layer_weight, num_filters
from lightning_cosprune.network.norms import Normalising, declared_norms, is_norm_over_channels
from lightning_cosprune.network.pruners import RefusedError, Replacement
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.surgery.blame import Fault, TrialFailedError, at_failure, touching
from lightning_cosprune.surgery.draws import Draws, draw, plain_layers
from lightning_cosprune.surgery.optim import Bindings, check_optimizers, rebind_optimizers
from lightning_cosprune.surgery.report import LayerReport, PruningReport
from lightning_cosprune.surgery.trial import Trial

if TYPE_CHECKING:
    from lightning_cosprune.planning.plan import PruningPlan

__all__ = ["apply_plan"]

_CHEAP = 10**9
"""Up to so many multiply-accumulates a network is tried in float64, which takes several times as long as float32."""


@torch.inference_mode(False)  # else the new parameters could never be trained
def apply_plan(
    model: nn.Module,
    plan: PruningPlan,
    example_inputs: Any,
    *,
    optimizers: Sequence[Optimizer] = (),
    allow_unpruned: bool = False,
    normalising: Normalising = (),
    strict: bool = False,
) -> PruningReport:
    """Change ``model`` in place: remove the filters that ``plan`` names, with all that belongs to them.

    Batch norms lose the same channels and the layers that read them lose the inputs; kept parameters keep
    ``requires_grad``, gradient, attributes, gradient hooks, memory format, data type and device. Each group of coupled
    layers is cut whole or not at all: after the cut the network must compute what the dense one does whose readers
    ignore the removed channels, on the example input and on noise between its layers, else the group is restored bit
    for bit and named in the report's ``skipped``. Norms over channels, such as group and layer norms, range over the
    kept channels in both networks: what they compute is not kept exactly, and the report's ``norms`` name them.

    Args:
        model: The network; its parameters are replaced by smaller ones.
        plan: What to remove, made for this model by :func:`plan_pruning` or by hand. It may name depthwise layers, with
            the filters that go with those of the layer that feeds them.
        example_inputs: As for :func:`plan_pruning`.
        optimizers: Optimizers that hold parameters of ``model``; they are given the new parameters, and their states
            are cut to the kept filters.
        allow_unpruned: Return a report where no filter at all could be removed, instead of raising an error.
        normalising: As for :func:`plan_pruning`; the plan's own ``norms`` need not be named again.
        strict: Keep all filters in front of norms over channels, whatever the plan says.

    Returns:
        What was removed, what was not and why, and the network's costs before and after. Every convolution and linear
        layer is in one of the two.

    Raises:
        ValueError: The plan does not fit the model, an optimizer's state cannot be cut, the model or the example input
            is not finite, or nothing can be removed. Nothing is changed then, nor by anything else that is raised, such
            as an interrupt from the keyboard.
    """
    check_model(model, "apply_plan")
    modules = dict(model.named_modules())
    _check_plan(plan, modules)
    declared = declared_norms(model, normalising, "apply_plan")
    declared |= {name: modules[name] for name in plan.norms if not is_norm_over_channels(modules[name])}
    check_optimizers(optimizers)
    example_inputs = tree_map(outside_inference_mode, example_inputs)
    before = measure_complexity(model, example_inputs)
    dense, bound = Snapshot(model), Bindings(optimizers)
    try:
        report = _carry_out(model, plan, example_inputs, optimizers, allow_unpruned, before, declared, strict)
    except BaseException:  # an interrupt between two cuts too, after which the caller may go on or save
        dense.restore()
        bound.restore()
        raise
    plan._hold(None)  # it is that of the network before
    return report


def _carry_out(
    model: nn.Module,
    plan: PruningPlan,
    example_inputs: Any,
    optimizers: Sequence[Optimizer],
    allow_unpruned: bool,
    before: Complexity,
    declared: Mapping[str, nn.Module],
    strict: bool,
) -> PruningReport:
    modules = dict(model.named_modules())
    filters = {name: num_filters(module) for name, module in modules.items() if is_layer(module)}
    weights = {
        name: outside_inference_mode(layer_weight(modules[name]).detach())
        for name, idxs in plan.pruned.items()
        if idxs and not is_depthwise(modules[name])
    }
    with plain_weights(model) as plain:
        graph = channel_graph(model, example_inputs, declared, strict)
        width = torch.float64 if before.macs <= _CHEAP else torch.float32
        surgery = _Surgery(model, plan, example_inputs, width, graph)
        surgery.remove(surgery.accepted())
        surgery.finish()
        try:
            replacements = plain.carry_over(surgery.replacements)
        except RefusedError as refusal:
            raise ValueError(
                f"`apply_plan(plan=...)`: expected weights that can be cut, found that of {refusal}. Leave the layers "
                "out that feed it or are coupled to it, with `ignored_layers` of `plan_pruning`."
            ) from refusal
    reasons_of_parts = {name: reason for name, reason in surgery.skipped.items() if name in surgery.removed}
    skipped = {**plan.skipped, **surgery.skipped}
    skipped = {name: reason for name, reason in skipped.items() if name not in surgery.removed}
    for name in filters:
        if name not in surgery.removed and name not in skipped:
            follows = is_depthwise(modules[name])
            skipped[name] = "depthwise: it follows the layer that feeds it" if follows else "the plan does not name it"
    if not surgery.removed and not allow_unpruned:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
        raise ValueError(
            f"`apply_plan(plan=...)`: expected filters that can be removed, found none. Each layer's reason:{reasons}\n"
            "Change the plan, or pass `allow_unpruned=True` to go on with the network as it is."
        )
    rebind_optimizers(optimizers, replacements)
    layers = tuple(
        LayerReport(
            name, filters[name], num_filters(modules[name]), tuple(surgery.removed[name]), weight=weights.get(name)
        )
        for name in filters
        if name in surgery.removed
    )
    notes = {layer.name: note for layer in layers if (note := plan.notes.get(layer.name) or _off_block(layer, modules))}
    notes |= {name: f"some of its filters stay: {reason}" for name, reason in reasons_of_parts.items()}
    # What weights are computed from was not there when the surgery counted.
    after = measure_complexity(model, example_inputs) if plain else surgery.after or before
    refused = {name: reason for name, reason in skipped.items() if name in surgery.refused or name in plan.refused}
    return PruningReport(before, after, layers, skipped, notes=notes, norms=surgery.norms, refused=refused)


def _off_block(layer: LayerReport, modules: Mapping[str, nn.Module]) -> str | None:
    """What is to be known of a width that kernels do not like."""
    whole = -(-layer.filters_after // FAST_BLOCK) * FAST_BLOCK
    if whole == layer.filters_after or is_depthwise(modules[layer.name]):
        return None
    return (
        f"{layer.filters_after} filters are no multiple of {FAST_BLOCK}; where a processor computes so many at once "
        f"they take as long as {whole}"
    )


def _check_plan(plan: PruningPlan, modules: Mapping[str, nn.Module]) -> None:
    if not isinstance(getattr(plan, "filters", None), Mapping):
        raise TypeError(
            f"`apply_plan(plan=...)`: expected a `PruningPlan`, found a {type(plan).__name__}. Make one with "
            "`plan_pruning`, or from a dict with `PruningPlan.from_dict`."
        )
    for name in plan.norms:
        if name not in modules:
            raise ValueError(
                f"`apply_plan(plan=...)`: expected the norm {name!r} to be a module of the model, found no such "
                "module. Make the plan with `plan_pruning` on this very model."
            )
    for name, filters in plan.filters.items():
        layer = modules.get(name)
        if layer is None or not is_layer(layer):
            found = "no such module" if layer is None else type(layer).__name__
            raise ValueError(
                f"`apply_plan(plan=...)`: expected layer {name!r} to be a convolution or linear layer of the model, "
                f"found {found}. Make the plan with `plan_pruning` on this very model."
            )
        if num_filters(layer) != filters:
            raise ValueError(
                f"`apply_plan(plan=...)`: expected layer {name!r} to have the {filters} filters that the plan was made "
                f"for, found {num_filters(layer)}. Make a new plan: the model was changed since."
            )


class _Surgery:
    """Carries out a plan, all groups together but those that turn out to be at fault.

    Attributes:
        removed: Layer name -> filters that were removed, those of depthwise layers included.
        skipped: Layer name -> why it could not be cut.
        refused: Those of them of which a trial showed it.
        norms: Norm over channels that ranges over fewer -> the layers that made those that went.
        replacements: The parameters that were replaced, in the order of their replacement.
        after: What the network costs then; ``None`` where nothing was cut.
    """

    def __init__(
        self, model: nn.Module, plan: PruningPlan, example_inputs: Any, width: torch.dtype, graph: ChannelGraph
    ) -> None:
        self._model, self._plan, self._inputs, self._width = model, plan, example_inputs, width
        self._shared = _shared_parameters(model)
        self._dense = Snapshot(model)
        self._graph = graph
        self._removals: dict[ChannelGroup, Removal] = {}
        self._refused: set[ChannelGroup] = set()
        self._best: tuple[Snapshot, list[ChannelGroup], list[Replacement]] = (self._dense, [], [])
        self.removed: dict[str, list[int]] = {}
        self.skipped: dict[str, str] = {}
        self.refused: set[str] = set()
        self.norms: dict[str, tuple[str, ...]] = {}
        self.replacements: list[Replacement] = []
        self.after: Complexity | None = None

    def accepted(self) -> list[ChannelGroup]:
        """Groups of layers that may be cut as far as can be told without trying.

        Returns:
            Them, in the order of the plan; the others are in ``skipped`` now.
        """
        groups: dict[ChannelGroup, None] = {}
        following: dict[str, set[int]] = {}
        for name, named in self._plan.pruned.items():
            if name not in self._plan.skipped and named and not is_depthwise(self._model.get_submodule(name)):
                groups.update(dict.fromkeys(self._graph.groups_of(name)))
        for group in groups:
            idxs = group.units_of(self._plan.pruned)
            if not idxs:
                continue
            try:
                self._check_named(group, idxs)
                removal = self._removals[group] = self._graph.removal(group, idxs)
                owners = {id(tensor) for tensor in removal.parameters}
                for follower in group.followers:
                    following.setdefault(follower, set()).update(removal.outputs.get(follower, ()))
                for other in (*removal.outputs, *removal.inputs):
                    if is_computed(self._model.get_submodule(other)):
                        raise RefusedError(f"the weight of {other} is computed from tensors that other layers share")
                    owners |= {id(tensor) for tensor in self._model.get_submodule(other)._parameters.values()}
                for owner in owners & set(self._shared):
                    raise RefusedError(f"a weight is shared: {' is '.join(self._shared[owner])}")
            except RefusedError as refusal:
                self._refuse(group, str(refusal))
        self._check_depthwise(groups, following)
        return [group for group in groups if group in self._removals and group not in self._refused]

    def _check_named(self, group: ChannelGroup, idxs: Sequence[int]) -> None:
        """Refuse units of which the plan names some filters only."""
        named = [self._plan.pruned.get(name, []) for name in group.layers]
        if not group.places:
            group.check(next(filter(None, named)))
        for name, filters in zip(group.layers, named, strict=True):
            own = set(group.filters_of(name, range(group.filters)))
            if group.filters_of(name, idxs) != [one for one in filters if one in own]:
                raise RefusedError(f"coupled: the plan must name the same filters for {', '.join(group.layers)}")
        group.check(idxs)

    def _check_depthwise(self, groups: Iterable[ChannelGroup], following: Mapping[str, set[int]]) -> None:
        """Refuse groups whose depthwise layers are to lose other filters by the plan than go with theirs."""
        for name, idxs in self._plan.pruned.items():
            if not idxs or name in self._plan.skipped or not is_depthwise(self._model.get_submodule(name)):
                continue
            if name not in following:
                self.skipped.setdefault(name, "depthwise: the plan does not name the layer that feeds it")
            elif following[name] != set(idxs):
                reason = f"the plan names other filters of {name}, which is depthwise, than go with those that feed it"
                for group in [group for group in groups if name in group.followers]:
                    self._refuse(group, reason)

    def remove(self, groups: Sequence[ChannelGroup]) -> None:
        """Find the groups that can be cut together: all of them, less those that are at fault where a trial fails.

        Where it cannot be told which of several groups is at fault, they wait until all others are tried.
        """
        waiting = [list(groups)]
        while waiting:
            part = waiting.pop()
            if not part:
                continue
            accepted = self._best[1]
            wanted = [*accepted, *part]
            try:
                self._cut(wanted)
                continue
            except TrialFailedError as failure:
                faults = failure.faults
            blamed: dict[ChannelGroup, str] = {}
            doubtful: dict[ChannelGroup, None] = {}
            for fault in faults:
                suspects = [wanted[number] for number in sorted(fault.suspects) if wanted[number] in part]
                if len(part) == 1 or (fault.certain and suspects):
                    suspects = suspects or part
                    blamed.update({group: fault.reason for group in suspects if group not in blamed})
                else:
                    doubtful.update(dict.fromkeys(suspects or part))
            for group, reason in blamed.items():
                self._refuse(group, reason)
                self.refused.update(group.layers)
            left = [group for group in part if group not in blamed]
            if blamed or len(doubtful) == len(left):
                suspicious = [] if blamed else left[len(left) // 2 :]
            else:
                suspicious = [group for group in left if group in doubtful]
            waiting += [suspicious, [group for group in left if group not in suspicious]]

    def finish(self) -> None:
        """Leave the network with all cuts that can be made together."""
        state, groups, self.replacements = self._best
        state.restore()
        for group in groups:
            for name, idxs in self._removals[group].outputs.items():
                if is_layer(self._model.get_submodule(name)):
                    self.removed[name] = sorted({*self.removed.get(name, ()), *idxs})
                elif name in self._graph.norms:
                    self.norms[name] = (*self.norms.get(name, ()), *group.layers)

    def _refuse(self, group: ChannelGroup, reason: str) -> None:
        self._refused.add(group)
        self.skipped.update(dict.fromkeys((*group.layers, *group.followers), reason))

    def _cut(self, groups: Sequence[ChannelGroup]) -> None:
        """Cut the dense network at all of ``groups``, and keep that if it is right."""
        self._dense.restore()
        removals = [self._removals[group] for group in groups]
        trial = Trial(self._model, self._inputs, removals, self._draws, self._width, self._graph)
        try:
            replacements = self._graph.cut(removals)
            after = self._run(removals, trial)
            cut = Snapshot(self._model)
            trial.check(self._dense, cut, replacements)
        except TrialFailedError:
            raise
        except CutError as error:
            near = touching(removals, [error.module])
            raise TrialFailedError(Fault(f"it cannot be cut: {error}", near, len(near) == 1)) from error
        except ValueError:
            raise
        except Exception as error:  # whatever happens, the answer is to undo
            raise TrialFailedError(Fault(f"it cannot be cut: {type(error).__name__}: {error}")) from error
        # What is no `Exception`, such as an interrupt, is undone by `apply_plan`.
        self._best = (cut, list(groups), replacements)
        self.after = after

    def _run(self, removals: Sequence[Removal], trial: Trial) -> Complexity:
        """Run the network, which is cut: where it fails, that is known before anything is compared."""
        finished: set[str] = set()
        handles = [
            self._model.get_submodule(name).register_forward_hook(lambda *_, name=name: finished.add(name))
            for name in self._graph.called
        ]
        handles += trial.norms.listen()
        try:
            return measure_complexity(self._model, self._inputs)
        except ValueError as failure:
            if failure.__cause__ is None:
                raise
            error = failure.__cause__
            near = at_failure(removals, self._model, error, self._graph.called, finished)
            raise TrialFailedError(Fault(f"it cannot be cut: {type(error).__name__}: {error}", near)) from error
        finally:
            for handle in handles:
                handle.remove()

    @functools.cached_property
    def _draws(self) -> Draws:
        return draw(self._model, self._inputs, plain_layers(self._model).values())


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Parameters of several modules -> their names: cut in one module, they would come apart in silence."""
    owners: dict[int, list[str]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(f"{module_name}.{name}")
    return {key: names for key, names in owners.items() if len(names) > 1}
