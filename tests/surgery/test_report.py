import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import apply_plan, plan_pruning
from lightning_cosprune.surgery.report import format_table, plot_filters, write_html


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(384, 5))


def test_a_report_says_what_was_removed_and_what_was_not() -> None:
    model = network()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, ignored_layers=["1"])
    report = apply_plan(model, plan, SPECTROGRAM)
    text = str(report)
    assert "filters of 0.0        8       4    50.0%" in text
    assert f"{report.before.params:,}" in text
    assert f"{report.after.macs:,}" in text
    assert "MACs at 2x1x8x8" in text
    assert "Layers that kept all their filters:\n  1: ignored\n  3: a linear layer" in text
    metrics = report.metrics()
    assert metrics["pruning/filters/0.0_before"] == 8
    assert metrics["pruning/filters/0.0_after"] == 4
    assert (
        metrics["pruning/params_after"]
        == report.after.params
        == sum(tensor.numel() for name, tensor in model.state_dict().items() if "num_batches" not in name)
    )


def test_columns_are_aligned() -> None:
    assert format_table(["", "wide"], [["a", "1"], ["longer", "22,222"]]) == (
        "          wide\n------  ------\na            1\nlonger  22,222"
    )


class TestFigure:
    def test_kept_filters_come_first_and_removed_ones_are_crossed_out(self) -> None:
        model = network()
        plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.25)
        figure = plot_filters(model, plan, "0.0")
        kept, pruned = plan.kept["0.0"], plan.pruned["0.0"]
        matrix = figure.subfigs[0].axes[0]
        assert [int(label.get_text()) for label in matrix.get_xticklabels()] == kept + pruned
        tiles = [axes for axes in figure.subfigs[1].axes if axes.images]
        assert [int(axes.get_title()) for axes in tiles] == kept + pruned
        assert [bool(axes.lines) for axes in tiles] == [False] * len(kept) + [True] * len(pruned)

    def test_a_kernel_of_one_tap_has_similarities_only(self) -> None:
        model = network()
        plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
        figure = plot_filters(model, plan, "1")
        assert not figure.subfigs
        assert figure.axes[0].images[0].get_array().shape == (6, 6)


class TestPage:
    def test_it_stands_alone_and_escapes_what_it_is_given(self, tmp_path: Path) -> None:
        model = network()
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

    def test_without_the_extra_it_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real_import = builtins.__import__

        def no_jinja(name: str, *arguments: Any) -> Any:
            if name.startswith("jinja2"):
                raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
            return real_import(name, *arguments)

        monkeypatch.setattr("importlib.import_module", no_jinja)
        with pytest.raises(ModuleNotFoundError, match=r"need jinja2, which comes with the extra `viz`: pip install"):
            write_html(tmp_path / "report.html", "", [])
        assert not list(tmp_path.iterdir())
