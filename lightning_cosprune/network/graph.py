"""Torch-Pruning's graph of a network, made so that a step it fails at costs that step alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import index_mapping, shape_infer

__all__ = ["DependencyGraph"]


class DependencyGraph(tp.DependencyGraph):  # type: ignore[misc]
    """Which layer reads which.

    Attributes:
        troubles: Node of a step whose channels could not be worked out -> what went wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self.troubles: dict[Any, str] = {}

    def register(self, kind: Any, pruner: Any) -> None:
        """Let ``pruner`` cut all layers of a kind that Torch-Pruning knows."""
        self.REGISTERED_PRUNERS[kind] = pruner
        self._in_channel_pruning_fn.add(pruner.prune_in_channels)
        self._out_channel_pruning_fn.add(pruner.prune_out_channels)

    def build(
        self,
        model: nn.Module,
        inputs: Any,
        forward: Callable[..., Any],
        pruners: Mapping[type[nn.Module], Any],
    ) -> None:
        """What ``build_dependency`` does, with each step worked out by itself.

        Args:
            model: The network.
            inputs: What ``forward`` is given beside it.
            forward: Returns the tensors that the graph ends in.
            pruners: Class of modules -> what cuts them.
        """
        self.verbose, self.model = False, model
        self.ignored_params: list[nn.Parameter] = []
        self._module2name = {module: name for name, module in model.named_modules()}
        for kind, pruner in pruners.items():
            self.register_customized_layer(kind, pruner)
            for module in model.modules():
                if isinstance(module, kind):
                    self.IGNORED_LAYERS_IN_TRACING += [part for part in module.modules() if part is not module]
        self._param_to_name, self.unwrapped_parameters = self._detect_unwrapped_parameters(None)
        self.module2node = self._trace(model, inputs, forward, output_transform=None)
        self._build_dependency(self.module2node)
        for work_out in (shape_infer.init_shape_information, index_mapping.update_index_mapping):
            self._one_by_one(work_out)

    def _one_by_one(self, work_out: Callable[[Any], None]) -> None:
        nodes = self.module2node
        try:
            for module, node in nodes.items():
                self.module2node = {module: node}
                try:
                    work_out(self)
                except Exception as error:  # Torch-Pruning may fail in any way
                    self.troubles[node] = f"{type(error).__name__}: {error}"
        finally:
            self.module2node = nodes

    def settle(self) -> None:
        """Let go of autograd's graph, and with it of all that the pass computed; steps keep their names."""
        for node in self.module2node.values():
            name = getattr(node.grad_fn, "name", None)
            node.grad_fn = None if name is None else name()
            if isinstance(node.module, tp.ops._SliceOp):
                node.module.grad_fn = None
