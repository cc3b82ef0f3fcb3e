"""Killed or interrupted at drawn moments: nothing that was there is lost, no file is half, a rerun ends byte-equal."""

from __future__ import annotations

import contextlib
import copy
import http.server
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same
from interrupted import KINDS, Watch, content, ctrl_c, drawn_moments, stopped
from torch import nn

from lightning_cosprune import (
    AtomicCheckpointIO,
    RunRecord,
    apply_plan,
    compensate_constants,
    load_pruned,
    merge_removed,
    plan_pruning,
    refit_least_squares,
    sensitivity,
    write_report,
)
from lightning_cosprune.data import SyntheticScenes, reassemble, write_submission
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.download import download
from lightning_cosprune.reports.page import write_page

MOMENTS = 3
Work = Callable[[Path], object]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pieces") / "set"
    SyntheticScenes(root, num_recordings=100, recording_seconds=1, progress=False).prepare_data()
    return root


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Where the tests run in the background, it is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, pieces: Path) -> Iterator[list[Archive]]:
    folder = tmp_path_factory.mktemp("server")
    names = [shutil.make_archive(str(folder / name), "zip", pieces.parent, "set") for name in ("a", "b")]
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        yield [
            Archive(Path(name).name, f"{base}/{Path(name).name}", Path(name).stat().st_size, None, base)
            for name in names
        ]
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)]
    return nn.Sequential(*convolutions)


def a_record(title: str) -> RunRecord:
    inputs = torch.zeros(1, 1, 12, 12)
    model = network()
    return RunRecord.of([apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)], title=title)


def checkpoint(folder: Path, value: float) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.full((5_000,), value)}}, folder / "last.ckpt")


def pages(folder: Path, title: str) -> None:
    record = a_record(title)
    write_report(folder / "report.html", record)
    write_page(folder / "report.json", record.to_json())


def scores(folder: Path, factor: float) -> None:
    def score(model: nn.Module) -> float:
        return factor * sum(parameter.numel() for parameter in model.parameters())

    sensitivity(network(), torch.zeros(1, 1, 12, 12), score=score, criterion="l1", kept_in=folder / f"{factor}.csv")


def submission(folder: Path, scene: str) -> None:
    write_submission(folder / "out.csv", ["a.wav"] * 50, torch.full((50, 2), 0.5), [scene, "tram"])


def note(folder: Path) -> None:
    (folder / "note.txt").write_text("mine")


def synthetic(root: Path, cache: Path, features: str) -> None:
    scenes = SyntheticScenes(
        root, num_recordings=100, recording_seconds=1, features=features, cache_dir=cache, progress=False
    )
    scenes.prepare_data()


def cached(root: Path, features: str, folder: Path) -> None:
    synthetic(root, folder, features)


def new(folder: Path) -> None:
    synthetic(folder / "new", folder / "cache", "dcase2022")


def again(root: Path, folder: Path) -> None:
    reassemble(root, folder / "again", progress=False)


def fetch(archives: list[Archive], folder: Path) -> None:
    download(archives, folder / "set", licence="-", progress=False)


@pytest.fixture
def works(pieces: Path, served: list[Archive]) -> dict[str, tuple[Work, Work]]:
    """Name -> what is done before, in peace, and what is stopped."""
    return {
        "cache": (partial(cached, pieces, "dcase2021"), partial(cached, pieces, "dcase2022")),
        "reassemble": (note, partial(again, pieces)),
        "download": (note, partial(fetch, served)),
        "checkpoint": (partial(checkpoint, value=0.0), partial(checkpoint, value=1.0)),
        "report": (partial(pages, title="before"), partial(pages, title="after")),
        "sensitivity": (partial(scores, factor=2.0), partial(scores, factor=3.0)),
        "submission": (partial(submission, scene="bus"), partial(submission, scene="park")),
        "synthetic": (note, new),
    }


NAMES = ("cache", "reassemble", "download", "checkpoint", "report", "sensitivity", "submission", "synthetic")
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.thorough] if kind == "ctrl-c" and name != "submission" else [])
    for name in NAMES
    for kind in KINDS
]
"""What writes beside and renames meets Ctrl-C and a kill alike."""
CONTINUED = (".part", ".etag", ".partial", "partial/")
"""What a rerun goes on from; a file of any other name is whole."""


def anew(folder: Path, prepare: Work, work: Work) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    prepare(folder)
    work(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nothing_is_lost_and_a_rerun_ends_byte_equal(name: str, kind: str, works: Any, tmp_path: Path) -> None:
    prepare, work = works[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    prepare(whole)
    before = content(whole)
    counted = tmp_path / "counted"
    moments = drawn_moments(lambda: anew(counted, prepare, work), MOMENTS, seed=0)
    work(whole)
    interrupted = 0
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        interrupted += stopped(partial(work, folder), moment, kind)
        left, after = content(folder), content(whole)
        for path, old in before.items():
            assert left[path] in (old, after[path]), f"{path} at {moment}"
        for path, found in left.items():
            if path in after and not any(mark in path for mark in CONTINUED):
                grows = name == "sensitivity" and after[path].startswith(found)
                assert grows or found in (after[path], before.get(path)), f"{path} at {moment}"
            assert kind == "kill" or name == "download" or not path.endswith(".part"), f"{path} at {moment}"
        work(folder)
        assert content(folder) == after
    assert interrupted >= MOMENTS // 2


def test_a_pruned_checkpoint_that_was_interrupted_still_loads(tmp_path: Path) -> None:
    model, inputs = network(), torch.zeros(1, 1, 12, 12)
    apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
    save = AtomicCheckpointIO().save_checkpoint
    old = {"state_dict": model.state_dict()}
    save(old, tmp_path / "last.ckpt")
    new = {"state_dict": {name: tensor + 1 for name, tensor in model.state_dict().items()}}
    for kind in KINDS:
        for moment in drawn_moments(lambda: save(new, tmp_path / "other.ckpt"), MOMENTS, seed=1):
            stopped(partial(save, new, tmp_path / "last.ckpt"), moment, kind)
            found = dict(load_pruned(network, tmp_path / "last.ckpt").state_dict())
            wanted = new if float(found["0.bias"][0]) == float(new["state_dict"]["0.bias"][0]) else old
            assert_same(found, dict(wanted["state_dict"]))


INPUTS = torch.randn(80, 1, 12, 12, generator=torch.Generator().manual_seed(0))
REPAIRS: dict[str, Callable[[nn.Module, nn.Module, Any], object]] = {
    "prune": lambda model, dense, report: apply_plan(
        dense, plan_pruning(dense, INPUTS[:1], pruning_ratio=0.5), INPUTS[:1]
    ),
    "least squares": lambda model, dense, report: refit_least_squares(model, dense, [INPUTS], report=report),
    "merge": lambda model, dense, report: merge_removed(model, dense, report, example_inputs=INPUTS[:1]),
    "constant": lambda model, dense, report: compensate_constants(model, dense, report, example_inputs=INPUTS[:1]),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that met a generator's end
@pytest.mark.parametrize("name", REPAIRS)
def test_an_interrupt_at_drawn_moments_leaves_the_network_as_it_was(name: str) -> None:
    def prepared() -> tuple[nn.Module, nn.Module, Any]:
        model = network()
        dense = copy.deepcopy(model)
        return model, dense, apply_plan(model, plan_pruning(model, INPUTS[:1], pruning_ratio=0.5), INPUTS[:1])

    repair, fresh = REPAIRS[name], [prepared() for _ in range(2)]
    moments = list(drawn_moments(lambda: repair(*fresh.pop()), 12, seed=2))
    whole, given = prepared(), prepared()
    repair(*whole)
    before = [copy.deepcopy(dict(one.state_dict())) for one in given[:2]]
    after = [dict(one.state_dict()) for one in whole[:2]]
    stops = 0
    for moment in moments:
        with contextlib.suppress(KeyboardInterrupt), Watch(moment, ctrl_c):
            repair(*given)
            stops -= 1
        stops += 1
        done = not is_same(given, before)
        for one, state in zip(given[:2], after if done else before, strict=True):
            assert_same(dict(one.state_dict()), state)
            assert one.training
            assert not any(module._forward_hooks for module in one.modules())
        given = prepared() if done else given
    assert stops >= len(moments) - 3
    repair(*given)
    assert is_same(given, after)


def is_same(networks: tuple[Any, ...], states: list[dict[str, Any]]) -> bool:
    try:
        assert_same([dict(one.state_dict()) for one in networks[:2]], states)
    except AssertionError:
        return False
    return True
