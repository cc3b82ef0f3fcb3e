import copy
import math
import pickle

from lightning_cosprune import RepairReport
from lightning_cosprune.repair.report import RepairedLayer

LAYERS = (
    RepairedLayer("conv2", 0.8123, 0.0512, 0.01),
    RepairedLayer("conv3", 0.25, 0.125, math.inf),
    RepairedLayer("head", 0.5, 0.5),
)
REPORT = RepairReport("least_squares", LAYERS, {"rnn": "recurrent"}, 1600, 2.5, 0.25)


def test_it_can_be_read() -> None:
    assert str(REPORT) == (
        "Repaired by least squares on 1,600 unlabelled samples\n"
        "unexplained by the repaired layer   before   after      ridge\n"
        "---------------------------------  -------  ------  ---------\n"
        "conv2                               81.23%   5.12%       0.01\n"
        "conv3                               25.00%  12.50%  bias only\n"
        "head                                50.00%  50.00%\n"
        "the network's output               250.00%  25.00%\n"
        "Layers that read removed channels and were left as they were:\n"
        "  rnn: recurrent"
    )


def test_what_was_undone_is_said() -> None:
    assert str(RepairReport("least_squares", (), {}, 4, 0.5, 0.5, undone=True)).endswith(
        "\nThe outputs had come out worse, so the old weights were put back."
    )


def test_without_data_there_are_no_errors() -> None:
    report = RepairReport("merge", (RepairedLayer("conv2"),), {})
    assert str(report).startswith("Repaired by merge, without data\n")
    assert "%" not in str(report)
    assert report.metrics() == {"repair/samples": 0.0}


def test_its_numbers_are_those_of_a_logger() -> None:
    assert REPORT.metrics() == {
        "repair/samples": 1600.0,
        "repair/output_error_before": 2.5,
        "repair/output_error_after": 0.25,
        "repair/error/conv2_before": 0.8123,
        "repair/error/conv2_after": 0.0512,
        "repair/error/conv3_before": 0.25,
        "repair/error/conv3_after": 0.125,
        "repair/error/head_before": 0.5,
        "repair/error/head_after": 0.5,
    }


def test_it_is_a_value_that_travels() -> None:
    reasons = {"rnn": "recurrent"}
    report = RepairReport("least_squares", LAYERS, reasons, 1600, 2.5, 0.25)
    reasons["other"] = "added later"
    assert report == REPORT
    for other in (pickle.loads(pickle.dumps(REPORT)), copy.deepcopy(REPORT)):
        assert other == REPORT
        assert str(other) == str(REPORT)
    undone = RepairReport("least_squares", LAYERS, {}, 1, 2.5, 2.5, undone=True)
    assert pickle.loads(pickle.dumps(undone)) == undone
