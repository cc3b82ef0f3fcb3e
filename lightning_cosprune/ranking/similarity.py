"""From the vectors of filters to their similarity: of every pair, or of each filter to its nearest other filter."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lightning_cosprune.arguments import as_whole, check_tensor, one_of, real_number, whole_number
from lightning_cosprune.ranking.directions import BLOCK, check_rows, in_full_precision, unit_rows
from lightning_cosprune.ranking.draws import seeded_generator
from lightning_cosprune.ranking.introsort import numpy1_argsort

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["cosine_similarity", "nearest_neighbours", "nystrom_columns", "nystrom_factor", "nystrom_similarity"]

_STRETCH = 64  # columns that are searched together


@in_full_precision
def cosine_similarity(vectors: Float[Tensor, "filters dim"]) -> Float[Tensor, "filters filters"]:
    r"""Cosine of the angle between every two rows of ``vectors``.

    .. math:: S_{ij} = \langle v_i, v_j \rangle / (\|v_i\| \, \|v_j\|)

    A zero row has no direction; its similarity to every row, itself included, is 0. Opposite rows have -1: they are as
    far apart as can be.

    Args:
        vectors: One row per filter.

    Returns:
        The similarities, in the dtype of ``vectors`` but at least float32.

    Raises:
        ValueError: Some row is not finite.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2; their distance is 1 minus it.

    Example:
        >>> cosine_similarity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    unit = unit_rows(vectors)
    return unit @ unit.T


@in_full_precision
def nystrom_similarity(
    vectors: Float[Tensor, "filters dim"], columns: int | Sequence[int] | Int[Tensor, " columns"]
) -> Float[Tensor, "filters filters"]:
    r"""Cosine similarity as rebuilt from some of its columns.

    .. math:: S \approx C \, W^{+} C^\top, \qquad C = S[:, \text{columns}], \quad W = C[\text{columns}, :]

    It is exact where the chosen rows span all rows. Nine columns are enough for 3x3 kernels, whose prototypes have nine
    entries, if those nine are independent.

    Args:
        vectors: One row per filter.
        columns: How many of the first columns, as published; or which columns, see :func:`nystrom_columns`.

    Returns:
        The approximate similarities. A filter's to itself is at most 1, and 1 if its column was chosen.

    Raises:
        ValueError: A column is outside the matrix, none is chosen, or some row is not finite.

    Source: Singh and Plumbley, ICASSP 2023, section 2.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> torch.allclose(nystrom_similarity(vectors, 2), cosine_similarity(vectors))
        True
    """
    factor = nystrom_factor(vectors, columns)
    return factor @ factor.T


def nystrom_factor(
    vectors: Float[Tensor, "filters dim"], columns: int | Sequence[int] | Int[Tensor, " columns"]
) -> Float[Tensor, "filters rank"]:
    r"""The factor :math:`F` of the Nystroem approximation :math:`F F^\top`, which itself need not be formed.

    With :math:`N` the unit rows and :math:`Q` an orthonormal basis of the chosen ones,
    :math:`C W^{+} C^\top = N Q Q^\top N^\top`, so :math:`F = N Q`. That spares the pseudo-inverse of :math:`W`, whose
    condition number is the square of theirs.

    Returns:
        One row per filter, no longer than the chosen columns are many.

    Raises:
        TypeError: ``vectors`` are no tensor.
        ValueError: A column is outside the matrix, none is chosen, or some row is not finite.
    """
    unit = unit_rows(vectors)
    return unit @ _row_basis(unit[_column_idxs(columns, len(unit), unit.device)]).mT


@in_full_precision
def nystrom_columns(
    vectors: Float[Tensor, "filters dim"],
    count: int | Literal["auto"] = "auto",
    *,
    choose: Literal["first", "random", "leverage"] = "first",
    tolerance: float = 0.01,
    seed: int = 0,
) -> Int[Tensor, " columns"]:
    r"""The columns of the similarity matrix from which the Nystroem approximation is built.

    Args:
        vectors: One row per filter.
        count: How many. ``"auto"``: the fewest, in the order of ``choose``, that leave a relative residual trace
            :math:`1 - \operatorname{tr}(C W^{+} C^\top) / \operatorname{tr}(S)` of at most ``tolerance``. It is the
            part of the filters' directions that the columns miss; the full matrix is not formed.
        choose: The order in which columns are taken. ``"first"``: from the left, as published. ``"random"``: all
            equally likely. ``"leverage"``: likely in proportion to how much of the space that all rows span a row holds
            alone.
        tolerance: Greatest relative residual trace for ``count="auto"``.
        seed: Start of the draws of ``"random"`` and ``"leverage"``; the generator of the caller is not touched.

    Returns:
        Numbers of the columns, in the order in which they were taken.

    Raises:
        ValueError: An argument is out of range, or some row is not finite.

    Source: The first columns are those of Singh and Plumbley, ICASSP 2023; the other choices and ``"auto"`` are ours.

    Example:
        >>> nystrom_columns(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        tensor([0, 1])
    """
    unit = unit_rows(vectors)
    one_of(choose, "`nystrom_columns(choose={})`", ("first", "random", "leverage"))
    expected = "a fraction from 0 to below 1, such as 0.01"
    tolerance = real_number(tolerance, "`nystrom_columns(tolerance={})`", expected, least=0, most=1)
    seed = whole_number(seed, "`nystrom_columns(seed={})`", 0)
    is_auto = isinstance(count, str) and count == "auto"
    number = 0 if is_auto else as_whole(count)
    if not is_auto and (number is None or not 1 <= number <= len(unit)):
        raise ValueError(
            f'`nystrom_columns(count={count!r:.60})`: expected "auto" or a number of columns from 1 to {len(unit)}. '
            "Write 9 for 3x3 kernels."
        )
    order = _column_order(unit, choose, seed)
    return order[: _fewest_columns(unit[order], tolerance) if is_auto else number]


def nearest_neighbours(
    factor: Float[Tensor, "filters rank"],
    queries: Int[Tensor, " queries"] | None = None,
    *,
    decimals: int | None = None,
    ties: Literal["stable", "numpy1"] = "stable",
) -> tuple[Int[Tensor, " queries"], Float[Tensor, " queries"]]:
    r"""For each filter the other filter most similar to it, where :math:`S = F F^\top`.

    Rows of :math:`S` are made and searched in blocks, so that memory grows with the filters and not with their square.

    Conventions:
        - Of equally similar filters the one with the lowest number is named; with ``ties="numpy1"`` the one that comes
          first when NumPy 1 sorts the row of distances, as published, except that it is never the filter itself.
        - Mutual neighbours get the same similarity to the last bit, because the greedy walk turns on such ties. A
          matrix product does not promise that; so each filter's is computed once more, from the two rows alone.

    Args:
        factor: One row per filter: unit vectors, or a :func:`nystrom_factor`.
        queries: Numbers of the filters whose neighbours are wanted; all where ``None``.
        decimals: Round the distances :math:`1 - S` before they are compared; the scripts of ICASSP 2023 round to 5.
        ties: Which of equally similar filters is named.

    Returns:
        Number of the nearest other filter, and the similarity to it; -1 and 0 where there is no other filter.

    Raises:
        TypeError: ``factor`` or ``queries`` is no tensor.
        ValueError: ``factor`` has no rows, ``queries`` are no numbers of them, ``ties`` is unknown, or ``decimals`` is
            no number of decimals.
    """
    check_rows(factor, "factor")
    if decimals is not None and (type(decimals) is not int or not 0 <= decimals <= 15):
        raise ValueError(
            f"`decimals={decimals!r}`: expected None, or a whole number of decimals from 0 to 15. Write 5 to round as "
            "the scripts of 2023 do."
        )
    if not isinstance(ties, str) or ties not in ("stable", "numpy1"):
        raise ValueError(f'`ties={ties!r}`: expected "stable" or "numpy1". Choose one.')
    eps = torch.finfo(factor.dtype).eps
    if queries is not None:
        _check_queries(queries, len(factor))
    if queries is None:
        queries = torch.arange(len(factor), device=factor.device)
    if len(factor) == 1:
        return torch.full_like(queries, -1), factor.new_zeros(len(queries))
    filters = len(factor)
    padded = nn.functional.pad(factor, (0, 0, 0, -filters % _STRETCH))
    blocks = []
    for block in queries.split(max(1, BLOCK // filters)):
        similarity = _rounded(factor[block] @ padded.T, decimals)
        similarity[:, filters:] = -torch.inf
        rows = torch.arange(len(block), device=factor.device)
        itself = similarity[rows, block]
        similarity[rows, block] = -torch.inf
        best, nearest = _first_maxima(similarity)
        # Copies are equally similar to each other, but a matrix product may round that differently by column.
        copies = (best >= 1 - 16 * eps).nonzero().squeeze(1)
        if len(copies):
            as_similar = similarity[copies] >= best[copies, None] - 4 * eps
            nearest[copies] = as_similar.to(torch.uint8).argmax(dim=1)
        if ties == "numpy1":
            tied = ((similarity == best[:, None]).sum(dim=1) > 1).nonzero().squeeze(1)
            similarity[rows, block] = itself
            for row in tied.tolist():
                order = numpy1_argsort((1 - similarity[row, :filters]).tolist())
                nearest[row] = order[1] if order[0] == block[row] else order[0]
        blocks.append(nearest)
    partner = torch.cat(blocks)
    return partner, _rounded((factor[queries] * factor[partner]).sum(dim=1), decimals)


def _check_queries(queries: Tensor, filters: int) -> None:
    expected = f"a tensor with numbers of filters from 0 to {filters - 1}, or None"
    check_tensor(queries, "`nearest_neighbours(queries=...)`", expected)
    fit = queries.ndim == 1 and queries.dtype in (torch.int32, torch.int64)
    if not fit or bool(((queries < 0) | (queries >= filters)).any()):
        raise ValueError(
            f"`nearest_neighbours(queries=...)`: expected {expected}, found {queries.dtype} of shape "
            f"{tuple(queries.shape)}{', some of them others' if fit else ''}. Write torch.arange({filters}) for all."
        )


def _first_maxima(rows: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """The maximum of each row and its first position, by stretches: four times as fast as searching the row at once."""
    stretches = rows.unflatten(1, (-1, _STRETCH))
    best, stretch = stretches.amax(dim=2).max(dim=1)
    within = stretches[torch.arange(len(rows), device=rows.device), stretch].argmax(dim=1)
    return best, stretch * _STRETCH + within


def _rounded(similarity: Tensor, decimals: int | None) -> Tensor:
    return similarity if decimals is None else 1 - torch.round(1 - similarity, decimals=decimals)


def _column_idxs(
    columns: int | Sequence[int] | Int[Tensor, " columns"], filters: int, device: torch.device
) -> Int[Tensor, " columns"]:
    try:
        if getattr(columns, "ndim", 0):  # one number in a row is no number of columns
            raise TypeError
        idxs = torch.arange(min(max(operator.index(columns), 0), filters + 1))  # type: ignore[arg-type]
    except TypeError:
        try:
            idxs = torch.as_tensor(columns)
        except (TypeError, ValueError, RuntimeError):
            idxs = torch.empty(0)
    fit = idxs.ndim == 1 and len(idxs) > 0 and not idxs.is_floating_point()
    if not fit or bool(((idxs < 0) | (idxs >= filters)).any()):
        raise ValueError(
            f"`columns={columns!r:.80}`: expected a number from 1 to {filters}, for that many of the first columns, "
            f"or numbers of columns from 0 to {filters - 1}. Write {filters} for all."
        )
    return idxs.to(device)


def _column_order(unit: Float[Tensor, "filters dim"], choose: str, seed: int) -> Int[Tensor, " filters"]:
    filters = len(unit)
    if choose == "first":
        return torch.arange(filters, device=unit.device)
    shares = torch.ones(filters, dtype=torch.float64)
    if choose == "leverage":
        shares = _leverage(unit).double().cpu().clamp_min_(1e-12)
    draws = torch.rand(filters, dtype=torch.float64, generator=seeded_generator(seed))
    # Sorting u ** (1 / share) draws without replacement in proportion to the shares (Efraimidis and Spirakis, 2006).
    return (draws.log() / shares).argsort(descending=True, stable=True).to(unit.device)


def _fewest_columns(unit: Float[Tensor, "filters dim"], tolerance: float) -> int:
    """How many of the first rows hold all but a part ``tolerance`` of the rows' squared lengths."""
    total = float(unit.square().sum())
    fewest, enough = 1, len(unit)
    while fewest < enough:  # what is left only falls as rows are added, so the number is found by halving
        middle = (fewest + enough) // 2
        held = float((unit @ _row_basis(unit[:middle]).mT).square().sum())
        if total - held <= tolerance * total:
            enough = middle
        else:
            fewest = middle + 1
    return enough


def _leverage(rows: Float[Tensor, "filters dim"]) -> Float[Tensor, " filters"]:
    r"""Leverage scores :math:`v_i^\top (N^\top N)^{+} v_i`: from 0 to 1, adding up to the rank."""
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    independent = values > max(rows.shape) * torch.finfo(rows.dtype).eps * values[0]
    scores: Tensor = left[:, independent].square().sum(dim=1)
    return scores


def _row_basis(rows: Float[Tensor, "columns dim"]) -> Float[Tensor, "rank dim"]:
    """Orthonormal rows that span ``rows``, leaving out what the published pseudo-inverse does."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    # NumPy's `pinv` cuts W's eigenvalues off at 1e-15 of the largest; they are the squares of these singular values.
    cutoff = max(1e-15**0.5, max(rows.shape) * torch.finfo(rows.dtype).eps)
    kept: Tensor = basis[values > cutoff * values[0]]
    return kept
