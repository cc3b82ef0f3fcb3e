"""The one real set at hand: ESC-10 in DCASE layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cosprune.data import ESC10, DCASEScenes


@pytest.mark.parametrize("fold", range(1, 6))
def test_folds_are_counted_right_and_do_not_leak(esc10: Path, fold: int) -> None:
    scenes = DCASEScenes(esc10, fold=fold)
    train, validation, test, _ = scenes.tables().values()
    assert len(train) + len(validation) == 320
    assert len(test) == 80
    sides = [set(table["identifier"]) for table in (train, validation, test)]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert 0.2 < len(sides[1]) / (len(sides[0]) + len(sides[1])) < 0.4
    assert len(scenes.scene_labels) == 10
    assert set(train["scene_label"]) == set(scenes.scene_labels)
    assert scenes.devices == ["freesound"]
    assert scenes.cities == []
    assert train["city"].isna().all()
    assert (train["parent"] == train["filename"]).all()


def test_features_have_the_baseline_shape(esc10: Path, tmp_path: Path) -> None:
    scenes = DCASEScenes(esc10, fold=5, cache_dir=tmp_path, progress=False)
    with pytest.warns(UserWarning, match=r"20 of 400 clips do not last 5\.001 s"):
        scenes.prepare_data()
    scenes.setup("test")
    batch = next(iter(scenes.test_dataloader()))
    assert batch.features.shape == (32, 1, 40, 250)
    assert batch.features.isfinite().all()


def test_its_own_layout_gives_the_same_clips(esc10: Path, tmp_path: Path) -> None:
    """Laid out again as its author did, ``class/fold-recording-take.ogg``."""
    names = ["dog_bark", *(set(DCASEScenes(esc10).scene_labels) - {"dog_bark"})]
    folders = {scene: f"{i:03} - {scene.replace('_', ' ').capitalize()}" for i, scene in enumerate(names, start=1)}
    tests = {fold: DCASEScenes(esc10, fold=fold).tables()["test"] for fold in range(1, 6)}
    for fold, table in tests.items():
        for name, scene in zip(table["filename"], table["scene_label"], strict=True):
            _, recording, take = Path(name).name.split("-")
            target = tmp_path / folders[scene] / f"{fold}-{recording}-{take}"
            target.parent.mkdir(exist_ok=True)
            target.symlink_to((esc10 / name).resolve())
    for fold, table in tests.items():
        scenes = ESC10(tmp_path, fold=fold, cache_dir=tmp_path / "cache", progress=False)
        found = scenes.tables()["test"]
        columns = ["scene_label", "identifier"]
        assert sorted(map(tuple, found[columns].to_numpy())) == sorted(map(tuple, table[columns].to_numpy()))
    with pytest.warns(UserWarning, match="of 400 clips do not last"):
        scenes.prepare_data()
    scenes.setup("test")
    assert next(iter(scenes.test_dataloader())).features.shape == (32, 1, 40, 250)
