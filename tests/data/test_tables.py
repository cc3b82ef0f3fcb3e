"""Tables from csv files alone, at the true size too, and every fault that the files can have."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from data.rewritten import rewrite, rows

from lightning_cosprune.data import DCASEScenes
from lightning_cosprune.data.fraction import recordings_taken

# `Folder` is the one of conftest.py.
Folder = Any


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_need_no_audio(make_folder: Callable[..., Folder], newline: str) -> None:
    folder = make_folder(newline=newline)
    shutil.rmtree(folder.root / "audio")

    scenes = folder.scenes(validation_fraction=0)
    tables = scenes.tables()

    assert list(tables) == ["train", "validation", "test", "predict"]
    for table in tables.values():
        assert list(table) == ["filename", "scene_label", "identifier", "city", "device", "parent"]
        assert table.index.tolist() == list(range(len(table)))
    assert tables["train"]["filename"].tolist() == [name for name, _ in folder.train]
    assert tables["test"]["filename"].tolist() == [name for name, _ in folder.test]
    assert len(tables["validation"]) == 0
    assert set(tables["train"]["city"]) == {"lyon"}
    assert scenes.scene_labels == ["bus", "park", "tram"]
    assert scenes.devices == ["a", "b", "s"]


def test_the_caller_may_change_a_table(folder: Folder) -> None:
    scenes = folder.scenes()
    table = scenes.tables()["train"]
    table["scene_label"] = "?"
    table.loc[0, "filename"] = "?"
    unchanged = scenes.tables()["train"]
    assert set(unchanged["scene_label"]) == {"bus", "park", "tram"}
    assert "?" not in set(unchanged["filename"])


def test_the_test_is_the_evaluate_file_and_not_the_rest_of_meta(folder: Folder) -> None:
    folder.meta.insert(0, ["audio/bus-oslo-77-1-a.wav", "bus", "oslo-77", "a"])
    folder.write_csv()
    tables = folder.scenes().tables()
    names = pd.concat([tables[split] for split in ("train", "validation", "test")])["filename"]
    assert sorted(names) == sorted(name for name, _ in folder.train + folder.test)


def test_parents_are_the_ten_second_recordings(folder: Folder) -> None:
    train = [
        ("audio/bus-lisbon-1000-40000-0-a.wav", "bus", "lisbon-1000", "a"),
        ("audio/bus-lisbon-1000-40000-9-a.wav", "bus", "lisbon-1000", "a"),
        ("audio/bus-lisbon-1000-40000-0-s1.wav", "bus", "lisbon-1000", "s1"),
        ("audio/park-lisbon-1001-40001-b.wav", "park", "lisbon-1001", "b"),
        ("audio/tram-100032-A.ogg", "tram", "100032", "freesound"),
    ]
    rewrite(folder, train)
    table = folder.scenes(validation_fraction=0).tables()["train"]
    assert table["parent"].tolist() == [
        "audio/bus-lisbon-1000-40000-a.wav",
        "audio/bus-lisbon-1000-40000-a.wav",
        "audio/bus-lisbon-1000-40000-s1.wav",
        "audio/park-lisbon-1001-40001-b.wav",
        "audio/tram-100032-A.ogg",
    ]
    assert table["city"].tolist()[:4] == ["lisbon"] * 4
    assert table["city"].isna().tolist() == [False] * 4 + [True]


@pytest.mark.filterwarnings("ignore:.*expected other places in the test")
def test_tables_of_the_true_size(tmp_path: Path) -> None:
    # 230,350 rows in a layout like TAU 2022's; no time is asserted, but a slow way would be felt here.
    recordings = pd.DataFrame({"number": range(23_035)})
    recordings["scene"] = [f"scene_{number % 10}" for number in recordings["number"]]
    recordings["place"] = [f"city{number // 10 % 12}-{1000 + number // 40 % 500}" for number in recordings["number"]]
    recordings["device"] = [("a", "a", "a", "b", "s1")[number % 5] for number in recordings["number"]]
    rows = recordings.loc[recordings.index.repeat(10)].reset_index(drop=True)
    piece = (rows.index % 10).astype(str)
    name = rows["scene"] + "-" + rows["place"] + "-" + rows["number"].astype(str) + "-" + piece + "-" + rows["device"]
    meta = pd.DataFrame({"filename": "audio/" + name + ".wav", "scene_label": rows["scene"]})
    meta["identifier"], meta["source_label"] = rows["place"], rows["device"]
    (tmp_path / "evaluation_setup").mkdir()
    meta.to_csv(tmp_path / "meta.csv", sep="\t", index=False, lineterminator="\r\n")
    for side, part in (("train", meta[:139_620]), ("evaluate", meta[139_620:169_300])):
        path = tmp_path / "evaluation_setup" / f"fold1_{side}.csv"
        part[["filename", "scene_label"]].to_csv(path, sep="\t", index=False, lineterminator="\r\n")

    tables = DCASEScenes(tmp_path, train_fraction=0.25).tables()

    assert len(tables["test"]) == 29_680
    assert tables["test"]["parent"].nunique() == 2_968
    whole = DCASEScenes(tmp_path).tables()["train"]
    assert len(whole) + len(tables["validation"]) == 139_620
    assert len(tables["train"]) == 10 * recordings_taken(len(whole) // 10, 0.25)


def broken(message: str, break_it: Callable[[Folder], object], *, id: str) -> object:  # noqa: A002
    return pytest.param(break_it, message, id=id)


def replace(name: str, old: str, new: str) -> Callable[[Folder], object]:
    def change(folder: Folder) -> None:
        path = folder.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


TRAIN, EVALUATE = "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"
ROW = "audio/bus-lyon-3-3-a.wav\tbus\n"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        broken("expected a folder in DCASE layout, found nothing", lambda f: shutil.rmtree(f.root), id="no root"),
        broken("expected meta.csv in it, found audio, eval", lambda f: (f.root / "meta.csv").unlink(), id="no meta"),
        broken(
            "expected evaluation_setup/fold1_train.csv for fold=1, found fold1_evaluate.csv",
            lambda f: (f.root / TRAIN).unlink(),
            id="no fold",
        ),
        broken("identifier in meta.csv, found", replace("meta.csv", "identifier", "place"), id="no column"),
        broken(
            "expected the columns filename, scene_label in .*train.*separated by tabs",
            replace(TRAIN, "\t", ","),
            id="commas",
        ),
        broken("found 'audio/bus-lyon-3-3-a.wav' in lines 8 and 9", replace(TRAIN, ROW, ROW + ROW), id="doubled"),
        broken(
            "in meta.csv, found 'audio/x.wav' .line 8.", replace(TRAIN, ROW, "audio/x.wav\tbus\n" + ROW), id="unknown"
        ),
        broken(
            "found 'park' for .*line 8.* has 'bus'", replace(TRAIN, ROW, ROW.replace("\tbus", "\tpark")), id="labels"
        ),
        broken("in both", replace(EVALUATE, "label\n", "label\n" + ROW), id="in train and test"),
        broken(
            "expected a scene_label in .*train.csv line 8", replace(TRAIN, ROW, ROW.replace("\tbus", "\t")), id="gap"
        ),
        broken("found only its header", lambda f: (f.root / TRAIN).write_text("filename\tscene_label\n"), id="no rows"),
        broken("tab-separated table in meta.csv", lambda f: (f.root / "meta.csv").write_bytes(b""), id="empty file"),
    ],
)
def test_each_fault_is_one_clear_error(folder: Folder, break_it: Callable[[Folder], object], message: str) -> None:
    break_it(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        folder.scenes().tables()
    assert re.match(r"`DCASEScenes\(root='.*'\)`: expected .*, found .*\. [A-Z].*\.$", str(caught.value))


def test_blank_lines_do_not_shift_line_numbers(folder: Folder) -> None:
    replace(TRAIN, ROW, "\n\naudio/x.wav\tbus\n" + ROW)(folder)
    with pytest.raises(ValueError, match=r"'audio/x.wav' \(line 10\)"):
        folder.scenes().tables()


def test_a_test_scene_without_training_clips(folder: Folder) -> None:
    rewrite(folder, [row for row in rows(range(4)) if row[1] != "tram"])
    with pytest.raises(
        ValueError, match=r"found 'tram' \(evaluation_setup/fold1_evaluate.csv line 6\) only in the test"
    ):
        folder.scenes().tables()


def test_fewer_clips_than_classes(folder: Folder) -> None:
    rewrite(folder, rows(range(1))[:2])
    with pytest.raises(ValueError, match=r"a training clip for each of 3 scenes, found 2 clips in .*fold1_train.csv"):
        folder.scenes().tables()


def test_missing_audio_is_told_before_any_extraction(folder: Folder) -> None:
    first, second = folder.train[7][0], folder.test[1][0]
    (folder.root / first).unlink()
    (folder.root / second).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        folder.scenes().prepare_data()
    message = str(caught.value)
    assert str(folder.root / first) in message
    assert "fold1_train.csv line 9" in message
    assert "2 of the 30 files of this fold are missing" in message
    assert not list(folder.root.with_name("cache").glob("*"))


# Older layouts


def without_headers(folder, columns: int, suffix: str = ".txt") -> None:
    """As the TUT sets of 2016 and 2017 have them."""
    for path in [folder.root / "meta.csv", *(folder.root / "evaluation_setup").glob("*.csv")]:
        rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        keep = columns if path.name == "meta.csv" else 2
        path.with_suffix(suffix).write_text("".join("\t".join(row[:keep]) + "\n" for row in rows))
        path.unlink()


@pytest.mark.parametrize("columns", [2, 3])
def test_the_layout_of_tut_2016_and_2017(folder, columns):
    expected = folder.scenes(validation_fraction=0).tables()
    without_headers(folder, columns)
    tables = folder.scenes(validation_fraction=0).tables()
    for split, table in tables.items():
        assert table["filename"].tolist() == expected[split]["filename"].tolist()
        assert table["scene_label"].tolist() == expected[split]["scene_label"].tolist()
        assert set(table["device"]) <= {"a"}
    if columns == 3:
        assert tables["train"]["identifier"].tolist() == expected["train"]["identifier"].tolist()


def test_where_identifiers_are_missing_the_name_up_to_its_first_underscore_is_the_place(folder):
    names = {}
    for number, row in enumerate([*folder.meta]):
        names[row[0]] = row[0] = f"audio/b{number:03}_90_120.wav"
    for table in (folder.train, folder.test):
        for row in table:
            row[0] = names[row[0]]
    folder.write_csv()
    without_headers(folder, 2)
    table = folder.scenes(validation_fraction=0).tables()["train"]
    assert table["identifier"].tolist() == [name[6:10] for name in table["filename"]]


@pytest.mark.parametrize("asked", ["..", "audio"])
def test_a_set_that_lies_one_folder_further_is_pointed_at(folder, asked):
    inner = folder.root / "set" if asked == ".." else folder.root
    if asked == "..":
        shutil.copytree(folder.root, folder.root.parent / "outer" / "set")
        root, inner = folder.root.parent / "outer", folder.root.parent / "outer" / "set"
    else:
        root = folder.root / asked
    with pytest.raises(
        FileNotFoundError, match=rf"expected meta\.csv in it, found .*, perhaps {re.escape(str(inner))}"
    ):
        DCASEScenes(root).tables()


def test_folds_in_text_files_as_in_tut_2018(folder):
    expected = folder.scenes().tables()
    for path in (folder.root / "evaluation_setup").glob("*.csv"):
        path.rename(path.with_suffix(".txt"))
    for split, table in folder.scenes().tables().items():
        assert table.equals(expected[split])


def test_the_line_of_a_fault_counts_from_the_first_row_where_there_is_no_header(folder):
    without_headers(folder, 3)
    path = folder.root / "evaluation_setup" / "fold1_train.txt"
    path.write_text("audio/nowhere.wav\tbus\n" + path.read_text())
    with pytest.raises(ValueError, match=r"found 'audio/nowhere.wav' \(line 1\)"):
        folder.scenes().tables()


@pytest.mark.parametrize("other", ["BUS", "Bus"])
def test_scenes_that_differ_in_capitals_alone_are_told(folder: Folder, other: str) -> None:
    for table in (folder.meta, folder.train):
        table[3][1] = other
    folder.write_csv()
    with pytest.raises(
        ValueError, match=rf"one spelling of each scene in meta\.csv, found '{other}' and 'bus' \(line 2\)"
    ):
        folder.scenes().tables()


def test_a_scene_and_a_place_called_na_are_names(folder: Folder) -> None:
    for table in (folder.meta, folder.train, folder.test):
        for row in table:
            row[1] = "NA" if row[1] == "bus" else row[1]
    folder.meta[0][2] = "nan-1"
    folder.write_csv()
    tables = folder.scenes(validation_fraction=0).tables()
    assert folder.scenes().scene_labels == ["NA", "park", "tram"]
    assert tables["train"]["identifier"].iloc[0] == "nan-1"
    assert tables["train"]["city"].iloc[0] == "nan"


def test_a_place_on_both_sides_is_warned_of(folder: Folder) -> None:
    folder.meta[-1][2] = folder.meta[0][2]
    folder.write_csv()
    with pytest.warns(UserWarning, match=r"found 'lyon-0' and 0 more identifiers in both.*scores will be too good"):
        folder.scenes().tables()


@pytest.mark.parametrize(("device", "message"), [("s", "24 training clips"), ("b", "6 test clips")])
def test_a_filter_that_empties_a_side_is_told(folder: Folder, device: str, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected devices='{device}' to leave a clip on each side, found none of the {message}"
    ):
        folder.scenes(devices=device).tables()


def test_a_filter_that_leaves_no_validation_is_warned_of(folder: Folder) -> None:
    """Only the last place of each scene, which is never held out, is of the device."""
    scenes = folder.scenes(validation_fraction=0.3)
    held = set(scenes.tables()["validation"]["filename"])
    for row in folder.meta:
        row[3] = "x" if row[0] not in held else "y"
    folder.write_csv()
    with pytest.warns(UserWarning, match="no validation clip is left of the devices and cities"):
        folder.scenes(devices="x").tables()
