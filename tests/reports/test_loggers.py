"""TensorBoard and CSV, read back from the files that they write."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fits import UsersModule, fit
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_cosprune import CosineFilterPruning, EnergyMonitor

RATIO = "pruning/ratio/stem"


def events_in(folder: Path) -> Iterator[Any]:
    """The events of a TensorBoard run: a length, its checksum, so many bytes, their checksum, and so on."""
    event = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    (log,) = folder.rglob("events.out.tfevents.*")
    data = log.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_has_numbers_pictures_and_tables(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    image = pytest.importorskip("PIL.Image")
    callback = CosineFilterPruning(0.5, at_epoch=1, repair="merge")
    fit(UsersModule(), callback, tmp_path, logger=TensorBoardLogger(tmp_path))
    numbers: dict[str, tuple[int, float]] = {}
    pictures, texts = {}, {}
    for event in events_in(tmp_path):
        for value in event.summary.value:
            if value.HasField("image"):
                pictures[value.tag] = np.asarray(image.open(io.BytesIO(value.image.encoded_image_string)).convert("L"))
            elif value.HasField("tensor"):
                texts[value.tag.removesuffix("/text_summary")] = value.tensor.string_val[0].decode()
            else:
                numbers[value.tag] = (event.step, value.simple_value)
    assert numbers[RATIO] == (3, 0.5)
    assert 0 < numbers["pruning/macs_removed"][1] < 1
    assert {"pruning/widths", "pruning/learning", "pruning/similarity/stem", "pruning/filters/stem"} <= set(pictures)
    for name, picture in pictures.items():
        assert picture.std() > 5, name
        assert picture.shape[1] > 300, name
    layers = texts["pruning/layers"].splitlines()
    assert layers[0].startswith("| layer | filters before | after |")
    assert layers[2].startswith("| stem | 16 | 8 | 50.0% |")


def test_csv_has_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    trainer = fit(
        UsersModule(),
        CosineFilterPruning(0.5, at_epoch=1, repair="merge"),
        tmp_path,
        EnergyMonitor("GBR"),
        logger=CSVLogger(tmp_path),
    )
    with (Path(trainer.log_dir or "") / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (pruned,) = [row for row in rows if row[RATIO]]
    assert (pruned["step"], pruned[RATIO]) == ("3", "0.5")
    assert 0 < float(pruned["pruning/macs_removed"]) < 1
    (counted,) = [row for row in rows if row["energy/kwh"]]
    assert float(counted["energy/kwh"]) > 0
    assert not list(Path(trainer.log_dir or "").glob("*.png")), "a table of numbers takes no pictures"


def test_both_at_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")]
    trainer = fit(UsersModule(), CosineFilterPruning(0.5, repair=None), tmp_path, logger=loggers)
    assert RATIO in (Path(trainer.loggers[0].log_dir or "") / "metrics.csv").read_text()
    assert any(value.tag == RATIO for event in events_in(tmp_path / "board") for value in event.summary.value)
