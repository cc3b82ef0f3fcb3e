"""Who is held out, and which part is kept."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from data.rewritten import rewrite, rows

from lightning_cosprune.data.fold import validation_mask

# `Folder` is the one of conftest.py.
Folder = Any


def test_validation_is_disjoint_by_identifier_and_deterministic(folder: Folder) -> None:
    clips = rows(range(10), "abc")
    rewrite(folder, clips)
    tables = folder.scenes(validation_fraction=0.3).tables()
    train, validation = tables["train"], tables["validation"]

    assert not set(train["identifier"]) & set(validation["identifier"])
    assert len(train) + len(validation) == 90
    assert validation.groupby("scene_label")["identifier"].nunique().to_dict() == {"bus": 3, "park": 3, "tram": 3}
    pd.testing.assert_frame_equal(validation, folder.scenes(validation_fraction=0.3).tables()["validation"])
    others = folder.scenes(validation_fraction=0.3, seed=1).tables()["validation"]
    assert set(others["identifier"]) != set(validation["identifier"])

    rewrite(folder, clips[::-1])
    reversed_rows = folder.scenes(validation_fraction=0.3).tables()["validation"]
    assert set(reversed_rows["identifier"]) == set(validation["identifier"])


def test_every_scene_keeps_a_training_identifier(folder: Folder) -> None:
    rewrite(folder, [*rows(range(4)), ("audio/metro-paris-1-1-a.wav", "metro", "paris-1", "a")])
    tables = folder.scenes(validation_fraction=0.99).tables()
    identifiers = tables["train"].groupby("scene_label")["identifier"].nunique()
    assert identifiers.to_dict() == {"bus": 1, "metro": 1, "park": 1, "tram": 1}
    assert set(tables["validation"]["scene_label"]) == {"bus", "park", "tram"}


def test_a_validation_that_would_be_empty_is_told(folder: Folder) -> None:
    rewrite(folder, rows(range(1), "ab"))
    scenes = folder.scenes(validation_fraction=0.3)
    with pytest.warns(UserWarning, match=r"validation_fraction=0\.3 holds out no clip"):
        tables = scenes.tables()
    assert [len(table) for table in tables.values()] == [6, 0, 6, 6]


def test_a_fraction_is_nested_and_keeps_recordings_whole(folder: Folder) -> None:
    rewrite(folder, rows(range(20), pieces=range(5)))
    tables = [folder.scenes(train_fraction=part, validation_fraction=0).tables()["train"] for part in (0.1, 0.25, 1)]
    assert [len(table) for table in tables] == [30, 75, 300]
    names = [set(table["filename"]) for table in tables]
    assert names[0] < names[1] < names[2]
    assert tables[0].groupby("parent").size().eq(5).all()


def test_a_fraction_that_loses_a_scene(folder: Folder) -> None:
    with pytest.raises(
        ValueError, match=r"train_fraction=0\.05.*found 1 clip.* for 3 scenes.*none of .*larger fraction"
    ):
        folder.scenes(train_fraction=0.05).tables()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"devices": ["a", "s"]},
            r"expected devices=\['a', 's'\] to leave every scene .*none of tram\. Ask for more dev",
        ),
        (
            {"cities": "lyon", "devices": "x"},
            r"expected devices='x' and cities='lyon' to leave .*none of bus, park\. Ask",
        ),
        (
            {"devices": ["a", "s"], "train_fraction": 0.9},
            r"expected train_fraction=0\.9 to .*none of tram\. Use a larger",
        ),
    ],
)
def test_a_filter_that_loses_a_scene_is_told_as_that(folder: Folder, options: dict[str, Any], message: str) -> None:
    """A larger fraction than 1.0 would be no advice."""
    for row in folder.meta:
        row[3] = "x" if row[1] == "tram" and row[3] in "as" else row[3]
    folder.meta[-1][3] = "x"
    folder.write_csv()
    with pytest.raises(ValueError, match=message):
        folder.scenes(**options).tables()


def test_a_scene_whose_places_all_count_for_other_scenes_keeps_one() -> None:
    # Each place has two scenes and counts for the first, "bus": only the mask's last step can leave "tram" a row.
    places = [f"place-{number}" for number in range(6)]
    train = pd.DataFrame(
        {
            "scene_label": ["bus"] * 6 + ["bus", "tram"] * 2,
            "identifier": [*places, "shared-0", "shared-0", "shared-1", "shared-1"],
        }
    )
    for seed in range(50):
        mask = validation_mask(train, 0.7, seed)
        assert mask.any()
        assert set(train["scene_label"][~mask]) == {"bus", "tram"}
        assert not set(train["identifier"][mask]) & set(train["identifier"][~mask])
