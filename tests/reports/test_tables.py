import csv
import io

from reports.records import record_of, small_network
from torch import nn

from lightning_cosprune import Outcome, RunRecord
from lightning_cosprune.reports.gallery import tables_of
from lightning_cosprune.reports.headline import headline_of
from lightning_cosprune.reports.page import render_report
from lightning_cosprune.reports.tables import csv_text, format_outcomes, latex_rows, layer_rows, outcome_rows, spread


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    record = RunRecord(outcomes=(Outcome("dense", "dense", (0.5, 0.7), macs=(2e6,)), Outcome("b", macs=(1e6,))))
    assert outcome_rows(record) == [
        ["", "accuracy %", "MACs (M)"],
        ["dense", "60.0 ± 14.1", "2.00"],
        ["b", "", "1.00"],
    ]
    assert format_outcomes(RunRecord()) == ""
    assert format_outcomes(record).splitlines()[2].split() == ["dense", "60.0", "±", "14.1", "2.00"]


def test_the_csv_has_a_line_a_network_and_seed() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(record_of(small_network())))))
    assert len(lines) == 7 * 3
    assert [line["accuracy"] for line in lines[:3]] == ["0.8", "0.8200000000000001", "0.79"]
    assert {line["macs"] for line in lines if line["role"] == "dense"} == {lines[0]["macs"]}
    assert [line["seed"] for line in lines[:3]] == ["0", "1", "2"]
    assert {line["fraction"] for line in lines} == {"", "0.5", "1.0"}


def test_latex_rows_are_escaped() -> None:
    record = RunRecord(outcomes=(Outcome("50% & a_b", accuracy=(0.5, 0.6)),))
    assert latex_rows(record) == " & accuracy \\% \\\\\n50\\% \\& a\\_b & 55.0 $\\pm$ 7.1 \\\\"


def test_layers_with_and_without_pictures() -> None:
    record = record_of(small_network())
    (prune,) = record.prunes
    assert layer_rows(prune)[0][-1] == "explained, median"
    assert layer_rows(prune)[1][:4] == ["0.0", "8", "4", "50.0%"]
    bare = RunRecord.of([prune.report]).prunes[0]
    assert layer_rows(bare) == [
        ["layer", "filters before", "after", "removed"],
        ["0.0", "8", "4", "50.0%"],
        ["1", "6", "3", "50.0%"],
    ]


def test_spread() -> None:
    assert (spread([], 1), spread([1, 1], 1), spread([1, 2], 1)) == ("", "1.0", "1.5 ± 0.7")


def test_the_headline_is_the_answer() -> None:
    headline = headline_of(record_of(small_network()))
    assert [tile.name for tile in headline.costs] == [
        "multiply-accumulates",
        "parameters",
        "memory",
        "time of a pass",
    ]
    assert headline.costs[3].value == "\N{MINUS SIGN}25\N{NO-BREAK SPACE}%"
    assert headline.costs[3].detail == "4.00 → 3.00 ms"
    assert [(tile.name, tile.value) for tile in headline.accuracies] == [
        ("dense", "80.3\N{NO-BREAK SPACE}%"),
        ("as cut", "30.3\N{NO-BREAK SPACE}%"),
        ("repaired", "75.3\N{NO-BREAK SPACE}%"),
        ("fine-tuned", "79.3\N{NO-BREAK SPACE}%"),
        ("best rival", "78.3\N{NO-BREAK SPACE}%"),
    ]
    assert "the dense network is right on 80.3" in headline.sentence


def test_without_accuracies_it_tells_what_repair_brought() -> None:
    (prune,) = record_of(small_network()).prunes
    headline = headline_of(RunRecord.of([prune.report], [prune.repair]))
    assert [tile.name for tile in headline.accuracies] == ["outputs changed, as cut", "outputs changed, repaired"]
    assert headline_of(RunRecord()).sentence == "Nothing went."


def test_norms_that_range_over_fewer_channels_are_told() -> None:
    convolution = nn.Conv2d(1, 8, 3, padding=1)
    network = nn.Sequential(convolution, nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    record = record_of(network, repair=False)
    assert tables_of(record)["norms"] == [["norm", "over fewer channels of"], ["1", "0"]]
    title = "Norms that range over fewer channels"
    assert title in render_report(record)
    assert RunRecord.from_json(record.to_json()) == record
    without = record_of(small_network())
    assert "norms" not in tables_of(without)
    assert title not in render_report(without)
