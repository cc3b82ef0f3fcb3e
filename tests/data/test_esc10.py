"""The one real set at hand: ESC-10 in DCASE layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cosprune.data import DCASEScenes


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
