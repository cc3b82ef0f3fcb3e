"""Which filters are redundant: the published greedy rule, and the ranking of all filters that follows from it."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_cosprune.arguments import whole_number
from lightning_cosprune.ranking import similarity as similarities
from lightning_cosprune.ranking.criteria import SCORES
from lightning_cosprune.ranking.directions import in_full_precision, unit_rows
from lightning_cosprune.ranking.filters import Weight, coupled_layers, filter_rows, filter_vectors
from lightning_cosprune.ranking.introsort import numpy1_argsort
from lightning_cosprune.ranking.similarity import nearest_neighbours, nystrom_factor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["CRITERIA", "Redundancy", "check_criterion", "rank_filters", "redundant_filters"]

CRITERIA = ("cosine", "cosine_nystrom", *SCORES)
"""Names that :func:`rank_filters` takes as ``criterion``."""

_OPTIONS = {
    "cosine": ("vectors", "decimals", "ties"),
    "cosine_nystrom": ("vectors", "nystrom_columns", "decimals", "ties"),
    **{name: tuple(inspect.signature(score).parameters)[1:] for name, score in SCORES.items()},
}

_FEW = 512
"""Up to so many filters their similarities are held in one matrix."""

Columns = int | Literal["auto"] | Sequence[int] | Tensor | None


@dataclass(frozen=True, eq=False)
class Redundancy:
    """Which filters of a layer stay, which are redundant, and which other filter each is most similar to.

    Attributes:
        kept_idxs: Numbers of the filters that stay, ascending.
        pruned_idxs: Numbers of the redundant filters, ascending.
        partner: For each filter the number of its nearest other filter; -1 for a dead filter, and for the only one that
            is not.
        similarity: For each filter the similarity to its partner; 1 for a dead filter, which any other could stand in
            for, and 0 for the only one that is not.
    """

    kept_idxs: list[int]
    pruned_idxs: list[int]
    partner: Int[Tensor, " filters"]
    similarity: Float[Tensor, " filters"]


@in_full_precision
def redundant_filters(
    weight: Weight,
    *,
    vectors: Literal["prototype", "flat"] = "prototype",
    nystrom_columns: Columns = None,
    decimals: int | None = None,
    ties: Literal["stable", "numpy1"] = "stable",
) -> Redundancy:
    r"""The filters that the published greedy rule calls redundant; how many they are is an outcome.

    Every filter :math:`i` has a nearest other filter :math:`n(i)`, at the distance :math:`1 - S_{i, n(i)}`. The filters
    are visited from the smallest distance to the largest. One that nobody has named redundant yet stays, and names its
    own nearest redundant; one that was named goes. A filter that stays is not taken back when a later one names it.

    So, other ties apart, of two filters that are each other's nearest the one visited second goes, and no others go.

    Conventions:
        - A dead filter, see :func:`filter_vectors`, is redundant and has no part in the walk. Where all are dead,
          filter 0 stays.
        - Of filters whose vectors coincide to rounding only the one visited first stays. The rule alone would keep two
          of three copies, because each names but one filter.
        - Opposite filters, :math:`S = -1`, are as far apart as can be.
        - The only filter of a layer is not redundant.
        - Of equally near filters the one with the lowest number is :math:`n(i)`, unless ``ties`` says otherwise.

    Args:
        weight: Weight (filters, in_channels, *kernel), or those of coupled layers, as :func:`filter_vectors` takes.
        vectors: The kind of vector whose cosines are compared.
        nystrom_columns: ``None`` for the exact similarities. For the Nystroem approximation ``m``, the first ``m``
            columns as published, all where there are fewer; or the numbers of the columns; or ``"auto"`` for as few of
            the first as :func:`~lightning_cosprune.ranking.similarity.nystrom_columns` finds enough. Dead filters are
            not counted.
        decimals: Round distances before they are compared: with ``ties="numpy1"`` and 5 as the scripts of ICASSP 2023,
            which compute in float64; so pass ``weight.double()``.
        ties: The order of equal distances, which decides which of two mutual neighbours stays, and which of equally
            near filters is :math:`n(i)`. ``"stable"``: by filter number. ``"numpy1"``: as NumPy 1's default ``argsort``
            leaves them, to reproduce published selections.

    Returns:
        The filters that stay and the filters that go.

    Raises:
        ValueError: An argument is out of range, or a filter is not finite; its number is named.

    Source: Singh and Plumbley, INTERSPEECH 2022; for the Nystroem approximation ICASSP 2023.

    Example:
        >>> taps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
        >>> redundant_filters(taps[:, None]).kept_idxs
        [0, 1, 3]
    """
    factor, alive, dead = _similarity_factor(weight, vectors, nystrom_columns)
    nearest, similarity, originals = _neighbours(factor, decimals, ties)
    filters = len(alive) + len(dead)
    pruned = {*dead.tolist(), *alive[_walk(_visits(similarity, ties), nearest.tolist(), originals)].tolist()}
    return Redundancy(
        kept_idxs=[i for i in range(filters) if i not in pruned],
        pruned_idxs=sorted(pruned),
        partner=torch.full((filters,), -1, device=factor.device).index_copy_(
            0, alive, alive[nearest] if len(alive) > 1 else nearest
        ),
        similarity=factor.new_ones(filters).index_copy_(0, alive, similarity),
    )


@in_full_precision
def rank_filters(
    weight: Weight,
    criterion: str | Callable[..., Tensor] = "cosine",
    *,
    removals: int | None = None,
    **options: Any,
) -> Int[Tensor, " removals"]:
    """The filters of a layer in the order in which to remove them, the first to go first.

    ``"cosine"`` begins with what :func:`redundant_filters` finds, dead filters first and then the most similar, and
    goes on by the same rule among the filters that stay, until one is left. ``"cosine_nystrom"`` does the same with
    approximate similarities. All others go by the scores of :mod:`lightning_cosprune.ranking.criteria`, lowest first,
    equal ones by filter number.

    Args:
        weight: Weight (filters, in_channels, *kernel), or those of coupled layers, as :func:`filter_vectors` takes.
        criterion: One of :data:`CRITERIA`; or a callable that takes the weight and returns one score per filter, lowest
            first to go. Of coupled layers it is given all weights of a filter in one row.
        removals: How many of them to rank; all where ``None``. The first ones are the same.
        **options: For ``"cosine"`` ``vectors``, ``decimals`` and ``ties`` of :func:`redundant_filters`; for
            ``"cosine_nystrom"`` ``nystrom_columns`` too, ``"auto"`` where it is not given; for ``"random"`` ``seed``. A
            callable is given them all.

    Returns:
        Numbers of filters. Of the cosine criteria, the first are those that :func:`redundant_filters` finds.

    Raises:
        TypeError: The criterion has no such option, or ``removals`` is no whole number.
        ValueError: The criterion is unknown, an option is out of range, ``weight`` is refused as it is by
            :func:`filter_vectors`, or a callable does not return one finite score per filter.

    Example:
        >>> rank_filters(torch.tensor([[[3.0]], [[-1.0]], [[2.0]]]), "l1")
        tensor([1, 2, 0])
    """
    check_criterion(criterion)
    if removals is not None:
        filters = len(coupled_layers(weight)[0])
        removals = whole_number(removals, "`rank_filters(removals={})`", 0, filters)
    if callable(criterion):
        given = weight if isinstance(weight, Tensor) else filter_rows(weight)
        return _by_score(criterion(given, **options), len(coupled_layers(weight)[0]), criterion)[:removals]
    allowed = _OPTIONS[criterion]
    for name in options:
        if name not in allowed:
            raise TypeError(
                f"`rank_filters(criterion={criterion!r}, {name}=...)`: expected "
                f"{'no other options than ' + ', '.join(allowed) if allowed else 'no options'}. Leave it out, or "
                "choose a criterion that has it."
            )
    if criterion in SCORES:
        return SCORES[criterion](weight, **options).argsort(stable=True)[:removals]
    if criterion == "cosine_nystrom":
        options = {"nystrom_columns": "auto", **options}
    return _by_similarity(weight, removals, **options)


def check_criterion(criterion: str | Callable[..., Tensor], known: Sequence[str] = CRITERIA) -> None:
    """Refuse a ``criterion`` that is no callable and not among the names ``known``, those of :func:`rank_filters`.

    Raises:
        ValueError: With what was found, the names that there are and the nearest of them.
    """
    if callable(criterion) or (isinstance(criterion, str) and criterion in known):
        return
    close = difflib.get_close_matches(str(criterion), known, n=1, cutoff=0.4)
    raise ValueError(
        f"`criterion={criterion!r}`: expected one of {', '.join(known)}, or a callable that takes a weight and "
        f"returns one score per filter. {f'Did you mean {close[0]!r}?' if close else 'Choose one.'}"
    )


def _by_score(scores: Tensor, filters: int, criterion: Callable[..., Tensor]) -> Int[Tensor, " filters"]:
    scores = torch.as_tensor(scores)
    if scores.shape != (filters,) or not bool(scores.isfinite().all()):
        found = "NaN or infinity" if scores.shape == (filters,) else f"shape {tuple(scores.shape)}"
        raise ValueError(
            f"`criterion={getattr(criterion, '__name__', criterion)}`: expected one finite score per filter, shape "
            f"({filters},), found {found}."
        )
    return scores.argsort(stable=True)


def _by_similarity(
    weight: Weight,
    removals: int | None,
    *,
    vectors: Literal["prototype", "flat"] = "prototype",
    nystrom_columns: Columns = None,
    decimals: int | None = None,
    ties: Literal["stable", "numpy1"] = "stable",
) -> Int[Tensor, " filters"]:
    factor, alive, dead = _similarity_factor(weight, vectors, nystrom_columns)
    partner, similarity, originals = _neighbours(factor, decimals, ties)
    order = [dead]
    left = torch.arange(len(alive), device=factor.device)
    place = left.clone()  # where in `left` a filter stands
    stay = 1 if removals is None else max(1, len(dead) + len(alive) - removals)
    while len(left) > stay:
        gone = left[_walk(_visits(similarity[left], ties), place[partner[left]].tolist(), originals)]
        order.append(alive[gone])
        stays = torch.ones(len(alive), dtype=torch.bool, device=factor.device)
        stays[gone] = False
        left = left[stays[left]]
        if len(left) <= stay:
            break
        if len(left) <= _FEW and ties == "stable":
            order.append(alive[left[_repeat(factor[left], decimals, stay)]])
            return torch.cat(order)[:removals]
        place[left] = torch.arange(len(left), device=factor.device)
        originals = range(len(left))  # all copies went in the first round
        # Only a filter whose nearest went needs another: what was nearest among all is so among fewer.
        bereft = left[~stays[partner[left]]]
        nearest, similarity[bereft] = nearest_neighbours(factor[left], place[bereft], decimals=decimals, ties=ties)
        partner[bereft] = left[nearest]
    return torch.cat([*order, alive[left]])[:removals]


def _repeat(factor: Float[Tensor, "few rank"], decimals: int | None, stay: int) -> list[int]:
    """The rule repeated among a few filters without copies until so many stay, which come last.

    Most rounds are those of the last few hundred filters. Their similarities fit into one small matrix, and on that a
    round takes NumPy a tenth of what the search in blocks takes PyTorch.

    Returns:
        Positions of the filters, the first to go first.
    """
    product = factor @ factor.T
    similarity = ((product + product.T) / 2).cpu().numpy()  # mutual neighbours are equally similar to the last bit
    if decimals is not None:
        similarity = 1 - np.round(1 - similarity, decimals)
    np.fill_diagonal(similarity, -np.inf)
    names = np.arange(len(similarity))
    order: list[int] = []
    while len(names) > stay:
        nearest = similarity.argmax(axis=1)
        best = similarity[np.arange(len(names)), nearest]
        gone = _walk((1 - best).argsort(kind="stable").tolist(), nearest.tolist(), range(len(names)))
        order += names[gone].tolist()
        stays = np.ones(len(names), dtype=bool)
        stays[gone] = False
        names, similarity = names[stays], similarity[stays][:, stays]
    return [*order, *names.tolist()]


def _similarity_factor(
    weight: Weight, vectors: Literal["prototype", "flat"], columns: Columns
) -> tuple[Float[Tensor, "alive rank"], Int[Tensor, " alive"], Int[Tensor, " dead"]]:
    """Rows whose products are the similarities of filters that are not dead; the numbers of those, and of the dead."""
    rows = filter_vectors(weight, vectors)
    # Prototypes have length one, so that their squares say it too, and much sooner.
    has_direction = rows.square().sum(dim=1) > 0 if vectors == "prototype" else (rows != 0).any(dim=1)
    if not bool(has_direction.any()):
        has_direction[0] = True  # a layer keeps a filter
    alive, dead = has_direction.nonzero().squeeze(1), (~has_direction).nonzero().squeeze(1)
    rows = unit_rows(rows[alive] if len(dead) else rows)
    if columns is None:
        return rows, alive, dead
    if isinstance(columns, str):
        if columns != "auto":
            raise ValueError(
                f'`nystrom_columns={columns!r}`: expected a number of columns, their numbers, "auto", or None. '
                'Write "auto" for as few as are needed.'
            )
        columns = similarities.nystrom_columns(rows)
    elif isinstance(columns, int) and not isinstance(columns, bool):
        columns = min(columns, len(alive))
    return nystrom_factor(rows, columns), alive, dead


def _neighbours(
    factor: Float[Tensor, "filters rank"], decimals: int | None, ties: Literal["stable", "numpy1"]
) -> tuple[Int[Tensor, " filters"], Float[Tensor, " filters"], Sequence[int]]:
    """Each filter's nearest, the similarity to it, and the first of the filters whose vectors coincide with its own."""
    partner, similarity = nearest_neighbours(factor, decimals=decimals, ties=ties)
    # Only unrounded and in the order of their numbers do all copies of a filter have the first of them as nearest.
    exact, similar = (partner, similarity) if decimals is None and ties == "stable" else nearest_neighbours(factor)
    originals = list(range(len(factor)))
    # Few are so near that it is worth to look at the vectors themselves.
    near = (similar >= factor.square().sum(dim=1) - 1e-3).nonzero().squeeze(1)
    coincide = (factor[near] - factor[exact[near]]).abs().amax(dim=1) <= 128 * torch.finfo(factor.dtype).eps
    for i in near[coincide].tolist():
        originals[i] = originals[min(i, int(exact[i]))]
    return partner, similarity, originals


def _visits(similarity: Float[Tensor, " filters"], ties: Literal["stable", "numpy1"]) -> list[int]:
    """The filters in the order in which the greedy rule visits them."""
    distance = 1 - similarity
    return distance.argsort(stable=True).tolist() if ties == "stable" else numpy1_argsort(distance.tolist())


def _walk(visits: Sequence[int], nearest: Sequence[int], originals: Sequence[int]) -> list[int]:
    """The filters that the greedy rule removes, in the order in which it visits them."""
    redundant = bytearray(len(nearest))
    copied = bytearray(len(nearest))
    removed = []
    for i in visits:
        if redundant[i] or copied[originals[i]]:
            removed.append(i)
        else:
            redundant[nearest[i]] = 1
            copied[originals[i]] = 1
    return removed
