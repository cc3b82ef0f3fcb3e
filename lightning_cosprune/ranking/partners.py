"""Which kept filters stand for the removed ones, and how much of them they say."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.ranking.directions import in_full_precision

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Partners", "find_partners"]

_JITTER = 1e-9
"""Relative to a unit vector: kept filters may be copies of each other."""


@dataclass(frozen=True, eq=False)
class Partners:
    """The kept filters that stand for removed ones, one entry a removed filter.

    Attributes:
        idxs: Number of the most similar kept filter.
        cosine: The cosine similarity of the two, in [-1, 1]; 0 where the removed filter is dead.
        explained: What that one filter says of it: the squared cosine, 0 where the two point apart.
        together: What all kept filters together say of it: the squared multiple correlation, in [0, 1].
    """

    idxs: Int[Tensor, " removed"]
    cosine: Float[Tensor, " removed"]
    explained: Float[Tensor, " removed"]
    together: Float[Tensor, " removed"]


@in_full_precision
def find_partners(vectors: Float[Tensor, "filters dim"], pruned_idxs: Sequence[int]) -> Partners:
    r"""What stands for each removed filter.

    With :math:`u_i` the vectors scaled to length one, :math:`r` a removed filter and :math:`K` the kept ones:

    .. math:: \max_{k \in K} u_r^\top u_k \quad \text{and} \quad R^2 = u_r^\top U_K (U_K^\top U_K)^{-1} U_K^\top u_r

    Where there are as many kept filters as a vector is long, they usually say all of it.

    Args:
        vectors: One row a filter, as :func:`filter_vectors` gives them, before the cut.
        pruned_idxs: Numbers of the removed filters; not all of them.

    Returns:
        Values in the order of ``pruned_idxs``, float64, on the CPU.

    Raises:
        ValueError: No filter is kept, or a number is none of a filter.

    Example:
        >>> found = find_partners(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), [2])
        >>> found.idxs.item(), round(found.explained.item(), 2), round(found.together.item(), 2)
        (0, 0.5, 1.0)
    """
    filters = len(vectors)
    removed = torch.tensor(pruned_idxs, dtype=torch.long)
    kept = torch.ones(filters, dtype=torch.bool)
    if len(removed) and not 0 <= int(removed.min()) <= int(removed.max()) < filters:
        raise ValueError(
            f"`find_partners(pruned_idxs={list(pruned_idxs)})`: expected numbers from 0 to {filters - 1}, one for each "
            "removed filter. Pass the rows of all filters, as they were before the cut."
        )
    kept[removed] = False
    if not kept.any():
        raise ValueError(f"`find_partners(pruned_idxs=...)`: expected a kept filter, found all {filters} removed.")
    units = torch.nn.functional.normalize(vectors.detach().cpu().double(), dim=1)
    standing, gone = units[kept], units[removed]
    similarity = standing @ gone.T
    cosine, place = similarity.max(dim=0)
    return Partners(
        kept.nonzero()[:, 0][place],
        cosine.clamp(-1, 1),
        cosine.clamp(0, 1).square(),
        _said(gone, standing, similarity).clamp(0, 1),
    )


def _said(
    gone: Float[Tensor, "removed dim"], standing: Float[Tensor, "kept dim"], similarity: Float[Tensor, "kept removed"]
) -> Float[Tensor, " removed"]:
    """Squared multiple correlation of unit vectors with others, by the smaller of the two matrices that tell it."""
    wide = standing.shape[0] < standing.shape[1]
    gram = standing @ standing.T if wide else standing.T @ standing
    gram.diagonal().add_(_JITTER)
    root = torch.linalg.cholesky(gram)
    whitened = torch.linalg.solve_triangular(root, similarity if wide else gone.T, upper=False)
    part: Tensor = whitened.square().sum(dim=0)
    # With A = U'U the part that is not said is u' (I - A (A + j I)^-1) u = j u' (A + j I)^-1 u.
    return part if wide else gone.square().sum(dim=1) - _JITTER * part
