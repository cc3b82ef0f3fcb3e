import subprocess
import sys

import pytest

import lightning_cosprune
import lightning_cosprune.data
import lightning_cosprune.models

HEAVY = ("wandb", "matplotlib", "codecarbon", "librosa")


@pytest.mark.parametrize("module", ["lightning_cosprune", "lightning_cosprune.data", "lightning_cosprune.models"])
def test_import_is_light(module: str) -> None:
    program = f"import sys, {module}; sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", [lightning_cosprune, lightning_cosprune.data, lightning_cosprune.models])
def test_every_public_name_is_there_and_documented(package: object) -> None:
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
