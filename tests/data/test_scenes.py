"""``DCASEScenes``: from a folder to batches, in a real Trainer too."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from lightning_cosprune.data import DCASEScenes, LogMel, SceneBatch
from lightning_cosprune.data.features import fingerprint

# `Folder` is the one of conftest.py: 24 training clips and 6 test clips of 0.2 s at 44.1 kHz.
Folder = Any


def sound(folder: Folder, name: str, number: int, *, rate: int = 44_100, seconds: float = 0.2) -> None:
    soundfile.write(folder.root / name, 0.1 * np.random.default_rng(number).normal(size=round(seconds * rate)), rate)


def ready(scenes: DCASEScenes) -> DCASEScenes:
    scenes.prepare_data()
    scenes.setup()
    return scenes


def collect(loader: object) -> SceneBatch:
    return SceneBatch(*(torch.cat(parts) for parts in zip(*loader, strict=True)))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"suffix": "flac", "newline": "\r\n"},
        {"suffix": "ogg", "channels": 2},
        {"rate": 48_000, "channels": 2},
        {"rate": 22_050},
    ],
)
def test_any_folder_gives_normalised_batches(make_folder: Callable[..., Folder], options: dict[str, object]) -> None:
    folder = make_folder(**options)
    scenes = ready(folder.scenes(validation_fraction=0))
    assert scenes.feature_shape == (1, 40, 10)

    batch = collect(scenes.train_dataloader())
    assert batch.features.shape == (24, 1, 40, 10)
    assert batch.features.dtype == torch.float32
    torch.testing.assert_close(batch.features.mean((0, 1, 3)), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.features.std((0, 1, 3), correction=0), torch.ones(40), atol=1e-4, rtol=0)


def test_a_batch_says_what_the_table_says(folder: Folder) -> None:
    scenes = ready(folder.scenes())
    mean, std = scenes.band_statistics
    tables = scenes.tables()
    loaders = {
        "train": scenes.train_dataloader(),
        "validation": scenes.val_dataloader(),
        "test": scenes.test_dataloader(),
    }
    for split, loader in loaders.items():
        batch, table = collect(loader), tables[split]
        assert sorted(batch.index.tolist()) == list(range(len(table)))
        rows = table.iloc[batch.index.numpy()]
        assert [scenes.scene_labels[scene] for scene in batch.scene] == rows["scene_label"].tolist()
        assert [scenes.devices[device] for device in batch.device] == rows["device"].tolist()
        assert [scenes.cities[city] for city in batch.city] == rows["city"].tolist()
        for features, name in zip(batch.features, rows["filename"], strict=True):
            waveform, _ = soundfile.read(folder.root / name, dtype="float32")
            expected = (scenes.features(torch.from_numpy(waveform)) - mean[:, None]) / std[:, None]
            torch.testing.assert_close(features[0], expected, atol=1e-5, rtol=1e-5)


def test_batches_unpack_and_index(folder: Folder) -> None:
    batch = next(iter(ready(folder.scenes()).test_dataloader()))
    x, y, *_ = batch
    assert isinstance(batch, SceneBatch)
    assert x is batch.features is batch[0]
    assert y is batch.scene is batch[1]


def test_items_and_batches_agree(folder: Folder) -> None:
    dataset = ready(folder.scenes()).test_dataloader().dataset
    loader = torch.utils.data.DataLoader([dataset[row] for row in range(len(dataset))], batch_size=len(dataset))
    for one, other in zip(next(iter(loader)), dataset.__getitems__(range(len(dataset))), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_fraction_sees_the_inputs_that_the_whole_saw(make_folder: Callable[..., Folder]) -> None:
    folder = make_folder()
    whole, part = (ready(folder.scenes(train_fraction=fraction)) for fraction in (1.0, 0.5))
    assert len(part.train_dataloader().dataset) < len(whole.train_dataloader().dataset)
    for one, other in zip(whole.band_statistics, part.band_statistics, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(collect(whole.test_dataloader()), collect(part.test_dataloader()), rtol=0, atol=0)


def test_statistics_leave_validation_and_test_out(folder: Folder) -> None:
    scenes = folder.scenes()
    loud = {*scenes.tables()["validation"]["filename"], *scenes.tables()["test"]["filename"]}
    before = scenes.band_statistics[0]
    for name in loud:
        waveform, rate = soundfile.read(folder.root / name)
        soundfile.write(folder.root / name, 5 * waveform, rate)
    torch.testing.assert_close(folder.scenes().band_statistics[0], before, rtol=0, atol=0)


def test_training_order_follows_seed_and_epoch(folder: Folder) -> None:
    def orders(**options: object) -> list[list[int]]:
        loader = ready(folder.scenes(validation_fraction=0, **options)).train_dataloader()
        return [collect(loader).index.tolist() for _ in range(2)]

    first, second = orders()
    assert first != second
    assert orders() == [first, second]
    assert orders(seed=1)[0] != first


def test_a_lone_last_clip_is_left_out_of_training_only(make_folder: Callable[..., Folder]) -> None:
    folder = make_folder()
    scenes = ready(folder.scenes(validation_fraction=0, batch_size=23))
    assert [len(batch.scene) for batch in scenes.train_dataloader()] == [23]
    scenes = ready(folder.scenes(validation_fraction=0, batch_size=22))
    assert [len(batch.scene) for batch in scenes.train_dataloader()] == [22, 2]
    scenes = ready(folder.scenes(validation_fraction=0, batch_size=5))
    assert [len(batch.scene) for batch in scenes.test_dataloader()] == [5, 1]


def test_a_lone_last_clip_of_each_process_is_left_out(folder: Folder) -> None:
    scenes = ready(folder.scenes(validation_fraction=0, batch_size=11))
    assert not scenes.train_dataloader().drop_last  # 24 clips: 11, 11, 2
    scenes.trainer = SimpleNamespace(world_size=2)
    assert scenes.train_dataloader().drop_last  # 12 clips a process: 11, 1


def test_without_validation_there_is_no_loader(folder: Folder) -> None:
    assert ready(folder.scenes(validation_fraction=0)).val_dataloader() == []


class Net(pl.LightningModule):
    """Just enough of a module to see what a Trainer gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40 * 10, 3)
        self.seen: dict[str, list[list[int]]] = {"fit": [[]], "validate": [[]], "test": [[]]}

    def training_step(self, batch: SceneBatch, batch_idx: int) -> torch.Tensor:
        assert isinstance(batch, SceneBatch)
        self.seen["fit"][-1] += batch.index.tolist()
        return nn.functional.cross_entropy(self.layer(batch.features.flatten(1)), batch.scene)

    def on_train_epoch_end(self) -> None:
        self.seen["fit"].append([])

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        self.seen["validate"][-1] += batch.index.tolist()

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        self.seen["test"][-1] += batch.index.tolist()

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> torch.Tensor:
        return batch.index

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(root: Path, epochs: int = 2, **options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=root, **(quiet | options))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_trainer_runs_every_stage(folder: Folder, tmp_path: Path) -> None:
    scenes, net = folder.scenes(), Net()
    run = trainer(tmp_path, enable_checkpointing=False)
    run.fit(net, datamodule=scenes)
    run.validate(net, datamodule=scenes, verbose=False)
    run.test(net, datamodule=scenes, verbose=False)
    predicted = run.predict(net, datamodule=scenes)

    tables = scenes.tables()
    first, second, _ = net.seen["fit"]
    assert sorted(first) == sorted(second) == list(range(len(tables["train"])))
    assert first != second
    assert net.seen["validate"] == [list(range(len(tables["validation"]))) * 3]
    assert net.seen["test"] == [list(range(len(tables["test"])))]
    assert torch.cat(predicted).tolist() == list(range(len(tables["test"])))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_resumed_run_goes_on_in_the_order_it_would_have_had(folder: Folder, tmp_path: Path) -> None:
    undisturbed = Net()
    trainer(tmp_path / "undisturbed", 3, enable_checkpointing=False).fit(undisturbed, datamodule=folder.scenes())

    interrupted = Net()
    run = trainer(tmp_path / "interrupted", 2, enable_checkpointing=False)
    run.fit(interrupted, datamodule=folder.scenes())
    run.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Net()
    run = trainer(tmp_path / "resumed", 3, enable_checkpointing=False)
    run.fit(resumed, datamodule=folder.scenes(), ckpt_path=tmp_path / "last.ckpt")

    assert resumed.seen["fit"][0] == undisturbed.seen["fit"][2]


def test_workers_see_the_same_batches(folder: Folder) -> None:
    one, other = (ready(folder.scenes(num_workers=workers)) for workers in (0, 1))
    torch.testing.assert_close(collect(one.test_dataloader()), collect(other.test_dataloader()))


def test_pickles_after_setup_without_the_features(folder: Folder) -> None:
    scenes = ready(folder.scenes())
    expected = collect(scenes.test_dataloader())
    blob = pickle.dumps(scenes)
    assert len(blob) < 40_000
    torch.testing.assert_close(collect(pickle.loads(blob).test_dataloader()), expected)


def stores(folder: Folder) -> set[str]:
    return {path.name for path in folder.root.with_name("cache").iterdir() if path.is_dir()}


def test_the_cache_is_reused_where_nothing_changed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = collect(ready(folder.scenes()).test_dataloader())
    built = stores(folder)
    assert len(built) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("read audio again")

    monkeypatch.setattr(soundfile, "read", refuse)
    monkeypatch.setattr(soundfile, "info", refuse)
    torch.testing.assert_close(collect(ready(folder.scenes()).test_dataloader()), expected)
    for options in ({"seed": 5}, {"validation_fraction": 0.4}, {"train_fraction": 0.5}, {"batch_size": 2}):
        ready(folder.scenes(**options))
    assert stores(folder) == built


def test_the_cache_notices_changed_audio_and_settings(folder: Folder) -> None:
    ready(folder.scenes())
    before = stores(folder)
    sound(folder, folder.train[0][0], 99)
    ready(folder.scenes())
    changed = stores(folder) - before
    assert len(changed) == 1
    ready(folder.scenes(features=LogMel(n_mels=20)))
    ready(folder.scenes(clip_seconds=0.15))
    assert len(stores(folder)) == 7


def test_the_cache_knows_content_not_times(folder: Folder, tmp_path: Path) -> None:
    ready(folder.scenes())
    before = stores(folder)
    path = folder.root / folder.train[0][0]
    os.utime(path)
    ready(folder.scenes())
    assert stores(folder) == before
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    ready(folder.scenes())
    assert len(stores(folder) - before) == 1
    copy = shutil.copytree(folder.root, tmp_path / "elsewhere" / "set")
    ready(DCASEScenes(copy, cache_dir=folder.root.with_name("cache"), progress=False))
    assert len(stores(folder)) == 3


def test_half_precision_halves_the_cache_and_keeps_the_statistics(folder: Folder) -> None:
    whole, half = ready(folder.scenes()), ready(folder.scenes(cache_dtype="float16"))
    for one, other in zip(whole.band_statistics, half.band_statistics, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    one, other = collect(whole.test_dataloader()), collect(half.test_dataloader())
    assert other.features.dtype == torch.float32
    torch.testing.assert_close(one.features, other.features, atol=0.02, rtol=0)
    assert not torch.equal(one.features, other.features)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("name", ["dcase2021", pytest.param("dcase2024", marks=pytest.mark.thorough)])
def test_features_are_the_same_cached_or_computed_on_the_device(folder: Folder, tmp_path: Path, name: str) -> None:
    class Collect(Net):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[SceneBatch] = []

        def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
            self.batches.append(batch)

    seen = []
    for cache in ("features", "waveforms"):
        net, scenes = Collect(), folder.scenes(cache=cache, features=name)
        trainer(tmp_path, enable_checkpointing=False).test(net, datamodule=scenes, verbose=False)
        seen.append((collect(net.batches), scenes.band_statistics, scenes.feature_shape))
    (one, statistics, shape), (other, same_statistics, same_shape) = seen
    assert one.features.shape[1:] == shape == same_shape
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(statistics, same_statistics, rtol=0, atol=0)
    assert (statistics[0] == 0).all() == (name == "dcase2024")


def test_cached_waveforms_are_the_sound(folder: Folder) -> None:
    scenes = ready(folder.scenes(cache="waveforms"))
    batch = collect(scenes.test_dataloader())
    expected, _ = soundfile.read(folder.root / folder.test[0][0], dtype="float32")
    torch.testing.assert_close(batch.features[0], torch.from_numpy(expected), rtol=0, atol=0)


@pytest.mark.parametrize("option", [{"cache": "spectra"}, {"cache_dtype": "float64"}])
def test_an_unknown_way_to_cache_is_refused(option: dict[str, str]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"`DCASEScenes\({name}='{value}'\)`: expected '"):
        DCASEScenes("anywhere", **option)  # type: ignore[arg-type]


def test_the_folder_is_only_read(folder: Folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
    ready(folder.scenes())
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == before


def test_the_user_cache_is_the_default(folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    scenes = ready(folder.scenes(cache_dir=None))
    assert scenes.cache_dir == tmp_path / "xdg" / "lightning_cosprune" / "features"
    assert len(list(scenes.cache_dir.glob("set-*/features.npy"))) == 2


def test_extraction_shows_its_progress(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    ready(folder.scenes())
    assert capsys.readouterr() == ("", "")
    ready(folder.scenes(clip_seconds=0.1, progress=True))
    assert "Log-mel features (train)" in capsys.readouterr().err


def test_other_durations_are_told_once(make_folder: Callable[..., Folder], recwarn: pytest.WarningsRecorder) -> None:
    folder = make_folder()
    sound(folder, folder.train[0][0], 0, seconds=0.1)
    sound(folder, folder.test[0][0], 1, seconds=0.5)
    sound(folder, folder.train[5][0], 2, seconds=0.3)
    with pytest.warns(UserWarning, match="clips do not last") as caught:
        ready(folder.scenes())
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert "3 of 30 clips do not last 0.200 s: 1 shorter ones are" in messages[0]
    assert "2 longer ones cut" in messages[0]
    ready(folder.scenes())  # from the cache: nothing new to tell


def test_clip_seconds_cuts_without_a_word(folder: Folder) -> None:
    assert ready(folder.scenes(clip_seconds=0.1)).feature_shape == (1, 40, 5)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({3: 48_000}, r"expected audio at 44100 Hz only.*44100 Hz in 29 of 30 files .* and 48000 Hz in 1 of 30 files"),
        (dict.fromkeys(range(30), 48_000), r"expected audio at 44100 Hz only.*found 48000 Hz in 30 of 30 files"),
    ],
)
def test_other_sample_rates_where_one_is_demanded(folder: Folder, rates: dict[int, int], message: str) -> None:
    rows = folder.train + folder.test
    for row, rate in rates.items():
        sound(folder, rows[row][0], row, rate=rate)
    ready(folder.scenes())  # resampled, as it was not forbidden
    with pytest.raises(ValueError, match=message) as caught:
        folder.scenes(resample=False).prepare_data()
    assert str(folder.root / rows[min(rates)][0]) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no audio"])
def test_unreadable_audio_is_named_before_extraction(folder: Folder, content: bytes) -> None:
    for name in (folder.train[2][0], folder.test[0][0]):
        (folder.root / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{folder.root / folder.train[2][0]}, found .* 1 more") as caught:
        folder.scenes().prepare_data()
    assert str(caught.value).startswith("`DCASEScenes(root=")
    assert not list(folder.root.with_name("cache").glob("*"))


def test_audio_that_breaks_off_is_named(make_folder: Callable[..., Folder]) -> None:
    folder = make_folder(suffix="flac")
    path = folder.root / folder.train[4][0]
    path.write_bytes(path.read_bytes()[:-300] + bytes(300))
    with pytest.raises(ValueError, match=str(path)):
        folder.scenes().prepare_data()


def test_nan_in_audio_is_named(folder: Folder) -> None:
    path = folder.root / folder.test[1][0]
    soundfile.write(path, np.array([0.0, np.nan] * 4410), 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match=rf"{path}, found NaN"):
        folder.scenes().prepare_data()


@pytest.mark.parametrize(
    "option",
    [
        {"train_fraction": 0},
        {"train_fraction": 1.2},
        {"train_fraction": -0.1},
        {"validation_fraction": 1},
        {"validation_fraction": -0.1},
        {"clip_seconds": 0},
        {"batch_size": 0},
        {"num_workers": -1},
        {"fold": 0},
    ],
)
def test_settings_out_of_range_are_refused_at_once(option: dict[str, float]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"`DCASEScenes\({name}={value}\)`: expected "):
        DCASEScenes("anywhere", **option)  # type: ignore[arg-type]


def test_the_command_line_reads_it() -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(DCASEScenes, "data")
    arguments = ["--data.root=somewhere", "--data.features.n_mels=64", "--data.train_fraction=0.25"]
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its older name
    scenes = instantiate(parser.parse_args(arguments)).data
    assert scenes.features == LogMel(n_mels=64)
    assert scenes.train_fraction == 0.25


def test_a_cache_that_cannot_be_written_is_named(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        PermissionError,
        match=r"`DCASEScenes\(cache_dir='[^']*'\)`: expected a folder that can be written, found '[A-Z][a-z ]+'\. Ch",
    ):
        folder.scenes(cache_dir=tmp_path / "file" / "cache").prepare_data()


# Sets without scenes


def test_evaluation_clips_are_predicted(folder, tmp_path):
    evaluation = tmp_path / "evaluation"
    (evaluation / "evaluation_setup").mkdir(parents=True)
    (evaluation / "audio").mkdir()
    names = [name for name, *_ in folder.test]
    for number, name in enumerate(names):
        (evaluation / "audio" / f"{number}.wav").write_bytes((folder.root / name).read_bytes())
    lines = ["filename", *(f"audio/{number}.wav" for number in range(len(names)))]
    (evaluation / "evaluation_setup" / "test.csv").write_text("\r\n".join(lines) + "\r\n")

    scenes = folder.scenes(evaluation_root=evaluation)
    table = scenes.tables()["predict"]
    assert table["filename"].tolist() == lines[1:]
    assert table[["scene_label", "device", "city", "identifier"]].isna().all(axis=None)
    scenes.prepare_data()
    scenes.setup("predict")
    batches = list(scenes.predict_dataloader())
    known = [batch.features for batch in scenes.test_dataloader()]
    assert torch.equal(torch.cat([batch.features for batch in batches]), torch.cat(known))
    for unknown in ("scene", "device", "city"):
        assert set(torch.cat([getattr(batch, unknown) for batch in batches]).tolist()) == {-1}


def test_without_evaluation_clips_the_test_is_predicted(folder):
    tables = folder.scenes().tables()
    assert tables["predict"].equals(tables["test"])


def test_an_evaluation_folder_without_names_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"evaluation_root='.*'\)`: expected one csv file with the names"):
        folder.scenes(evaluation_root=tmp_path / "empty").tables()


@pytest.mark.parametrize(
    ("loudest", "options"),
    [(1e29, {}), (1e18, {"cache": "waveforms", "cache_dtype": "float16"}), (1e30, {"cache": "waveforms"})],
)
def test_a_clip_that_would_make_all_features_nan_is_named(folder: Folder, loudest: float, options: dict) -> None:
    samples = np.zeros(round(0.2 * folder.rate))
    samples[5000] = loudest
    soundfile.write(folder.root / folder.train[3][0], samples, folder.rate, subtype="DOUBLE")
    with pytest.raises(
        ValueError, match=rf"features are finite.*found samples up to {loudest:.1e}".replace("+", r"\+")
    ) as told:
        folder.scenes(**options).prepare_data()
    assert folder.train[3][0] in str(told.value)
    folder.write_audio()
    assert collect(ready(folder.scenes(**options)).train_dataloader()).features.isfinite().all()


def test_a_store_with_such_a_clip_from_an_earlier_release_is_told_too(folder: Folder, monkeypatch: Any) -> None:
    samples = np.zeros(round(0.2 * folder.rate))
    samples[5000] = 1e29
    soundfile.write(folder.root / folder.train[3][0], samples, folder.rate, subtype="DOUBLE")
    with monkeypatch.context() as before, np.errstate(all="ignore"):
        before.setattr("lightning_cosprune.data.features.cache._check_finite", lambda *_: None)
        with pytest.raises(ValueError, match="finite"):
            folder.scenes().prepare_data()
    with pytest.raises(ValueError, match=rf"expected finite features.*{folder.train[3][0]}.*delete"):
        folder.scenes().prepare_data()


def test_files_that_cannot_be_read_are_told_as_such(folder: Folder, monkeypatch: Any) -> None:
    name = folder.train[5][0]
    own, state = fingerprint._digest, Path.stat

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_digest", lambda path: refused(path) if path.match(name) else own(path))
        with pytest.raises(
            PermissionError, match=rf"expected audio that can be read at .*{name}, found 'Permission denied'"
        ):
            folder.scenes().prepare_data()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda path, **o: refused(path) if path.match("audio/*") else state(path, **o))
        with pytest.raises(
            PermissionError, match=r"line 2 at .*found 'Permission denied' there; so it is with 30 of the 30"
        ):
            folder.scenes().prepare_data()
    (folder.root / name).unlink()
    (folder.root / name).mkdir()
    with pytest.raises(
        IsADirectoryError, match=rf"line 7 at .*{name}, found 'a folder' there; so it is with 1 of the 30"
    ):
        folder.scenes().prepare_data()


def test_the_warning_on_lengths_names_a_file_of_each_kind(folder: Folder) -> None:
    sound(folder, folder.train[3][0], 1, seconds=0.15)
    sound(folder, folder.train[7][0], 1, seconds=0.31)
    with pytest.warns(
        UserWarning, match=rf"{folder.train[3][0]} with 0\.150 s and .*{folder.train[7][0]} with 0\.310 s"
    ):
        folder.scenes().prepare_data()


@pytest.mark.parametrize("options", [{"clip_seconds": 0.01}, {"clip_seconds": 0.01, "features": "dcase2024"}])
def test_clips_shorter_than_a_frame_are_told_as_that(folder: Folder, options: dict) -> None:
    with pytest.raises(
        ValueError, match=r"expected clips of .*samples.*found \d+ \(0\.01 s at \d+ Hz\)\. Use longer"
    ) as told:
        folder.scenes(**options).prepare_data()
    assert "num_frames=None" not in str(told.value)
    assert not [path for path in folder.root.with_name("cache").glob("*") if path.is_dir()]


def test_a_stage_that_there_is_not_is_told(folder: Folder) -> None:
    with pytest.raises(ValueError, match=r"`DCASEScenes.setup\(stage='predictt'\)`: expected 'fit' or 'validate' or"):
        folder.scenes().setup("predictt")


def test_a_damaged_header_is_told_before_anything_is_resampled(folder: Folder) -> None:
    sound(folder, folder.train[3][0], 1, rate=1, seconds=8820)
    with pytest.raises(ValueError, match=rf"a sample rate from 1,000 to .* in .*{folder.train[3][0]}, found 1 Hz"):
        folder.scenes().prepare_data()


def test_remembered_hashes_are_used_by_the_next_run(folder: Folder, monkeypatch: Any) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", -1)
    folder.scenes().prepare_data()
    monkeypatch.setattr(fingerprint, "_digest", lambda path: pytest.fail(f"{path} was read again"))
    folder.scenes().prepare_data()
