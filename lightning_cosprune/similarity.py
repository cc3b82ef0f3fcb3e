"""From the vectors of filters to their similarity: of every pair, or of each filter to its nearest other filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Union

import torch
from torch import Tensor

from lightning_cosprune.filters import BLOCK, unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["cosine_similarity", "nearest_neighbours", "nystrom_columns", "nystrom_factor", "nystrom_similarity"]


def cosine_similarity(vectors: Float[Tensor, "filters dim"]) -> Float[Tensor, "filters filters"]:
    r"""Cosine of the angle between every two rows of ``vectors``.

    .. math:: S_{ij} = \langle v_i, v_j \rangle / (\|v_i\| \, \|v_j\|)

    A zero row has no direction; its similarity to every row, itself included, is 0. Opposite rows have -1: they are as far
    apart as can be.

    Args:
        vectors: One row per filter.

    Returns:
        The similarities, in the dtype of ``vectors`` but at least float32.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2; their distance is 1 minus it.

    Example:
        >>> cosine_similarity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    unit = unit_rows(vectors)
    return unit @ unit.T


def nystrom_similarity(
    vectors: Float[Tensor, "filters dim"], columns: Union[int, Sequence[int], Int[Tensor, " columns"]]
) -> Float[Tensor, "filters filters"]:
    r"""Cosine similarity as rebuilt from some of its columns.

    .. math:: S \approx C \, W^{+} C^\top, \qquad C = S[:, \text{columns}], \quad W = C[\text{columns}, :]

    It is the exact similarity where the chosen rows span all rows: nine columns are enough for 3x3 kernels, whose prototypes
    have nine entries, if those nine are independent.

    Args:
        vectors: One row per filter.
        columns: How many of the first columns, as published; or which columns, see :func:`nystrom_columns`.

    Returns:
        The approximate similarities. They never exceed the exact ones on the diagonal, which may be below 1.

    Raises:
        ValueError: A column is outside the matrix, or none is chosen.

    Source: Singh and Plumbley, ICASSP 2023, equations for the Nystroem approximation.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> torch.allclose(nystrom_similarity(vectors, 2), cosine_similarity(vectors))
        True
    """
    factor = nystrom_factor(vectors, columns)
    return factor @ factor.T


def nystrom_factor(
    vectors: Float[Tensor, "filters dim"], columns: Union[int, Sequence[int], Int[Tensor, " columns"]]
) -> Float[Tensor, "filters rank"]:
    r"""The factor :math:`F` of the Nystroem approximation :math:`F F^\top`, so that filters squared is never stored.

    With :math:`N` the unit rows and :math:`Q` an orthonormal basis of the chosen ones, :math:`C W^{+} C^\top = N Q Q^\top N^\top`
    and :math:`F = N Q`. That spares the pseudo-inverse, whose condition number is the square of the basis's.
    """
    unit = unit_rows(vectors)
    return unit @ _row_basis(unit[_column_indices(columns, len(unit), unit.device)]).mT


def nystrom_columns(
    vectors: Float[Tensor, "filters dim"],
    count: Union[int, Literal["auto"]] = "auto",
    *,
    choose: Literal["first", "random", "leverage"] = "first",
    tolerance: float = 0.01,
    seed: int = 0,
) -> Int[Tensor, " columns"]:
    r"""Which columns of the similarity matrix the Nystroem approximation is built from.

    Args:
        vectors: One row per filter.
        count: How many. ``"auto"``: the fewest of the chosen order whose relative residual trace
            :math:`1 - \operatorname{tr}(C W^{+} C^\top) / \operatorname{tr}(S)`, the mean share of a filter's direction that they
            miss, is at most ``tolerance``. The full matrix is never formed.
        choose: In which order columns are taken. ``"first"``: from the left, as published. ``"random"``: all equally likely.
            ``"leverage"``: likely in proportion to how much a row alone holds of the space that all rows span.
        tolerance: Greatest relative residual trace for ``count="auto"``.
        seed: Start of the draws of ``"random"`` and ``"leverage"``; the generator of the caller is not touched.

    Returns:
        Numbers of the columns, in the order in which they were taken.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> nystrom_columns(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        tensor([0, 1])
    """
    unit = unit_rows(vectors)
    filters = len(unit)
    if count != "auto" and (not isinstance(count, int) or not 1 <= count <= filters):
        raise ValueError(
            f'`nystrom_columns(count={count!r})`: expected "auto" or a number of columns from 1 to {filters}.'
        )
    if choose == "first":
        order = torch.arange(filters, device=unit.device)
    elif choose in ("random", "leverage"):
        shares = torch.ones(filters, dtype=torch.float64)
        if choose == "leverage":
            shares = _leverage(unit).double().cpu()
        draws = torch.rand(filters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # The largest of u ** (1 / share) are a draw without replacement in proportion to the shares (Efraimidis, Spirakis 2006).
        order = (draws.log() / shares.clamp_min(1e-12)).argsort(descending=True, stable=True).to(unit.device)
    else:
        raise ValueError(f'`nystrom_columns(choose={choose!r})`: expected "first", "random" or "leverage".')
    if count != "auto":
        return order[:count]

    total = unit.square().sum()
    fewest, enough = 1, filters
    while fewest < enough:  # the residual only falls as columns are added, so that halving finds the fewest
        middle = (fewest + enough) // 2
        held = (unit @ _row_basis(unit[order[:middle]]).mT).square().sum()
        if total - held <= tolerance * total:
            enough = middle
        else:
            fewest = middle + 1
    return order[:enough]


def nearest_neighbours(
    factor: Float[Tensor, "filters rank"],
    queries: Int[Tensor, " queries"] | None = None,
    *,
    decimals: int | None = None,
) -> tuple[Int[Tensor, " queries"], Float[Tensor, " queries"]]:
    r"""For each filter the other filter most similar to it, where :math:`S = F F^\top`.

    The matrix is made and searched in blocks of rows, so that memory grows with filters times block, not with filters squared.
    Of equally similar filters the one with the lowest number is named. The two filters of a mutual pair get the same
    similarity to the last bit, because the walk over the filters turns on such ties.

    Args:
        factor: One row per filter: unit vectors, or :func:`nystrom_factor`.
        queries: Numbers of the filters whose neighbour is wanted; all where ``None``.
        decimals: Round the distances :math:`1 - S` before anything is compared; the scripts of ICASSP 2023 round to 5.

    Returns:
        Number of the nearest other filter, and the similarity to it; -1 and 0 where there is no other filter.
    """
    filters = len(factor)
    if queries is None:
        queries = torch.arange(filters, device=factor.device)
    if filters == 1:
        return torch.full_like(queries, -1), torch.zeros(len(queries), dtype=factor.dtype, device=factor.device)
    eps = torch.finfo(factor.dtype).eps
    parts = []
    for block in queries.split(max(1, BLOCK // filters)):
        similarity = factor[block] @ factor.T
        if decimals is not None:
            similarity = 1 - torch.round(1 - similarity, decimals=decimals)
        similarity[torch.arange(len(block), device=factor.device), block] = -torch.inf
        best, nearest = similarity.max(dim=1)  # the first of equals
        # Copies are as similar to each other as can be, but a matrix product may round that differently from column to column.
        copies = (best >= 1 - 16 * eps).nonzero().squeeze(1)
        if len(copies):
            as_near = similarity[copies] >= best[copies, None] - 4 * eps
            nearest[copies] = as_near.view(torch.uint8).argmax(dim=1)
        parts.append(nearest)
    partner = torch.cat(parts)
    paired = (factor[queries] * factor[partner]).sum(dim=1)
    if decimals is not None:
        paired = 1 - torch.round(1 - paired, decimals=decimals)
    return partner, paired


def _column_indices(
    columns: Union[int, Sequence[int], Int[Tensor, " columns"]], filters: int, device: torch.device
) -> Int[Tensor, " columns"]:
    idxs = torch.arange(columns) if isinstance(columns, int) and columns >= 0 else torch.as_tensor(columns)
    if idxs.ndim != 1 or len(idxs) == 0 or bool(((idxs < 0) | (idxs >= filters)).any()):
        raise ValueError(
            f"`nystrom_similarity(columns={columns!r})`: expected a number from 1 to {filters}, the first so many columns, or numbers "
            f"of columns in [0, {filters})."
        )
    return idxs.to(device)


def _leverage(rows: Float[Tensor, "filters dim"]) -> Float[Tensor, " filters"]:
    r"""Leverage scores :math:`v_i^\top (N^\top N)^{+} v_i`, from 0 to 1, which add up to the rank."""
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    return left[:, values > max(rows.shape) * torch.finfo(rows.dtype).eps * values[0]].square().sum(dim=1)


def _row_basis(rows: Float[Tensor, "columns dim"]) -> Float[Tensor, "rank dim"]:
    """Orthonormal rows that span ``rows``; singular values below the published pseudo-inverse's cut-off are no direction."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    # NumPy's `pinv` drops eigenvalues of W below 1e-15 of the largest; they are squares of these singular values.
    cutoff = max(1e-15**0.5, max(rows.shape) * torch.finfo(rows.dtype).eps)
    return basis[values > cutoff * values[0]]
