"""The directions of rows and of small matrices, in float32 or better, whatever the size of their entries."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_cosprune.arguments import check_tensor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BLOCK",
    "are_squarable",
    "check_rows",
    "in_full_precision",
    "largest_entries",
    "leading_directions",
    "scaled_rows",
    "smaller_gram",
    "to_working_precision",
    "unit_rows",
]

P = ParamSpec("P")
R = TypeVar("R")

BLOCK = 2**22
"""Numbers that one step of a blocked computation may hold: 16 MiB in float32."""


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Let ``function`` run without recording gradients and outside the caller's autocast, which rounds products."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), "cpu")
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def to_working_precision(values: Tensor) -> Tensor:
    """``values`` in the dtype in which everything is computed: float64 as it is, all others in float32.

    Where the user lets PyTorch round the factors of float32 products (TF32, bfloat16), as Lightning advises for tensor
    cores, it is float64 for all: three digits are too few to tell filters apart.

    Returns:
        The same tensor where it has that dtype already.
    """
    return values.double() if values.dtype == torch.float64 or _products_are_rounded() else values.float()


def _products_are_rounded() -> bool:
    """Whether float32 products may be rounded on some device."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # PyTorch will not say where one of the switches of PyTorch 2.9 was set, and only there
        return True


def largest_entries(rows: Float[Tensor, "row dim"], name: str) -> Float[Tensor, " row"]:
    """The largest magnitude in each row, 1 for a row of zeros. Rows are divided by it before anything is squared.

    Args:
        rows: One row per filter.
        name: The parameter that an error is about.

    Raises:
        ValueError: Some row is not finite; its number is named.

    Returns:
        One positive number per row.
    """
    largest: Tensor = torch.linalg.vector_norm(rows, torch.inf, dim=1)
    refused = (~largest.isfinite()).nonzero().squeeze(1).tolist()
    if refused:
        shown = ", ".join(map(str, refused[:8])) + (", ..." if len(refused) > 8 else "")
        raise ValueError(
            f"`{name}`: expected finite numbers, found NaN or infinity in {len(refused)} of {len(rows)} filters: "
            f"{shown}. Training has diverged, or the checkpoint is damaged."
        )
    return largest.masked_fill_(largest == 0, 1)


def check_rows(rows: Tensor, name: str) -> None:
    """Refuse what are no rows of numbers.

    Raises:
        TypeError: They are no tensor.
        ValueError: They have no two axes, are empty, or are no floating-point numbers.
    """
    expected = "a floating-point tensor with one row a filter"
    check_tensor(rows, f"`{name}`", expected)
    if rows.ndim != 2 or not rows.numel() or not rows.is_floating_point():
        raise ValueError(
            f"`{name}`: expected {expected}, found {rows.dtype} of shape {tuple(rows.shape)}. `filter_vectors` gives "
            "one of a layer's weight."
        )


def unit_rows(vectors: Float[Tensor, "row dim"], name: str = "vectors") -> Float[Tensor, "row dim"]:
    """``vectors`` scaled to length one, without gradient and in working precision; zero rows stay zero.

    Args:
        vectors: One row per filter.
        name: The parameter that an error is about.

    Raises:
        TypeError: They are no tensor.
        ValueError: They have no two axes, or some row is not finite; its number is named.

    Returns:
        A new tensor.
    """
    check_rows(vectors, name)
    return scaled_rows(vectors, name)[0]


def scaled_rows(vectors: Float[Tensor, "row dim"], name: str) -> tuple[Float[Tensor, "row dim"], Float[Tensor, " row"]]:
    """:func:`unit_rows` and, in float64, how long the rows were."""
    rows = to_working_precision(vectors.detach())
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    if are_squarable(lengths.square()):
        return rows / lengths[:, None], lengths.double()
    largest = largest_entries(rows, name)
    rows = rows / largest[:, None]
    lengths = torch.linalg.vector_norm(rows, dim=1)
    whole = lengths.double() * largest
    # A row that is not zero has an entry of magnitude one now.
    return rows.div_(lengths.clamp_min_(0.5)[:, None]), whole


def are_squarable(squares: Tensor) -> bool:
    """Whether sums of squares show that no number was so large or small that its square left the dtype, or not finite.

    Args:
        squares: The sums; to look at the numbers themselves would take many times as long.

    Returns:
        The answer; false where a number is not finite.
    """
    return bool(((squares > 1e-20) & (squares < 1e30)).all())


def smaller_gram(stacks: Float[Tensor, "stack row dim"]) -> Float[Tensor, "stack small small"]:
    r"""The smaller of :math:`A A^\top` and :math:`A^\top A` for each matrix; they share all eigenvalues but zeros."""
    return stacks @ stacks.mT if stacks.shape[1] < stacks.shape[2] else stacks.mT @ stacks


def leading_directions(
    stacks: Float[Tensor, "stack row dim"], gram: Float[Tensor, "stack small small"]
) -> Float[Tensor, "stack dim"]:
    r"""What the rows of each matrix have most in common, turned to the side of the first row.

    For :math:`A = \sum_k \sigma_k u_k v_k^\top` that is :math:`v_1 \operatorname{sign}(u_1[0])`, found by the symmetric
    eigenproblem of the smaller Gram matrix. Where :math:`\sigma_1` is multiple, it is the first row projected on all of
    its :math:`v_k` and scaled to length one, which for a simple one is the same. A row whose projection is zero to
    rounding leaves the choice to the next.

    Args:
        stacks: The matrices, in working precision, of a size that can be squared.
        gram: Their :func:`smaller_gram`.

    Returns:
        Vectors of length one; zero for a zero matrix.
    """
    eps, tiny = torch.finfo(stacks.dtype).eps, torch.finfo(stacks.dtype).tiny
    values, bases = torch.linalg.eigh(gram)
    leading = values >= values[:, -1:] * (1 - 32 * eps)
    if stacks.shape[1] < stacks.shape[2]:  # from left to right singular vectors
        bases = stacks.mT @ bases
        bases = bases / torch.linalg.vector_norm(bases, dim=1, keepdim=True).clamp_min_(tiny)
    bases = bases * leading[:, None, :]

    first = stacks[:, 0]
    shares = (first[:, None, :] @ bases).squeeze(1)
    undecided = _vanishes(shares, first).nonzero().squeeze(1)
    if len(undecided):
        rows = stacks[undecided]
        projections = rows @ bases[undecided]
        decides = (~_vanishes(projections, rows)).to(torch.uint8).argmax(dim=1)  # the first of equals
        shares[undecided] = projections[torch.arange(len(undecided), device=stacks.device), decides]
    return unit_rows((bases @ shares[..., None]).squeeze(-1))


def _vanishes(projections: Tensor, rows: Tensor) -> Tensor:
    """Whether a row's projection is zero to rounding: the size of what rounding alone could leave of it."""
    limit = 16 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows, dim=-1)
    vanishes: Tensor = torch.linalg.vector_norm(projections, dim=-1) <= limit
    return vanishes
