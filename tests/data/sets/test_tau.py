"""The TAU sets on metadata of their true counts; their audio is not at hand."""

from __future__ import annotations

import tracemalloc
from itertools import count

import pandas as pd
import pytest

from lightning_cosprune.data import (
    DCASEScenes,
    SyntheticScenes,
    TAUUrbanAcousticScenes2019,
    TAUUrbanAcousticScenes2020Mobile,
    TAUUrbanAcousticScenes2022Mobile,
)
from lightning_cosprune.data.sets import published
from lightning_cosprune.data.sets.archives import zenodo_archives

SCENES = [
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
]
CITIES = ["barcelona", "helsinki", "lisbon", "london", "lyon", "paris", "prague", "stockholm", "vienna"]
TRAIN_2020 = {"a": 10_215, "b": 749, "c": 748, "s1": 750, "s2": 750, "s3": 750}
TEST_2020 = {"a": 330, "b": 330, "c": 330, "s1": 330, "s2": 330, "s3": 330, "s4": 330, "s5": 330, "s6": 328}


def recordings(devices: dict[str, int], first_place: int, city: str | None = None) -> list[tuple[str, str, str, str]]:
    """As many recordings of each device; ten to a place, and places shared with no other call."""
    rows, number = [], count()
    for device, how_many in devices.items():
        for _ in range(how_many):
            i = next(number)
            scene, place = SCENES[i % 10], first_place + i // 100
            where = city or CITIES[place % len(CITIES)]
            rows.append((f"{scene}-{where}-{place}-{i}-{device}", scene, f"{where}-{place}", device))
    return rows


def write(root, rows: dict[str, list], newline: str, pieces: int = 1):
    def files(table):
        for name, scene, identifier, device in table:
            stem, _, last = name.rpartition("-")
            for piece in range(pieces):
                yield f"audio/{f'{stem}-{piece}-{last}' if pieces > 1 else name}.wav", scene, identifier, device

    (root / "evaluation_setup").mkdir(parents=True)
    tables = {"meta.csv": ("filename", "scene_label", "identifier", "source_label")}
    tables |= {f"evaluation_setup/fold1_{side}.csv": ("filename", "scene_label") for side in ("train", "evaluate")}
    for path, columns in tables.items():
        side = path.split("_")[-1].removesuffix(".csv")
        chosen = rows[side] if side in rows else [row for part in rows.values() for row in part]
        lines = ["\t".join(columns), *("\t".join(row[: len(columns)]) for row in files(chosen))]
        (root / path).write_bytes((newline.join(lines) + newline).encode())
    return root


@pytest.fixture(scope="module")
def set2020(tmp_path_factory):
    rows = {
        "train": recordings(TRAIN_2020, 0),
        "evaluate": recordings(TEST_2020, 1000),
        "neither": recordings({"a": 3855, "s4": 750, "s5": 750, "s6": 750}, 2000),
    }
    return write(tmp_path_factory.mktemp("tau2020") / "set", rows, "\n")


@pytest.fixture(scope="module")
def set2022(tmp_path_factory):
    rows = {
        "train": recordings(TRAIN_2020, 0),
        "evaluate": recordings(TEST_2020, 1000),
        "neither": recordings({"a": 3855, "s4": 750, "s5": 750, "s6": 750}, 2000),
    }
    return write(tmp_path_factory.mktemp("tau2022") / "set", rows, "\r\n", pieces=10)


def assert_places_apart(tables: dict[str, pd.DataFrame]) -> None:
    places = [set(tables[split]["identifier"]) for split in ("train", "validation", "test")]
    assert all(places)
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert not places[1] & places[2]


def test_2019(tmp_path):
    rows = {
        "train": recordings({"a": 9185}, 0),
        "evaluate": recordings({"a": 4185}, 1000),
        "neither": recordings({"a": 1030}, 2000, city="milan"),
    }
    scenes = TAUUrbanAcousticScenes2019(write(tmp_path / "set", rows, "\r\n"))
    tables = scenes.tables()
    assert len(tables["train"]) + len(tables["validation"]) == 9185
    assert len(tables["test"]) == 4185
    assert "milan" not in {city for table in tables.values() for city in table["city"]}
    assert scenes.scene_labels == SCENES
    assert_places_apart(tables)


def test_2020(set2020):
    scenes = TAUUrbanAcousticScenes2020Mobile(set2020)
    tables = scenes.tables()
    train = pd.concat([tables["train"], tables["validation"]])
    assert train["device"].value_counts().to_dict() == TRAIN_2020
    assert tables["test"]["device"].value_counts().to_dict() == TEST_2020
    assert scenes.devices == sorted(TEST_2020)
    assert len(tables["validation"]) == pytest.approx(0.3 * 13_962, rel=0.05)
    assert_places_apart(tables)
    assert (tables["train"]["parent"] == tables["train"]["filename"]).all()


def test_2022_in_time_and_memory(set2022):

    tracemalloc.start()
    scenes = TAUUrbanAcousticScenes2022Mobile(set2022, validation_fraction=0, train_fraction=0.25)
    tables = scenes.tables()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tables["train"]) == 34_900
    assert len(tables["test"]) == 29_680
    assert (tables["train"]["parent"].value_counts() == 10).all()
    assert peak < 300e6


@pytest.mark.parametrize(("percent", "rows"), [(5, 6980), (10, 13_960), (25, 34_900), (50, 69_800), (100, 139_620)])
def test_the_official_subsets_sizes(set2022, percent, rows):
    scenes = TAUUrbanAcousticScenes2022Mobile(set2022, validation_fraction=0, train_fraction=percent / 100)
    assert len(scenes.tables()["train"]) == rows


def test_an_official_split_file(set2022, tmp_path):
    half = TAUUrbanAcousticScenes2022Mobile(set2022, validation_fraction=0, train_fraction=0.5).tables()["train"]
    half[["filename", "scene_label"]].to_csv(tmp_path / "split50.csv", sep="\t", index=False)
    scenes = TAUUrbanAcousticScenes2022Mobile(set2022, split=tmp_path / "split50.csv")
    tables = scenes.tables()
    assert set(tables["train"]["filename"]) < set(half["filename"])
    assert set(half["filename"]) <= {*tables["train"]["filename"], *tables["validation"]["filename"]}
    whole = TAUUrbanAcousticScenes2022Mobile(set2022, split=tmp_path / "split50.csv", validation_fraction=0)
    assert set(whole.tables()["train"]["filename"]) == set(half["filename"])


def test_devices_and_cities(set2020):
    scenes = TAUUrbanAcousticScenes2020Mobile(set2020, devices=["a", "s4"], cities=["lyon", "paris"])
    tables = scenes.tables()
    assert {*tables["train"]["city"]} == {*tables["test"]["city"]} == {"lyon", "paris"}
    assert {*tables["train"]["device"]} == {"a"}
    assert {*tables["test"]["device"]} == {"a", "s4"}
    assert scenes.devices == ["a", "s4"]


@pytest.mark.parametrize("year", ["2020Mobile", "2022Mobile"])
def test_a_part_that_could_be_of_another_set_is_told_as_that(year, tmp_path):
    """Of device a alone, as a set of one device is: what is told points to the front end that the class has."""
    kind = {"2020Mobile": TAUUrbanAcousticScenes2020Mobile, "2022Mobile": TAUUrbanAcousticScenes2022Mobile}[year]
    rows = {"train": recordings({"a": 200}, 0), "evaluate": recordings({"a": 100}, 1000)}
    root = write(tmp_path / "set", rows, "\n", pieces=10 if kind.in_pieces else 1)
    first = (kind.in_pieces and "audio/airport-barcelona-0-0-0-a.wav") or "audio/airport-barcelona-0-0-a.wav"
    with pytest.raises(ValueError, match=rf"expected {kind.set_name}, .* of several devices, found .*{first}") as told:
        kind(root).tables()
    text = str(told.value)
    expected, _, found = text.partition(", found ")
    assert first not in expected
    assert "of the device a: another set, or a part of this one that cannot be told from another" in found
    assert f"DCASEScenes(root, features={kind.default_features!r})" in found
    scenes = DCASEScenes(root, features=kind.default_features)
    assert len(scenes.tables()["test"]) == 100 * (10 if kind.in_pieces else 1)
    own, other = kind(root), scenes
    assert (other.features, other.normalize) == (own.features, own.normalize)


@pytest.mark.parametrize(
    ("kind", "pieces", "devices"),
    [
        (TAUUrbanAcousticScenes2019, 1, {"a": 200, "b": 100}),
        (TAUUrbanAcousticScenes2019, 10, {"a": 200}),
        (TAUUrbanAcousticScenes2020Mobile, 10, {"a": 200, "b": 100}),
        (TAUUrbanAcousticScenes2022Mobile, 1, {"a": 200, "b": 100}),
    ],
)
def test_another_years_set_is_refused(kind, pieces, devices, tmp_path):
    rows = {"train": recordings(devices, 0), "evaluate": recordings(devices, 1000)}
    with pytest.raises(ValueError, match=rf"expected {kind.set_name}, .*found .*Use the class of its year"):
        kind(write(tmp_path / "set", rows, "\n", pieces=pieces)).tables()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["a", "s7"]}, r"expected `devices` among a, b, c, s1, .* found 's7'\. Leave it out to use all"),
        ({"cities": []}, "expected `cities` among barcelona, .*found an empty list"),
        ({"devices": "s4"}, r"expected devices='s4' to leave a clip on each side, found none of the 13962 training"),
        ({"split": "split3.csv"}, r"expected split='split3.csv' in the folder, .*found no such file"),
    ],
)
def test_what_does_not_exist_is_refused(set2020, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TAUUrbanAcousticScenes2020Mobile(set2020, **options).tables()


def test_a_split_with_files_that_are_not_in_training_is_refused(set2020, tmp_path):
    (tmp_path / "split.csv").write_text("filename\tscene_label\naudio/nowhere.wav\tbus\n")
    with pytest.raises(
        ValueError, match=r"in training, with the same scene, found 'audio/nowhere.wav' \(bus, line 2\) not"
    ):
        TAUUrbanAcousticScenes2020Mobile(set2020, split=tmp_path / "split.csv").tables()
    with pytest.raises(ValueError, match=r"split='x', train_fraction=0.5\)`: expected one of them"):
        TAUUrbanAcousticScenes2020Mobile(set2020, split="x", train_fraction=0.5)


@pytest.mark.parametrize("ask", [lambda scenes: scenes.prepare_data(), lambda scenes: scenes.tables()])
def test_a_folder_without_the_set(ask, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"2020-mobile-development there, found no meta.csv. Write `download=Tr"
    ):
        ask(TAUUrbanAcousticScenes2020Mobile(tmp_path / "nowhere"))


def test_a_set_that_was_unpacked_by_hand_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "download", lambda *_, **options: pytest.fail("asked for archives"))
    SyntheticScenes(
        tmp_path / "set", layout="tau2020", num_recordings=100, recording_seconds=1, progress=False
    ).prepare_data()
    scenes = TAUUrbanAcousticScenes2020Mobile(
        tmp_path / "set", download=True, cache_dir=tmp_path / "cache", progress=False
    )
    scenes.prepare_data()
    next((tmp_path / "set" / "audio").iterdir()).unlink()
    again = TAUUrbanAcousticScenes2020Mobile(
        tmp_path / "set", download=True, cache_dir=tmp_path / "cache", progress=False
    )
    with pytest.raises(pytest.fail.Exception, match="asked for archives"):
        again.prepare_data()


def test_download_asks_for_the_sets_own_archives(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        published, "download", lambda archives, root, **options: asked.update(archives=archives, root=root)
    )
    for kind in (TAUUrbanAcousticScenes2019, TAUUrbanAcousticScenes2020Mobile, TAUUrbanAcousticScenes2022Mobile):
        with pytest.raises(FileNotFoundError):  # for nothing came
            kind(tmp_path / "set", download=True).prepare_data()
        assert asked["archives"] == zenodo_archives(kind.set_name)
        assert asked["root"] == tmp_path / "set"
