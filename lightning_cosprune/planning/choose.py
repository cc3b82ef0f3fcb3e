"""Which filters of which layer go: decided whole, before anything is cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup, channel_graph
from lightning_cosprune.network.latency import check_backend
from lightning_cosprune.network.layers import check_model, has_filters, is_depthwise, prunable_layers
from lightning_cosprune.network.norms import Normalising, declared_norms
from lightning_cosprune.planning.budget import check_with_budget, parse_budget
from lightning_cosprune.planning.curves import first_to_go
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.planning.ranked import Criterion, FilterRanking
from lightning_cosprune.planning.ratios import (
    Counts,
    PruningRatio,
    check_counts,
    check_ratio,
    check_refused,
    match_layers,
    resolve_counts,
    resolve_ratios,
)
from lightning_cosprune.planning.response import ResponseRanking
from lightning_cosprune.planning.within import UNREAD, kept_whole, plan_within
from lightning_cosprune.ranking.redundancy import CRITERIA as CRITERIA_OF_WEIGHTS
from lightning_cosprune.ranking.redundancy import check_criterion, redundant_filters

__all__ = ["CRITERIA", "plan_pruning"]

CRITERIA = (*CRITERIA_OF_WEIGHTS, "response")
"""Names that :func:`plan_pruning` takes as ``criterion``."""


def plan_pruning(
    model: nn.Module,
    example_inputs: Any,
    *,
    criterion: Criterion = "cosine",
    pruning_ratio: PruningRatio = "redundant",
    layers: Sequence[str] | None = None,
    ignored_layers: Sequence[str | nn.Module] = (),
    round_to: Counts = 1,
    min_filters: Counts = 1,
    seed: int = 0,
    vectors: Mapping[str, Tensor] | None = None,
    calibration: Iterable[Any] | None = None,
    max_macs: float | str | None = None,
    max_params: float | str | None = None,
    max_bytes: float | str | None = None,
    max_latency: float | str | None = None,
    latency_on: str = "eager",
    budget: str | None = None,
    deployed_as: str | None = None,
    normalising: Normalising = (),
    strict: bool = False,
    refused: Mapping[str, str] | None = None,
) -> PruningPlan:
    """Choose the filters to remove from each layer of ``model``; nothing is changed.

    Each layer is judged by itself, on the weights it has now. Layers whose filters must go together, such as those that
    feed one residual sum, are ranked as one layer whose filter ``i`` is the concatenation of theirs.

    With a limit, such as ``max_macs="30 MMACs"``, how many filters each layer keeps follows from what they cost and how
    much is lost with them, see :func:`~lightning_cosprune.planning.widths.choose_widths`; the costs after surgery are
    counted in a rehearsal that is undone, and meet every limit.

    Args:
        model: The network.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments, for one forward pass that
            finds out which layers read which.
        criterion: Which filters go first: a name that :func:`rank_filters` knows, or a callable; or ``"response"``:
            those that the kept ones together can speak for, as :func:`~lightning_cosprune.ranking.subset
            .rank_by_response` says, measured where the filters are read, behind whatever lies between.
        pruning_ratio: How many filters go. ``"redundant"``: as many as the published greedy rule calls redundant, an
            outcome, not a setting; a criterion other than cosine then removes the same number of other filters. A float
            in [0, 1): this fraction of every layer, rounded down to whole filters. A mapping from layer name, or
            ``fnmatch`` pattern of names, to such a float: these layers only; the first pattern that matches counts.
        layers: Names or patterns of the layers to prune; all convolutions where ``None``. A linear layer is pruned only
            where a name or pattern in ``layers`` or ``pruning_ratio`` matches it.
        ignored_layers: Names, patterns or modules that keep all filters.
        round_to: The number of filters kept is rounded up to a multiple of this; a mapping from layer name or pattern
            gives some layers a multiple of their own. With a limit, layers keep a multiple or all of their filters.
        min_filters: No layer keeps fewer; a mapping likewise.
        seed: Start of the draws of ``criterion="random"``; each layer draws from its own stream.
        vectors: Layer name -> one row per filter, ranked in place of the layer's weights: what :func:`response_vectors`
            measures, or weights from :func:`fold_batch_norms`. Every layer that may lose filters must be among them.
        calibration: For ``criterion="response"`` inputs of the network, one entry a forward pass: a tensor, or a tuple
            of positional or a mapping of keyword arguments. Labels are not looked at. With a limit they also tell what
            is lost with filters, for any criterion; without them it is the distance of each to its nearest kept one.
        max_macs: At most so many multiply-accumulates at ``example_inputs``: a number, a fraction of what the network
            costs now, or a string such as ``"30 MMACs"`` or ``"40 %"``.
        max_params: At most so many parameters, batch-norm statistics included.
        max_bytes: At most so many bytes of parameters, such as ``"128 kB"``.
        max_latency: At most this fraction of the time that the network takes now, on this machine in one thread; layers
            then keep multiples of eight filters, which kernels compute at once, unless ``round_to`` says otherwise. The
            times of layers are kept in :func:`~lightning_cosprune.planning.speed.table_file`, and the network is timed
            beside the dense one in the rehearsal.
        latency_on: What ``max_latency`` holds for: ``"eager"``, ``"channels_last"`` or ``"onnxruntime"``, see
            :func:`measure_latency`.
        budget: The limits of a challenge by its name, see :data:`~lightning_cosprune.planning.budget.BUDGETS`. Limits
            of one's own overrule those of the same kind.
        deployed_as: Data type that bytes are counted in, such as ``"int8"``; that of each tensor where ``None``.
        normalising: Norms over channels of your own, such as global response normalisation: classes of modules that
            normalise and do nothing else, their names, or patterns of names. Like PyTorch's own norms they range over
            fewer channels once filters in front of them are gone; the plan's ``norms`` name them all.
        strict: Keep all filters in front of norms over channels, PyTorch's own included, which without the removed
            channels give the others another scale.
        refused: Layer name -> why it cannot be cut, :attr:`PruningReport.refused` of an earlier prune of this network:
            these keep all filters without being tried again.

    Returns:
        The filters to remove, and every layer that keeps all of its filters with the reason.

    Raises:
        ValueError: An argument is out of range, a pattern or a name matches no layer or norm, there is no convolution,
            a weight is not finite, ``vectors`` lack a layer, do not fit it or have no meaning for the criterion,
            ``"response"`` has no ``calibration``, or the limits cannot be met; then with the smallest that can be
            reached.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2 (``"cosine"`` with ``"redundant"``).
    """
    check_model(model, "plan_pruning")
    check_ratio(pruning_ratio, "plan_pruning")
    check_criterion(criterion, CRITERIA)
    limits = parse_budget(
        "plan_pruning",
        budget=budget,
        deployed_as=deployed_as,
        max_macs=max_macs,
        max_params=max_params,
        max_bytes=max_bytes,
        max_latency=max_latency,
    )
    check_backend(latency_on, "plan_pruning", "latency_on")
    check_with_budget(limits, pruning_ratio, deployed_as, "plan_pruning")
    for parameter, counts in (("round_to", round_to), ("min_filters", min_filters)):
        check_counts(parameter, counts, "plan_pruning")
    declared = declared_norms(model, normalising, "plan_pruning")
    modules = prunable_layers(model)
    if layers is None and not any(isinstance(module, nn.modules.conv._ConvNd) for module in modules.values()):
        raise ValueError(
            f"`plan_pruning(model={type(model).__name__}(...))`: expected at least one convolution, found none. Name "
            "the linear layers to prune with `layers=[...]`, or prune the part of the model that has convolutions."
        )
    if vectors is not None and not isinstance(vectors, Mapping):
        raise TypeError(
            f"`plan_pruning(vectors=...)`: expected a mapping from layer name to a tensor with one row a filter, found "
            f"a {type(vectors).__name__}. `response_vectors` gives one."
        )
    if vectors is not None and criterion in _CRITERIA_OF_SIZE:
        raise ValueError(
            f"`plan_pruning(criterion={criterion!r}, vectors=...)`: expected a criterion that compares filters, since "
            'the length of a vector says nothing of its filter. Write criterion="cosine", or leave `vectors` out.'
        )
    if (criterion == "response") != (calibration is not None) and not (limits and calibration is not None):
        raise ValueError(
            f"`plan_pruning(criterion={criterion!r}, calibration=...)`: expected calibration data for "
            f'criterion="response" and for no other, found {"none" if calibration is None else "some"}. Pass a list of '
            "unlabelled inputs, such as [batch[0] for batch in loader], or choose another criterion. Together with a "
            "limit, such as `max_macs`, they are of use to any criterion."
        )
    if criterion == "response" and vectors is not None:
        raise ValueError(
            '`plan_pruning(criterion="response", vectors=...)`: expected no vectors, since what the layers read is '
            "compared, not vectors of filters. Leave them out."
        )
    ratios = resolve_ratios(modules, pruning_ratio, layers)
    ignored = match_layers("ignored_layers", ignored_layers, modules)
    impossible = check_refused(refused, modules)

    pruned: dict[str, list[int]] = {}
    filters: dict[str, int] = {}
    notes: dict[str, str] = {}
    # Only what may lose filters is followed through the network: other parts may be of a kind that takes long.
    alone = {
        name: _reason_to_keep(name, ratios, ignored, modules) or impossible.get(name)
        for name in modules
        if has_filters(modules[name])
    }
    graph = channel_graph(model, example_inputs, declared, strict)
    groups = graph.groups([name for name, reason in alone.items() if reason is None])
    followed = {name for group in groups for name in (*group.layers, *group.followers)}
    skipped: dict[str, str] = {name: reason for name, reason in alone.items() if reason and name not in followed}
    for name, module in modules.items():
        if is_depthwise(module) and name not in followed:
            sources = graph.feeders(name)
            skipped[name] = f"depthwise: it follows {sources[0]}, which keeps its filters" if sources else _UNFED
    requests = {group: [ratios[name] for name in group.layers if name in ratios] for group in groups}
    reasons = {group: _reason_to_skip(group, ignored, impossible, modules) for group in groups}
    ranking = FilterRanking(
        modules,
        criterion,
        round_to=resolve_counts("round_to", round_to, modules),
        min_filters=resolve_counts("min_filters", min_filters, modules),
        seed=seed,
        vectors=vectors,
    )
    asked_for = [group for group in groups if reasons[group] is None]
    for group in groups:
        if (reason := reasons[group]) is not None:
            skipped.update(kept_whole(group, reason))
    if limits:
        found = plan_within(model, example_inputs, limits, asked_for, ranking, calibration, skipped, latency_on)
        pruned, filters, skipped = dict(found.pruned), dict(found.filters), dict(found.skipped)
        notes = dict(found.notes)
        impossible |= {name: skipped[name] for name in found.refused}
    else:
        responses = None
        if calibration is not None:
            responses = ResponseRanking(model, example_inputs, asked_for, calibration)
        for group in asked_for:
            idxs, reason = _choose(group, requests[group], ranking, responses)
            if reason is not None:
                skipped.update(kept_whole(group, reason))
                continue
            for name in group.layers:
                pruned[name] = sorted({*pruned.get(name, ()), *group.filters_of(name, idxs)})
                filters[name] = group.width(name)
    norms = {norm for group in groups if group.units_of(pruned) for norm in group.norms}
    skipped = {name: skipped[name] for name in modules if name in skipped and not pruned.get(name)}
    plan = PruningPlan(
        {name: pruned[name] for name in modules if name in pruned},
        {name: filters[name] for name in modules if name in filters},
        skipped,
        notes,
        tuple(name for name, _ in model.named_modules() if name in norms),
        tuple(name for name in skipped if name in impossible),
    )
    plan._hold(graph)
    return plan


_UNFED = "depthwise: no layer with filters feeds it"


def _reason_to_keep(
    name: str, ratios: Mapping[str, Any], ignored: set[str], modules: Mapping[str, nn.Module]
) -> str | None:
    """Why a layer keeps all its filters whatever it is coupled to, if so."""
    if name in ignored:
        return "ignored"
    if name not in ratios:
        is_conv = isinstance(modules[name], nn.modules.conv._ConvNd)
        return "neither `layers` nor `pruning_ratio` names it" if is_conv else _LINEAR
    return _FROZEN if _is_frozen(modules[name]) else None


def _reason_to_skip(
    group: ChannelGroup, ignored: set[str], refused: Mapping[str, str], modules: Mapping[str, nn.Module]
) -> str | None:
    others = [name for name in group.layers if name in ignored]
    if others:
        return f"coupled to {', '.join(others)}, which is ignored"
    if any(_is_frozen(modules[name]) for name in group.layers):
        return _FROZEN
    return group.refusal or next((refused[name] for name in group.layers if name in refused), None)


def _is_frozen(layer: nn.Module) -> bool:
    # A bias alone that requires no grad is no sign: fusing with a batch norm leaves one where there was none.
    return not all(parameter.requires_grad for key, parameter in layer.named_parameters() if key != "bias")


_LINEAR = "a linear layer, pruned only where `layers` or `pruning_ratio` names it"
_FROZEN = "frozen: the weight of it, or of a layer coupled to it, does not require grad"


def _choose(
    group: ChannelGroup, asked: list[Any], ranking: FilterRanking, responses: ResponseRanking | None
) -> tuple[list[int], str | None]:
    """The filters of one group to remove, or none and the reason."""
    if "redundant" in asked:
        try:
            wanted = len(redundant_filters(ranking.weight(group)).pruned_idxs)
        except ValueError as error:
            raise ValueError(f"layer {group.name}: {error}") from error
        reason = "no filter of it is redundant"
    else:
        # Where coupled layers are given several ratios, the smallest: no layer loses more than it was asked to. A
        # product that is a hair below a whole number is that number: 3/10 of 10 filters is 3.
        wanted = math.floor(min(asked) * group.filters + 1e-6)
        reason = f"a pruning ratio of {min(asked):g} of its {group.filters} filters is less than one filter"
    multiple, at_least = ranking.multiple(group), ranking.at_least(group)
    kept = math.ceil(max(group.filters - wanted, at_least) / multiple) * multiple
    if kept >= group.filters:
        if wanted and at_least > group.filters - wanted:
            reason = f"at least {at_least} of its {group.filters} filters are to be kept"
        elif wanted:
            reason = f"rounding up to a multiple of {multiple} filters keeps all {group.filters}"
        return [], reason
    # Where each block loses the same number, it may be any of all filters.
    removals = group.filters - kept if group.blocks == 1 else group.filters
    if responses is None:
        order = ranking.order(group, removals)
    else:
        found = responses.order(group, removals)
        if found is None:
            return [], UNREAD
        order = found
    return sorted(first_to_go(order, group, group.filters - kept).tolist()), None


_CRITERIA_OF_SIZE = ("l1", "l2", "geometric_mean", "operator_norm")
