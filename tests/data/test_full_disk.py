"""A disk that fills up, in earnest: what is told, what is left, and that a rerun ends as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# In a mount namespace of its own: a disk of so many bytes at the folder, the work, then the same with room enough.
RUN = """
import json, subprocess, sys
from pathlib import Path

size, folder, source, work = sys.argv[1:]
folder, source = Path(folder), Path(source)

def mount(size, *options):
    options = ",".join([*options, f"size={size}"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)

def files():
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hash(path.read_bytes()) for path in found}

mount(size)
exec(work)
told = []
try:
    run()
except OSError as error:
    told = [type(error).__name__, error.errno, str(error)]
left = list(files())
mount("100m", "remount")
run()
again = files()
subprocess.run(["umount", str(folder)], check=True)
mount("100m")
run()
print(json.dumps([told, left, again == files()]))
"""

CASES = {
    "cache": (
        "40k",
        r"Log-mel features (train): expected room for ",
        """
from lightning_cosprune.data import DCASEScenes
def run():
    DCASEScenes(source, cache_dir=folder, progress=False).prepare_data()
""",
    ),
    "reassemble": (
        "300k",
        "`reassemble`: expected room for ",
        """
from lightning_cosprune.data import SyntheticScenes, reassemble
pieces = source.parent / "pieces"
SyntheticScenes(pieces, num_recordings=100, progress=False).prepare_data()
def run():
    reassemble(pieces, folder / "again", progress=False)
""",
    ),
    "synthetic": (
        "300k",
        "expected room for ",
        """
from lightning_cosprune.data import SyntheticScenes
def run():
    SyntheticScenes(folder / "set", num_recordings=100, progress=False).prepare_data()
""",
    ),
    "unpack": (
        "150k",
        "a.zip: expected room in ",
        """
import shutil
from lightning_cosprune.data.sets.unpack import unpack
archive = shutil.make_archive(str(source.parent / "a"), "zip", source)
def run():
    unpack(Path(archive), folder / "set")
""",
    ),
    "download": (
        "200k",
        "Downloading: expected room for ",
        """
import functools, http.server, shutil, threading
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.download import fetch
archive = Path(shutil.make_archive(str(source.parent / "a"), "zip", source))
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
handler.func.log_message = lambda *_: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/a.zip"
def run():
    fetch([Archive("a.zip", url, archive.stat().st_size, None, url)], folder, progress=False)
""",
    ),
    "sensitivity": (
        "4k",
        "`sensitivity(kept_in=",
        """
import torch
from torch import nn
from lightning_cosprune import sensitivity
layers = [nn.Conv2d(1, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8)), nn.Conv2d(8, 2, 3)]
torch.manual_seed(0)
network = nn.Sequential(*layers)
def run():
    fractions = [part / 8 for part in range(1, 8)]
    options = {"score": lambda _: 0.123456789012345, "criterion": "l1", "fractions": fractions}
    sensitivity(network, torch.zeros(1, 1, 8, 8), kept_in=folder / "scores.csv", **options)
""",
    ),
    "submission": (
        "100k",
        "`write_submission(path=",
        """
import torch
from lightning_cosprune.data import write_submission
def run():
    names = [f"audio/{number}.wav" for number in range(9000)]
    write_submission(folder / "new.csv", names, torch.full((9000, 2), 0.5), ["bus", "tram"])
""",
    ),
    "report": (
        "8k",
        "Report report.html: expected room for ",
        """
from lightning_cosprune import RunRecord, write_report
def run():
    write_report(folder / "report.html", RunRecord(notes=("word " * 4000,)))
""",
    ),
    "checkpoint": (
        "500k",
        "Checkpoint last.ckpt: expected room in ",
        """
import torch
from lightning_cosprune.training.atomic import AtomicCheckpointIO
def run():
    for size in (10_000, 300_000):
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(size)}, folder / "last.ckpt")
""",
    ),
}


SLOW = pytest.param("sensitivity", marks=pytest.mark.thorough)


@pytest.mark.parametrize("name", [*(name for name in CASES if name != "sensitivity"), SLOW])
def test_a_full_disk_is_told_and_a_rerun_ends_as_if_nothing_had_been(name: str, folder, tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False)
    if probe.returncode:
        pytest.skip("a disk of its own needs the right to mount one in a namespace")
    size, message, work = CASES[name]
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "-m", sys.executable, "-c", RUN, size, str(disk), str(folder.root), work]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    told, left, same = json.loads(run.stdout.splitlines()[-1])
    assert told, "the disk was large enough"
    assert message in told[2], told
    assert str(disk) in told[2]
    assert "Make room there or choose another folder" in told[2]
    assert same
    assert name == "download" or not [file for file in left if file.endswith(".part")]  # that is gone on from
    if name == "synthetic":
        assert not [file for file in left if file.endswith(".wav")]
    if name == "checkpoint":
        assert left == ["last.ckpt"]
