import builtins
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reports.records import record_of, small_network

from lightning_cosprune import Outcome, RunRecord, write_report
from lightning_cosprune.reports.page import render_report


def test_it_stands_alone_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    record = record_of(small_network())
    write_report(page, record)
    text = page.read_text(encoding="utf-8")
    assert "<h1>Pruning &lt;a network&gt;</h1>" in text
    assert "<p>1 &lt; 2</p>" in text
    assert "<td>a &amp; b</td>" in text
    assert "data:image/png;base64,iVBOR" in text
    assert "http" not in text
    assert "<script" not in text
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    for heading in ("Accuracy and cost", "Filters", "Learning", "For whom", "Time and energy", "More", "To copy"):
        assert re.search(f'<h2 id="s\\d+">{heading}</h2>', text)
    for picture in ("accuracy against data", "learning curves", "what each repaired layer computes wrongly"):
        assert f'aria-label="{picture}"' in text
    assert text == render_report(RunRecord.from_json(record.to_json())), "the same record gives the same page"


def test_names_in_the_pictures_do_not_meet() -> None:
    text = render_report(record_of(small_network()))
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text)) <= set(names)
    assert not re.findall(r"(?:fill|stroke): #(?!ffffff)\w{6}", text), "colours are those of the page"


def test_many_networks_stand_side_by_side() -> None:
    def network(label: str, ratio: float) -> Outcome:
        devices = {"a": 0.7, "s1": ratio}
        return Outcome(
            label, "tuned", (ratio,), by_device=devices, ratios={"conv9": ratio, "conv10": 0.5}, kwh=(ratio,)
        )

    names = ["cosine, repaired by least squares, half of the data", "random"]
    text = render_report(RunRecord(outcomes=(network(names[0], 0.25), network(names[1], 0.75))))
    for title in (
        "part of its filters that each layer lost",
        "accuracy of each network by device",
        "energy of each network",
    ):
        assert f'aria-label="{title}"' in text
    heat_map = text[text.index('aria-label="part of its filters') :]
    heat_map = heat_map[: heat_map.index("</svg>")]
    shown = re.findall(r"<text [^>]*>([^<]+)</text>", heat_map)
    assert shown.index("conv9") < shown.index("conv10"), "layers in their natural order"
    assert {"25", "75", "50", *names} <= set(shown)
    depths = [float(depth) for depth in re.findall(r"opacity: ([\d.]+)", heat_map)]
    assert min(depths) < 0.35 < 0.65 < max(depths), "the more a layer lost, the deeper"
    assert RunRecord.from_json(RunRecord(outcomes=(network("x", 0.5),)).to_json()).outcomes[0].ratios["conv10"] == 0.5


def test_a_bare_report_is_a_page_too() -> None:
    (prune,) = record_of(small_network()).prunes
    text = render_report(RunRecord.of([prune.report]))
    assert "filters before and after along the network" in text
    assert "Accuracy and cost" not in text
    assert "similarity of the filters" not in text


def test_twelve_layers_of_up_to_2048_filters_stay_below_two_megabytes() -> None:
    widths = (64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
    torch.manual_seed(0)
    # The filters are what is drawn; what they read would only make the test slow.
    layers = [torch.nn.Conv2d(2, width, 3) for width in widths]
    from lightning_cosprune.reports.layers import picture_layer
    from lightning_cosprune.reports.record import PruneRecord
    from lightning_cosprune.surgery.report import LayerReport, PruningReport

    (bare,) = record_of(small_network(), repair=False).prunes
    reports = tuple(
        LayerReport(f"conv{place}", width, width // 2, tuple(range(0, width, 2))) for place, width in enumerate(widths)
    )
    report = PruningReport(bare.report.before, bare.report.after, reports, {})
    pictures = tuple(
        picture_layer(layer, told.name, told.pruned_idxs) for layer, told in zip(layers, reports, strict=True)
    )
    text = render_report(RunRecord(prunes=(PruneRecord(report, None, pictures),)))
    assert text.count("similarity of the filters of conv") == 12
    assert len(text.encode()) < 2e6
    five = render_report(RunRecord(prunes=(PruneRecord(report, None, pictures),) * 5))
    assert len(five.encode()) < 2e6
    assert "Not drawn, so that the page stays small: conv" in five


def test_a_page_that_was_there_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"Report report\.html: expected room for .*\(No space left.*Make room there"):
        write_report(page, record_of(small_network(), repair=False))
    assert page.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_jinja(name: str, *arguments: Any) -> Any:
        if name.startswith("jinja2"):
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real_import(name, *arguments)

    monkeypatch.setattr("importlib.import_module", no_jinja)
    with pytest.raises(ModuleNotFoundError, match=r"need jinja2, which comes with the extra `viz`: pip install"):
        write_report(tmp_path / "report.html", RunRecord())
    assert not list(tmp_path.iterdir())


def test_figures_follow_no_style_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": True, "font.size": 40, "axes.facecolor": "pink"}):
        text = render_report(record_of(small_network(), repair=False))
        assert mpl.rcParams["font.size"] == 40
    assert text == render_report(record_of(small_network(), repair=False))
