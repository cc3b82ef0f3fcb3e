"""Which modules a forward pass calls, and what it says of those whose place in the network no graph shows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from lightning_cosprune.network.layers import is_layer

__all__ = ["Calls", "layers_before"]


class Calls:
    """What was called in one forward pass with gradients: layers, and parts whose weights cannot be cut."""

    def __init__(self) -> None:
        self._layers: dict[nn.Module, set[Node]] = {}
        self._seen: dict[nn.Module, bool] = {}
        self._sealed: dict[nn.Module, set[Node]] = {}

    def listen(self, model: nn.Module) -> None:
        """Change ``model`` in place: its calls are noted; its owner puts it back as it was."""
        within: set[nn.Module] = set()
        for module in model.modules():
            if module not in within and _sealed_as(module) is not None:
                within.update(module.modules())
                # Scripted modules take no hooks.
                vars(module)["forward"] = functools.partial(self._run_sealed, module, module.forward)
            elif is_layer(module):
                module.register_forward_hook(self._note_layer)

    @property
    def layers(self) -> list[nn.Module]:
        """Convolutions and linear layers, in the order of their first calls."""
        return list(self._seen)

    def settle(self) -> None:
        """Let go of autograd's graph where it is not needed any more."""
        self._seen = {layer: bool(nodes) for layer, nodes in self._layers.items()}
        if not self._sealed:
            self._layers.clear()

    def why_untraced(self, layer: nn.Module) -> str:
        """Why no output of the network is known to depend on ``layer``."""
        if self._seen.get(layer) is False:
            return "called without gradients, as under `torch.no_grad()`, so that who reads it cannot be told"
        if layer in self._seen:
            return "it runs, but nothing reads what it computes"
        return "not reached by the example input's forward pass"

    def read_by_sealed(self, layer: nn.Module, names: Mapping[nn.Module, str]) -> str | None:
        """The part that reads ``layer``, with other layers neither before nor between, and whose weights cannot be cut.

        Returns:
            A reason to keep all filters; ``None`` where there is no such part.
        """
        if not self._sealed:
            return None
        own = self._layers.get(layer, set())
        others = set().union(*self._layers.values()) - own
        for part, inputs in self._sealed.items():
            waiting, seen = list(inputs), set(others)
            while waiting:
                node = waiting.pop()
                if node in own:
                    return f"read by {names[part]}, {_sealed_as(part)}, whose weights cannot be cut"
                if node not in seen:
                    seen.add(node)
                    waiting += [source for source, _ in node.next_functions if source is not None]
        return None

    def _note_layer(self, layer: nn.Module, _: Any, output: Any) -> None:
        self._layers.setdefault(layer, set()).update(_nodes(output))

    def _run_sealed(self, part: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._sealed.setdefault(part, set()).update(_nodes((args, kwargs)))
        return forward(*args, **kwargs)


def layers_before(model: nn.Module, readers: Iterable[str], run: Callable[[], Any]) -> dict[str, set[str]]:
    """Whose outputs some modules are given, with no other layer in between.

    Args:
        model: The network; hooks stay on it, for its owner to remove.
        readers: Names of the modules.
        run: Runs the network with gradients.

    Returns:
        Name of a module -> names of layers.
    """
    made: dict[Node, str] = {}
    given: dict[str, set[Node]] = {name: set() for name in readers}
    for name, module in model.named_modules():
        if name in given:
            module.register_forward_pre_hook(lambda _, args, name=name: given[name].update(_nodes(args)))
        if is_layer(module):

            def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                made.update(dict.fromkeys(_nodes(output), name))

            module.register_forward_hook(note)
    outputs = run()  # keeps the nodes alive
    found: dict[str, set[str]] = {}
    for name, nodes in given.items():
        waiting, seen = list(nodes), set(nodes)
        sources = found.setdefault(name, set())
        while waiting:
            node = waiting.pop()
            if node in made:
                sources.add(made[node])
                continue
            fresh = {source for source, _ in node.next_functions if source is not None and source not in seen}
            seen |= fresh
            waiting += fresh
    del outputs
    return found


def _nodes(tensors: Any) -> set[Node]:
    return {leaf.grad_fn for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor) and leaf.grad_fn is not None}


def _sealed_as(module: nn.Module) -> str | None:
    """What a part is into which no graph of layers reaches, or ``None``."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module"
    home = type(module).__module__
    if ".quantized" in home and hasattr(module, "_packed_params"):
        return f"a quantized {type(module).__name__}"
    return None
