"""The callback: when a network is pruned during training. What happens then is the business of the other files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_cosprune.arguments import whole_number
from lightning_cosprune.network.layers import num_filters, prunable_layers
from lightning_cosprune.network.norms import check_normalising
from lightning_cosprune.network.structure import STRUCTURE, describe_structure
from lightning_cosprune.planning.choose import CRITERIA, plan_pruning
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.planning.ratios import check_counts, check_patterns, check_ratio, resolve_ratios
from lightning_cosprune.ranking.redundancy import check_criterion
from lightning_cosprune.repair.report import RepairReport
from lightning_cosprune.reports.recording import RecordingCallback, check_report
from lightning_cosprune.surgery.apply import apply_plan
from lightning_cosprune.surgery.optim import check_bound, check_optimizers
from lightning_cosprune.surgery.report import PruningReport
from lightning_cosprune.training.averages import averaged_parts, find_averages, prune_averages
from lightning_cosprune.training.budget import BudgetInSteps
from lightning_cosprune.training.calibration import calibration_batches, check_calibration
from lightning_cosprune.training.checkpoint import forget_structure, keep_structure
from lightning_cosprune.training.distributed import (
    check_strategy,
    decided_by_rank_zero,
    same_on_all_ranks,
    unwrapped,
)
from lightning_cosprune.training.example_input import find_example_inputs, to_device
from lightning_cosprune.training.monitors import forget_scores
from lightning_cosprune.training.outside import warning_of_readers_outside
from lightning_cosprune.training.part import part_of
from lightning_cosprune.training.repair import Repair, check_repair, dense_copy, in_a_line
from lightning_cosprune.training.schedule import parse_schedule
from lightning_cosprune.training.start import check_names, rehearse_plan
from lightning_cosprune.training.undo import as_before_on_failure

__all__ = ["CosineFilterPruning"]


class CosineFilterPruning(RecordingCallback):
    """Remove redundant filters at the start of an epoch; training goes on with the smaller network.

    At the start of each chosen epoch the filters of every convolution are ranked on the weights of that moment, removed
    together with all that belongs to them, and the optimizers are given the smaller parameters with the state of the
    filters that were kept. With ``repair`` the kept filters then say what the removed ones said, before training goes
    on. The costs before and after go to the Trainer's loggers, and a table to the console when training ends.

    Checkpoints hold the structure of the network, so that ``ckpt_path`` resumes, tests and predicts from before and
    after a prune; without the callback :func:`load_pruned` and :class:`PrunableMixin` read them.

    Args:
        pruning_ratio: How many filters go: ``"redundant"`` for as many as the published greedy rule calls redundant, a
            fraction in [0, 1) of every layer, or a mapping from layer name or ``fnmatch`` pattern to such a fraction.
        at_epoch: The epoch, counted from 0, at whose start the network is pruned; 0 prunes before the first epoch, that
            is before fine-tuning. A sequence prunes in steps, and so does a mapping such as ``{"start": 2, "stop": 10,
            "every": 2}``: a fraction is then reached step by step, counted from the dense network; ``"redundant"``
            applies the rule anew at each step.
        criterion: Which filters go first: ``"cosine"``, or a rival that :func:`plan_pruning` knows, or a callable.
        layers: Names or patterns of the layers to prune; all convolutions where ``None``.
        ignored_layers: Names or patterns of layers that keep all filters.
        round_to: The number of filters kept is rounded up to a multiple of this; a mapping from layer name or pattern
            gives some layers a multiple of their own.
        schedule: How a fraction is reached in steps: ``"linear"`` removes as much in each, ``"cubic"`` most in the
            first; see :class:`~lightning_cosprune.training.schedule.Schedule`.
        module: Name of the attribute of the LightningModule that is pruned, such as ``"student"``; the LightningModule
            itself where ``None``.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of what is pruned. Where
            ``None``, its ``example_input_array`` is used, else one sample of the training data.
        seed: Start of the draws of ``criterion="random"``.
        allow_unpruned: Go on where no filter at all can be removed, instead of raising an error.
        reset_scores: Let ``ModelCheckpoint`` and ``EarlyStopping`` forget at each prune what the larger network scored.
            Otherwise its checkpoint may stay "best". Files that were written stay, uncounted by ``save_top_k``.
        repair: What is done about the cut, in every step of a schedule, against the network before that cut:
            ``"least_squares"`` for :func:`refit_least_squares` on unlabelled training samples, ``"merge"`` for
            :func:`merge_removed` and ``"constant"`` for :func:`compensate_constants`, which need no data. Averaged
            copies are repaired alike. Optimizers keep their state: to drop it made the first steps worse and the last
            no better (recipes/benchmarks/optimizer_state.py).
        calibration: Unlabelled data for ``repair="least_squares"`` and ``criterion="response"``: a number of training
            samples, spread over all that the sampler may give, or an iterable of inputs, one entry a forward pass. The
            input of a training batch is the batch or its first entry; hooks that move batches are called as in
            validation, without what they augment in training only. Several processes share the data. With a limit
            they also tell what is lost with filters, where either of the two is chosen.
        max_macs: At most so many multiply-accumulates at ``example_inputs``, in place of ``pruning_ratio``: a number, a
            fraction of the dense network's, or a string such as ``"30 MMACs"``. In steps it is reached step by step.
        max_params: At most so many parameters, batch-norm statistics included.
        max_bytes: At most so many bytes of parameters, such as ``"128 kB"``.
        max_latency: At most this fraction of the time that the dense network takes, measured on this machine.
        budget: The limits of a challenge by its name, such as ``"dcase2025"``; see :func:`plan_pruning`.
        deployed_as: Data type that bytes are counted in, such as ``"int8"``; that of each tensor where ``None``.
        min_filters: No layer keeps fewer; a mapping likewise.
        normalising: Norms over channels of your own, as classes, names or patterns of names; see :func:`plan_pruning`.
        strict: Keep all filters in front of norms over channels, PyTorch's own included.
        report: Path of a page about the run, such as ``"report.html"``, written at the end of the fit and again after a
            test, with the same as ``report.json`` and ``report.csv`` beside it; it needs the extra ``viz``. A network
            that is fitted on one process, with validation data, is then also validated as cut, as repaired and, where
            that was not done before, as dense.

    Attributes:
        plans: The plan of each prune so far, also of those before the run was resumed from a checkpoint.
        reports: The report of each prune since the run was started or resumed.
        repairs: The report of each repair since then; a prune that removed nothing has none.

    Raises:
        ValueError: An argument is out of range.

    Source: Singh and Plumbley, INTERSPEECH 2022 and ICASSP 2023.

    Example:
        >>> callback = CosineFilterPruning(at_epoch=3)
        >>> callback
        CosineFilterPruning(pruning_ratio='redundant', at_epoch=3, criterion='cosine')
    """

    def __init__(
        self,
        pruning_ratio: float | Literal["redundant"] | dict[str, float] = "redundant",
        at_epoch: int | Sequence[int] | dict[str, int] = 0,
        criterion: str | Callable[..., Tensor] = "cosine",
        *,
        layers: Sequence[str] | None = None,
        ignored_layers: Sequence[str] = (),
        round_to: int | dict[str, int] = 1,
        schedule: Literal["linear", "cubic"] = "linear",
        module: str | None = None,
        example_inputs: Any = None,
        seed: int = 0,
        allow_unpruned: bool = False,
        reset_scores: bool = True,
        repair: Literal["least_squares", "merge", "constant"] | None = None,
        calibration: int | Iterable[Any] = 16,
        max_macs: float | str | None = None,
        max_params: float | str | None = None,
        max_bytes: float | str | None = None,
        max_latency: float | str | None = None,
        budget: str | None = None,
        deployed_as: str | None = None,
        min_filters: int | dict[str, int] = 1,
        normalising: Sequence[str | type[nn.Module]] = (),
        strict: bool = False,
        report: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_ratio(pruning_ratio, "CosineFilterPruning")
        check_criterion(criterion, CRITERIA)
        check_repair(repair, "CosineFilterPruning")
        # Every step of a schedule reads them anew.
        calibration = list(calibration) if isinstance(calibration, Iterator) else calibration
        calibration = check_calibration(calibration, "CosineFilterPruning")
        check_counts("round_to", round_to, "CosineFilterPruning")
        check_counts("min_filters", min_filters, "CosineFilterPruning")
        for parameter, patterns in (("layers", [] if layers is None else layers), ("ignored_layers", ignored_layers)):
            check_patterns(parameter, patterns)
        check_normalising(normalising, "CosineFilterPruning")
        seed = whole_number(seed, "`CosineFilterPruning(seed={})`", 0)
        self._budget = BudgetInSteps(
            "CosineFilterPruning",
            pruning_ratio,
            budget=budget,
            deployed_as=deployed_as,
            max_macs=max_macs,
            max_params=max_params,
            max_bytes=max_bytes,
            max_latency=max_latency,
        )
        check_report(report, "CosineFilterPruning")
        self._schedule = parse_schedule(at_epoch, schedule, "CosineFilterPruning")
        self.pruning_ratio = pruning_ratio
        self.at_epoch = at_epoch
        self.criterion = criterion
        self.layers = layers
        self.ignored_layers = ignored_layers
        self.round_to = round_to
        self.min_filters = min_filters
        self.normalising = normalising
        self.strict = strict
        self.module = module
        self.example_inputs = example_inputs
        self.seed = seed
        self.allow_unpruned = allow_unpruned
        self.reset_scores = reset_scores
        self.repair = repair
        self.calibration = calibration
        self.report = report
        self.plans: list[PruningPlan] = []
        self.reports: list[PruningReport] = []
        self.repairs: list[RepairReport] = []
        self._steps_done = 0
        self._dense_filters: dict[str, int] = {}
        self._refused: dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"CosineFilterPruning(pruning_ratio={self.pruning_ratio!r}, at_epoch={self.at_epoch!r}, "
            f"criterion={self.criterion!r})"
        )

    # When

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let checkpoints keep the structure; refuse what would go wrong, warn of a prune that would never come."""
        keep_structure(pl_module)
        if stage != "fit":
            return
        check_strategy(trainer, pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if any(cls.__name__ == "ModelPruning" for cls in type(callback).__mro__):
                raise ValueError(
                    f"`CosineFilterPruning` beside Lightning's `{type(callback).__name__}`: expected one of them, "
                    "because its masks do not fit filters that were removed. Take it out, or let it run on the pruned "
                    "network in a later fit."
                )
        if trainer.current_epoch == 0:
            # A new run, be it the second of this object; what a resumed one has done comes with its checkpoint, later.
            self._steps_done, self._dense_filters, self._refused = 0, {}, {}
            self._budget.load({})
            self.plans, self.reports, self.repairs = [], [], []
        last = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - 1
        late = [epoch for epoch in self._schedule.epochs if epoch > last]
        if late:
            rank_zero_warn(
                f"`CosineFilterPruning(at_epoch={self.at_epoch!r})`: expected epochs below "
                f"max_epochs={trainer.max_epochs}, found {late}. Nothing will be pruned then; epochs are counted from "
                "0. Lower `at_epoch` or raise `max_epochs`."
            )

    def should_prune(self, trainer: Trainer, pl_module: LightningModule) -> bool:  # noqa: ARG002
        """Whether a prune is due at the start of this epoch; override it for a rule of your own.

        A rule that looks at what was done should look at ``plans``, which a resumed run has too.

        Returns:
            By default, whether an epoch of ``at_epoch`` has come that was not dealt with.
        """
        return self._steps_due(trainer) > self._steps_done

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse names that no layer has and optimizers that cannot be cut, whenever the prune will be."""
        if self._steps_done < len(self._schedule.epochs):
            check_names(part_of(pl_module, self.module, "CosineFilterPruning"), self._settings)
            check_optimizers(trainer.optimizers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune if it is due; a run that resumes in the last batch of an epoch passes by ``on_train_epoch_start``."""
        self.start_recording(trainer, pl_module, self.report, vars(self))
        self._prune_if_due(trainer, pl_module)
        if not self._steps_done:
            self._rehearse(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune if it is due."""
        self._prune_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what was pruned, or say that nothing was."""
        if not self.plans:
            rank_zero_warn(
                f"`CosineFilterPruning(at_epoch={self.at_epoch!r})` removed nothing: training ended at epoch "
                f"{trainer.current_epoch}."
            )
        repairs = iter(self.repairs)
        for report in self.reports:
            rank_zero_info(str(report))
            if self.repair and report.layers:
                rank_zero_info(str(next(repairs)))
        self.finish_recording(trainer, pl_module)

    # What

    def _steps_due(self, trainer: Trainer) -> int:
        return self._schedule.steps_due(trainer.current_epoch)

    def _prune_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # One process's answer counts for all: a rule of one's own may look at what only that process has seen.
        if trainer.strategy.broadcast(self.should_prune(trainer, pl_module), 0):
            if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
                # A resumed run comes to `on_train_start` with the loader of the epoch before; else this does nothing.
                trainer.fit_loop.setup_data()
            self._prune(trainer, pl_module)
            self._steps_done = self._steps_due(trainer)

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("pruning_ratio", "layers", "ignored_layers", "round_to", "min_filters", "normalising", "strict")
        return {name: getattr(self, name) for name in names}

    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        target = part_of(pl_module, self.module, "CosineFilterPruning")
        read = self.criterion == "response" or self.repair == "least_squares"
        reasons = decided_by_rank_zero(
            trainer,
            lambda: rehearse_plan(
                trainer,
                pl_module,
                target,
                self.example_inputs,
                self._settings,
                budget=self._budget,
                calibration=self.calibration if read else None,
            ),
        )
        if reasons and not self.allow_unpruned:
            raise ValueError(
                f"{self!r} will remove nothing at any epoch. Each layer's reason:{reasons}\nChange `pruning_ratio`, "
                "`layers` or `ignored_layers`, or pass `allow_unpruned=True` to train all the same."
            )

    def _prune(self, trainer: Trainer, pl_module: LightningModule) -> None:
        target, optimizers = part_of(pl_module, self.module, "CosineFilterPruning"), trainer.optimizers
        with ExitStack() as undo, unwrapped(trainer), same_on_all_ranks(trainer, pl_module):
            undo.enter_context(as_before_on_failure(pl_module, optimizers))
            record, as_it_is = self.recorder, partial(dense_copy, pl_module, trainer)
            record.measure("dense", trainer, as_it_is)
            record.phase("ranking")
            inputs, plan = decided_by_rank_zero(trainer, lambda: self._decide(trainer, pl_module, target))
            inputs = to_device(inputs, pl_module.device)
            averages = find_averages(trainer, pl_module, target, inputs)
            copies = averaged_parts(averages, self.module)
            for average in copies:
                undo.enter_context(as_before_on_failure(average))
            held = check_bound(optimizers, [pl_module])
            repair = Repair(trainer, self.repair, self.calibration, [target, *copies])
            record.before(trainer, target, plan, inputs, partial(dense_copy, target, trainer))
            record.phase("surgery")
            report = apply_plan(target, plan, inputs, optimizers=optimizers, allow_unpruned=True, strict=self.strict)
            record.measure("cut", trainer, as_it_is)
            record.phase("repair" if self.repair else "surgery")
            repaired = repair.carry_out(target, report, inputs)
            if repaired:
                record.measure("repaired", trainer, as_it_is)
            prune_averages(averages, self.module, plan, report, inputs)
            for average in copies:
                repair.carry_out(average, report, inputs)
        report = replace(report, epoch=trainer.current_epoch)
        for layer in report.layers:
            layer.settle()  # else the dense weights would be held for the rest of the run
        bound = check_bound(optimizers, [pl_module])
        if bound != held:
            raise RuntimeError(
                f"After pruning {bound[0]} of the {bound[1]} parameters that the optimizers hold are alive, before it "
                f"was {held[0]} of {held[1]}. Training on would leave parameters where they are. Please report this "
                "network as a bug of lightning_cosprune."
            )
        if not report.layers and not self.allow_unpruned and not self._budget:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in report.skipped.items())
            raise ValueError(
                f"{self!r} removed nothing at epoch {trainer.current_epoch}. Each layer's reason:{reasons}\nChange "
                "`pruning_ratio`, `layers` or `ignored_layers`, or pass `allow_unpruned=True` to train on all the same."
            )
        self._refused = dict(report.refused)
        self.plans.append(plan)
        self.reports.append(report)
        self.repairs += [repaired] if repaired else []
        reset = forget_scores(trainer.callbacks) if self.reset_scores else []  # type: ignore[attr-defined]
        rank_zero_info(
            f"Pruned at the start of epoch {report.epoch}: {report.before.params:,} -> {report.after.params:,} "
            f"parameters, {report.before.macs / 1e6:,.2f} -> {report.after.macs / 1e6:,.2f} M MACs."
            + (f" {' and '.join(reset)} forgot the scores of the larger network." if reset else "")
        )
        if repaired:
            rank_zero_info(in_a_line(repaired))
        if outside := warning_of_readers_outside(pl_module, target, inputs, report, optimizers):
            rank_zero_warn(outside)
        for logger in trainer.loggers:
            logger.log_metrics(report.metrics() | (repaired.metrics() if repaired else {}), step=trainer.global_step)
        record.pruned(trainer, target, report, repaired, inputs)

    def _decide(self, trainer: Trainer, pl_module: LightningModule, target: nn.Module) -> tuple[Any, PruningPlan]:
        """The example input, on the CPU, from where it can travel; and what to remove."""
        inputs = find_example_inputs(trainer, pl_module, target, self.example_inputs)
        plan = plan_pruning(
            target,
            inputs,
            criterion=self.criterion,
            pruning_ratio=self._ratio_of_step(trainer, target),
            layers=self.layers,
            ignored_layers=self.ignored_layers,
            round_to=self.round_to,
            seed=self.seed,
            min_filters=self.min_filters,
            normalising=self.normalising,
            strict=self.strict,
            refused=self._refused,
            calibration=(
                calibration_batches(trainer, self.calibration, "CosineFilterPruning")
                if self.criterion == "response" or (self._budget and self.repair == "least_squares")
                else None
            ),
            **self._limits_of_step(trainer, target, inputs),
        )
        return to_device(inputs, torch.device("cpu")), plan

    def _ratio_of_step(self, trainer: Trainer, target: nn.Module) -> Any:
        """The part of the filters there are now that brings each layer to this step's share of the whole ratio."""
        modules = prunable_layers(target)
        counts = {name: num_filters(module) for name, module in modules.items()}
        self._dense_filters = self._dense_filters or counts
        if self.pruning_ratio == "redundant" or len(self._schedule.epochs) == 1:
            return self.pruning_ratio
        way = self._schedule.share(max(self._steps_due(trainer), 1))
        ratios = resolve_ratios(modules, self.pruning_ratio, self.layers)
        return {
            name: max(0.0, 1 - (dense - math.floor(float(ratio) * way * dense + 1e-6)) / counts[name])
            for name, ratio in ratios.items()
            for dense in [self._dense_filters[name]]
        }

    def _limits_of_step(self, trainer: Trainer, target: nn.Module, inputs: Any) -> dict[str, Any]:
        """What the network may cost after this step, if it is told."""
        step = max(self._steps_due(trainer), 1)
        done = self._schedule.share(min(self._steps_done, step - 1))
        return self._budget.arguments(target, inputs, self._schedule.share(step), done)

    # What is remembered

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Give the module its own checkpoint hooks back."""
        forget_structure(pl_module)

    @property
    def state_key(self) -> str:
        """Tells several of them in one Trainer apart, by what they prune, when, and in which order of filters."""
        criterion = getattr(self.criterion, "__qualname__", self.criterion)
        layers = [self.layers] if isinstance(self.layers, str) else self.layers and list(self.layers)
        return self._generate_state_key(
            module=self.module, criterion=criterion, at_epoch=self._schedule.epochs, layers=layers
        )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Take up the state of a run with other settings too, where it cannot be another callback's."""
        states = checkpoint.get("callbacks", {})
        name = type(self).__qualname__
        known = [key for key in states if key == name or str(key).startswith(f"{name}{{")]
        alike = [one for one in trainer.callbacks if type(one) is type(self)]  # type: ignore[attr-defined]
        if self.state_key not in states and len(known) == len(alike) == 1:
            self.load_state_dict(states[known[0]])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Write the structure into checkpoints that are saved after the run, too."""
        checkpoint.setdefault(STRUCTURE, describe_structure(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: which steps are done, and what was removed.

        Returns:
            Plain ints, lists and dicts, safe to load with ``weights_only=True``.
        """
        return {
            "steps_done": self._steps_done,
            "dense_filters": dict(self._dense_filters),
            "dense_costs": dict(self._budget.dense),
            "plans": [plan.to_dict() for plan in self.plans],
            "refused": dict(self._refused),
            "at_epoch": list(self._schedule.epochs),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` wrote."""
        self._steps_done = state_dict["steps_done"]
        self._dense_filters = dict(state_dict["dense_filters"])
        self._budget.load(state_dict.get("dense_costs", {}))
        self.plans = [PruningPlan.from_dict(plan) for plan in state_dict["plans"]]
        self._refused = dict(state_dict.get("refused", {}))
        before = tuple(state_dict.get("at_epoch", self._schedule.epochs))
        further = len(self._schedule.epochs) > max(self._steps_done, len(before))
        if further and self.pruning_ratio != "redundant" and not self._budget:
            rank_zero_info(
                f"{self!r} takes up a run that was pruned by at_epoch={list(before)}. The ratio counts from the dense "
                "network: what has been removed is part of it, and the steps to come remove only what it lacks. To "
                "remove more raise `pruning_ratio`, or start a new run from `load_pruned(...)`."
            )
