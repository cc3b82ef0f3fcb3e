import json

import pytest
from reports.records import record_of, small_network

from lightning_cosprune import Outcome, RunRecord


def test_it_travels_as_json() -> None:
    record = record_of(small_network())
    text = record.to_json()
    assert RunRecord.from_json(text) == record
    ridges = [layer["ridge"] for layer in json.loads(text)["prunes"][0]["repair"]["layers"]]
    assert len(ridges) == 2
    assert "Infinity" not in text


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`RunRecord.from_dict\(record=...\)`: expected the key version \(1\)"):
        RunRecord.from_dict({"title": "x"})
    with pytest.raises(ValueError, match=r"expected the fields title, setting.*found.*titel"):
        RunRecord.from_dict({"version": 1, "titel": "x"})


def test_a_repair_for_each_prune_or_none() -> None:
    (prune,) = record_of(small_network()).prunes
    assert RunRecord.of([prune.report]).prunes[0].repair is None
    with pytest.raises(ValueError, match=r"`RunRecord.of\(repairs=...\)`: expected none, or one for each of the 1"):
        RunRecord.of([prune.report], [prune.repair, prune.repair])


def test_lists_of_numbers_become_tuples() -> None:
    assert Outcome("x", accuracy=[0.5]).accuracy == (0.5,)
