"""Knowledge distillation: a pruned network learns from what it was before, in any LightningModule."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_cosprune.arguments import names_in
from lightning_cosprune.models.distillation import as_evaluated, check_distillation, distillation_loss, in_modes
from lightning_cosprune.network.forward import as_call, float_tensors
from lightning_cosprune.network.structure import describe_structure, restore_structure
from lightning_cosprune.training.distributed import as_on_rank_zero
from lightning_cosprune.training.held_out import HeldOut, check_held_out
from lightning_cosprune.training.part import part_of
from lightning_cosprune.training.repair import dense_copy

__all__ = ["KnowledgeDistillation"]

_CALLER = "KnowledgeDistillation"
_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class KnowledgeDistillation(Callback):
    r"""Let a pruned network learn from the dense one, without labels.

    The training loss becomes

    .. math:: (1 - \alpha) \, L_{task} + \alpha \, \| s(x) - t(x) \|^2 / K

    with :math:`s(x)` the network's K outputs and :math:`t(x)` those of a frozen copy of the dense network. With
    ``alpha=1`` the module's own ``training_step`` is not called: labels are not looked at, and what it would log is not
    logged. Logged are ``distillation_loss`` and, with ``held_out``, ``distillation_loss_held_out``.

    The teacher is a copy of the network as it was at the end of the epoch before the first prune, and distillation
    begins with that prune, whichever callback comes first in the Trainer. With a ``teacher`` it begins at once; a
    network that was pruned before the fit needs that. The teacher is no part of the LightningModule: no optimizer,
    average or ``state_dict`` holds it. A copy stands in checkpoints among this callback's own state, because nothing
    else could resume the run; a ``teacher`` does not, and is passed again.

    Measured after :func:`refit_least_squares`, on the same 80 clips, as the squared distance from the dense outputs on
    160 other training clips (``DCASE2021Baseline``, ESC-10, two folds, one seed, 74 and 89 % of the MACs removed, Adam,
    batches of 16, ten epochs). What spoils a repaired network is dropout, and batch norms that follow the batches: with
    either of them it ends 2 to 19 times as far, at 1e-4 already. Without both, 1e-4, or one-cycle steps up to 3e-4,
    bring it nearer, by 6 to 18 %; a constant 1e-3 first leads 3 to 18 times as far.

    Args:
        teacher: The dense network; it takes the inputs that the student takes. A copy of it is used.
        alpha: The teacher's share of the loss, in (0, 1].
        temperature: Of the divergence of softmax outputs; the squared error of the outputs where ``None``.
        module: Name of the attribute of the LightningModule that learns, such as ``"network"``; the LightningModule
            itself where ``None``. Its inputs are those of its calls in ``training_step``, or with ``alpha=1`` what
            :meth:`inputs_of` finds in a batch.
        batch_norm: ``"frozen"`` keeps the running statistics and normalises by them while training, ``"training"`` does
            as ever. Scales and shifts are trained in both.
        dropout: Whether the student drops units while training.
        frozen: Names or ``fnmatch`` patterns of submodules of the student whose parameters stay as they are.
        held_out: Inputs on which the loss is measured at the end of each epoch and before the first step: an iterable
            of them, or ``"validation"`` for the validation data, whose labels are not looked at. Take them from the
            training data, never from the test data. The best weights are put back when training ends; where averaged
            weights are what remains of the run, leave it out.
        patience: Epochs without a better one after which training stops, with ``held_out``.

    Raises:
        ValueError: An argument is out of range, or the LightningModule or the strategy cannot be served.

    Source: Hinton, Vinyals and Dean, 2015; Ba and Caruana, NeurIPS 2014.

    Example:
        >>> from lightning_cosprune import CosineFilterPruning
        >>> callbacks = [CosineFilterPruning(repair="least_squares", calibration=80), KnowledgeDistillation()]
        >>> callbacks[1]
        KnowledgeDistillation(teacher=None, alpha=1.0, temperature=None)
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        alpha: float = 1.0,
        temperature: float | None = None,
        *,
        module: str | None = None,
        batch_norm: Literal["frozen", "training"] = "frozen",
        dropout: bool = False,
        frozen: Sequence[str] = (),
        held_out: Literal["validation"] | Iterable[Any] | None = None,
        patience: int = 3,
    ) -> None:
        check_distillation(_CALLER, alpha, temperature, batch_norm)
        check_held_out(held_out, patience)
        if teacher is not None and not isinstance(teacher, nn.Module):
            raise TypeError(
                f"`{_CALLER}(teacher=...)`: expected a network, found {type(teacher).__name__}. Load it first, such as "
                "by `load_pruned(Network, path)`."
            )
        self.teacher = teacher
        self.alpha = alpha
        self.temperature = temperature
        self.module = module
        self.batch_norm = batch_norm
        self.dropout = dropout
        patterns = (frozen,) if isinstance(frozen, str) else frozen
        self.frozen = names_in(patterns, f"`{_CALLER}(frozen={{}})`", "names or patterns of submodules")
        self._held_out = None if held_out is None else HeldOut(held_out, patience)
        self._copy: nn.Module | None = None
        self._begun = False
        self._digest = ""
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._modes: dict[nn.Module, bool] = {}
        self._resumed: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        teacher = None if self.teacher is None else type(self.teacher).__name__
        return f"KnowledgeDistillation(teacher={teacher}, alpha={self.alpha!r}, temperature={self.temperature!r})"

    def inputs_of(self, batch: Any) -> Any:
        """What the student is given of a training batch with ``alpha=1``; override it for batches of your own kind.

        Returns:
            By default the batch, or its first entry. A tuple is taken as positional, a mapping as keyword arguments.

        Raises:
            ValueError: Neither is a tensor.
        """
        first = batch[0] if isinstance(batch, Sequence) and not isinstance(batch, str) and batch else batch
        if isinstance(first, Tensor):
            return first
        raise ValueError(
            f"`{_CALLER}(alpha=1)`: expected training batches that are a tensor or start with one, found "
            f"{type(first).__name__}. Override `inputs_of`, which says what of a batch the student is given."
        )

    # When

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would go wrong; note how large the network is before a checkpoint is loaded."""
        if stage != "fit":
            return
        _check_served(trainer, pl_module)
        student = part_of(pl_module, self.module, _CALLER)
        _parameters_of(student, self.frozen)
        self._resumed = None
        if trainer.current_epoch == 0:  # a new run, or one whose state comes with its checkpoint, later
            self._copy, self._begun, self._digest = None, False, ""
            if self._held_out:
                self._held_out.forget()
        self._shapes = _shapes(student)
        if self._copy is None and self.teacher is not None:
            self._copy = dense_copy(self.teacher, trainer)
            self._digest = _digest(self._copy.state_dict())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the teacher: the given one, the one of the run that is resumed, or the network as it is now."""
        resumed, self._resumed = self._resumed or {}, None
        student = part_of(pl_module, self.module, _CALLER)
        if resumed and self._held_out and resumed["held_out"]:
            self._held_out.load_state_dict(resumed["held_out"])
        stored = resumed.get("dense")
        expected = _digest(stored) if stored else resumed.get("digest")
        if self.teacher is not None:
            if expected and expected != self._digest:
                raise ValueError(
                    f"`{_CALLER}(teacher=...)` of a resumed run: expected the teacher that the run began with, found "
                    "other weights. Pass the dense network, as it was before it was pruned."
                )
        elif stored:
            self._copy = dense_copy(student, trainer)
            restore_structure(self._copy, stored, resumed["structure"])
            self._copy.load_state_dict(stored)
            self._begun = True
        elif not self._begun:
            now = _shapes(student)
            if resumed.get("digest") or any(now.get(name, shape) != shape for name, shape in self._shapes.items()):
                raise ValueError(
                    f"`{_CALLER}(teacher=None)` of a resumed run: expected a checkpoint from before the first prune, "
                    "or one that holds a copy of the dense network, found a pruned network without one. It would "
                    "learn from itself. Pass the dense network as `teacher`."
                )
            self._copy = dense_copy(student, trainer)
        assert self._copy is not None
        trainer.precision_plugin.convert_module(self._copy.to(pl_module.device)).eval().requires_grad_(False)
        # Processes may have read it from different places, and round differently.
        as_on_rank_zero(trainer, [*self._copy.parameters(), *self._copy.buffers()])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on what is held out; before the first prune, keep up with the network."""
        student = part_of(pl_module, self.module, _CALLER)
        if not self._begun:
            if self.teacher is None:
                self._keep_up(student)
        elif self._held_out:
            pl_module.log("distillation_loss_held_out", self._look(trainer, pl_module), prog_bar=True)
            if self._held_out.epochs_since >= self._held_out.patience:
                trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Begin with the first batch after the first prune; run the student as the teacher is run."""
        student = part_of(pl_module, self.module, _CALLER)
        if not self._begun:
            self._begun = self.teacher is not None or _shapes(student) != _shapes(self._copy)
            if not self._begun:
                return
        if self._held_out and not self._held_out.fits(student):
            self._held_out.forget()  # a later prune made another network
            first = self._look(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics({"distillation_loss_held_out": first}, step=trainer.global_step)
        _lend_step(pl_module, self)
        if not self._modes:  # until after the backward pass, which may run parts of the network again
            self._modes = as_evaluated(student, self.batch_norm, self.dropout)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take away the gradients of what stays frozen: the optimizer passes over it, the processes stay in step."""
        if self._begun:
            for parameter in _parameters_of(part_of(pl_module, self.module, _CALLER), self.frozen):
                parameter.grad = None

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Give the student its modes back."""
        in_modes(self._modes)
        self._modes = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        if not self._begun and self.teacher is None:
            rank_zero_warn(
                f"`{_CALLER}(teacher=None)`: expected a prune during training, found none until epoch "
                f"{trainer.current_epoch}; nothing was distilled. A network that was pruned before needs the dense one "
                "as `teacher`."
            )
        elif self._begun and self._held_out:
            self._held_out.put_back(part_of(pl_module, self.module, _CALLER))
            rank_zero_info(f"Put back the weights with the smallest held-out loss, {self._held_out.loss:.4g}.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Leave the module as it was found."""
        self._leave(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Leave the module as it was found, and the accelerator's memory to others."""
        self._leave(pl_module)
        if self._copy is not None:
            self._copy.cpu()

    # What

    def loss_of_batch(self, pl_module: LightningModule, own: Callable[..., Any], *args: Any) -> Any:
        """What the module's ``training_step`` returns while it learns from the teacher.

        Args:
            pl_module: The module.
            own: Its own ``training_step``.
            *args: The batch, and its number where ``own`` takes that.

        Returns:
            The loss, or what ``own`` returns with the loss in its place.

        Raises:
            ValueError: ``own`` did not run the student, or returned no loss.
        """
        student = part_of(pl_module, self.module, _CALLER)
        if self.alpha == 1:
            found, loss = None, self._distance(student, self.inputs_of(args[0]))
        else:
            calls: list[tuple[Any, Any, Any]] = []
            hook = student.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)
            try:
                found = own(*args)
            finally:
                hook.remove()
            if found is None:
                return None
            if not calls:
                name = "self" if self.module is None else f"self.{self.module}"
                raise ValueError(
                    f"`{_CALLER}(alpha={self.alpha!r}, module={self.module!r})`: expected `training_step` to call "
                    f"`{name}(...)`, found no call. Name the part that it calls in `module`, or call `{name}(...)` "
                    f"instead of `{name}.forward(...)`."
                )
            loss = torch.stack([self._compare(outputs, *given) for *given, outputs in calls]).mean()
        pl_module.log("distillation_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
        if found is None:
            return loss
        task = found["loss"] if isinstance(found, Mapping) else found
        total = (1 - self.alpha) * task + self.alpha * loss
        return {**found, "loss": total} if isinstance(found, Mapping) else total

    def _distance(self, student: nn.Module, inputs: Any) -> Tensor:
        args, kwargs = as_call(inputs)
        return self._compare(student(*args, **kwargs), args, kwargs)

    def _compare(self, outputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The mean over all floating-point outputs."""
        assert self._copy is not None
        with torch.no_grad():
            wanted = float_tensors(self._copy(*args, **kwargs))
        pairs = zip(float_tensors(outputs), wanted, strict=True)
        return torch.stack([distillation_loss(one, other, self.temperature) for one, other in pairs]).mean()

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> float:
        assert self._held_out is not None
        student = part_of(pl_module, self.module, _CALLER)
        return self._held_out.look(trainer, student, functools.partial(self._distance, student))

    @torch.no_grad()
    def _keep_up(self, student: nn.Module) -> None:
        assert self._copy is not None
        if _shapes(student) == _shapes(self._copy):
            self._copy.load_state_dict(student.state_dict())

    def _leave(self, pl_module: LightningModule) -> None:
        in_modes(self._modes)
        self._modes = {}
        _take_step_back(pl_module)

    # What is remembered

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know.

        Returns:
            Plain values and tensors: of a given teacher only what tells it from others, of a copy its weights.
        """
        kept = self._begun and self.teacher is None and self._copy is not None
        return {
            "digest": self._digest,
            "dense": dict(self._copy.state_dict()) if kept and self._copy else None,
            "structure": describe_structure(self._copy) if kept and self._copy else None,
            "held_out": self._held_out.state_dict() if self._held_out else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` wrote, when the fit starts."""
        self._resumed = state_dict


class _Step:
    """A module's ``training_step`` while it learns; copies and pickles of the module get their own one back."""

    def __init__(
        self, module: LightningModule, own: Callable[..., Any] | None, callback: KnowledgeDistillation
    ) -> None:
        self.module, self.own, self.callback = module, own, callback

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """Where Lightning looks for what the step takes."""
        return self.own or functools.partial(type(self.module).training_step, self.module)

    def __call__(self, *args: Any) -> Any:
        return self.callback.loss_of_batch(self.module, self.__wrapped__, *args)

    def __reduce__(self) -> Any:
        return functools.partial, (_own_step, self.module, self.own)


def _own_step(module: LightningModule, own: Callable[..., Any] | None, *args: Any) -> Any:
    return own(*args) if own else type(module).training_step(module, *args)


def _lend_step(module: LightningModule, callback: KnowledgeDistillation) -> None:
    """Change ``module`` in place: its ``training_step`` is the callback's, within the strategy's forward pass."""
    own = vars(module).get("training_step")
    if not isinstance(own, _Step):
        module.training_step = _Step(module, own, callback)  # type: ignore[method-assign]


def _take_step_back(module: LightningModule) -> None:
    lent = vars(module).get("training_step")
    if isinstance(lent, _Step):
        del module.training_step
        if lent.own is not None:
            module.training_step = lent.own  # type: ignore[method-assign]


def _check_served(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse what the loss cannot be put into.

    Raises:
        ValueError: With the reason and the next step.
    """
    name = type(pl_module).__name__
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"`{_CALLER}` with {name}: expected automatic optimization, found `automatic_optimization=False`, where "
            "`training_step` itself makes the gradients. Add "
            "`lightning_cosprune.models.distillation.distillation_loss` to its loss instead."
        )
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(
            f"`{_CALLER}` with {name}: expected `training_step(batch, batch_idx)`, found one that takes a "
            "`dataloader_iter`. Let it take the batch."
        )
    strategy = type(trainer.strategy).__name__
    if strategy in _SHARDING:
        raise ValueError(
            f"`{_CALLER}` with {strategy}: expected a strategy that keeps the network whole on every process, found "
            'one that shards it. Use `strategy="ddp"` or one process.'
        )


def _parameters_of(student: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of the submodules with these names.

    Raises:
        ValueError: A pattern matches none.

    Returns:
        Each parameter, once or more often.
    """
    found: list[nn.Parameter] = []
    for pattern in patterns:
        matched = [module for name, module in student.named_modules() if name and fnmatchcase(name, pattern)]
        if not matched:
            names = ", ".join(name for name, _ in student.named_modules() if name)
            raise ValueError(
                f"`{_CALLER}(frozen=...)`: expected names, or patterns of the names, of submodules of "
                f"{type(student).__name__}, found {pattern!r}, which matches none of: {names:.500}."
            )
        found += [parameter for module in matched for parameter in module.parameters()]
    return found


def _shapes(network: nn.Module | None) -> dict[str, tuple[int, ...]]:
    return {} if network is None else {name: tuple(one.shape) for name, one in network.named_parameters()}


def _digest(state: Mapping[str, Tensor]) -> str:
    """Names and values in a few characters."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
