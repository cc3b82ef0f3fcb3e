"""Importing the data modules is cheap and drags nothing in that only some runs need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lightning_cosprune.data as data

# What Lightning imports of its own accord is not ours: torchmetrics takes librosa and matplotlib where they are.
SCRIPT = """
import sys
import lightning.pytorch
before = set(sys.modules)
from lightning_cosprune.data import DCASEScenes, FractionSampler, LogMel, SceneBatch, SyntheticScenes, nested_fraction
DCASEScenes("nowhere"), LogMel()
print(sorted({"librosa", "matplotlib", "wandb", "codecarbon"} & (set(sys.modules) - before)))
"""


def test_importing_brings_no_optional_package() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_no_file_imports_an_optional_package_at_its_top() -> None:
    files = sorted(Path(data.__file__).parent.rglob("*.py"))
    assert len(files) > 16
    for path in files:
        imports = re.findall(
            r"^(?:from|import) (librosa|matplotlib|wandb|codecarbon)", path.read_text(encoding="utf-8"), re.M
        )
        assert imports == [], path


def test_every_public_name_is_there() -> None:
    names = {
        "DCASEScenes",
        "FRONT_ENDS",
        "FractionSampler",
        "FrontEnd",
        "LogMel",
        "SceneBatch",
        "SyntheticScenes",
        "nested_fraction",
    }
    names |= {"Augmentation", "DeviceImpulseResponse", "FreqMixStyle", "FrequencyMask", "Mixup", "TimeMask", "TimeRoll"}
    names |= {f"TAUUrbanAcousticScenes{year}" for year in ("2019", "2020Mobile", "2022Mobile")}
    names |= {"ESC10", "ESC50", "reassemble", "write_submission"}
    assert names == set(data.__all__)
    assert all(getattr(data, name).__doc__ for name in names)
