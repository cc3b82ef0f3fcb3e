"""Which filters of which layer go: decided whole, before anything is cut."""

from __future__ import annotations

import difflib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup, channel_groups, is_depthwise
from lightning_cosprune.ranking.filters import layer_weight
from lightning_cosprune.ranking.redundancy import check_criterion, rank_filters, redundant_filters

__all__ = ["PruningPlan", "check_ratio", "check_round_to", "plan_pruning", "prunable_layers", "resolve_ratios"]

PruningRatio = float | Literal["redundant"] | Mapping[str, float]
Criterion = str | Callable[..., Tensor]

_CRITERIA_OF_SIZE = ("l1", "l2", "geometric_mean", "operator_norm")


@dataclass(frozen=True)
class PruningPlan:
    """The filters that are to be removed, and the layers that are left alone, with the reason.

    Attributes:
        pruned: Layer name -> numbers of the filters to remove, ascending.
        filters: Layer name -> how many filters the layer has before, for every layer in ``pruned``.
        skipped: Layer name -> why it keeps all its filters.

    Raises:
        ValueError: A filter number is repeated or outside the layer, or none would be left.
    """

    pruned: Mapping[str, list[int]]
    filters: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, idxs in self.pruned.items():
            if name not in self.filters:
                raise ValueError(
                    f"`PruningPlan.filters`: expected the number of filters of layer {name!r}, found none."
                )
            filters = self.filters[name]
            if len(set(idxs)) != len(idxs) or any(not 0 <= idx < filters for idx in idxs):
                raise ValueError(
                    f"`PruningPlan.pruned[{name!r}]`: expected distinct filter numbers in [0, {filters}), found {idxs}."
                )
            if len(idxs) >= filters:
                raise ValueError(
                    f"`PruningPlan.pruned[{name!r}]`: expected at least one of {filters} filters to be left, found all "
                    "of them named for removal. A layer without filters cannot compute anything."
                )
        # The mappings are copied and sealed, so that a plan that was checked stays the plan that was checked.
        object.__setattr__(self, "pruned", MappingProxyType({name: sorted(idxs) for name, idxs in self.pruned.items()}))
        object.__setattr__(self, "filters", MappingProxyType(dict(self.filters)))
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Sealed mappings cannot be pickled; a copy is checked and sealed anew.
        return type(self), (dict(self.pruned), dict(self.filters), dict(self.skipped))

    @property
    def kept(self) -> dict[str, list[int]]:
        """Layer name -> numbers of the filters that stay, ascending."""
        return {name: sorted(set(range(self.filters[name])).difference(idxs)) for name, idxs in self.pruned.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Layer name -> fraction of its filters that is removed; a ``pruning_ratio`` that asks for the same counts."""
        return {name: len(idxs) / self.filters[name] for name, idxs in self.pruned.items()}

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain dicts, lists, strings and ints.

        Returns:
            What :meth:`from_dict` reads.
        """
        return {
            "version": 1,
            "pruned": {name: list(idxs) for name, idxs in self.pruned.items()},
            "filters": dict(self.filters),
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> PruningPlan:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: It is no plan, or one of a version that this release does not know.

        Returns:
            An equal plan.
        """
        if plan.get("version") != 1 or not {"pruned", "filters", "skipped"} <= set(plan):
            raise ValueError(
                "`PruningPlan.from_dict(plan)`: expected the keys version (1), pruned, filters and skipped, found "
                f"{dict(plan)!r:.200}. Write plans with `PruningPlan.to_dict` or `PruningPlan.to_json`."
            )
        return cls(pruned=plan["pruned"], filters=plan["filters"], skipped=plan["skipped"])

    def to_json(self) -> str:
        """The plan as JSON text.

        Returns:
            What :meth:`from_json` reads.
        """
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what :meth:`to_json` wrote.

        Returns:
            An equal plan.
        """
        return cls.from_dict(json.loads(text))


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
) -> PruningPlan:
    """Choose the filters to remove from each layer of ``model``; nothing is changed.

    Each layer is judged by itself, on the weights it has now. Layers whose filters must go together, such as those that
    feed one residual sum, are ranked as one layer whose filter ``i`` is the concatenation of theirs.

    Args:
        model: The network.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments, for one forward pass that
            finds out which layers read which.
        criterion: Which filters go first: a name that :func:`rank_filters` knows, or a callable.
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

    Returns:
        The filters to remove, and every layer that keeps all of its filters with the reason.

    Raises:
        ValueError: An argument is out of range, a pattern matches no layer, there is no convolution, a weight is not
            finite, or ``vectors`` lack a layer, do not fit it or have no meaning for the criterion.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2 (``"cosine"`` with ``"redundant"``).
    """
    check_ratio(pruning_ratio, "plan_pruning")
    check_criterion(criterion)
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
    ratios = resolve_ratios(modules, pruning_ratio, layers)
    ignored = _match("ignored_layers", ignored_layers, modules)

    pruned: dict[str, list[int]] = {}
    filters: dict[str, int] = {}
    skipped = {name: "depthwise: no layer feeds it" for name, module in modules.items() if is_depthwise(module)}
    for group in channel_groups(model, example_inputs):
        names = group.layers
        asked = [ratios[name] for name in names if name in ratios]
        for name in group.followers:
            skipped.pop(name, None)
        reason = _reason_to_skip(group, asked, ignored, modules)
        if reason is None:
            try:
                idxs, reason = _choose(group, modules, asked, criterion, round_to, seed, vectors)
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


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layer name -> convolution or linear layer, in the order of the model.

    Returns:
        Depthwise convolutions too, though they only follow the layer that feeds them.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def check_round_to(round_to: int, caller: str) -> None:
    """Refuse a multiple of filters that is no positive whole number.

    Raises:
        ValueError: With the value that was found and what to write instead.
    """
    if not isinstance(round_to, int) or round_to < 1:
        raise ValueError(
            f"`{caller}(round_to={round_to!r})`: expected a whole number, 1 or more. Write 8 to keep multiples of "
            "eight filters."
        )


def resolve_ratios(
    modules: Mapping[str, nn.Module], pruning_ratio: PruningRatio, layers: Sequence[str] | None
) -> dict[str, float | Literal["redundant"]]:
    """Layer name -> the ratio that ``pruning_ratio`` and ``layers`` give it; a layer that is not meant has none.

    Raises:
        ValueError: A pattern matches no layer.

    Returns:
        The ratios, in the order of the model.
    """
    convolutions = {name for name, module in modules.items() if isinstance(module, nn.modules.conv._ConvNd)}

    def reach(parameter: str, patterns: Sequence[str]) -> set[str]:
        # A pattern reaches convolutions; a linear layer must be named in full.
        found = _match(parameter, patterns, modules)
        return {name for name in found if name in convolutions or {name, _as_written(name)} & set(patterns)}

    chosen = convolutions if layers is None else reach("layers", [layers] if isinstance(layers, str) else layers)
    if not isinstance(pruning_ratio, Mapping):
        return {name: pruning_ratio for name in modules if name in chosen}
    ratios: dict[str, float | Literal["redundant"]] = {}
    for pattern, ratio in pruning_ratio.items():
        for name in reach("pruning_ratio", [pattern]):
            ratios.setdefault(name, ratio)
    return {name: ratios[name] for name in modules if name in ratios and (layers is None or name in chosen)}


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


def check_ratio(pruning_ratio: PruningRatio, caller: str) -> None:
    """Refuse a pruning ratio that is no fraction, no mapping to fractions and not ``"redundant"``.

    Raises:
        ValueError: With the value that was found and what to write instead.
    """
    if isinstance(pruning_ratio, str):
        if pruning_ratio != "redundant":
            raise ValueError(
                f"`{caller}(pruning_ratio={pruning_ratio!r})`: expected 'redundant', a fraction in [0, 1), or a "
                "mapping from layer pattern to fraction."
            )
        return
    if isinstance(pruning_ratio, Mapping):
        if not pruning_ratio:
            raise ValueError(
                f"`{caller}(pruning_ratio={{}})`: expected at least one layer pattern, found an empty mapping."
            )
        given = {f"{{{pattern!r}: {ratio!r}}}": ratio for pattern, ratio in pruning_ratio.items()}
    else:
        given = {repr(pruning_ratio): pruning_ratio}
    for shown, ratio in given.items():
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not number or not 0 <= ratio < 1:
            raise ValueError(
                f"`{caller}(pruning_ratio={shown})`: expected a fraction in [0, 1), the part of a layer's filters that "
                "is removed. To remove 20 % of each layer's filters write 0.2."
            )


def _as_written(name: str) -> str:
    """The name that a layer has in the user's code, where ``torch.compile`` put a wrapper around a part of it."""
    return name.replace("_orig_mod.", "")


def _match(parameter: str, patterns: Sequence[str | nn.Module], modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the layers that any of ``patterns`` names or holds."""
    if isinstance(patterns, (str, nn.Module)):
        patterns = [patterns]
    matched: set[str] = set()
    for pattern in patterns:
        if isinstance(pattern, nn.Module):  # as in Torch-Pruning, whose `ignored_layers` holds modules
            found = {name for name, module in modules.items() if any(module is part for part in pattern.modules())}
        else:
            # A container's name stands for all layers within it.
            found = {
                name
                for name in modules
                for written in (name, _as_written(name))
                if fnmatchcase(written, pattern) or written.startswith(f"{pattern}.")
            }
        if not found:
            shown = pattern if isinstance(pattern, str) else f"{type(pattern).__name__}(...)"
            close = difflib.get_close_matches(str(shown), modules, n=1, cutoff=0.4)
            raise ValueError(
                f"`{parameter}={shown!r}`: expected the name, or an fnmatch pattern of the names, of a convolution or "
                f"linear layer of the model, found none. {f'Did you mean {close[0]!r}? ' if close else ''}Its layers "
                f"are: {', '.join(modules)}."
            )
        matched |= found
    return matched
