"""What a user's ratios and patterns mean: which layers, and which part of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from lightning_cosprune.arguments import as_real, as_whole

__all__ = [
    "Counts",
    "PruningRatio",
    "check_counts",
    "check_patterns",
    "check_ratio",
    "check_refused",
    "match_layers",
    "resolve_counts",
    "resolve_ratios",
]

PruningRatio = float | Literal["redundant"] | Mapping[str, float]

Counts = int | Mapping[str, int]
"""A number of filters for all layers, or by layer name or pattern."""


def check_ratio(pruning_ratio: PruningRatio, caller: str) -> None:
    """Refuse a pruning ratio that is no fraction, no mapping to fractions and not ``"redundant"``.

    Raises:
        ValueError: With the value that was found and what to write instead.
    """
    if isinstance(pruning_ratio, str):
        if pruning_ratio != "redundant":
            raise ValueError(
                f"`{caller}(pruning_ratio={pruning_ratio!r})`: expected 'redundant', a fraction in [0, 1), or a "
                "mapping from layer pattern to fraction. Write a fraction without quotes."
            )
        return
    if isinstance(pruning_ratio, Mapping):
        if not pruning_ratio:
            raise ValueError(
                f"`{caller}(pruning_ratio={{}})`: expected at least one layer pattern, found an empty mapping. Write "
                "one such as {'conv1': 0.5}."
            )
        given = {f"{{{pattern!r}: {ratio!r}}}": ratio for pattern, ratio in pruning_ratio.items()}
    else:
        given = {repr(pruning_ratio): pruning_ratio}
    for shown, ratio in given.items():
        number = as_real(ratio)
        if number is None or not 0 <= number < 1:
            raise ValueError(
                f"`{caller}(pruning_ratio={shown})`: expected a fraction in [0, 1), the part of a layer's filters that "
                "is removed. To remove 20 % of each layer's filters write 0.2."
            )


def check_counts(parameter: str, counts: Counts, caller: str) -> None:
    """Refuse numbers of filters that are no positive whole numbers.

    Raises:
        ValueError: With the value that was found and what to write instead.
    """
    numbers = [as_whole(number) for number in (counts.values() if isinstance(counts, Mapping) else [counts])]
    if not numbers or any(number is None or number < 1 for number in numbers):
        example = "keep multiples of eight filters" if parameter == "round_to" else "keep eight filters at least"
        raise ValueError(
            f"`{caller}({parameter}={counts!r})`: expected a whole number, 1 or more, or a mapping from layer pattern "
            f"to such numbers. Write 8 to {example}."
        )


def resolve_counts(parameter: str, counts: Counts, modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Layer name -> the number that ``counts`` gives it; of a mapping the first pattern that matches counts.

    Raises:
        ValueError: A pattern matches no layer.

    Returns:
        The numbers; a layer that no pattern matches has none.
    """
    if not isinstance(counts, Mapping):
        return dict.fromkeys(modules, int(counts))
    found: dict[str, int] = {}
    for pattern, number in counts.items():
        for name in match_layers(parameter, [pattern], modules):
            found.setdefault(name, int(number))
    return found


def resolve_ratios(
    modules: Mapping[str, nn.Module], pruning_ratio: PruningRatio, layers: Sequence[str] | None
) -> dict[str, float | Literal["redundant"]]:
    """Layer name -> the ratio that ``pruning_ratio`` and ``layers`` give it; a layer that is not meant has none.

    Where neither names layers, all convolutions are meant.

    Raises:
        ValueError: A pattern matches no layer.

    Returns:
        The ratios, in the order of the model.
    """
    chosen = (
        {name for name, module in modules.items() if isinstance(module, nn.modules.conv._ConvNd)}
        if layers is None
        else match_layers("layers", layers, modules)
    )
    if not isinstance(pruning_ratio, Mapping):
        given: float | Literal["redundant"] = "redundant" if pruning_ratio == "redundant" else float(pruning_ratio)
        return {name: given for name in modules if name in chosen}
    ratios: dict[str, float | Literal["redundant"]] = {}
    for pattern, ratio in pruning_ratio.items():
        for name in match_layers("pruning_ratio", [pattern], modules):
            ratios.setdefault(name, float(ratio))
    return {name: ratios[name] for name in modules if name in ratios and (layers is None or name in chosen)}


def match_layers(parameter: str, patterns: Sequence[str | nn.Module], modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the layers that any of ``patterns`` names or holds.

    Raises:
        TypeError: A pattern is no name.
        ValueError: A pattern matches no layer.

    Returns:
        The names.
    """
    if isinstance(patterns, (str, nn.Module)):
        patterns = [patterns]
    check_patterns(parameter, patterns)
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


def check_refused(refused: Any, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Refuse what is no mapping from layers of the model to reasons.

    Raises:
        TypeError: It is no mapping of strings.
        ValueError: A name is that of no layer.

    Returns:
        A copy; empty for ``None``.
    """
    refused = {} if refused is None else refused
    if not isinstance(refused, Mapping) or not all(isinstance(text, str) for pair in refused.items() for text in pair):
        raise TypeError(
            f"`plan_pruning(refused={refused!r:.60})`: expected a mapping from layer name to reason, found a "
            f"{type(refused).__name__}. Pass `report.refused` of an earlier prune; layers of your own choice go into "
            "`ignored_layers`."
        )
    unknown = next((name for name in refused if name not in modules), None)
    if unknown is not None:
        raise ValueError(
            f"`plan_pruning(refused={{{unknown!r}: ...}})`: expected names of layers of the model, found one that is "
            "none. Pass the report of a prune of this very model."
        )
    return dict(refused)


def check_patterns(parameter: str, patterns: Any) -> None:
    """Refuse what is no sequence of names or modules.

    Raises:
        TypeError: With what was found.
    """
    alone = isinstance(patterns, (str, nn.Module))
    many = isinstance(patterns, Iterable) and getattr(patterns, "shape", None) != ()
    wrong = None if many else patterns
    if not alone and many:
        wrong = next((one for one in patterns if not isinstance(one, (str, nn.Module))), alone)
    if not alone and (wrong is not False):
        raise TypeError(
            f"`{parameter}={patterns!r}`: expected a sequence of names or patterns of layers, found "
            f"{'None' if wrong is None else f'a {type(wrong).__name__}, {wrong!r:.60}'}. Write names such as "
            f"{parameter}=['stem', 'blocks.*'], and [] for none."
        )


def _as_written(name: str) -> str:
    """The name that a layer has in the user's code, where ``torch.compile`` put a wrapper around a part of it."""
    return name.replace("_orig_mod.", "")
