import builtins
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import plan_pruning
from lightning_cosprune.reports.figures import plot_filters
from lightning_cosprune.reports.page import write_html


def test_it_stands_alone_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    model = nn.Sequential(conv_bn(1, 8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(384, 5))
    figure = plot_filters(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), "0.0")
    page = tmp_path / "new" / "report.html"
    write_html(page, "A <title>", [("Words", "1 < 2"), ("Table", [["name", "x"], ["a & b", "3"]]), ("", figure)])
    text = page.read_text(encoding="utf-8")
    assert "<h1>A &lt;title&gt;</h1>" in text
    assert "<p>1 &lt; 2</p>" in text
    assert "<td>a &amp; b</td><td>3</td>" in text
    assert "data:image/png;base64,iVBOR" in text
    assert "http" not in text
    assert "<script" not in text
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_jinja(name: str, *arguments: Any) -> Any:
        if name.startswith("jinja2"):
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real_import(name, *arguments)

    monkeypatch.setattr("importlib.import_module", no_jinja)
    with pytest.raises(ModuleNotFoundError, match=r"need jinja2, which comes with the extra `viz`: pip install"):
        write_html(tmp_path / "report.html", "", [])
    assert not list(tmp_path.iterdir())
