"""A run on several processes, for tests/test_distributed.py: `python ddp_run.py FOLDER '{"strategy": ...}'`.

Every process writes what it ended with to FOLDER/rankN.pt.
"""

import json
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from fits import UsersModule, loader
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler

from lightning_cosprune import CosineFilterPruning, PrunableMixin, callback
from lightning_cosprune.training import repair
from lightning_cosprune.training.averages import averaged_modules


class Interleaved(pl.LightningDataModule):
    """Process r of n has clips r, r + n, ..., so that batches of all processes together are those of one process."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        dataset = loader().dataset
        sampler = DistributedSampler(dataset, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(dataset, self.batch_size, sampler=sampler)


class Prunable(PrunableMixin, UsersModule):
    pass


class WithoutBatchNorm(UsersModule):
    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.bn1 = block.bn2 = torch.nn.Identity()


def by_rank(weight, **_):
    """The first filters on one process, the last on the other."""
    order = torch.arange(len(weight))
    return (order if torch.distributed.get_rank() == 0 else order.flip(0)).float()


class Whatever(CosineFilterPruning):
    """Prunes by rules that each process answers differently."""

    def __init__(self, **options):
        super().__init__(criterion=by_rank, **options)

    def should_prune(self, trainer, pl_module):
        return trainer.current_epoch == 1 and trainer.global_rank == 0 and not self.reports


class Ends(pl.Callback):
    """Writes down what a process has when training ends, and whether its gradients were those of all processes."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        average = [dict(network.named_parameters()) for network in averaged_modules(trainer)]
        optimizer = trainer.optimizers[0]
        wrapper = trainer.strategy.model
        content = {
            "weights": pl_module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "averages": [{name: tensor.detach() for name, tensor in one.items()} for one in average],
            "wrapped": {id(p) for p in wrapper.parameters()} == {id(p) for p in pl_module.parameters()},
            "reports": [str(report) for report in trainer.callbacks[0].reports],
            "repairs": [(str(one), one.samples, one.error_after) for one in trainer.callbacks[0].repairs],
        }
        torch.save(content, self.folder / f"rank{trainer.global_rank}.pt")


def disagree():
    """Each process cuts other filters, as if it had planned by itself."""
    cut = callback.apply_plan

    def by_rank(target, plan, inputs, **options):
        if torch.distributed.get_rank() == 1:
            shifted = {name: [(idx + 1) % plan.filters[name] for idx in idxs] for name, idxs in plan.pruned.items()}
            plan = type(plan)(shifted, plan.filters)
        return cut(target, plan, inputs, **options)

    callback.apply_plan = by_rank


def fail_on_rank_1():
    cut = callback.apply_plan

    def failing(*args, **options):
        if torch.distributed.get_rank() == 1:
            raise MemoryError("no memory on this one")
        return cut(*args, **options)

    callback.apply_plan = failing


def fail_in_the_repair_on_rank_1():
    """After some sums that all processes formed together."""
    pool_of, sums = repair.pool_of, []

    def failing(trainer):
        pool = pool_of(trainer)

        def counted(tensors):
            sums.append(tensors)
            if len(sums) == 5 and torch.distributed.get_rank() == 1:
                raise MemoryError("no memory on this one")
            return pool(tensors)

        return counted

    repair.pool_of = failing


def come_apart():
    """One process forms a sum that the other does not."""
    pool_of = repair.pool_of

    def apart(trainer):
        pool = pool_of(trainer)
        if torch.distributed.get_rank() == 1:
            pool([torch.zeros(2)])
        return pool

    repair.pool_of = apart


def round_otherwise():
    """Another machine's last bits."""
    refit = repair.refit_least_squares

    def rounded(pruned, *args, **options):
        report = refit(pruned, *args, **options)
        with torch.no_grad():
            for parameter in pruned.parameters():
                parameter.mul_(1 + 1e-6 * torch.distributed.get_rank())
        return report

    repair.refit_least_squares = rounded


def main():
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.get("sabotage"):
        globals()[options["sabotage"]]()
    pruning = globals()[options.get("callback", "CosineFilterPruning")](**options.get("pruning", {}))
    averages = [EMAWeightAveraging(decay=0.5)] if options.get("average") else []
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options.get("devices", 2),
        strategy=DDPStrategy(process_group_backend="gloo", **options["ddp"]) if "ddp" in options else "auto",
        max_epochs=options.get("epochs", 3),
        callbacks=[pruning, Ends(folder), *averages, ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = globals()[options.get("module", "UsersModule")]()
    trainer.fit(module, datamodule=Interleaved(options.get("batch_size", 4)), ckpt_path=options.get("ckpt_path"))
    torch.save(module.state_dict(), folder / "after.pt")


if __name__ == "__main__":
    main()
