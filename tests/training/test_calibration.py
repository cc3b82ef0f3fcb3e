"""Which training samples a run takes for calibration, and that training does not notice."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fits import UsersModule, fit, loader
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_cosprune import CosineFilterPruning
from lightning_cosprune.data.shuffle import SeededShuffle
from lightning_cosprune.training.calibration import calibration_batches, spread_over

CLIPS = torch.arange(100.0)[:, None].expand(100, 3)


def trainer_with(data, module=None, **options):
    """A Trainer in the middle of its first epoch."""
    found = []

    class Take(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.eval()
            pl_module.blocks.train()
            modes = [module.training for module in pl_module.modules()]
            states = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
            found.append([calibration_batches(trainer, n, "caller", *share) for n, *share in options["asked"]])
            assert torch.equal(states[0], torch.get_rng_state())
            assert states[1] == np.random.get_state()[2]  # noqa: NPY002
            assert [module.training for module in pl_module.modules()] == modes
            assert trainer.training

    class Reads(UsersModule):
        def training_step(self, batch, batch_idx):
            return (self.head.weight**2).sum()

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=options.get("epochs", 1),
        limit_train_batches=1,
        callbacks=[Take()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit((module or Reads)(), **data)
    return found


def taken(data, *asked, **options):
    """Sample numbers of each share, by epoch."""
    data = {"train_dataloaders": data}
    return [
        [torch.cat(share)[:, 0].int().tolist() for share in shares]
        for shares in trainer_with(data, asked=asked, **options)
    ]


def dataset():
    return TensorDataset(CLIPS, torch.zeros(100))


def test_samples_are_spread_over_the_data_set_and_the_same_in_each_epoch():
    first, second = taken(DataLoader(dataset(), 8, shuffle=True), (10,), epochs=2)
    assert first == second
    assert [number // 10 for number in first[0]] == list(range(10))
    assert first[0] != list(range(0, 100, 10))


def test_every_number_is_drawn_once():
    for wanted in (1, 7, 66, 99, 100):
        assert len(set(spread_over(range(100), wanted))) == wanted
    assert spread_over(range(100), 100) == list(range(100))


def test_batches_hold_32_samples_at_most():
    ((batches,),) = trainer_with({"train_dataloaders": DataLoader(dataset(), 4)}, asked=[(70,)])
    assert [len(batch) for batch in batches] == [32, 32, 6]


def test_processes_share_the_samples():
    ((whole, *shares),) = taken(DataLoader(dataset(), 8), (11,), (11, 0, 3), (11, 1, 3), (11, 2, 3))
    assert [len(share) for share in shares] == [4, 4, 3]
    assert sorted(number for share in shares for number in share) == whole


SOME = [5, 17, 40, 41, 77, 90]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": SubsetRandomSampler(SOME, generator=torch.Generator())}, SOME),
        ({"sampler": SeededShuffle(SOME)}, SOME),
        ({"sampler": DistributedSamplerWrapper(SeededShuffle(SOME), 2, 0)}, SOME),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler(SOME), 4, drop_last=True)}, None),
        ({"batch_sampler": [[5, 17], [40, 41], [77, 90]]}, SOME),
        ({"sampler": DistributedSampler(range(100), 2, 1)}, range(100)),
        ({"sampler": RandomSampler(range(100), num_samples=7)}, range(100)),
        ({"sampler": WeightedRandomSampler([1.0] * 50 + [0.0] * 50, 300)}, range(50)),
    ],
)
def test_only_what_the_sampler_may_give_is_taken(options, expected):
    """A subset is often what keeps validation clips out of training."""
    for sampler in options.values():
        state = sampler.generator.get_state() if getattr(sampler, "generator", None) else None
        ((found, few),) = taken(DataLoader(dataset(), **options), (6,), (3,))
        assert set(found) <= set(SOME if expected is None else expected)
        assert len(found) == 6
        assert len(few) == 3
        # The training of one epoch has drawn, calibration has not.
        assert state is None or torch.equal(sampler.generator.get_state(), after_one_pass(state))
        assert getattr(sampler, "epoch", 0) <= 1


def after_one_pass(state):
    generator = torch.Generator()
    generator.set_state(state)
    list(SubsetRandomSampler(SOME, generator=generator))
    return generator.get_state()


class Stream(IterableDataset):
    passes = 0

    def __iter__(self):
        Stream.passes += 1
        yield from ((row, 0.0) for row in CLIPS)


@pytest.mark.parametrize("workers", [0, 1])
def test_of_a_stream_the_first_samples_are_taken(workers):
    Stream.passes = 0
    data = DataLoader(Stream(), 8, num_workers=workers, persistent_workers=workers > 0)
    ((found, share),) = taken(data, (10,), (11, 1, 2))
    assert found == list(range(10))
    assert share == list(range(5))


def test_a_loader_of_ones_own():
    class Loader:
        def __iter__(self):
            yield from ((rows, torch.zeros(len(rows))) for rows in CLIPS.split(7))

    ((found,),) = taken(Loader(), (10,))
    assert found == list(range(10))


def test_a_data_set_that_makes_whole_batches():
    class Batches(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, number):
            return CLIPS[10 * number : 10 * number + 10], torch.zeros(10)

    ((found, small),) = taken(DataLoader(Batches(), batch_size=None), (25,), (3,))
    assert len(set(found)) == 25
    assert len(small) == 3


def test_what_is_augmented_in_training_only_stays_as_it_is_and_what_is_computed_is_computed():
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(dataset(), 8)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + 1000, batch[1]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            noise = torch.rand(()) if self.trainer.training else 0.0
            return batch[0] * 2 + noise, batch[1]

    ((batches,),) = trainer_with({"datamodule": Data()}, asked=[(4,)])
    assert all(float(row[0]) % 2 == 0 and float(row[0]) >= 2000 for row in torch.cat(batches))


def test_transforms_of_the_data_set_draw_from_a_fixed_seed():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, number):
            return CLIPS[number] + np.random.rand() + float(torch.rand(())), 0  # noqa: NPY002

    data = {"train_dataloaders": DataLoader(Noisy(), 8)}
    (first,), (second,) = trainer_with(data, asked=[(4,)], epochs=2)
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("criterion", ["cosine", "response"])
@pytest.mark.parametrize("kind", ["list", "generator", "tuples", "loader"])
def test_inputs_of_ones_own(kind, criterion, tmp_path):
    inputs = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)).split(4)
    calibration = {
        "list": list(inputs),
        "generator": (one for one in inputs),
        "tuples": [(one,) for one in inputs],
        "loader": DataLoader(torch.cat(inputs), 4),
    }[kind]
    callback = CosineFilterPruning(
        0.5, at_epoch=[0, 1], criterion=criterion, repair="least_squares", calibration=calibration
    )
    fit(UsersModule(), callback, tmp_path, precision="64-true")
    assert [repair.samples for repair in callback.repairs] == [12, 12]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (25, r"`CosineFilterPruning\(calibration=25\)`: expected as many training samples, found 24. Lower"),
        (iter([]), r"expected a number of training samples, .*found \[\]"),
        (DataLoader(range(0)), "expected at least one input, found none"),
        ([[torch.zeros(4, 3, 8, 8), torch.zeros(4)]], "expected inputs that UsersModule takes, without labels, found"),
        ([torch.zeros(4, 1, 8, 8)], r"found \(4, 1, 8, 8\): RuntimeError: .*Pass a list of inputs"),
    ],
)
def test_what_cannot_be_used_is_refused(calibration, message, tmp_path):
    module = UsersModule()
    with pytest.raises(ValueError, match=message):
        fit(module, CosineFilterPruning(0.5, repair="least_squares", calibration=calibration), tmp_path)
    assert module.stem.out_channels == 16


def test_batches_whose_input_cannot_be_told(tmp_path):
    class FromDict(UsersModule):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    rows = [{"image": image, "label": label} for image, label in loader().dataset]
    callback = CosineFilterPruning(0.5, example_inputs=torch.zeros(1, 3, 8, 8), repair="least_squares", calibration=4)
    with pytest.raises(ValueError, match=r"calibration=4\)`: .*keys image, label. Pass `calibration` as a list of inp"):
        fit(FromDict(), callback, tmp_path, data=DataLoader(rows, batch_size=8))


def test_fewer_samples_than_processes():
    data = {"train_dataloaders": DataLoader(dataset(), 8)}
    with pytest.raises(ValueError, match=r"calibration=2\)`: expected a sample for each of 3 processes. Raise it to 3"):
        trainer_with(data, asked=[(2, 0, 3)])
    with pytest.raises(ValueError, match=r"expected an input for each of 3 processes, found 2. Split"):
        trainer_with(data, asked=[([CLIPS, CLIPS], 0, 3)])
