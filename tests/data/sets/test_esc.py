"""ESC-10 and ESC-50 in the layouts of their author; the sounds are made up, the names are as real ones."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lightning_cosprune.data import ESC10, ESC50
from lightning_cosprune.data.sets.archives import Archive

CLASSES = [
    "001 - Dog bark",
    "002 - Rain",
    "003 - Sea waves",
    "004 - Baby cry",
    "005 - Clock tick",
    "006 - Person sneeze",
    "007 - Helicopter",
    "008 - Chainsaw",
    "009 - Rooster",
    "010 - Fire crackling",
]
LABELS = sorted(name[6:].lower().replace(" ", "_") for name in CLASSES)


def clips() -> list[tuple[int, int, int, str]]:
    """Class, fold, recording and take; every fourth recording has two takes."""
    return [
        (number, fold, 1000 * number + 100 * fold + i - (i % 4 == 3), "AB"[i % 4 == 3])
        for number in range(1, 11)
        for fold in range(1, 6)
        for i in range(8)
    ]


@pytest.fixture(scope="module")
def esc10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("esc") / "ESC-10-master"
    sound = io.BytesIO()
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 4410), 44_100, format="OGG", subtype="VORBIS")
    for number, fold, recording, take in clips():
        path = root / CLASSES[number - 1] / f"{fold}-{recording}-{take}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound.getvalue())
    (root / "README.md").write_text("Not a clip.")
    return root


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    root = tmp_path / "ESC-50-master"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number, fold, recording, take in clips():
        name = f"{fold}-{recording}-{take}-{number}.wav"
        rows.append(f"{name},{fold},{number},class_{number},False,{recording},{take}")
        soundfile.write(root / "audio" / name, np.full(4410, 0.1), 44_100)
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("fold", range(1, 6))
def test_esc10_as_its_author_laid_it_out(esc10: Path, fold: int) -> None:
    scenes = ESC10(esc10, fold=fold)
    tables = scenes.tables()
    assert scenes.scene_labels == LABELS
    assert len(tables["test"]) == 80
    assert len(tables["train"]) + len(tables["validation"]) == 320
    assert all(f"/{fold}-" in name for name in tables["test"]["filename"])
    recordings = [set(tables[split]["identifier"]) for split in ("train", "validation", "test")]
    assert not recordings[0] & recordings[1]
    assert not (recordings[0] | recordings[1]) & recordings[2]


def test_takes_of_a_recording_stay_together_in_a_fraction(esc10: Path) -> None:
    whole = ESC10(esc10, validation_fraction=0).tables()["train"]
    half = ESC10(esc10, validation_fraction=0, train_fraction=0.5).tables()["train"]
    assert half["identifier"].nunique() == whole["identifier"].nunique() / 2
    assert len(half) == whole["identifier"].isin(half["identifier"]).sum()
    assert half["identifier"].duplicated().any()


def test_esc50_as_its_author_laid_it_out(esc50: Path, tmp_path: Path) -> None:
    scenes = ESC50(esc50, fold=2, batch_size=20, cache_dir=tmp_path / "cache", progress=False)
    table = pd.concat([scenes.tables()[split] for split in ("train", "validation", "test")])
    assert sorted(table["filename"]) == sorted(f"audio/{path.name}" for path in (esc50 / "audio").iterdir())
    assert set(scenes.tables()["test"]["scene_label"]) == {f"class_{number}" for number in range(1, 11)}
    scenes.prepare_data()
    scenes.setup("fit")
    assert next(iter(scenes.train_dataloader())).features.shape == (20, 1, 40, 5)


def test_a_folder_that_lacks_clips_is_told(esc10: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(esc10, tmp_path / "set"))
    next((root / "003 - Sea waves").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=r"40 clips in each of 10 folders .* found 39 in '003 - Sea waves'"):
        ESC10(root).tables()
    shutil.rmtree(root / "009 - Rooster")
    with pytest.raises(FileNotFoundError, match=r"found 9 of 10 folders. Write `download=True`"):
        ESC10(root).tables()


@pytest.mark.parametrize(("kind", "landmark"), [(ESC10, "001 - Dog bark"), (ESC50, "meta/esc50.csv")])
def test_a_folder_without_the_set(kind: type[ESC10 | ESC50], landmark: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"expected ESC-\d0 there, found no {landmark}. Write `download=True`"):
        kind(tmp_path).tables()


def test_a_fold_that_does_not_exist(esc10: Path) -> None:
    with pytest.raises(ValueError, match="expected a fold from 1 to 5, found fold=6"):
        ESC10(esc10, fold=6).tables()


def test_a_csv_file_without_a_column(esc50: Path) -> None:
    path = esc50 / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace("category", "label"))
    with pytest.raises(ValueError, match=r"expected the column category in meta/esc50.csv, .* separated by commas"):
        ESC50(esc50).tables()


def test_download(esc10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(esc10.rglob("*.*")):
            archive.write(path, f"ESC-10-master/{path.relative_to(esc10)}")
    source = tmp_path / "packed.zip"
    source.write_bytes(packed.getvalue())
    monkeypatch.setattr(ESC10, "archives", (Archive("ESC-10-master.zip", source.as_uri(), None, None, "page"),))
    for _ in range(2):  # the second time nothing is fetched
        scenes = ESC10(tmp_path / "set", download=True, cache_dir=tmp_path / "cache", progress=False)
        scenes.prepare_data()
        source.unlink(missing_ok=True)
    pd.testing.assert_frame_equal(scenes.tables()["test"], ESC10(esc10).tables()["test"])
