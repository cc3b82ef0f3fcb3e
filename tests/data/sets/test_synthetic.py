"""The synthetic set has the structure of the TAU sets, and is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from lightning_cosprune.data import SyntheticScenes
from lightning_cosprune.data.sets.soundscape import DEVICES, SCENES, device_gain, random_envelope, render

if TYPE_CHECKING:
    from pathlib import Path

TAU_SCENES = [
    "airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
    "street_traffic", "tram",
]  # fmt: skip
TAU_CITIES = {
    "barcelona", "helsinki", "lisbon", "london", "lyon", "milan", "paris", "prague", "stockholm", "vienna",
}  # fmt: skip


def synthetic(root: Path, **options: Any) -> SyntheticScenes:
    small = {"num_recordings": 100, "recording_seconds": 1, "cache_dir": root.parent / "cache", "progress": False}
    return SyntheticScenes(root, **(small | options))


@pytest.fixture(scope="module")
def tau2022(tmp_path_factory: pytest.TempPathFactory) -> SyntheticScenes:
    scenes = synthetic(tmp_path_factory.mktemp("tau2022") / "set", recording_seconds=2, num_recordings=200)
    scenes.prepare_data()
    return scenes


@pytest.fixture(scope="module")
def tau2020(tmp_path_factory: pytest.TempPathFactory) -> SyntheticScenes:
    scenes = synthetic(tmp_path_factory.mktemp("tau2020") / "set", layout="tau2020")
    scenes.prepare_data()
    return scenes


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


def test_tau2022_has_crlf_tables_and_one_second_pieces(tau2022: SyntheticScenes) -> None:
    root = tau2022.root
    for path in [root / "meta.csv", *sorted((root / "evaluation_setup").iterdir())]:
        content = path.read_bytes()
        assert content.count(b"\r\n") == content.count(b"\n") > 0
    meta = read(root / "meta.csv")
    assert list(meta.columns) == ["filename", "scene_label", "identifier", "source_label"]
    assert len(meta) == 400
    pattern = re.compile(r"audio/([a-z_]+)-([a-z]+-\d+)-\d+-[01]-(a|b|c|s[1-6])\.wav")
    for row in meta.itertuples():
        match = pattern.fullmatch(str(row.filename))
        assert match is not None
        assert match.groups() == (row.scene_label, row.identifier, row.source_label)
        info = soundfile.info(root / str(row.filename))
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (44_100, 1, "PCM_24", 44_100)


def test_tau2020_has_lf_tables_and_whole_recordings(tau2020: SyntheticScenes) -> None:
    root = tau2020.root
    assert b"\r" not in (root / "meta.csv").read_bytes()
    meta = read(root / "meta.csv")
    assert len(meta) == 100
    assert meta["filename"].str.fullmatch(r"audio/[a-z_]+-[a-z]+-\d+-\d+-(a|b|c|s[1-6])\.wav").all()
    assert (tau2020.tables()["train"]["parent"] == tau2020.tables()["train"]["filename"]).all()
    assert SyntheticScenes(root, layout="tau2020").parameters["recording_seconds"] == 10


def test_the_folds_are_like_those_of_the_real_sets(tau2022: SyntheticScenes) -> None:
    setup = tau2022.root / "evaluation_setup"
    meta = read(tau2022.root / "meta.csv").set_index("filename")
    train, evaluate, unlabelled = (read(setup / f"fold1_{side}.csv") for side in ("train", "evaluate", "test"))
    assert list(train.columns) == list(evaluate.columns) == ["filename", "scene_label"]
    assert list(unlabelled.columns) == ["filename"]
    assert unlabelled["filename"].tolist() == evaluate["filename"].tolist()
    assert (len(train), len(evaluate), len(meta)) == (240, 120, 400)
    assert not set(train["filename"]) & set(evaluate["filename"])
    for side in (train, evaluate):
        assert side["scene_label"].value_counts().nunique() == 1
        assert sorted(side["scene_label"].unique()) == TAU_SCENES

    trained, tested = meta.loc[train["filename"]], meta.loc[evaluate["filename"]]
    assert not set(trained["identifier"]) & set(tested["identifier"])
    assert 0.65 < (trained["source_label"] == "a").mean() < 0.8
    assert set(trained["source_label"]) == {"a", "b", "c", "s1", "s2", "s3"}
    assert set(tested["source_label"]) == set(DEVICES)


def test_its_tables_know_cities_devices_and_recordings(tau2022: SyntheticScenes) -> None:
    tables = tau2022.tables()
    both = pd.concat([tables["train"], tables["validation"]])
    assert len(both) == 240
    assert set(both["city"]) == TAU_CITIES
    assert not set(tables["train"]["identifier"]) & set(tables["validation"]["identifier"])
    assert set(tables["validation"]["scene_label"]) == set(TAU_SCENES)
    assert (both.groupby("parent").size() == 2).all()
    assert tau2022.scene_labels == TAU_SCENES
    assert tau2022.devices == ["a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"]


def test_its_default_features_are_those_of_the_years_baseline(
    tau2022: SyntheticScenes, tau2020: SyntheticScenes
) -> None:
    assert tau2022.feature_shape == (1, 40, 51)
    assert tau2020.feature_shape == (1, 40, 50)
    batch = next(iter(tau2022.test_dataloader()))
    assert batch.features.isfinite().all()


def test_the_same_seed_gives_the_same_bytes_and_another_other_sound(tau2020: SyntheticScenes, tmp_path: Path) -> None:
    again, other = (
        synthetic(tmp_path / "again", layout="tau2020"),
        synthetic(tmp_path / "other", layout="tau2020", seed=1),
    )
    again.prepare_data()
    other.prepare_data()
    assert digests(again.root) == digests(tau2020.root)
    name = tau2020.tables()["test"]["filename"][0]
    assert digests(other.root)[name] != digests(tau2020.root)[name]


def test_a_whole_set_is_used_again(tau2020: SyntheticScenes) -> None:
    before = {path: path.stat().st_mtime_ns for path in tau2020.root.rglob("*")}
    synthetic(tau2020.root, layout="tau2020").prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tau2020.root.rglob("*")} == before


def test_a_set_with_other_parameters_is_an_error(tau2020: SyntheticScenes) -> None:
    scenes = synthetic(tau2020.root, layout="tau2020", num_cities=3)
    message = r"`SyntheticScenes\(root=.*expected a synthetic set with num_cities=3, found one with num_cities=10"
    with pytest.raises(ValueError, match=message):
        scenes.prepare_data()
    with pytest.raises(ValueError, match=message):
        scenes.tables()


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"found other files.*use DCASEScenes"):
        synthetic(tmp_path).prepare_data()
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_before_it_is_written_it_says_how(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found nothing there yet\. Call prepare_data\(\) first"):
        _ = synthetic(tmp_path / "set").scene_labels


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layout": "tau2019"}, r"layout='tau2019'.*expected 'tau2020' or 'tau2022'"),
        ({"num_recordings": 150}, "multiple of 100"),
        ({"num_recordings": 0}, "multiple of 100"),
        ({"recording_seconds": 0}, "expected a whole number of at least 1"),
        ({"num_cities": 11}, "expected a whole number from 1 to 10"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticScenes(tmp_path, **option)


def test_a_mistyped_setting_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="batchsize"):
        SyntheticScenes(tmp_path, batchsize=3)


KILLED = """
import os, sys, time
import soundfile
from lightning_cosprune.data import SyntheticScenes

write, written = soundfile.write, []

def hang_in_the_middle(*arguments, **options):
    write(*arguments, **options)
    written.append(1)
    if len(written) > 20:
        # Two threads get here at about the same time, and `print` would mix their lines.
        os.write(1, b"in the middle\\n")
        time.sleep(600)

soundfile.write = hang_in_the_middle
SyntheticScenes(
    sys.argv[1], layout="tau2020", num_recordings=100, recording_seconds=1, cache_dir=sys.argv[2], progress=False
).prepare_data()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_writing_the_next_run_writes_the_same_set(tau2020: SyntheticScenes, tmp_path: Path) -> None:
    root = tmp_path / "set"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root), str(tmp_path / "cache")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        # Before the assertion: leaving the block waits for the process, however long that sleeps.
        os.kill(process.pid, signal.SIGKILL)
        assert line == b"in the middle\n"
    assert not root.exists()
    assert (tmp_path / ".set.partial").exists()

    synthetic(root, layout="tau2020").prepare_data()
    assert not (tmp_path / ".set.partial").exists()
    assert digests(root) == digests(tau2020.root)
    assert json.loads((root / "synthetic.json").read_text())["num_recordings"] == 100


def test_every_scene_and_device_sounds_different() -> None:
    envelope = np.zeros(6)
    spectra = {}
    for scene in SCENES:
        for device in ("a", "s5"):
            sound = render(SCENES[scene], DEVICES[device], envelope, 4, np.random.default_rng(0))
            assert sound.dtype == np.float32
            assert sound.shape == (4 * 44_100,)
            assert 0.001 < np.abs(sound).max() <= 1
            power = np.abs(np.fft.rfft(sound)) ** 2
            bands = np.array([band.mean() for band in np.array_split(power[80:80_000], 40)])
            spectra[scene, device] = 10 * np.log10(bands / bands.mean())
    names = list(spectra)
    for number, one in enumerate(names):
        for other in names[:number]:
            assert np.abs(spectra[one] - spectra[other]).max() > 2.0, (one, other)


def test_device_a_is_flat_and_unseen_devices_are_not() -> None:
    # Within the band where all microphones work, 100 Hz to 10 kHz, i.e. bins 59 to 226 of the grid.
    assert np.ptp(device_gain(DEVICES["a"])[59:226]) < 1
    assert all(np.ptp(device_gain(DEVICES[name])[59:226]) > 6 for name in ("s4", "s5", "s6"))


def test_independent_envelopes_add_up_to_the_spread_asked_for() -> None:
    drawn = np.stack([random_envelope(np.random.default_rng(seed), 3.0) for seed in range(2000)])
    np.testing.assert_allclose(drawn.std(axis=0), 3.0 / np.sqrt(np.arange(1, 7)), rtol=0.1)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1
