"""Whether a cut is right: the smaller network must compute what the dense one does whose readers ignore the channels.

Weights and inputs as they are can hide a wrong cut: a batch norm whose scale starts at zero, dead units, a saturated
output, an example input of silence. So there are two passes, one with the weights and the example as they are and one
on noise, see :mod:`~lightning_cosprune.surgery.draws`; and not only the outputs are compared, but what every layer is
given and computes that reads removed channels. Training mode, which may go other ways, is tried too where the dense
network can be. What no trial sees: a yes-or-no decision over many channels that falls the same way in all passes.
Norms over channels range over the kept ones in both networks, see :mod:`~lightning_cosprune.surgery.norms`.

Each such layer of the smaller network goes on with what the dense one's was given. So rounding does not add up over
the depth of a network, and one wrong cut does not make all layers behind it differ: whatever differs is told apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.network.calls import layers_before
from lightning_cosprune.network.channels import ChannelGraph, Removal
from lightning_cosprune.network.forward import as_call, eager, evaluating, float_tensors, same_random_state, unchanged
from lightning_cosprune.network.layers import is_depthwise, is_layer
from lightning_cosprune.network.pruners import Replacement, slices
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.surgery.blame import Fault, TrialFailedError, at_failure, at_input, failing_module, touching
from lightning_cosprune.surgery.compare import (
    OUTPUT,
    Difference,
    compare,
    differing_channels,
    reason_of_shape,
    sample,
)
from lightning_cosprune.surgery.draws import (
    STATISTICS,
    Draws,
    StandIns,
    Still,
    channel_axis,
    given_to,
    kept_channels,
    plain_layers,
    tensors_of,
    without,
)
from lightning_cosprune.surgery.norms import NarrowNorms

__all__ = ["Trial"]

# Rounding can hide the loss of one filter among many, or a weak coupling such as that of local response normalisation.
# So networks are tried in a wider type where their code allows it; parts of them may insist on float32, and round so.
_TOLERANCE_WIDENED = 1e-6

# In training mode a batch norm blows up the rounding of channels that hardly vary.
_TOLERANCE_TRAINING = 1e-2
_NARROWER = {
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
    torch.float32: (torch.float16, torch.bfloat16),
}

_OWN = torch.bool
"""In place of a width: every tensor keeps its own data type."""

_REMEMBERED = 2**25
"""How many values of the dense network a trial keeps at most for the smaller one to go on with."""


@dataclass
class _Call:
    """What one call of a reader of the dense network was given and computed, without the channels that are to go.

    It is steady where that is the same with another seed: what is drawn on the way depends on the shapes that it meets,
    and of the rest the shapes alone are compared.
    """

    given: Tensor | None
    whole: bool
    computed: list[Tensor]
    steady: bool = True


@dataclass
class _Pass:
    """One forward pass of the dense network, for the smaller one to repeat.

    It is lean where the weights of layers that noise stands in for keep their data type: nobody should look at them.
    """

    inputs: Any
    drawn: bool
    width: torch.dtype
    training: bool = False
    random: bool = False
    still: bool = False
    lean: bool = False
    steady: bool = True
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def tolerance(self) -> float | None:
        if self.training:
            return _TOLERANCE_TRAINING
        return _TOLERANCE_WIDENED if self.width is torch.float64 else None

    def compare(self, again: _Pass) -> None:
        """Note what another seed changes."""
        self.steady = _equal(self.outputs, again.outputs)
        for name, calls in self.calls.items():
            for call, other in itertools.zip_longest(calls, again.calls.get(name, [])[: len(calls)]):
                pairs = zip(*([one.given, *one.computed] for one in (call, other) if one is not None), strict=False)
                call.steady = other is not None and all(one is None or torch.equal(one, two) for one, two in pairs)

    def is_finite(self) -> bool:
        seen = [tensor for calls in self.calls.values() for call in calls for tensor in call.computed]
        return all(bool(tensor.isfinite().all()) for tensor in (*seen, *self.outputs))


class Trial:
    """What the dense network computes without the channels that are to go, and the cut one beside it.

    Args:
        model: The network, not cut yet; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        removals: What will be cut, counted as the network is now.
        draws: Random values for its tensors.
        width: The data type that narrower floating-point types are widened to, where the network can compute in it; on
            noise, where most networks need no convolution computed, and in cases of doubt.
        graph: Which layer reads which.

    Raises:
        TrialFailedError: The dense network cannot show whether the cut is right.
        ValueError: It computes no finite numbers because a weight or the example input is none.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        removals: Sequence[Removal],
        draws: Draws,
        width: torch.dtype,
        graph: ChannelGraph,
    ) -> None:
        self._model, self._removals = model, removals
        self._readers = {name: model.get_submodule(name) for removal in removals for name in removal.inputs}
        self._inputs = _merged([removal.inputs for removal in removals])
        self._outputs = _merged([removal.outputs for removal in removals])
        self._tensors = self._tensors_after = tensors_of(model)
        self._names = {id(tensor): name for name, tensor in self._tensors.items()}
        self._drawn = draws.loud(model, self._outputs)
        self._drawn_after = dict(self._drawn)
        # All layers are watched: where channels come to be in another order, one may be given what is another's.
        self._watched = {**self._readers, **{name: model.get_submodule(name) for name in graph.called}}
        depthwise = {name: self._outputs.get(name, []) for name, one in self._watched.items() if is_depthwise(one)}
        self._lost = {name: depthwise.get(name, self._inputs.get(name, [])) for name in self._watched}
        narrow = {name: idxs for name, idxs in self._outputs.items() if name in graph.norms}
        self.norms = NarrowNorms({name: model.get_submodule(name) for name in narrow}, narrow)
        self._watched |= self.norms.modules
        self._lost |= narrow
        self._plain = StandIns(plain_layers(model), self._inputs, self._outputs)
        self._unread = {
            f"{name}.{key}" if name else key
            for name, layer in self._plain.layers.items()
            if not isinstance(layer, nn.RNNBase)
            for key in layer._parameters
        }
        self._fed: dict[str, frozenset[int]] = {}
        unknown = [
            Fault(f"read by {name}, a {type(reader).__name__}, for which the cut cannot be checked", near, True)
            for name, reader in self._readers.items()
            if not isinstance(reader, (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase))
            for near in [touching(removals, [name])]
        ]
        if unknown:
            raise TrialFailedError(*unknown)
        self._candidates, self._width, self._graph = (example_inputs, draws.inputs), width, graph

    def check(self, dense: Snapshot, cut: Snapshot, replacements: Sequence[Replacement]) -> None:
        """Compare the network, which was cut since.

        Args:
            dense: The network before the cut.
            cut: The network as it is now.
            replacements: The parameters that were replaced, in the order of their replacement.

        Raises:
            TrialFailedError: It does not compute the same, or the dense network cannot show whether it does.
            ValueError: It computes no finite numbers because a weight or the example input is none.
        """
        self._tensors_after = tensors_of(self._model)
        self.norms.learn_cut()
        self._cut_drawn(replacements)
        passes = self._passes()
        while True:
            dense.restore()
            wanted = next(passes, None)
            cut.restore()
            if wanted is None:
                return
            faults = self._repeat(wanted)
            if not all(fault.doubtful for fault in faults):
                faults = [fault for fault in faults if not fault.doubtful]
            elif faults and wanted.width is torch.float32:
                faults = self._repeat_wider(wanted, dense, cut, faults)
            if faults:
                raise TrialFailedError(*faults)

    def _repeat_wider(self, wanted: _Pass, dense: Snapshot, cut: Snapshot, faults: list[Fault]) -> list[Fault]:
        """Whether what was found in float32 is there in float64 too."""
        dense.restore()
        try:
            again = self._record(_Pass(wanted.inputs, wanted.drawn, torch.float64), set())
        except Exception:  # code may insist on a data type
            return faults
        finally:
            cut.restore()
        return self._repeat(again) if again.is_finite() else faults

    # The dense network

    def _passes(self) -> Iterator[_Pass]:
        """Passes of the dense network, each made when it is asked for."""
        example, noise = self._candidates
        last = None
        for candidates, drawn in (([example], False), ([noise, example], True)):
            for last in self._passes_that_show(candidates, drawn):
                yield last
        made = None
        with contextlib.suppress(Exception):  # such as a batch norm that is given a single value
            made = self._pass_of_training(last) if last is not None else None
        if made is not None:
            yield made

    def _passes_that_show(self, candidates: Sequence[Any], drawn: bool) -> Iterator[_Pass]:
        """Try the candidates in turn, until a pass has reached every layer that reads removed channels.

        Yields:
            All passes that could be made: those that reach less, as where the data decide which way they go, are of use
            all the same.
        """
        reached: set[str] = set()
        reason, silent = "", list(self._readers)
        for inputs in candidates:
            try:
                made = self._run_as_wide_as_possible(inputs, drawn, reached)
            except Exception as error:  # The network may refuse random inputs in any way.
                reason = f"{type(error).__name__}: {error}"
                continue
            if not made.is_finite():
                if not drawn:
                    _check_finite(self._model, inputs)
                reason = "not all that is computed is finite"
                continue
            reason = ""
            yield made
            silent = [name for name in self._readers if name not in reached]
            if not silent or not drawn:  # an example of silence is no fault of the network
                return
        what = f"it cannot be shown to be right on {'noise' if drawn else 'the example input'}: "
        if reason:
            raise TrialFailedError(Fault(what + reason))
        faults = []
        for name in silent:
            near = touching(self._removals, [name])
            faults.append(Fault(f"{what}{name}, which reads it, was given nothing but zeros", near, len(near) == 1))
        raise TrialFailedError(*faults)

    def _run_as_wide_as_possible(self, inputs: Any, drawn: bool, reached: set[str]) -> _Pass:
        wide = _Pass(inputs, drawn, self._width if drawn else torch.float32)
        # Code that insists on a data type fails in any way; as it stands it ran before.
        for made in (dataclasses.replace(wide, lean=True), wide) if drawn else (wide,):
            with contextlib.suppress(Exception):
                return self._record(dataclasses.replace(made, calls={}, called=[]), reached)
        return self._record(_Pass(inputs, drawn, _OWN), reached)

    def _pass_of_training(self, last: _Pass) -> _Pass | None:
        """The last of the passes in training mode; ``None`` where that gives no finite numbers."""
        traced = set(self._graph.called)
        untraced: list[str] = []
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: untraced.append(name))
            for name, module in self._model.named_modules()
            if is_layer(module) and name not in traced
        ]
        try:
            made = self._record(_Pass(last.inputs, last.drawn, last.width, training=True, lean=last.lean), set())
        finally:
            for handle in handles:
                handle.remove()
        if not all(bool(tensor.isfinite().all()) for tensor in made.outputs):
            return None
        if untraced:
            with contextlib.suppress(Exception):  # only needed to tell which removal is at fault
                self._find_feeders(last, untraced)
        return made

    def _find_feeders(self, like: _Pass, readers: Sequence[str]) -> None:
        """Which removals reach layers that no trace has seen, because only training mode calls them."""
        values = self._masked_values(dataclasses.replace(like, lean=False))
        values |= {key: tensor.detach() for key, tensor in self._model.named_parameters() if key not in values}
        values = {
            key: value.clone() if key.endswith(STATISTICS) else value.requires_grad_(value.is_floating_point())
            for key, value in values.items()
        }
        with unchanged(self._model), torch.enable_grad(), same_random_state(), eager():
            self._model.train()
            fed = layers_before(
                self._model,
                readers,
                lambda: torch.func.functional_call(self._model, values, *_call_of(like)),
            )
        for name, sources in fed.items():
            near = [number for number, removal in enumerate(self._removals) if sources & set(removal.outputs)]
            self._fed[name] = frozenset(near)

    def _masked_values(self, made: _Pass) -> dict[str, Tensor]:
        values = self._values(made)
        for name, reader in self._readers.items():
            if made.drawn and name in self._plain.layers:
                continue  # noise stands in for it
            for key in _input_weights(name, reader):
                weight = values[key] if key in values else self._model.get_parameter(key)
                values[key] = _masked(reader, weight, self._inputs[name])
        return values

    def _values(self, made: _Pass, *, cut: bool = False) -> dict[str, Tensor]:
        """What a pass computes with in place of the network's own tensors."""
        drawn: Mapping[str, Tensor] = (self._drawn_after if cut else self._drawn) if made.drawn else {}
        values = {}
        for name, tensor in (self._tensors_after if cut else self._tensors).items():
            if made.lean and name in self._unread:
                continue
            dtype = _widened(tensor.dtype, made.width)
            if name in drawn:
                values[name] = drawn[name].to(dtype)
            elif dtype != tensor.dtype:
                values[name] = tensor.detach().to(dtype)
        return values

    def _record(self, made: _Pass, reached: set[str]) -> _Pass:
        """Run the dense network, and fill ``made`` with what it computes; once more where that is drawn in part.

        Returns:
            ``made``, or one like it. The names of readers that are given anything but zeros are added to ``reached``.
        """
        self._run(made, reached)
        if made.random:
            # What is drawn for fewer channels is something else: it is the same number everywhere meanwhile.
            made = self._run(dataclasses.replace(made, still=True, calls={}, called=[], outputs=[]), reached)
            if made.random:  # in ways that cannot be held still
                again = dataclasses.replace(made, calls={}, called=[], outputs=[])
                made.compare(self._run(again, reached, seed=1))
        return made

    def _run(self, made: _Pass, reached: set[str], seed: int = 0) -> _Pass:
        left = _REMEMBERED

        def note(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            nonlocal left
            leaves = tree_leaves((args, kwargs)) if name in self._readers else []
            if any(bool(leaf.any()) for leaf in leaves if isinstance(leaf, Tensor)):
                reached.add(name)
            given = given_to(args, kwargs)
            if given is not None:
                given = without(given, self._lost[name], self._axis(name))
            whole = given is not None and given.numel() <= left
            if given is not None and not whole:
                given = sample(given)
            left -= given.numel() if whole and given is not None else 0
            tensors = float_tensors(output)
            if name in self._outputs:
                tensors = [without(tensor, self._outputs[name], self._axis(name)) for tensor in tensors]
            made.calls.setdefault(name, []).append(_Call(given, whole, [sample(tensor) for tensor in tensors]))
            made.called.append(name)

        values = self._masked_values(made)
        with self._ready(made, seed):
            states = _random_states()
            if made.drawn:
                self._plain.take_over(cut=False)
            else:
                self._plain.learn()
            self.norms.mask()
            for name, reader in self._watched.items():
                reader.register_forward_hook(lambda *call, name=name: note(name, *call), with_kwargs=True)
            made.outputs = float_tensors(self._compute(made, values))
            made.random = states != _random_states()
        return made

    # The cut network

    def _repeat(self, wanted: _Pass) -> list[Fault]:
        """Run the cut network as the dense one was run, and tell where it computes something else."""
        faults: list[Fault] = []
        finished: set[str] = set()
        waiting = {name: list(calls) for name, calls in wanted.calls.items()}

        def give(name: str, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not waiting.get(name):
                return None  # not so often in the dense network; the outputs tell
            call, given = waiting[name][0], given_to(args, kwargs)
            tolerance = wanted.tolerance if call.steady else math.inf
            if call.given is None or given is None:
                return None
            found = given if call.whole else sample(given)
            difference: Difference | None
            if found.shape != call.given.shape:
                difference = Difference(reason_of_shape(name, reader, args, kwargs))
            else:
                difference = compare([call.given], [found], f"the input of {name}", tolerance)
            if difference is not None:
                differing = None
                if call.whole and found.shape == call.given.shape:
                    kept = kept_channels(self._lost[name], found.shape[self._axis(name)])
                    differing = kept[differing_channels(call.given, found, self._axis(name))]
                near, certain = at_input(self._removals, name, self._graph.feeders(name), differing)
                faults.append(Fault(difference.reason, near, certain, difference.doubtful))
            if not call.whole:
                return None
            return ((call.given, *args[1:]), kwargs) if args else (args, {**kwargs, "input": call.given})

        def take(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            finished.add(name)
            if waiting.get(name):
                call = waiting[name].pop(0)
                found = [sample(one) for one in float_tensors(output)]
                difference = compare(call.computed, found, name, wanted.tolerance if call.steady else math.inf)
                if difference is not None and not faults:
                    near = touching(self._removals, [name])
                    faults.append(Fault(difference.reason, near, len(near) == 1, difference.doubtful))

        values = self._values(wanted, cut=True)
        try:
            with self._ready(wanted):
                if wanted.drawn:
                    self._plain.take_over(cut=True)
                for name, reader in self._watched.items():
                    reader.register_forward_pre_hook(lambda *call, name=name: give(name, *call), with_kwargs=True)
                    reader.register_forward_hook(lambda *call, name=name: take(name, *call))
                outputs = float_tensors(self._compute(wanted, values))
        except Exception as error:
            failing = failing_module(error, self._model)
            near = self._fed.get(failing or "", frozenset())
            certain = bool(near)
            if not near:
                near = at_failure(self._removals, self._model, error, wanted.called, finished)
            when = "in training mode the forward pass fails then: " if wanted.training else ""
            return faults or [Fault(f"it cannot be cut: {when}{type(error).__name__}: {error}", near, certain)]
        difference = compare(wanted.outputs, outputs, OUTPUT, wanted.tolerance if wanted.steady else math.inf)
        return faults or ([] if difference is None else [Fault(difference.reason, doubtful=difference.doubtful)])

    def _cut_drawn(self, replacements: Sequence[Replacement]) -> None:
        for replacement in replacements:
            name = self._names.pop(id(replacement.old))
            self._names[id(replacement.new)] = name
            if name in self._drawn_after:
                self._drawn_after[name] = slices(self._drawn_after[name], replacement.kept, replacement.dim)
        for name, idxs in self._outputs.items():
            for statistic in STATISTICS:
                key = f"{name}.{statistic}" if name else statistic
                if key in self._drawn_after:
                    self._drawn_after[key] = without(self._drawn_after[key], idxs, 0)

    # Both

    def _axis(self, name: str) -> int:
        """The axis that counts channels of what a layer or norm is given and returns."""
        axis = self.norms.axis(name)
        return channel_axis(self._watched[name]) if axis is None else axis

    @contextlib.contextmanager
    def _ready(self, wanted: _Pass, seed: int = 0) -> Iterator[None]:
        mode = contextlib.nullcontext() if wanted.training else evaluating(self._model)
        stillness: Any = Still() if wanted.still else contextlib.nullcontext()
        with unchanged(self._model), mode, torch.no_grad(), same_random_state(seed), eager(), stillness:
            if wanted.training:
                self._model.train()
                for module in self._model.modules():
                    if type(module).__module__ == nn.modules.dropout.__name__:
                        module.eval()  # what PyTorch's own dropout does is known, and what is drawn takes three passes
            yield

    def _compute(self, wanted: _Pass, values: dict[str, Tensor]) -> Any:
        if wanted.training:
            values = {name: value.clone() if name.endswith(STATISTICS) else value for name, value in values.items()}
        args, kwargs = _call_of(wanted)
        return torch.func.functional_call(self._model, values, args, kwargs)


def _equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(*pair) for pair in zip(some, others, strict=True))


def _call_of(wanted: _Pass) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return as_call(tree_map(lambda leaf: _to_width(leaf, wanted.width), wanted.inputs))


def _random_states() -> tuple[Any, ...]:
    """Where the generators stand that code of a network may draw from."""
    of_numpy: Any = np.random.get_state()  # noqa: NPY002 - it is the user's code that may draw from it
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), of_numpy[1].tobytes(), of_numpy[2:]


def _merged(parts: Sequence[Any]) -> dict[str, list[int]]:
    return {name: sorted({idx for part in parts for idx in part.get(name, ())}) for part in parts for name in part}


def _widened(dtype: torch.dtype, width: torch.dtype) -> torch.dtype:
    return width if dtype in _NARROWER.get(width, ()) else dtype


def _to_width(leaf: Any, width: torch.dtype) -> Any:
    return leaf.to(_widened(leaf.dtype, width)) if isinstance(leaf, Tensor) else leaf


def _check_finite(model: nn.Module, example_inputs: Any) -> None:
    """Say where it comes from that a forward pass does not give finite numbers, where that can be told."""
    if not all(_is_finite(leaf) for leaf in tree_leaves(example_inputs)):
        raise ValueError(
            "`apply_plan(example_inputs=...)`: expected finite numbers, found NaN or infinity. Pass a sample that the "
            "network could be trained on, or noise of its shape."
        )
    for name, tensor in tensors_of(model).items():
        if not _is_finite(tensor):
            raise ValueError(
                f"`apply_plan(model=...)`: expected finite numbers in {name}, found NaN or infinity in "
                f"{int((~tensor.isfinite()).sum())} of {tensor.numel()}, so that the network computes nothing that a "
                "cut could be compared with. Training has diverged, or the checkpoint is damaged."
            )


def _is_finite(leaf: Any) -> bool:
    return not isinstance(leaf, Tensor) or bool(leaf.isfinite().all())


# Layers that read channels


def _input_weights(name: str, reader: nn.Module) -> list[str]:
    """Full names of the weights that multiply what ``reader`` reads."""
    keys = (
        [key for key in reader._parameters if key.startswith("weight_ih_l0")]
        if isinstance(reader, nn.RNNBase)
        else ["weight"]
    )
    return [f"{name}.{key}" if name else key for key in keys]


def _masked(reader: Any, weight: Tensor, idxs: Sequence[int]) -> Tensor:
    """The weight that multiplies input channels ``idxs`` by zero."""
    groups, axis = (
        (reader.groups, int(not reader.transposed)) if isinstance(reader, nn.modules.conv._ConvNd) else (1, 1)
    )
    keep = torch.ones(weight.shape[axis] * (groups if axis else 1), dtype=weight.dtype, device=weight.device)
    keep[torch.tensor(idxs, dtype=torch.long, device=weight.device)] = 0
    if not axis:
        return weight.detach() * keep.view(-1, *[1] * (weight.ndim - 1))
    blocks = weight.detach().unflatten(0, (groups, -1))  # each block of filters reads its own channels
    masked: Tensor = (blocks * keep.view(groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)
    return masked
