"""From calibration data to one vector per filter, whose angles say how alike the filters' responses are."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.arguments import names_in
from lightning_cosprune.network.forward import call, evaluating
from lightning_cosprune.network.layers import check_model
from lightning_cosprune.ranking.directions import in_full_precision, to_working_precision, unit_rows
from lightning_cosprune.ranking.filters import DEAD

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["response_vectors"]


def response_vectors(
    model: nn.Module, batches: Iterable[Any], layers: Sequence[str] | None = None
) -> dict[str, Float[Tensor, "filters rank"]]:
    r"""One vector per filter, whose cosine similarity is that of the filters' responses to calibration data.

    With :math:`y_i(t)` the response of filter :math:`i` at position :math:`t`, over all samples and places of the
    feature map, and :math:`\bar y_i` its mean,

    .. math:: S_{ij} = \frac{\sum_t (y_i(t) - \bar y_i)(y_j(t) - \bar y_j)}
        {\sqrt{\sum_t (y_i(t) - \bar y_i)^2} \sqrt{\sum_t (y_j(t) - \bar y_j)^2}} = \langle v_i, v_j \rangle .

    The vectors are rows of a factor of :math:`S`; they go wherever the vectors of weights go:
    ``redundant_filters(vectors)`` applies the published rule to responses instead of weights, and
    ``plan_pruning(..., vectors=...)`` plans with them.

    For the output of a convolution with weights :math:`w_i` and input patches of covariance :math:`\Sigma`,
    :math:`S_{ij} \propto w_i^\top \Sigma \, w_j`: the cosine of the flat weights, measured in the metric of the data.

    Responses are not stored: each batch adds to one matrix (filters, filters) a layer, kept in float64.

    Conventions:
        - A filter whose response never changes, or changes by no more than 2**-23 of the layer's largest standard
          deviation, is dead: its vector is zero.
        - A layer that is called several times in a forward pass gives its responses to all calls.
        - In the outputs of linear layers filters lie on the last axis, in those of all other modules on axis 1.

    Args:
        model: The network; run in evaluation mode without gradients, and left as it was found.
        batches: Calibration data, one entry a forward pass: a tensor, or a tuple of positional or a mapping of keyword
            arguments of ``model``. Of a loader of pairs pass the inputs: ``(inputs for inputs, _ in loader)``.
        layers: Names of the modules whose outputs are the responses; all convolutions where ``None``. The name of an
            activation or batch norm gives the responses after it.

    Returns:
        Layer name -> vectors of length one, in the dtype of the responses but at least float32, on their device.

    Raises:
        ValueError: There are no batches, a layer does not exist or is not reached, its output is not one tensor with
            filters, it has but one position, or a response is not finite; the layer and the filters are named.

    Source: the hypothesis "similar filters produce similar responses" is that of Singh and Plumbley, INTERSPEECH 2022;
    measuring the responses is ours.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        >>> _ = model[0].weight.data[1].copy_(2 * model[0].weight[0])
        >>> vectors = response_vectors(model, [torch.randn(4, 1, 8, 8)])["0"]
        >>> round(float(vectors[0] @ vectors[1]), 4)
        1.0
    """
    check_model(model, "response_vectors")
    is_one = isinstance(batches, (Tensor, Mapping, str, bytes, nn.Module)) or getattr(batches, "shape", None) == ()
    if is_one or not isinstance(batches, Iterable):
        raise TypeError(
            "`response_vectors(batches=...)`: expected an iterable of inputs, one a forward pass, found a "
            f"{type(batches).__name__}. Write `[inputs]` for a single batch."
        )
    modules = dict(model.named_modules())
    if layers is not None and not isinstance(layers, str):
        layers = names_in(layers, "`response_vectors(layers={})`", "names of modules")
    if layers is None:
        layers = [name for name, module in modules.items() if isinstance(module, nn.modules.conv._ConvNd)]
    statistics = {name: _Statistics(name) for name in ([layers] if isinstance(layers, str) else layers)}
    if not statistics:
        raise ValueError(
            f"`response_vectors(model={type(model).__name__}(...), layers=...)`: expected at least one layer, found "
            "none. A model without convolutions needs the names of the modules whose outputs are the responses."
        )
    for name in statistics:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=1, cutoff=0.4)
            raise ValueError(
                f"`response_vectors(layers=[{name!r}, ...])`: expected names of modules of {type(model).__name__}, "
                f"found none of this name. {f'Did you mean {close[0]!r}?' if close else 'See `model.named_modules()`.'}"
            )
    handles = [
        modules[name].register_forward_hook(functools.partial(_observe, statistic))
        for name, statistic in statistics.items()
    ]
    count = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in tqdm(batches, desc="Measuring responses", unit="batch", delay=2, leave=False):
                try:
                    call(model, batch)
                except _RefusedError:
                    raise
                except Exception as error:  # a network may fail in any way
                    raise ValueError(
                        f"`response_vectors(batches=...)`: expected inputs of {type(model).__name__}, one a forward "
                        f"pass, found a {type(batch).__name__} in place {count}, with which its forward pass fails: "
                        f"{type(error).__name__}: {error}. Pass a list of tensors, of tuples of positional or mappings "
                        "of keyword arguments."
                    ) from error
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("`response_vectors(batches=...)`: expected at least one batch, found none. Pass [inputs].")
    return {name: statistic.vectors() for name, statistic in statistics.items()}


def _observe(statistic: _Statistics, module: nn.Module, _: Any, output: Any) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
        found = (
            f"{output.dtype} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        )
        raise _RefusedError(
            f"`response_vectors(layers=[{statistic.layer!r}, ...])`: expected a module whose output is one "
            f"floating-point tensor (batch, filters, ...), found {found}. Name another module."
        )
    axis = -1 if isinstance(module, nn.Linear) else 1
    statistic.add(output.movedim(axis, 0).flatten(1))


class _RefusedError(ValueError):
    """What is wrong with a layer, found within the forward pass."""


class _Statistics:
    """Mean and scatter matrix of one layer's responses, batch by batch."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.count = 0
        self.mean = self.scatter = torch.zeros(0, dtype=torch.float64)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    @in_full_precision
    def add(self, responses: Float[Tensor, "filters positions"]) -> None:
        """Take in more positions.

        Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983: both the correction of a
        rounded mean and the union of two samples.
        """
        responses = to_working_precision(responses)
        count = responses.shape[1]
        if count == 0:  # an empty batch
            return
        rough = responses.mean(dim=1, keepdim=True)
        centred = responses - rough
        rest = centred.sum(dim=1).double().cpu() / count
        mean = rough.squeeze(1).double().cpu() + rest
        scatter = (centred @ centred.T).double().cpu() - count * rest.outer(rest)
        if self.count == 0:
            self.mean, self.scatter = torch.zeros_like(mean), torch.zeros_like(scatter)
            self.dtype, self.device = responses.dtype, responses.device
        elif mean.shape != self.mean.shape:
            raise _RefusedError(
                f"`response_vectors`: expected layer {self.layer!r} to give {len(self.mean)} filters in each call, "
                f"found {len(mean)}. Leave it out of `layers`."
            )
        total = self.count + count
        step = mean - self.mean
        self.mean += step * (count / total)
        self.scatter += scatter + step.outer(step) * (self.count * count / total)
        self.count = total

    def vectors(self) -> Float[Tensor, "filters rank"]:
        """Rows whose products are the correlations of the responses; zero for a dead filter."""
        if self.count < 2:
            raise ValueError(
                f"`response_vectors`: expected layer {self.layer!r} to be reached with two positions or more, found "
                f"{self.count}. Leave it out of `layers`, or pass more `batches`."
            )
        spread = (self.scatter.diagonal().clamp_min(0) / self.count).sqrt()
        refused = (~(self.mean.isfinite() & spread.isfinite())).nonzero().squeeze(1).tolist()
        if refused:
            shown = ", ".join(map(str, refused[:8])) + (", ..." if len(refused) > 8 else "")
            raise ValueError(
                f"`response_vectors`: expected finite responses of layer {self.layer!r}, found NaN or infinity in "
                f"{len(refused)} of {len(spread)} filters: {shown}. Look for them in `batches` and in the weights."
            )
        # What rounding leaves of a response that is constant is not a direction.
        noise = 4 * torch.finfo(self.dtype).eps * self.mean.abs()
        dead = spread <= torch.maximum(DEAD * spread.max(), noise)
        scale = torch.where(dead, 0, 1 / spread)
        values, bases = torch.linalg.eigh(self.scatter / self.count * scale.outer(scale))
        held = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        held[-1] = True  # where all filters are dead, their vectors still have an entry
        factor = (bases[:, held] * values[held].clamp_min(0).sqrt()).masked_fill(dead[:, None], 0)
        return unit_rows(factor.to(self.device, self.dtype))
