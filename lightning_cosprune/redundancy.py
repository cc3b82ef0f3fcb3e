"""Which filters are redundant: the published greedy rule, and the ranking of all filters that follows from it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union

import torch
from torch import Tensor

from lightning_cosprune.criteria import SCORES
from lightning_cosprune.filters import Weight, coupled_layers, filter_rows, filter_vectors
from lightning_cosprune.introsort import numpy1_argsort
from lightning_cosprune.similarity import nearest_neighbours, nystrom_columns, nystrom_factor, unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["CRITERIA", "Redundancy", "check_criterion", "rank_filters", "redundant_filters"]

CRITERIA = ("cosine", "cosine_nystrom", *SCORES)
"""Names that :func:`rank_filters` takes as ``criterion``."""

Columns = Union[int, Literal["auto"], Sequence[int], Tensor, None]


@dataclass(frozen=True, eq=False)
class Redundancy:
    """Which filters of a layer stay, and which other filter each is most similar to.

    Attributes:
        kept_idxs: Numbers of the filters that stay, ascending.
        pruned_idxs: Numbers of the redundant ones, ascending.
        partner: For each filter the number of its nearest other filter; -1 where it has none, because the filter is dead or
            the only one that is not.
        similarity: For each filter the similarity to its partner; 1 for a dead filter, which any other could stand in for, and
            0 where there is no other.
    """

    kept_idxs: list[int]
    pruned_idxs: list[int]
    partner: Int[Tensor, " filters"]
    similarity: Float[Tensor, " filters"]


def redundant_filters(
    weight: Weight,
    *,
    vectors: Literal["prototype", "flat"] = "prototype",
    nystrom_columns: Columns = None,
    decimals: int | None = None,
    ties: Literal["stable", "numpy1"] = "stable",
) -> Redundancy:
    r"""The filters that the published greedy rule calls redundant; how many they are is an outcome.

    Every filter :math:`i` has a nearest other filter :math:`n(i)`, at distance :math:`1 - S_{i,n(i)}`. The filters are visited
    from the smallest distance to the largest. A filter that was not named redundant before its turn stays, and names its nearest
    filter redundant; a filter that was, goes. One that stays is not taken back when a later one names it.

    So, ties apart, of two filters that are each other's nearest the one visited second goes, and no others go.

    Conventions:
        - A dead filter, see :func:`filter_vectors`, is redundant and takes no part in the walk. Where all are, filter 0 stays.
        - Of filters whose vectors coincide to rounding, only the one visited first stays. The rule alone would keep two of
          three copies, because each names one filter only.
        - Opposite filters, :math:`S = -1`, are as far apart as can be.
        - The only filter of a layer is not redundant.
        - Of equally near filters, the one with the lowest number is :math:`n(i)`.

    Args:
        weight: Weight (filters, in_channels, *kernel), or those of coupled layers, as :func:`filter_vectors` takes.
        vectors: The kind of vector whose cosines are compared.
        nystrom_columns: ``None`` for exact similarities. A number ``m`` for the Nystroem approximation by the first ``m`` columns,
            all where there are fewer; the numbers of the columns; or ``"auto"`` for as few of the first as
            :func:`~lightning_cosprune.similarity.nystrom_columns` finds enough. Columns of dead filters do not count.
        decimals: Round distances before they are compared. ``ties="numpy1", decimals=5`` is what the scripts of ICASSP 2023 do.
        ties: Order of equal distances, which decides which of two mutual neighbours stays. ``"stable"``: by filter number.
            ``"numpy1"``: as NumPy 1's default ``argsort`` leaves them, to reproduce published selections.

    Returns:
        The filters that stay and go.

    Raises:
        ValueError: An argument is out of range, or some filter is not finite; its number is named.

    Source: Singh and Plumbley, INTERSPEECH 2022, algorithm 1; ICASSP 2023 for the Nystroem approximation.

    Example:
        >>> taps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
        >>> redundant_filters(taps[:, None]).kept_idxs
        [0, 1, 3]
    """
    factor, alive, dead = _similarity_factor(weight, vectors, nystrom_columns)
    partner = torch.full((len(alive) + len(dead),), -1, device=factor.device)
    similarity = torch.ones(len(partner), dtype=factor.dtype, device=factor.device)
    nearest, similarity[alive] = nearest_neighbours(factor, decimals=decimals)
    partner[alive] = alive[nearest] if len(alive) > 1 else -1
    gone = set(dead.tolist())
    if len(alive) > 1:
        gone.update(alive[_walk(factor, nearest, similarity[alive], ties)].tolist())
    filters = range(len(partner))
    return Redundancy(
        kept_idxs=[i for i in filters if i not in gone],
        pruned_idxs=[i for i in filters if i in gone],
        partner=partner,
        similarity=similarity,
    )


def rank_filters(
    weight: Weight, criterion: str | Callable[..., Tensor] = "cosine", **options: Any
) -> Int[Tensor, " filters"]:
    """All filters of a layer in the order in which to remove them, the first to go first.

    ``"cosine"`` starts with what :func:`redundant_filters` calls redundant, dead filters first and then the most similar, and
    goes on by the same rule among those that stay, until one is left. ``"cosine_nystrom"`` is the same with approximate
    similarities. The other names are the functions of :mod:`lightning_cosprune.criteria`, lowest score first; equal scores go
    in the order of the filters.

    Args:
        weight: Weight (filters, in_channels, *kernel), or those of coupled layers, as :func:`filter_vectors` takes.
        criterion: One of :data:`CRITERIA`; or a callable that takes the weight and returns one score per filter, lowest first to
            go. For coupled layers it is given (filters, weights of all layers).
        **options: Of ``"cosine"``: ``vectors``, ``decimals``, ``ties``. Of ``"cosine_nystrom"``: the same and ``nystrom_columns``,
            ``"auto"`` where it is not given. Of ``"random"``: ``seed``. A callable is given all.

    Returns:
        Numbers of all filters; with n of them redundant, the first n are those.

    Raises:
        TypeError: The criterion has no such option.
        ValueError: The criterion is unknown, its scores are not one finite number per filter, or ``weight`` is refused.

    Example:
        >>> rank_filters(torch.tensor([[[3.0]], [[-1.0]], [[2.0]]]), "l1")
        tensor([1, 2, 0])
    """
    check_criterion(criterion)
    if callable(criterion):
        return _by_score(weight, criterion, options)
    allowed = _OPTIONS[criterion]
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise TypeError(
            f"`rank_filters(criterion={criterion!r}, {unknown[0]}=...)`: expected "
            f"{'no options' if not allowed else 'no other options than ' + ', '.join(allowed)}. "
            "Leave it out, or choose a criterion that has it."
        )
    if criterion in SCORES:
        return _by_score(weight, SCORES[criterion], options)
    if criterion == "cosine_nystrom":
        options = {"nystrom_columns": "auto", **options}
    return _by_similarity(weight, **options)


def check_criterion(criterion: str | Callable[..., Tensor]) -> None:
    """Refuse what :func:`rank_filters` does not take as ``criterion``.

    Raises:
        ValueError: With what was found, the names there are and the one nearest to it.
    """
    if callable(criterion) or criterion in CRITERIA:
        return
    close = difflib.get_close_matches(str(criterion), CRITERIA, n=1, cutoff=0.4)
    raise ValueError(
        f"`criterion={criterion!r}`: expected one of {', '.join(CRITERIA)}, or a callable that takes a weight and returns one score "
        f"per filter.{f' Did you mean {close[0]!r}?' if close else ''}"
    )


_OPTIONS = {
    "cosine": ("vectors", "decimals", "ties"),
    "cosine_nystrom": ("vectors", "nystrom_columns", "decimals", "ties"),
    **{name: tuple(inspect.signature(score).parameters)[1:] for name, score in SCORES.items()},
}


def _by_score(weight: Weight, score: Callable[..., Tensor], options: dict[str, Any]) -> Int[Tensor, " filters"]:
    filters = len(coupled_layers(weight)[0])
    with torch.no_grad():
        given = weight if isinstance(weight, Tensor) or score in SCORES.values() else filter_rows(weight)
        scores = torch.as_tensor(score(given, **options)).detach()
    if scores.shape != (filters,) or not bool(scores.isfinite().all()):
        raise ValueError(
            f"`criterion={getattr(score, '__name__', score)}`: expected one finite score per filter, shape ({filters},), found "
            f"{'values that are not finite' if scores.shape == (filters,) else f'shape {tuple(scores.shape)}'}."
        )
    return scores.argsort(stable=True)


def _by_similarity(
    weight: Weight,
    *,
    vectors: Literal["prototype", "flat"] = "prototype",
    nystrom_columns: Columns = None,
    decimals: int | None = None,
    ties: Literal["stable", "numpy1"] = "stable",
) -> Int[Tensor, " filters"]:
    factor, alive, dead = _similarity_factor(weight, vectors, nystrom_columns)
    partner, similarity = nearest_neighbours(factor, decimals=decimals)
    order = [dead]
    left = torch.arange(len(alive), device=factor.device)
    place = left.clone()  # where in `left` a filter stands
    while len(left) > 1:
        gone = _walk(factor[left], place[partner[left]], similarity[left], ties)
        order.append(alive[left[gone]])
        stays = torch.ones(len(place), dtype=torch.bool, device=factor.device)
        stays[left[gone]] = False
        left = left[stays[left]]
        place[left] = torch.arange(len(left), device=factor.device)
        # Only filters whose nearest went need another; the nearest of the others is still the nearest.
        stale = left[~stays[partner[left]]]
        nearest, similarity[stale] = nearest_neighbours(factor[left], place[stale], decimals=decimals)
        partner[stale] = left[nearest]
    return torch.cat([*order, alive[left]])


def _similarity_factor(
    weight: Weight, vectors: Literal["prototype", "flat"], columns: Columns
) -> tuple[Float[Tensor, "alive rank"], Int[Tensor, " alive"], Int[Tensor, " dead"]]:
    """A factor of the similarities of the filters that are not dead, and the numbers of those that are not and those that are."""
    rows = filter_vectors(weight, vectors)
    has_direction = (rows != 0).any(dim=1)
    if not bool(has_direction.any()):
        has_direction[0] = True  # a layer must keep a filter
    alive, dead = has_direction.nonzero().squeeze(1), (~has_direction).nonzero().squeeze(1)
    rows = unit_rows(rows[alive])
    if columns is None:
        return rows, alive, dead
    if isinstance(columns, str):
        if columns != "auto":
            raise ValueError(
                f'`nystrom_columns={columns!r}`: expected "auto", a number of columns, their numbers, or None.'
            )
        return nystrom_factor(rows, nystrom_columns(rows)), alive, dead
    if isinstance(columns, int):
        return nystrom_factor(rows, min(columns, len(alive))), alive, dead
    return nystrom_factor(rows, torch.as_tensor(columns)), alive, dead


def _walk(
    factor: Float[Tensor, "filters rank"], partner: Tensor, similarity: Tensor, ties: Literal["stable", "numpy1"]
) -> list[int]:
    """The filters that the greedy rule removes, in the order in which it visits them."""
    if ties not in ("stable", "numpy1"):
        raise ValueError(f'`redundant_filters(ties={ties!r})`: expected "stable" or "numpy1".')
    distance = 1 - similarity
    order = distance.argsort(stable=True).tolist() if ties == "stable" else numpy1_argsort(distance.tolist())
    coincide = (factor - factor[partner]).abs().amax(dim=1) <= 128 * torch.finfo(factor.dtype).eps
    nearest = partner.tolist()
    original = list(range(len(nearest)))
    for i in coincide.nonzero().squeeze(1).tolist():
        original[i] = original[min(i, nearest[i])]

    redundant: set[int] = set()
    copied: set[int] = set()
    removed = []
    for i in order:
        if i in redundant or original[i] in copied:
            removed.append(i)
        else:
            redundant.add(nearest[i])
            copied.add(original[i])
    return removed
