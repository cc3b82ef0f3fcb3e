"""Which filters of which layer go: decided whole, before anything is cut."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup, channel_groups
from lightning_cosprune.network.layers import is_depthwise, layer_weight, prunable_layers
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.planning.ratios import PruningRatio, check_ratio, check_round_to, match_layers, resolve_ratios
from lightning_cosprune.planning.response import ResponseRanking
from lightning_cosprune.ranking.redundancy import CRITERIA as CRITERIA_OF_WEIGHTS
from lightning_cosprune.ranking.redundancy import check_criterion, rank_filters, redundant_filters

__all__ = ["CRITERIA", "plan_pruning"]

CRITERIA = (*CRITERIA_OF_WEIGHTS, "response")
"""Names that :func:`plan_pruning` takes as ``criterion``."""

Criterion = str | Callable[..., Tensor]


def plan_pruning(
    model: nn.Module,
    example_inputs: Any,
    *,
    criterion: Criterion = "cosine",
    pruning_ratio: PruningRatio = "redundant",
    layers: Sequence[str] | None = None,
    ignored_layers: Sequence[str | nn.Module] = (),
    round_to: int = 1,
    seed: int = 0,
    vectors: Mapping[str, Tensor] | None = None,
    calibration: Iterable[Any] | None = None,
) -> PruningPlan:
    """Choose the filters to remove from each layer of ``model``; nothing is changed.

    Each layer is judged by itself, on the weights it has now. Layers whose filters must go together, such as those that
    feed one residual sum, are ranked as one layer whose filter ``i`` is the concatenation of theirs.

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
        layers: Names or patterns of the layers to prune; all convolutions where ``None``. Patterns reach convolutions
            only; a linear layer is pruned only where ``layers`` or ``pruning_ratio`` gives its full name.
        ignored_layers: Names, patterns or modules that keep all filters.
        round_to: The number of filters kept is rounded up to a multiple of this.
        seed: Start of the draws of ``criterion="random"``; each layer draws from its own stream.
        vectors: Layer name -> one row per filter, ranked in place of the layer's weights: what :func:`response_vectors`
            measures, or weights from :func:`fold_batch_norms`. Every layer that may lose filters must be among them.
        calibration: For ``criterion="response"`` inputs of the network, one entry a forward pass: a tensor, or a tuple
            of positional or a mapping of keyword arguments. Labels are not looked at.

    Returns:
        The filters to remove, and every layer that keeps all of its filters with the reason.

    Raises:
        ValueError: An argument is out of range, a pattern matches no layer, there is no convolution, a weight is not
            finite, ``vectors`` lack a layer, do not fit it or have no meaning for the criterion, or ``"response"`` has
            no ``calibration``.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2 (``"cosine"`` with ``"redundant"``).
    """
    check_ratio(pruning_ratio, "plan_pruning")
    check_criterion(criterion, CRITERIA)
    check_round_to(round_to, "plan_pruning")
    modules = prunable_layers(model)
    if layers is None and not any(isinstance(module, nn.modules.conv._ConvNd) for module in modules.values()):
        raise ValueError(
            f"`plan_pruning(model={type(model).__name__}(...))`: expected at least one convolution, found none. Name "
            "the linear layers to prune with `layers=[...]`, or prune the part of the model that has convolutions."
        )
    if vectors is not None and criterion in _CRITERIA_OF_SIZE:
        raise ValueError(
            f"`plan_pruning(criterion={criterion!r}, vectors=...)`: expected a criterion that compares filters, since "
            'the length of a vector says nothing of its filter. Write criterion="cosine", or leave `vectors` out.'
        )
    if (criterion == "response") != (calibration is not None):
        raise ValueError(
            f"`plan_pruning(criterion={criterion!r}, calibration=...)`: expected calibration data for "
            f'criterion="response" and for no other, found {"none" if calibration is None else "some"}. Pass a list of '
            "unlabelled inputs, such as [batch[0] for batch in loader], or choose another criterion."
        )
    if criterion == "response" and vectors is not None:
        raise ValueError(
            '`plan_pruning(criterion="response", vectors=...)`: expected no vectors, since what the layers read is '
            "compared, not vectors of filters. Leave them out."
        )
    ratios = resolve_ratios(modules, pruning_ratio, layers)
    ignored = match_layers("ignored_layers", ignored_layers, modules)

    pruned: dict[str, list[int]] = {}
    filters: dict[str, int] = {}
    skipped = {name: "depthwise: no layer feeds it" for name, module in modules.items() if is_depthwise(module)}
    groups = channel_groups(model, example_inputs)
    requests = {group: [ratios[name] for name in group.layers if name in ratios] for group in groups}
    reasons = {group: _reason_to_skip(group, asked, ignored, modules) for group, asked in requests.items()}
    ranking = None
    if calibration is not None:
        asked_for = [group for group in groups if reasons[group] is None]
        ranking = ResponseRanking(model, example_inputs, asked_for, calibration)
    for group in groups:
        names, asked, reason = group.layers, requests[group], reasons[group]
        for name in group.followers:
            skipped.pop(name, None)
        if reason is None:
            try:
                idxs, reason = _choose(group, modules, asked, criterion, round_to, seed, vectors, ranking)
            except ValueError as error:
                raise ValueError(f"layer {' + '.join(names)}: {error}") from error
        if reason is not None:
            skipped.update(dict.fromkeys(names, reason))
            follows = f"depthwise: it follows {names[0]}, which keeps its filters"
            skipped.update(dict.fromkeys(group.followers, follows))
            continue
        for name in names:
            pruned[name] = idxs
            filters[name] = group.filters
    return PruningPlan(pruned, filters, {name: skipped[name] for name in modules if name in skipped})


def _reason_to_skip(
    group: ChannelGroup, asked: list[Any], ignored: set[str], modules: Mapping[str, nn.Module]
) -> str | None:
    others = [name for name in group.layers if name in ignored]
    if others:
        return "ignored" if len(group.layers) == 1 else f"coupled to {', '.join(others)}, which is ignored"
    if not asked and not any(isinstance(modules[name], nn.modules.conv._ConvNd) for name in group.layers):
        return "a linear layer, pruned only where `layers` or `pruning_ratio` gives its full name"
    if not asked:
        return "neither `layers` nor `pruning_ratio` names it"
    if not all(parameter.requires_grad for name in group.layers for parameter in modules[name].parameters()):
        return "frozen: a parameter of it, or of a layer coupled to it, does not require grad"
    return group.refusal


def _choose(
    group: ChannelGroup,
    modules: Mapping[str, nn.Module],
    asked: list[Any],
    criterion: Criterion,
    round_to: int,
    seed: int,
    vectors: Mapping[str, Tensor] | None,
    ranking: ResponseRanking | None,
) -> tuple[list[int], str | None]:
    """The filters of one group to remove, or none and the reason."""
    if vectors is None:
        weights = [layer_weight(modules[name]) for name in group.layers]
    else:
        weights = [_vectors_of(name, group.filters, vectors) for name in group.layers]
    weight = weights[0] if len(weights) == 1 else weights
    if "redundant" in asked:
        wanted = len(redundant_filters(weight).pruned_idxs)
        reason = "no filter of it is redundant"
    else:
        # Where coupled layers are given several ratios, the smallest: no layer loses more than it was asked to. A
        # product that is a hair below a whole number is that number: 3/10 of 10 filters is 3.
        wanted = math.floor(min(asked) * group.filters + 1e-6)
        reason = f"a pruning ratio of {min(asked):g} of its {group.filters} filters is less than one filter"
    # Blocks of a grouped convolution lose the same number each.
    multiple = math.lcm(round_to, group.blocks)
    kept = math.ceil((group.filters - wanted) / multiple) * multiple
    if kept >= group.filters:
        return (
            [],
            reason if wanted == 0 else f"rounding up to a multiple of {multiple} filters keeps all {group.filters}",
        )
    if ranking is not None:
        # Where each block loses the same number, it may be any of all filters.
        found = ranking.order(group, group.filters - kept if group.blocks == 1 else group.filters)
        if found is None:
            return [], "no convolution or linear layer that the calibration data reach reads its filters"
        order = found
    else:
        options = {"seed": seed + zlib.crc32(group.layers[0].encode())} if criterion == "random" else {}
        order = rank_filters(weight, criterion, **options)
    of_block = (order // (group.filters // group.blocks)).argsort(stable=True)
    first = order[of_block].unflatten(0, (group.blocks, -1))[:, : (group.filters - kept) // group.blocks]
    return sorted(first.flatten().tolist()), None


def _vectors_of(name: str, filters: int, vectors: Mapping[str, Tensor]) -> Tensor:
    found = vectors.get(name)
    if found is None or found.ndim < 2 or len(found) != filters:
        shown = f"only {', '.join(vectors) or 'an empty mapping'}" if found is None else f"shape {tuple(found.shape)}"
        raise ValueError(
            f"`plan_pruning(vectors=...)`: expected one row for each of the {filters} filters of {name!r}, found "
            f"{shown}. Measure it too, or name it in `ignored_layers`."
        )
    return found


_CRITERIA_OF_SIZE = ("l1", "l2", "geometric_mean", "operator_norm")
