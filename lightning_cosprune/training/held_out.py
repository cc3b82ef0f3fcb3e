"""Held-out inputs: when training on few clips has gone too far, and which weights were the best on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_cosprune.arguments import as_whole
from lightning_cosprune.calibration.batches import as_batches, num_samples
from lightning_cosprune.network.forward import evaluating, same_random_state
from lightning_cosprune.training.example_input import input_of, to_device

__all__ = ["HeldOut", "check_held_out"]

_CALLER = "KnowledgeDistillation"


def check_held_out(held_out: Any, patience: Any) -> None:
    """Refuse what are no inputs, as far as can be told without reading them.

    Raises:
        ValueError: With what was found and what to write instead.
    """
    refused = (
        isinstance(held_out, (Tensor, Mapping, nn.Module, bytes, type))
        or getattr(held_out, "shape", None) == ()
        or not isinstance(held_out, Iterable)
    )
    word = isinstance(held_out, str)
    if held_out is not None and (word or refused) and not (word and held_out == "validation"):
        found = f"a tensor of shape {tuple(held_out.shape)}" if isinstance(held_out, Tensor) else repr(held_out)
        raise ValueError(
            f'`{_CALLER}(held_out=...)`: expected None, "validation" or an iterable of inputs, one a forward pass, '
            f"found {found}. Write `[inputs]` for a single batch."
        )
    epochs = as_whole(patience)
    if epochs is None or epochs < 1:
        raise ValueError(
            f"`{_CALLER}(patience={patience!r})`: expected a number of epochs, 1 or more. Write 3 to stop after three "
            "epochs without a better one."
        )


class HeldOut:
    """The weights with the smallest loss on held-out inputs so far, and how many epochs ago that was.

    Args:
        inputs: ``"validation"`` for the Trainer's validation data, without their labels, or an iterable of inputs.
        patience: Epochs without a smaller loss after which training has gone too far.
    """

    def __init__(self, inputs: Literal["validation"] | Iterable[Any], patience: int) -> None:
        self._inputs = inputs if isinstance(inputs, str) else as_batches(inputs, _CALLER, "held_out")
        self.patience = patience
        self.forget()

    def forget(self) -> None:
        """Start anew, for another network."""
        self.loss = math.inf
        self.epochs_since = 0
        self.weights: dict[str, Tensor] = {}

    def fits(self, student: nn.Module) -> bool:
        """Whether the best weights are of a network of this size; not so where there are none, or since a prune."""
        state = student.state_dict()
        return bool(self.weights) and all(state[name].shape == tensor.shape for name, tensor in self.weights.items())

    def look(self, trainer: Trainer, student: nn.Module, distance: Callable[[Any], Tensor]) -> float:
        """Measure ``student`` as it is, in evaluation mode; its weights are kept if they are the best so far.

        Args:
            trainer: Its precision, processes and validation data count.
            student: The network; left as it was found.
            distance: The loss for one entry of the inputs, which runs the network.

        Returns:
            The mean loss over all samples of all processes.
        """
        device = trainer.strategy.root_device
        sums = torch.zeros(2, device=device)
        with (
            evaluating(student),
            torch.no_grad(),
            same_random_state(),
            trainer.precision_plugin.val_step_context(),
        ):
            for inputs in self._read(trainer):
                samples = num_samples(inputs)
                sums += torch.stack([distance(inputs).float() * samples, torch.tensor(float(samples), device=device)])
        total, samples_seen = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        loss = float(total / max(samples_seen, 1.0))
        self.epochs_since += 1
        if loss < self.loss:
            self.loss, self.epochs_since = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
        return loss

    def put_back(self, student: nn.Module) -> None:
        """Change ``student`` in place: it has the best weights."""
        if self.fits(student):
            student.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know.

        Returns:
            Plain numbers and tensors.
        """
        return {"loss": self.loss, "epochs_since": self.epochs_since, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` wrote."""
        self.loss, self.epochs_since = state["loss"], state["epochs_since"]
        self.weights = dict(state["weights"])

    def _read(self, trainer: Trainer) -> Iterator[Any]:
        """The inputs, in the Trainer's precision and on the LightningModule's device.

        Raises:
            ValueError: There are no validation data.

        Yields:
            One entry a forward pass.
        """
        module = trainer.lightning_module
        if not isinstance(self._inputs, str):
            for entry in self._inputs:
                yield to_device(trainer.precision_plugin.convert_input(entry), module.device)
            return
        loaders = trainer.val_dataloaders
        if loaders is None:
            raise ValueError(
                f'`{_CALLER}(held_out="validation")`: expected validation data in the fit, found none. Split some off '
                "the training data, never off the test data, or pass a list of inputs."
            )
        stage = trainer.state.stage
        trainer.validating = True  # hooks that move batches are called as in validation
        try:
            for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
                for batch in loader:
                    moved = trainer.precision_plugin.convert_input(batch)
                    moved = module._on_before_batch_transfer(moved, dataloader_idx=0)
                    moved = trainer.strategy.batch_to_device(moved, dataloader_idx=0)
                    yield input_of(moved, f'{_CALLER}(held_out="validation")', "held_out")
        finally:
            trainer.state.stage = stage
