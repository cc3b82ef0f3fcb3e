"""The programs of the gallery run from top to bottom, and assert what they teach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = "plot_panns"
PAGES = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.stem == QUICK else pytest.mark.thorough) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_a_page_of_the_gallery_runs(page, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    told = subprocess.run(
        [sys.executable, str(page)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert list(tmp_path.iterdir()) == [], "left beside it"
    assert "assert " in page.read_text(encoding="utf-8")
